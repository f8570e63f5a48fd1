//! The rules of the house that no compiler knows. Each failure says what to do.
//!
//! The lists of exceptions only ever shrink: an entry that is no longer true fails as loudly as a new offence.

mod source;

use source::{Function, Source, blank, functions, root, tracked};
use std::collections::BTreeSet;

const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 70;
/// Files over the limit, with the lines they may have.
const LONG_FILES: &[(&str, usize)] = &[];
/// Functions over the limit, with the lines they may have.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];
/// Names that say nothing about what is inside.
const DRAWERS: &[&str] = &["util", "utils", "common", "helper", "helpers", "misc", "shared", "stuff"];
/// The composition: the only places that may name the metadata and the storage crate within the gateway.
/// `fake.rs` is what the data path's tests run on, and exists only in them.
const COMPOSITION: &[&str] =
    &["gateway/src/main.rs", "gateway/src/serve.rs", "gateway/src/serve/", "gateway/src/boot/", "gateway/src/path/fake.rs"];
/// In pieces, so that this file does not offend.
const PLACES: &[&[&str]] =
    &[&["crates", ".io"], &["py", "pi.org"], &["npm", "js.org"], &["deb", ".debian.org"], &["/wo", "rk/"], &["/ro", "ot/"]];

fn rust() -> Vec<Source> {
    tracked().into_iter().filter(Source::is_rust).collect()
}

fn none(what: &str, offences: Vec<String>) {
    assert!(offences.is_empty(), "{what}:\n  {}", offences.join("\n  "));
}

#[test]
fn files_stay_short() {
    let mut offences = Vec::new();
    for file in rust().iter().filter(|f| !f.is_test()) {
        let lines = file.production().lines().count();
        let allowed = LONG_FILES.iter().find(|(path, _)| *path == file.path).map(|(_, lines)| *lines);
        match allowed {
            None if lines > FILE_LINES => {
                offences.push(format!("{}: {lines} lines before its tests, {FILE_LINES} at most: it holds two nouns", file.path))
            }
            Some(most) if lines != most => offences
                .push(format!("{}: {lines} lines where LONG_FILES says {most}: lower or drop the entry, or split the file", file.path)),
            _ => {}
        }
    }
    none("long files", offences);
}

#[test]
fn functions_stay_short() {
    let mut offences = Vec::new();
    for file in rust().iter().filter(|f| !f.is_test()) {
        for Function { name, lines } in functions(&blank(file.production())) {
            let allowed = LONG_FUNCTIONS.iter().find(|(path, fun, _)| *path == file.path && *fun == name).map(|(_, _, lines)| *lines);
            match allowed {
                None if lines > FUNCTION_LINES => {
                    offences.push(format!("{}: {name} has {lines} lines, {FUNCTION_LINES} at most", file.path))
                }
                Some(most) if lines != most => {
                    offences.push(format!("{}: {name} has {lines} lines where LONG_FUNCTIONS says {most}", file.path))
                }
                _ => {}
            }
        }
    }
    none("long functions", offences);
}

#[test]
fn there_are_no_drawers() {
    let parts = |f: &Source| f.path.split(['/', '.']).any(|part| DRAWERS.contains(&part));
    let offences = tracked().iter().filter(|f| f.is_rust() && parts(f)).map(|f| format!("{}: name it by its noun", f.path)).collect();
    none("drawers", offences);
}

#[test]
fn nothing_is_left_for_later_and_no_test_is_skipped() {
    let mut offences = Vec::new();
    for file in rust() {
        let code = file.code();
        for word in ["todo!", "unimplemented!", "dbg!", "#[ignore"] {
            for (i, _) in code.lines().enumerate().filter(|(_, l)| l.contains(word)) {
                offences.push(format!("{}:{}: {word}", file.path, i + 1));
            }
        }
        for (i, line) in file.text.lines().enumerate() {
            let comment = line.split_once("//").map_or("", |(_, c)| c);
            if ["TODO", "FIXME", "XXX"].iter().any(|w| comment.contains(w)) && !file.path.ends_with("tidy/main.rs") {
                offences.push(format!("{}:{}: write an issue instead", file.path, i + 1));
            }
        }
    }
    none("left for later", offences);
}

#[test]
fn the_crates_log_and_do_not_print() {
    let offices = ["gateway/src/cli.rs", "gateway/src/admin/client", "gateway/src/serve", "gateway/src/boot/"];
    let mut offences = Vec::new();
    for file in rust().iter().filter(|f| f.path.contains("/src/") && !f.path.starts_with("conformance/") && !f.is_test()) {
        if offices.iter().any(|o| file.path.starts_with(o)) {
            continue;
        }
        for (i, line) in blank(file.production()).lines().enumerate().filter(|(_, l)| l.contains("println!") || l.contains("eprint!")) {
            offences.push(format!("{}:{}: {}: use tracing", file.path, i + 1, line.trim()));
        }
    }
    none("printing", offences);
}

#[test]
fn every_rust_file_says_what_it_is() {
    let silent = |f: &&Source| !f.text.trim_start().starts_with("//!") && !f.is_test();
    let offences = rust().iter().filter(silent).map(|f| format!("{}: begin with //! what it is, and what is not here", f.path)).collect();
    none("files without a header", offences);
}

#[test]
fn no_registry_and_no_folder_of_one_machine_is_named() {
    let mut offences = Vec::new();
    for file in tracked().iter().filter(|f| f.path != "Cargo.lock") {
        for place in PLACES.iter().map(|p| p.concat()) {
            if let Some(line) = file.text.lines().position(|l| l.contains(&place)) {
                offences.push(format!("{}:{}: {place}", file.path, line + 1));
            }
        }
    }
    none("places that are not everybody's", offences);
}

/// Names in a section of a Cargo.toml.
fn section(toml: &str, name: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut inside = false;
    for line in toml.lines() {
        if line.starts_with('[') {
            inside = line.trim() == format!("[{name}]");
        } else if inside && let Some((key, _)) = line.split_once('=') {
            names.push(key.trim().trim_end_matches(".workspace").to_owned());
        }
    }
    names
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

#[test]
fn dependencies_point_one_way() {
    let house = ["spine", "gateway", "metadata", "storage-node", "routing", "conformance"];
    let may: [(&str, &[&str]); 5] = [
        ("spine", &[]),
        ("metadata", &["spine"]),
        ("storage-node", &["spine"]),
        ("routing", &["spine"]),
        ("gateway", &["spine", "metadata", "storage-node", "routing"]),
    ];
    let mut offences = Vec::new();
    for (krate, allowed) in may {
        let used = section(&read(&format!("{krate}/Cargo.toml")), "dependencies");
        let wrong = used.iter().filter(|u| house.contains(&u.as_str()) && !allowed.contains(&u.as_str()));
        offences.extend(wrong.map(|u| format!("{krate} uses {u}")));
    }
    for file in rust().iter().filter(|f| f.path.starts_with("gateway/src/")) {
        if COMPOSITION.iter().any(|c| file.path.starts_with(c)) {
            continue;
        }
        for (i, line) in blank(file.production()).lines().enumerate() {
            let names = ["use metadata::", "use ::metadata::", "storage_node::", "use routing::", "use ::routing::"]
                .iter()
                .any(|n| line.contains(n));
            if names {
                offences.push(format!("{}:{}: only the composition names the others: use spine's trait", file.path, i + 1));
            }
        }
    }
    none("dependencies that point the wrong way", offences);
}

#[test]
fn the_spine_has_no_clock_and_no_runtime() {
    let mut offences = Vec::new();
    for file in rust().iter().filter(|f| f.path.starts_with("spine/src/") && !f.is_test()) {
        let code = blank(file.production());
        for word in ["std::fs", "std::net", "SystemTime", "Instant", "tokio", "thread_rng", "getrandom", "f32", "f64"] {
            if code.contains(word) {
                offences.push(format!("{}: {word}", file.path));
            }
        }
    }
    none("the spine gives the same output for the same input, everywhere", offences);
}

#[test]
fn every_dependency_has_its_reason_in_the_architecture() {
    let architecture = read("ARCHITECTURE.md");
    let offences: Vec<String> = section(&read("Cargo.toml"), "workspace.dependencies")
        .iter()
        .filter(|name| !architecture.lines().any(|l| l.starts_with('|') && l.contains(&format!("`{name}`"))))
        .map(|name| format!("{name}: add a row to ARCHITECTURE.md: what it does here and why this one"))
        .collect();
    none("dependencies without a reason", offences);
}

#[test]
fn every_dependency_is_used() {
    let workspace = section(&read("Cargo.toml"), "workspace.dependencies");
    let crates = ["spine", "gateway", "metadata", "storage-node", "routing", "conformance"];
    let files = rust();
    let mut offences = Vec::new();
    let mut used = BTreeSet::new();
    for krate in crates {
        let toml = read(&format!("{krate}/Cargo.toml"));
        for name in [section(&toml, "dependencies"), section(&toml, "dev-dependencies")].concat() {
            let module = rust_name(&name);
            if !files.iter().any(|f| f.path.starts_with(&format!("{krate}/")) && f.code().contains(&module)) {
                offences.push(format!("{krate}/Cargo.toml: {name} is not used"));
            }
            used.insert(name);
        }
    }
    offences.extend(workspace.iter().filter(|n| !used.contains(*n)).map(|n| format!("Cargo.toml: no crate uses {n}")));
    none("dependencies that nobody needs", offences);
}

/// The name a package has in code.
fn rust_name(package: &str) -> String {
    match package {
        "lmdb-rkv" => "lmdb".into(),
        "lmdb-rkv-sys" => "lmdb_sys".into(),
        "md-5" => "md5".into(),
        other => other.replace('-', "_"),
    }
}

/// Metric names that the crates declare.
fn declared() -> BTreeSet<String> {
    let metric = |f: &&Source| f.path.ends_with("metric.rs") && !f.path.starts_with("conformance/");
    rust().iter().filter(metric).flat_map(|f| literals(f.production())).collect()
}

/// `"breakwater_..."` in a text.
fn literals(text: &str) -> Vec<String> {
    let ends = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    text.split("\"breakwater_").skip(1).map(|rest| format!("breakwater_{}", rest.split(ends).next().unwrap_or(""))).collect()
}

/// Metric names in the dashboards' and the rules' queries.
fn queried() -> BTreeSet<String> {
    let files: Vec<Source> = tracked().into_iter().filter(|f| f.path.starts_with("grafana/")).collect();
    let words = files.iter().flat_map(|f| f.text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')));
    words.filter(|w| w.starts_with("breakwater_")).map(str::to_owned).collect()
}

#[test]
fn every_metric_is_on_a_panel_or_in_a_rule_and_every_query_names_a_metric() {
    let (declared, queried) = (declared(), queried());
    let base = |name: &str| ["_bucket", "_sum", "_count"].iter().find_map(|s| name.strip_suffix(s)).unwrap_or(name).to_owned();
    let asked: BTreeSet<String> = queried.iter().flat_map(|q| [q.clone(), base(q)]).collect();
    let mut offences: Vec<String> = declared.difference(&asked).map(|m| format!("{m} is on no panel of grafana/")).collect();
    offences.extend(
        queried
            .iter()
            .filter(|q| !declared.contains(*q) && !declared.contains(&base(q)))
            .map(|q| format!("grafana/ asks for {q}, which nobody declares")),
    );
    none("metrics and panels that do not meet", offences);
}

#[test]
fn metrics_follow_the_conventions_of_prometheus() {
    let odd = |m: &&String| {
        ["_ms", "_millis", "_kb", "_mb", "_minutes", "_percent"].iter().any(|s| m.ends_with(s) || m.contains(&format!("{s}_")))
    };
    none("base units are seconds and bytes", declared().iter().filter(odd).cloned().collect());
}

#[test]
fn the_tidy_rules_see_what_they_should() {
    let code =
        blank("fn a() { \"}\"; '{'; // }\n r#\"fn b() {\"#; /* { */ }\nfn c<'x>(v: [u8; 2]) -> u8 {\n 1\n}\ntrait T { fn d(&self); }");
    let names: Vec<(String, usize)> = functions(&code).into_iter().map(|f| (f.name, f.lines)).collect();
    assert_eq!(names, [("a".to_owned(), 2), ("c".to_owned(), 3)]);
    let toml = "[dependencies]\nspine.workspace = true\nhttp = \"1\"\n[dev-dependencies]\nx = 1\n";
    assert_eq!(section(toml, "dependencies"), ["spine", "http"]);
}
