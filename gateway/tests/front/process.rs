//! Starting, stopping, and starting again.

use crate::server::{Server, breakwater, folder, run};
use crate::signer::Signer;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn spawn(place: TempDir, variables: &[(&str, &str)]) -> Server {
    let data = place.path().join("data").display().to_string();
    let mut command = breakwater(&["--data", &data, "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"]);
    command.env_remove("BREAKWATER_ROOT_ACCESS_KEY").env_remove("BREAKWATER_ROOT_SECRET_KEY").envs(variables.iter().copied());
    Server::spawn(place, command)
}

fn credentials(data: &Path) -> (String, String) {
    let text = std::fs::read_to_string(data.join("root-credentials")).unwrap();
    let value = |line: &str| line.split('"').nth(1).unwrap().to_string();
    let mut lines = text.lines();
    (value(lines.next().unwrap()), value(lines.next().unwrap()))
}

#[test]
fn a_first_start_makes_credentials_that_the_second_start_keeps() {
    let server = spawn(folder(), &[]);
    let (access, secret) = credentials(&server.data());
    for file in ["root-credentials", "root-key", "admin-token"] {
        assert_eq!(mode(&server.data().join(file)), 0o600, "{file}");
    }
    assert_eq!(mode(&server.data()), 0o700);
    let signer = Signer::new(server.s3, &access, &secret);
    assert_eq!(signer.send("PUT", "/bucket", &[], b"").status, 200);
    assert_eq!(signer.send("PUT", "/bucket/key", &[], b"kept").status, 200);
    let server = spawn(server.stop(), &[]);
    assert_eq!(credentials(&server.data()), (access.clone(), secret.clone()));
    assert_eq!(Signer::new(server.s3, &access, &secret).send("GET", "/bucket/key", &[], b"").body, b"kept");
}

#[test]
fn credentials_of_the_environment_can_change_and_the_old_ones_end() {
    let with =
        |access: &'static str, secret: &'static str| [("BREAKWATER_ROOT_ACCESS_KEY", access), ("BREAKWATER_ROOT_SECRET_KEY", secret)];
    let list = |server: &Server, access: &str, secret: &str| Signer::new(server.s3, access, secret).send("GET", "/", &[], b"").said();
    let server = spawn(folder(), &with("FIRST", "first-secret"));
    assert_eq!(list(&server, "FIRST", "first-secret").0, 200);
    assert!(!server.data().join("root-credentials").exists());
    let server = spawn(server.stop(), &with("FIRST", "second-secret"));
    assert_eq!(list(&server, "FIRST", "second-secret").0, 200);
    assert_eq!(list(&server, "FIRST", "first-secret").1, "SignatureDoesNotMatch");
    let server = spawn(server.stop(), &with("OTHER", "other-secret"));
    assert_eq!(list(&server, "OTHER", "other-secret").0, 200);
    assert_eq!(list(&server, "FIRST", "second-secret").1, "InvalidAccessKeyId");
    let server = spawn(server.stop(), &with("FIRST", "third-secret"));
    assert_eq!(list(&server, "FIRST", "third-secret").0, 200);
}

#[test]
fn what_cannot_start_says_why_and_what_to_do() {
    let server = Server::start("");
    let place = folder();
    let path = |name: &str| place.path().join(name).display().to_string();
    let (code, text) = run(&["--data", &server.data().display().to_string(), "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"]);
    assert!(code == 1 && text.contains("another breakwater uses this data folder"), "{code} {text}");
    let (code, text) = run(&["--data", &path("a"), "--listen", &server.s3.to_string(), "--ops-listen", "127.0.0.1:0"]);
    assert!(code == 1 && text.contains("in use") && text.contains("--listen"), "{code} {text}");
    let (code, text) = run(&["--data", &path("b"), "--listen", "127.0.0.1:0", "--ops-listen", &server.ops.to_string()]);
    assert!(code == 1 && text.contains("in use") && text.contains("--ops-listen"), "{code} {text}");
    let (code, text) = run(&["--data", "/proc/nowhere/data"]);
    assert!(code == 1 && text.contains("--data"), "{code} {text}");
    std::fs::write(place.path().join("c.toml"), "lissten = \"127.0.0.1:1\"").unwrap();
    let (code, text) = run(&["--config", &path("c.toml")]);
    assert!(code == 2 && text.contains("lissten"), "{code} {text}");
    let (code, text) = run(&["serve", "--nonsense"]);
    assert!(code == 2 && text.contains("--nonsense"), "{code} {text}");
    let (code, text) = run(&["fsck", "--data", &path("none")]);
    assert!(code == 1, "{code} {text}");
    assert!(!place.path().join("none").exists());
    let (code, text) = run(&["config", "print-default"]);
    assert!(code == 0 && text.contains("[coding]"), "{code}");
}

#[test]
fn a_terminated_server_finishes_its_requests_and_takes_no_more() {
    let server = Server::start("");
    let signer = server.signer();
    assert_eq!(signer.send("PUT", "/bucket", &[], b"").status, 200);
    let body = vec![5; 400_000];
    let signed = signer.sign("PUT", "/bucket/slow", &[], "UNSIGNED-PAYLOAD");
    let mut slow = server.connect();
    slow.head("PUT", "/bucket/slow", &signed.pairs(), Some(body.len()));
    use std::io::Write;
    slow.stream.write_all(&body[..200_000]).unwrap();
    std::thread::sleep(Duration::from_millis(200));
    server.terminate();
    std::thread::sleep(Duration::from_millis(300));
    assert!(std::net::TcpStream::connect(server.s3).is_err(), "a stopping server takes new connections");
    slow.stream.write_all(&body[200_000..]).unwrap();
    assert_eq!(slow.read("PUT").status, 200);
    assert_eq!(server.wait(Duration::from_secs(10)).and_then(|status| status.code()), Some(0));
    let place = server.stop_waited();
    let server = Server::start_in(place, "", &[]);
    assert!(server.signer().send("GET", "/bucket/slow", &[], b"").body == body);
}

#[test]
fn a_request_that_never_ends_is_cut_off_at_the_deadline() {
    let server = Server::start("shutdown_seconds = 1");
    let signer = server.signer();
    assert_eq!(signer.send("PUT", "/bucket", &[], b"").status, 200);
    let signed = signer.sign("PUT", "/bucket/never", &[], "UNSIGNED-PAYLOAD");
    let mut never = server.connect();
    never.head("PUT", "/bucket/never", &signed.pairs(), Some(1_000_000));
    std::thread::sleep(Duration::from_millis(100));
    server.terminate();
    assert_eq!(server.wait(Duration::from_secs(15)).and_then(|status| status.code()), Some(0), "{}", server.log());
}

#[test]
fn a_lost_disk_is_no_reason_not_to_start_and_three_are() {
    let server = Server::start("");
    assert_eq!(server.signer().send("PUT", "/bucket", &[], b"").status, 200);
    let body = vec![9; 300_000];
    assert_eq!(server.signer().send("PUT", "/bucket/key", &[], &body).status, 200);
    let place = server.stop();
    let disk = |number: u32| place.path().join("data").join(format!("disk-{number}"));
    let away = |number: u32| place.path().join(format!("away-{number}"));
    std::fs::rename(disk(1), away(1)).unwrap();
    std::fs::rename(disk(4), away(4)).unwrap();
    let (disk_1, away_1, disk_4, away_4) = (disk(1), away(1), disk(4), away(4));
    let server = Server::start_in(place, "", &[]);
    let ready = server.ops("GET", "/health/ready", &[]);
    assert!(ready.status == 200 && ready.text().contains("\"writes\":false"), "{}", ready.text());
    assert!(server.signer().send("GET", "/bucket/key", &[], b"").body == body);
    let place = server.stop();
    for (disk, away) in [(disk_1, away_1), (disk_4, away_4)] {
        let _ = std::fs::remove_dir_all(&disk);
        std::fs::rename(away, disk).unwrap();
    }
    let data = place.path().join("data").display().to_string();
    let (code, text) = run(&["fsck", "--deep", "--data", &data]);
    assert!(code == 0 && text.contains("clean"), "{code} {text}");
}

#[test]
fn fsck_of_a_stopped_server_finds_bytes_that_were_flipped() {
    let server = Server::start("");
    assert_eq!(server.signer().send("PUT", "/bucket", &[], b"").status, 200);
    let mut state = 1u64;
    let body: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(1_000_000)
    .collect();
    assert_eq!(server.signer().send("PUT", "/bucket/key", &[], &body).status, 200);
    let place = server.stop();
    let data = place.path().join("data");
    let segments = data.join("disk-2").join("segments");
    let segment = std::fs::read_dir(&segments)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .max_by_key(|path| std::fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let at = bytes.iter().position(|byte| *byte != 0).unwrap();
    for byte in &mut bytes[at + 20_000..at + 20_100] {
        *byte ^= 0xff;
    }
    std::fs::write(&segment, bytes).unwrap();
    let (code, text) = run(&["fsck", "--deep", "--data", &data.display().to_string()]);
    assert!(code == 1 && text.contains("NOT CLEAN"), "{code} {text}");
}
