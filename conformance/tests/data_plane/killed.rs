//! A storage process that is killed in the middle of puts.

use crate::{Fleet, hasty, peer};
use conformance::plane::{Authority, shard};
use gateway::remote::Link;
use spine::fleet::admission::Role;
use spine::wire::shard::{NodeError, StorageNode};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage_node::serve;

const ROLE: &str = "BREAKWATER_TEST_SERVING_PROCESS";

/// Not a test by itself: what the other one starts as its child process. It hands its fleet's secrets over, as only a test may.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serving_process_of_the_other_test() {
    let Ok(folder) = std::env::var(ROLE) else { return };
    let fleet = Fleet::new();
    let plane = fleet.serve(fleet.memory(), serve::Bounds::default()).await;
    let folder = std::path::Path::new(&folder);
    std::fs::write(folder.join("ca"), fleet.trust.ca()).unwrap();
    std::fs::write(folder.join("gateway"), &fleet.gateway.der).unwrap();
    std::fs::write(folder.join("key"), fleet.gateway.pkcs8()).unwrap();
    println!("serving {} {}", plane.address, fleet.node.node);
    tokio::time::sleep(Duration::from_secs(60)).await;
}

/// Ends with the test, whatever becomes of it.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_to_a_killed_process_fail_at_once_and_none_of_them_is_taken_for_done() {
    let folder = tempfile::tempdir().unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "killed::serving_process_of_the_other_test", "--nocapture"])
        .env(ROLE, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    let (address, node) = loop {
        let line = lines.next().unwrap().unwrap();
        if let Some((_, rest)) = line.split_once("serving ") {
            let (address, node) = rest.split_once(' ').unwrap();
            break (address.parse().unwrap(), spine::id::NodeId::parse_hex(node).unwrap());
        }
    };
    let read = |name: &str| std::fs::read(folder.path().join(name)).unwrap();
    let trust = Arc::new(spine::fleet::trust::Trust::new(conformance::plane::FLEET, &read("ca")).unwrap());
    let key = rustls::pki_types::PrivateKeyDer::try_from(read("key")).unwrap();
    let identity = spine::fleet::tls::Identity::new(&read("gateway"), key).unwrap();
    let tls = spine::fleet::tls::client(trust.clone(), Arc::new(spine::fleet::tls::Shown::new(identity))).unwrap();
    let link = Link::start(peer(node, address), tls, trust, hasty());
    assert!(link.first_look(Duration::from_secs(5)).await);

    let (header, data) = shard(0, 4 << 20);
    link.put(header, data).await.unwrap();
    let puts: Vec<_> = (1..=64)
        .map(|seed| {
            let (link, (header, data)) = (link.clone(), shard(seed, 4 << 20));
            tokio::spawn(async move { (link.put(header, data).await, Instant::now()) })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(30)).await;
    let killed = Instant::now();
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    let (mut failed, mut latest) = (0, Duration::ZERO);
    for put in puts {
        let (result, at) = put.await.unwrap();
        if let Err(error) = result {
            assert!(matches!(error, NodeError::Unavailable { .. }), "{error}");
            failed += 1;
            latest = latest.max(at.saturating_duration_since(killed));
        }
    }
    assert!(failed > 0, "the process was killed too late to show anything");
    assert!(latest < Duration::from_secs(2), "the last failure took {latest:?}");
    assert!(matches!(link.get(header.name).await, Err(NodeError::Unavailable { .. })));
}

#[test]
fn an_authority_admits_each_peer_under_a_key_of_its_own() {
    let authority = Authority::new().unwrap();
    assert_ne!(authority.admit(Role::Gateway).unwrap().node, authority.admit(Role::Gateway).unwrap().node);
}
