//! `breakwater admin` against a running server.

use crate::server::Server;
use crate::signer::Signer;
use serde_json::Value;
use std::process::Output;

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn key(server: &Server, tenant: &str) -> Signer {
    let made = json(&server.admin(&["key", "create", tenant, "--json"]));
    Signer::new(server.s3, made["access_key"].as_str().unwrap(), made["secret_key"].as_str().unwrap())
}

#[test]
fn tenants_and_keys_come_share_nothing_and_go_at_once() {
    let server = Server::start("");
    json(&server.admin(&["tenant", "create", "alice", "--json"]));
    json(&server.admin(&["tenant", "create", "bob", "--json"]));
    let (alice, bob) = (key(&server, "alice"), key(&server, "bob"));
    assert_eq!(alice.send("PUT", "/of-alice", &[], b"").status, 200);
    assert_eq!(alice.send("PUT", "/of-alice/key", &[], b"hers").status, 200);
    assert_eq!(bob.send("GET", "/of-alice/key", &[], b"").said(), (403, "AccessDenied".into()));
    assert!(!bob.send("GET", "/", &[], b"").text().contains("of-alice"));

    let second = key(&server, "alice");
    assert_eq!(second.send("GET", "/of-alice/key", &[], b"").body, b"hers");
    json(&server.admin(&["key", "revoke", &alice.access_key, "--json"]));
    assert_eq!(alice.send("GET", "/of-alice/key", &[], b"").said(), (403, "InvalidAccessKeyId".into()));
    assert_eq!(second.send("GET", "/of-alice/key", &[], b"").status, 200);
    json(&server.admin(&["tenant", "revoke", "alice", "--json"]));
    assert_eq!(second.send("GET", "/of-alice/key", &[], b"").said(), (403, "InvalidAccessKeyId".into()));
    assert_eq!(bob.send("GET", "/", &[], b"").status, 200);

    let keys = json(&server.admin(&["key", "list", "alice", "--json"]));
    assert_eq!(keys.as_array().unwrap().len(), 2);
    assert!(keys.as_array().unwrap().iter().all(|key| key["tenant"] == "alice" && key.get("secret_key").is_none()));
    let tenants = json(&server.admin(&["tenant", "list", "--json"]));
    assert_eq!(tenants.as_array().unwrap().len(), 3);
}

#[test]
fn mistakes_are_named_and_end_with_1() {
    let server = Server::start("");
    for (arguments, said) in [
        (&["tenant", "create", "root"][..], "exists"),
        (&["tenant", "create", "a b"], "letters"),
        (&["tenant", "revoke", "nobody"], "no such tenant"),
        (&["key", "create", "nobody"], "no tenant nobody"),
        (&["key", "revoke", "NOBODY"], "no such access key"),
        (&["disk", "adopt", "/nowhere"], "no place"),
    ] {
        let output = server.admin(arguments);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && text.contains(said), "{arguments:?}: {text}");
    }
    let data = server.data();
    drop(server);
    let output = crate::server::breakwater(&["admin", "status", "--data", &data.display().to_string()]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn the_admin_side_is_closed_without_its_token() {
    let server = Server::shared();
    for headers in [&[][..], &[("authorization", "Bearer wrong")], &[("authorization", "Bearer ")]] {
        for path in ["/admin/tenants", "/admin/keys", "/admin/status", "/admin/nothing"] {
            assert_eq!(server.ops("GET", path, headers).status, 401, "{path}");
        }
    }
    let token = std::fs::read_to_string(server.data().join("admin-token")).unwrap();
    let bearer = format!("Bearer {}", token.trim());
    assert_eq!(server.ops("GET", "/admin/status", &[("authorization", &bearer)]).status, 200);
}

#[test]
fn collecting_and_checking_see_what_was_stored_and_deleted() {
    let server = Server::start("[collector]\ninterval_seconds = 3600\ngrace_seconds = 1\ntrash_seconds = 1\n");
    let signer = server.signer();
    assert_eq!(signer.send("PUT", "/bucket", &[], b"").status, 200);
    assert_eq!(signer.send("PUT", "/bucket/key", &[], &vec![3; 3 << 20]).status, 200);
    let report = json(&server.admin(&["fsck", "--deep", "--json"]));
    assert!(report["clean"] == true && report["objects"] == 1 && report["shards"].as_u64() > Some(0), "{report}");
    assert_eq!(report["shards"], report["shards_verified"]);
    assert_eq!(signer.send("DELETE", "/bucket/key", &[], b"").status, 204);
    for _ in 0..3 {
        json(&server.admin(&["collect", "--json"]));
        std::thread::sleep(std::time::Duration::from_millis(1_200));
    }
    let status = json(&server.admin(&["status", "--json"]));
    assert_eq!(status["chunks"], 0, "{status}");
    assert_eq!(status["health"]["writes"], true);
}

#[test]
fn an_empty_folder_takes_a_lost_disk_s_place_and_what_it_held_is_made_again() {
    let server = Server::start("");
    let signer = server.signer();
    let body: Vec<u8> = (0..2_000_000u64).map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u8).collect();
    assert_eq!(signer.send("PUT", "/bucket", &[], b"").status, 200);
    assert_eq!(signer.send("PUT", "/bucket/key", &[], &body).status, 200);
    let disk = server.data().join("disk-3");
    let adopt = || server.admin(&["disk", "adopt", &disk.display().to_string()]);
    assert_eq!(adopt().status.code(), Some(1), "a disk that serves was given up");
    std::fs::rename(&disk, server.place().join("away")).unwrap();
    std::fs::create_dir(&disk).unwrap();
    let began = std::time::Instant::now();
    while server.ops("GET", "/health/ready", &[]).text().contains("\"disks_serving\":6") {
        assert!(began.elapsed() < std::time::Duration::from_secs(10), "the loss of a disk is not noticed");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let adopted = adopt();
    assert!(adopted.status.success(), "{}", String::from_utf8_lossy(&adopted.stderr));
    assert!(server.ops("GET", "/health/ready", &[]).text().contains("\"disks_serving\":6"));
    let began = std::time::Instant::now();
    loop {
        json(&server.admin(&["repair", "--json"]));
        let status = json(&server.admin(&["status", "--json"]));
        let held = status["disks"][3]["shards"].as_u64();
        if held > Some(0) && status["chunks_owing_shards"] == 0 {
            break;
        }
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "{status}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert!(signer.send("GET", "/bucket/key", &[], b"").body == body);
    let report = json(&server.admin(&["fsck", "--deep", "--json"]));
    assert!(report["clean"] == true && report["shards_on_lost_disks"] == 0, "{report}");
}
