//! Row 11 of the metadata cluster: a cluster of an older version becomes one of this version, one process after the other, under load.
//!
//! ```text
//! metadata nodes: the first one new, back to old, new again (kill -9), the second new | nothing new may be used so far | the third new:
//! all groups are raised | old again: refused at its start; then gateways, then storage nodes
//! ```
//! Ranges of names and chunks are split and merged while the metadata nodes differ, and after.
//! Clients work all the while: those whose histories are judged, and those that ask again until it is done. Without an older version the row
//! uses this very binary told to keep to the first format: it then refuses what is newer as an older version does, but its code is not older.

use crate::row::{Older, Outcome, Run, Said, none_of, runtime};
use aws_sdk_s3::Client;
use conformance::cluster::{Cluster, USUAL, voting};
use conformance::persistent::Persistent;
use conformance::program::Program;
use conformance::{build, client, history};
use metadata::cluster::Client as Asker;
use spine::id::{GroupId, MoveId, UnixMs};
use spine::wire::cluster::{ClusterError, Understood};
use spine::wire::format::{FIRST, Format, NEWEST};
use spine::wire::root::RootCommand;
use spine::wire::{Batch, Chain, Command, MetadataError, Refusal, Reply};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

const CLIENTS: usize = 8;
/// Longest orderly end of a process.
const END: Duration = Duration::from_secs(30);
/// Longest move of a range.
const MOVED: Duration = Duration::from_secs(60);
/// Longest wait until all groups of the root's members are raised.
const RAISED: Duration = Duration::from_secs(30);

pub fn run(run: &Run) -> Outcome {
    let older = older(run)?;
    let cluster = Cluster::of(older.clone(), run.place()?, USUAL).said("a cluster of the older version")?;
    let runtime = runtime()?;
    let asker = runtime.block_on(async { cluster.client() })?;
    let clients: Vec<Client> = cluster.gateways.iter().map(client::of).collect();
    let work = runtime.block_on(history::begin(clients.clone(), CLIENTS, run.seed))?;
    let persistent = runtime.block_on(async { Persistent::begin(&clients, 4) });
    let rest = run.size(Duration::from_secs(10), Duration::from_secs(2));
    let mut stage = Stage { cluster, older, asker, runtime, rest, began: Instant::now(), replaced: 0, moves: 0 };
    let raised = stage.metadata_nodes();
    let raised = raised.and_then(|raised| stage.others(run.size(USUAL.nodes, 2)).map(|()| raised));
    let runtime = &stage.runtime;
    let (retried, failed) = runtime.block_on(persistent.end()).said("a client")?;
    let history = runtime.block_on(work.end());
    let judged = history::judge(&history);
    let raised = raised?;
    none_of(&history.wrong)?;
    none_of(&judged.violations)?;
    let figure = format!(
        "{} processes replaced, {} ranges moved meanwhile: nothing new was used before the last metadata node was new, all groups at format {NEWEST} {raised:.1?} after, and none went back; {} operations on {} keys, 0 violations, {} keys not judged; {} writes acknowledged, {} operations unknown, longest time without an acknowledged write {:.1?}; clients that ask again: {retried} answers asked for again, {failed} errors",
        stage.replaced, stage.moves, judged.operations, judged.keys, judged.unjudged, history.written, history.unknown, history.silence
    );
    if failed > 0 || judged.unjudged > 0 || history.written < 100 { Err(figure) } else { Ok(figure) }
}

/// What the cluster begins with.
fn older(run: &Run) -> Result<Program, String> {
    let binary = match &run.older {
        None => {
            println!("  no --old: the older version is this very binary told to keep to format {FIRST}; its code is not older");
            return Ok(Program { metadata: vec!["--format".into(), FIRST.to_string()], ..Program::default() });
        }
        Some(Older::Commit(commit)) => build::of_commit(commit).said("the older version")?,
        Some(Older::Binary(binary)) => std::path::absolute(binary).said("the older version")?,
    };
    println!("  the older version is {}", binary.display());
    let mut older = Program { binary: Some(binary), ..Program::default() };
    let help = older.command().args(["metadata", "--help"]).output().said("the older version")?;
    older.never_balances = !String::from_utf8_lossy(&help.stdout).contains("--no-balance");
    Ok(older)
}

struct Stage {
    cluster: Cluster,
    older: Program,
    asker: Arc<Asker>,
    runtime: Runtime,
    /// Between two steps.
    rest: Duration,
    began: Instant,
    replaced: usize,
    moves: usize,
}

impl Stage {
    /// All of them, and one back while that is allowed. How long after the last one the new format was in force.
    fn metadata_nodes(&mut self) -> Result<Duration, String> {
        let new = Program::default();
        self.replace(0, &new, false)?;
        self.keeps("with one of three new")?;
        self.moved(&["split", "--at", &format!("{}/persistent", history::BUCKET)])?;
        self.replace(0, &self.older.clone(), false)?;
        self.keeps("with none new any more")?;
        self.replace(0, &new, true)?;
        self.replace(1, &new, false)?;
        self.keeps("with two of three new")?;
        self.moved(&["split", "--chunk", "8"])?;
        let last = Instant::now();
        self.replace(2, &new, false)?;
        self.wait_for(NEWEST)?;
        let raised = last.elapsed();
        match self.newer() {
            Ok(Reply::Refused(Refusal::NoSuchMove)) => {}
            other => return Err(format!("all are new, and a command that came with this version answers {other:?}")),
        }
        self.say("all groups are raised");
        self.moved(&["merge", "0"])?;
        self.moved(&["split", "--at", &format!("{}/persistent", history::BUCKET)])?;
        self.stays()?;
        Ok(raised)
    }

    fn say(&self, what: &str) {
        println!("  {:>4} s: {what}", self.began.elapsed().as_secs());
    }

    /// Has a range go from one group to another, while processes differ or after.
    fn moved(&mut self, arguments: &[&str]) -> Result<(), String> {
        let began = Instant::now();
        self.cluster.moved(arguments, MOVED)?;
        self.moves += 1;
        self.say(&format!("{} is through after {:.1?}", arguments.join(" "), began.elapsed()));
        Ok(())
    }

    /// Ends a metadata node and starts it with another build.
    fn replace(&mut self, at: usize, program: &Program, kill: bool) -> Result<(), String> {
        std::thread::sleep(self.rest);
        let node = &mut self.cluster.metadata[at];
        match kill {
            true => node.kill(),
            false if node.terminate(END).is_some_and(|status| status.success()) => {}
            false => return Err(format!("metadata node {at} did not end in order:\n{}", node.log())),
        }
        node.program = program.clone();
        node.start(&[]).said("a metadata node of the other version")?;
        self.cluster.wait("all vote", |status| voting(status) == 3).said("its return")?;
        self.replaced += 1;
        let (version, how) = (if *program == self.older { "older" } else { "new" }, if kill { "SIGKILL" } else { "SIGTERM" });
        self.say(&format!("metadata node {at} runs the {version} version ({how})"));
        Ok(())
    }

    /// What each metadata node says that it understands and has; `None`: one does not answer.
    fn formats(&self) -> Option<Vec<Understood>> {
        let endpoints: Vec<_> = self.cluster.metadata.iter().filter_map(|node| node.endpoint()).collect();
        let asked = async {
            let mut told = Vec::new();
            for endpoint in &endpoints {
                told.push(self.asker.format_of(endpoint).await.ok()?);
            }
            Some(told)
        };
        self.runtime.block_on(asked)
    }

    fn wait_for(&self, format: Format) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let told = self.formats();
            if told.as_ref().is_some_and(|told| told.iter().all(|one| one.root == format && one.least == format)) {
                return Ok(());
            }
            if began.elapsed() > RAISED {
                return Err(format!("not all groups are at format {format} everywhere after {RAISED:?}: {told:?}"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// A command that came with this version and does nothing here.
    fn newer(&self) -> Result<Reply, ClusterError> {
        let command = RootCommand::EndShift { id: MoveId(u64::MAX), done: false, now: UnixMs(0) };
        let batch = Batch { chain: Chain::Stop, commands: vec![Command::Root(command)] };
        let replies = self.runtime.block_on(self.asker.propose_to(GroupId(0), batch))?;
        replies.into_iter().next().ok_or_else(|| ClusterError::Invalid { what: "no reply".into() })
    }

    /// The format is the first, and what is newer is refused: by name, or by a leader of the older version as a message that it cannot read.
    fn keeps(&self, when: &str) -> Result<(), String> {
        // Longer than a leader takes to look.
        std::thread::sleep(Duration::from_secs(2));
        self.wait_for(FIRST)?;
        match self.newer() {
            Err(error @ (ClusterError::Metadata(MetadataError::TooNew { .. }) | ClusterError::Invalid { .. })) => {
                self.say(&format!("{when}, what is newer is refused: {error}"));
                Ok(())
            }
            other => Err(format!("{when}, a command that not all understand answers {other:?}")),
        }
    }

    /// Nobody goes back any more: the older version does not start.
    fn stays(&mut self) -> Result<(), String> {
        std::thread::sleep(self.rest);
        let node = &mut self.cluster.metadata[2];
        if !node.terminate(END).is_some_and(|status| status.success()) {
            return Err("a metadata node did not end in order".into());
        }
        node.program = self.older.clone();
        let refusal = match node.start(&[]) {
            Ok(()) => return Err("the older version started on what the new one had written".into()),
            Err(error) => error.to_string(),
        };
        let why = refusal.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned();
        node.program = Program::default();
        node.start(&[]).said("the new version, after the older one was refused")?;
        self.cluster.wait("all vote", |status| voting(status) == 3).said("its return")?;
        self.say(&format!("the older version is refused: {why}"));
        Ok(())
    }

    /// Gateways, then so many storage nodes.
    fn others(&mut self, nodes: usize) -> Result<(), String> {
        for at in 0..self.cluster.gateways.len() {
            std::thread::sleep(self.rest);
            let gateway = &mut self.cluster.gateways[at];
            if !gateway.terminate(END).is_some_and(|status| status.success()) {
                return Err(format!("gateway {at} did not end in order"));
            }
            *gateway.program() = Program::default();
            gateway.restart().said("a gateway of the new version")?;
            self.cluster.wait_for_nodes(at, USUAL.nodes).said("a gateway of the new version")?;
            self.replaced += 1;
            self.say(&format!("gateway {at} runs the new version"));
        }
        for at in 0..nodes {
            std::thread::sleep(self.rest / 4);
            let node = &mut self.cluster.nodes[at];
            if !node.terminate(END).is_some_and(|status| status.success()) {
                return Err(format!("storage node {at} did not end in order"));
            }
            node.program = Program::default();
            node.start(None).said("a storage node of the new version")?;
            self.cluster.wait_for_nodes(0, USUAL.nodes).said("a storage node of the new version")?;
            self.replaced += 1;
            self.say(&format!("storage node {at} runs the new version"));
        }
        Ok(())
    }
}
