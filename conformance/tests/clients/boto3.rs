//! boto3: the script `clients/boto3_all.py`, over HTTP and over TLS; every one of its checks must pass.

use super::Ground;
use conformance::server::{Credential, Settings, repository};
use conformance::tools::{client_command, program, run, venv_program};
use std::fs;
use std::path::Path;
use std::process::Command;

fn script(ground: &Ground, certificate: Option<&Path>) -> Result<String, String> {
    let python = venv_program("python");
    let mut command = client_command(&python, &ground.server, &Credential::root(), &ground.home);
    if let Some(path) = certificate {
        command.env("AWS_CA_BUNDLE", path);
    }
    run(command.arg("-u").arg(repository().join("conformance/clients/boto3_all.py")))
}

fn judge(result: Result<String, String>) {
    let text = result.unwrap_or_else(|e| panic!("{e}"));
    println!("{text}");
    assert!(text.contains(" 0 failed"), "{text}");
}

#[test]
fn boto3_passes_every_check_over_http() {
    judge(script(&Ground::new(), None));
}

/// Over TLS boto3 sends STREAMING-UNSIGNED-PAYLOAD-TRAILER in HTTP's own chunks, without Content-Length.
#[test]
fn boto3_passes_every_check_over_tls() {
    let place = tempfile::tempdir().unwrap();
    let (cert, key) = certificate(place.path());
    let ground = Ground::with(Settings { tls: Some((cert.clone(), key)), ..Settings::default() });
    assert!(ground.server.endpoint().starts_with("https://"), "{}", ground.server.endpoint());
    judge(script(&ground, Some(&cert)));
}

/// A certificate for 127.0.0.1 that signs itself.
fn certificate(place: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let (cert, key) = (place.join("cert.pem"), place.join("key.pem"));
    fs::create_dir_all(place).unwrap();
    let mut command = Command::new(program("openssl"));
    command.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=localhost",
    ]);
    command.args(["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-addext", "basicConstraints=critical,CA:TRUE"]);
    run(command.arg("-keyout").arg(&key).arg("-out").arg(&cert)).unwrap();
    (cert, key)
}
