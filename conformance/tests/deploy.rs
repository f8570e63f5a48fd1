//! What `deploy/` says is done as it is written: the guide's commands on three hosts, the command lines of the units and of the compose file.
//!
//! The compose file is read by a YAML parser and its command lines by the binary; no container is started here.

use conformance::hosts::{Host, Network};
use conformance::server::{binary, repository};
use conformance::tools::{program, venv_program};
use serde_json::Value;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest block of the guide.
const LIMIT: Duration = Duration::from_secs(120);

fn deploy(file: &str) -> String {
    fs::read_to_string(repository().join("deploy").join(file)).unwrap()
}

/// The guide's blocks: the machines they are for, and their text.
fn blocks(guide: &str) -> Vec<(Vec<String>, String)> {
    let mut all = Vec::new();
    let mut lines = guide.lines();
    while let Some(line) = lines.next() {
        let Some(machines) = line.strip_prefix("```sh ") else { continue };
        let text: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        all.push((machines.split(' ').map(str::to_owned).collect(), text.join("\n") + "\n"));
    }
    all
}

/// A host of the guide: a shell that stays, so that what one block starts runs on while the next is typed.
struct Machine {
    shell: Child,
    place: std::path::PathBuf,
    steps: usize,
}

impl Machine {
    fn new(host: &Host, name: &str, values: &str, place: &Path) -> Machine {
        let place = place.join(name);
        fs::create_dir_all(&place).unwrap();
        let path = format!("{}:{}", binary().parent().unwrap().display(), std::env::var("PATH").unwrap());
        let mut command = Command::new(program("bash"));
        command.env("PATH", path).env("HOME", &place).current_dir(&place).stdin(Stdio::piped());
        let log = fs::File::create(place.join("shell.log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        host.put(&mut command);
        let mut machine = Machine { shell: command.spawn().unwrap(), place, steps: 0 };
        machine.types(values);
        machine
    }

    /// Types a block and waits until its last command has ended; every command must end with 0.
    fn types(&mut self, block: &str) {
        use std::io::Write;
        self.steps += 1;
        let script = self.place.join(format!("block-{}", self.steps));
        let done = self.place.join(format!("done-{}", self.steps));
        fs::write(&script, block).unwrap();
        // In the shell itself: what it exports and starts is the next block's, too.
        let line = format!("set -eo pipefail; . {}; echo ok > {}\n", script.display(), done.display());
        let _ = self.shell.stdin.as_mut().unwrap().write_all(line.as_bytes());
        let began = Instant::now();
        while !done.exists() {
            let ended = self.shell.try_wait().unwrap();
            let log = || fs::read_to_string(self.place.join("shell.log")).unwrap_or_default();
            assert!(ended.is_none(), "a command of this block failed:\n{block}\n{}", log());
            assert!(began.elapsed() < LIMIT, "this block does not end:\n{block}\n{}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn root(&self) -> std::path::PathBuf {
        self.place.join("breakwater")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let group = self.shell.id() as i32;
        // SAFETY: kill(2) has no memory effects; the shell was not waited for yet or ended by itself, and its group is its own.
        unsafe { libc::kill(-group, libc::SIGKILL) };
        let _ = self.shell.wait();
    }
}

#[test]
fn the_guide_for_three_machines_works_as_it_is_written() {
    follow("three-machines.md", &["token"]);
}

#[test]
fn the_guide_for_three_metadata_nodes_works_as_it_is_written() {
    follow("metadata-nodes.md", &["gateway-papers", "token", "invitation-b", "invitation-c"]);
}

/// Types a guide on machines A, B and C; C is gone before its last block.
///
/// - `carried`: files that appear in A's folder and that the reader takes to the others.
fn follow(guide: &str, carried: &[&str]) {
    let temp = tempfile::tempdir().unwrap();
    let mut network = Network::new().unwrap();
    let hosts: Vec<Host> = (0..3).map(|_| network.host().unwrap()).collect();
    let guide = blocks(&deploy(guide));
    assert_eq!(guide.iter().filter(|(machines, _)| machines == &["values"]).count(), 1);
    // What is everybody's own is ours here; all the rest is typed as it stands.
    let addresses: Vec<String> = hosts.iter().map(|host| host.address().to_string()).collect();
    let mut machines: Vec<Machine> = ["A", "B", "C"]
        .iter()
        .zip(&hosts)
        .enumerate()
        .map(|(number, (name, host))| {
            let values = format!(
                "export A={} B={} C={}\nexport HERE={} NAME={}\nexport ROOT={}\nexport BREAKWATER_ROOT_ACCESS_KEY=operator BREAKWATER_ROOT_SECRET_KEY=change-me-please\n",
                addresses[0], addresses[1], addresses[2], addresses[number], name.to_lowercase(),
                temp.path().join(name).join("breakwater").display()
            );
            Machine::new(host, name, &values, temp.path())
        })
        .collect();
    let steps: Vec<&(Vec<String>, String)> = guide.iter().filter(|(machines, _)| machines != &["values"]).collect();
    let last = steps.len() - 1;
    for (number, (who, block)) in steps.into_iter().enumerate() {
        if number == last {
            hosts[2].link(false).unwrap();
            drop(machines.pop());
        }
        for name in who {
            let at = ["A", "B", "C"].iter().position(|known| known == name).expect("a block is for A, B or C");
            machines[at].types(block);
        }
        for (file, machine) in carried.iter().flat_map(|file| machines.iter().skip(1).map(move |machine| (file, machine))) {
            let (from, to) = (machines[0].root().join(file), machine.root().join(file));
            if from.exists() && !to.exists() {
                fs::create_dir_all(machine.root()).unwrap();
                fs::copy(&from, &to).unwrap();
            }
        }
    }
}

/// Whether the binary understands a command line; what it does is for the other tests.
fn understood(words: &[&str]) -> Output {
    Command::new(binary()).args(words).arg("--help").output().unwrap()
}

fn check(words: &[&str], from: &str) {
    let output = understood(words);
    assert!(output.status.success(), "{from}: {words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_units_start_what_there_is() {
    assert!(!understood(&["gateway", "--no-such-option"]).status.success(), "--help hides a wrong option");
    for (unit, variable) in [
        ("breakwater.service", None),
        ("breakwater-gateway.service", Some("BREAKWATER_GATEWAY")),
        ("breakwater-metadata.service", Some("BREAKWATER_METADATA")),
        ("breakwater-storage-node.service", Some("BREAKWATER_NODE")),
        ("breakwater-storage-node@.service", Some("BREAKWATER_NODE")),
    ] {
        let text = deploy(unit);
        let mut start = text.lines().find_map(|line| line.strip_prefix("ExecStart=/usr/local/bin/breakwater ")).unwrap().to_string();
        if let Some(variable) = variable {
            let example = format!("# {variable}=\"");
            let options = text.lines().find_map(|line| line.strip_prefix(&*example)?.strip_suffix('"'));
            start = start.replace(&format!("${variable}"), options.expect("the unit has an example of its options"));
        }
        assert!(!start.contains('$'), "{unit}: {start}");
        check(&start.split_whitespace().collect::<Vec<_>>(), unit);
    }
}

#[test]
fn the_compose_file_is_one_and_starts_what_there_is() {
    let script = "import json, sys, yaml; print(json.dumps(yaml.safe_load(open(sys.argv[1]))))";
    let output = Command::new(venv_program("python")).args(["-c", script]).arg(repository().join("deploy/compose.yaml")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let file: Value = serde_json::from_slice(&output.stdout).unwrap();
    let services = file["services"].as_object().unwrap();
    assert_eq!(services.len(), 7);
    for (name, service) in services {
        let command = service["command"].as_str().unwrap().replace("${TOKEN:+--join} ${TOKEN:-}", "--join TOKEN");
        assert!(!command.contains('$'), "{command}");
        let words: Vec<&str> = command.split_whitespace().collect();
        assert_eq!(words[0], "breakwater");
        check(&words[1..], name);
        for volume in service["volumes"].as_array().unwrap() {
            let volume = volume.as_str().unwrap().split(':').next().unwrap();
            assert!(file["volumes"].get(volume).is_some(), "{name}: no volume {volume}");
        }
    }
    // The configuration in it is one.
    let place = tempfile::tempdir().unwrap();
    let config = place.path().join("gateway.toml");
    fs::write(&config, file["configs"]["gateway"]["content"].as_str().unwrap()).unwrap();
    let output = Command::new(binary()).args(["fsck", "--data", "/nowhere/at/all", "--config"]).arg(&config).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
}
