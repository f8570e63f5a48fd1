//! One test a promise: every paragraph of `SEMANTICS.md` has the name of a test for its heading, and this file checks that.

mod faults;
mod names;
mod operation;
mod races;
mod tenants;
mod writes;

use aws_sdk_s3::Client;
use conformance::client::{self, Failure, Judge};
use conformance::server::{Server, Settings, repository, walk};
use std::collections::BTreeSet;
use std::fs;

/// A server with a bucket named `promises`, and a client.
async fn ground() -> (Server, Client) {
    ground_with("").await
}

/// The same with a configuration.
async fn ground_with(config: &str) -> (Server, Client) {
    let config = (!config.is_empty()).then(|| config.to_owned());
    let server = Server::start_with(Settings { config, ..Settings::default() }).unwrap();
    let client = client::of(&server);
    client.create_bucket().bucket(BUCKET).send().await.unwrap();
    (server, client)
}

const BUCKET: &str = "promises";

async fn put(client: &Client, key: &str, body: impl Into<Vec<u8>>) -> Result<String, Failure> {
    let answer = client.put_object().bucket(BUCKET).key(key).body(body.into().into()).send().await.judged()?;
    Ok(answer.e_tag().unwrap_or_default().trim_matches('"').to_owned())
}

async fn get(client: &Client, key: &str) -> Result<Option<bytes::Bytes>, Failure> {
    conformance::workload::fetch(client, BUCKET, key).await
}

async fn keys(client: &Client) -> Vec<String> {
    conformance::workload::list(client, BUCKET).await.unwrap().into_keys().collect()
}

/// Names of all test functions below `conformance/tests`.
fn test_names() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in walk(&repository().join("conformance/tests")).iter().filter(|p| p.extension().is_some_and(|e| e == "rs")) {
        let text = fs::read_to_string(file).unwrap();
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[") {
                is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
            } else if let Some(rest) = line.trim_start_matches("async ").strip_prefix("fn ").or_else(|| line.strip_prefix("async fn ")) {
                if is_test {
                    names.insert(rest.split('(').next().unwrap_or_default().to_owned());
                }
                is_test = false;
            }
        }
    }
    names
}

#[test]
fn every_promise_has_a_test_of_its_name() {
    let text = fs::read_to_string(repository().join("conformance/SEMANTICS.md")).unwrap();
    let promised: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("### ")).map(|l| l.trim().trim_matches('`')).collect();
    assert!(promised.len() > 25, "only {} promises were found", promised.len());
    let tests = test_names();
    let missing: Vec<&&str> = promised.iter().filter(|p| !tests.contains(**p)).collect();
    assert!(missing.is_empty(), "promises without a test: {missing:?}");
    let twice: Vec<&&str> = promised.iter().filter(|p| promised.iter().filter(|q| q == p).count() > 1).collect();
    assert!(twice.is_empty(), "promised twice: {twice:?}");
    for (name, paragraph) in text.split("### ").skip(1).filter_map(|s| s.split_once('\n')) {
        assert!(paragraph.trim().len() > 40, "{name} has no paragraph");
    }
}

#[test]
fn every_test_of_this_program_is_a_promise() {
    let text = fs::read_to_string(repository().join("conformance/SEMANTICS.md")).unwrap();
    let own = ["faults", "names", "operation", "races", "tenants", "writes"];
    for module in own {
        let source = fs::read_to_string(repository().join(format!("conformance/tests/promises/{module}.rs"))).unwrap();
        for name in
            source.lines().filter_map(|l| l.strip_prefix("async fn ").or_else(|| l.strip_prefix("fn "))).filter_map(|l| l.split_once('('))
        {
            let marked = source.contains(&format!("#[tokio::test]\nasync fn {}(", name.0))
                || source.contains(&format!("#[test]\nfn {}(", name.0))
                || source.contains(&format!("#[tokio::test(flavor = \"multi_thread\")]\nasync fn {}(", name.0));
            assert!(!marked || text.contains(&format!("### {}\n", name.0)), "{} has no paragraph in SEMANTICS.md", name.0);
        }
    }
}
