//! Connections: bounded in number, time and memory; an answer arrives whole and the next request finds the connection open.

use crate::server::{Server, breakwater, folder};
use crate::signer::sha256;
use crate::wire::Connection;
use std::io::{Read, Write};
use std::process::Command;
use std::time::{Duration, Instant};

const SECONDS: Duration = Duration::from_secs(1);

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_string())
}

#[test]
fn every_answer_has_a_request_id_and_a_refused_head_has_no_body() {
    let server = Server::shared();
    let mut connection = server.connect();
    let mut ids = std::collections::HashSet::new();
    for (method, target) in [
        ("GET", "/"),
        ("HEAD", "/shared/none"),
        ("GET", "/shared?list-type=2"),
        ("HEAD", "/shared?acl="),
        ("GET", "/shared/none"),
        ("DELETE", "/shared/none"),
    ] {
        let signed = server.signer().sign(method, target, &[], &sha256(b""));
        connection.send(method, target, &signed.pairs(), b"");
        let answer = connection.read(method);
        let id = answer.header("x-amz-request-id").unwrap().to_string();
        assert!(answer.header("x-amz-id-2").is_some());
        if answer.status >= 400 && method != "HEAD" {
            assert!(answer.text().contains(&format!("<RequestId>{id}</RequestId>")), "{}", answer.text());
            assert!(answer.text().contains("<Resource>"), "{}", answer.text());
        }
        assert!(ids.insert(id));
    }
}

#[test]
fn a_small_object_comes_in_one_piece_and_without_delay() {
    let server = Server::shared();
    assert_eq!(server.signer().send("PUT", "/shared/small", &[], &[7; 4_000]).status, 200);
    let mut connection = server.connect();
    let (mut whole, began) = (0, Instant::now());
    for _ in 0..50 {
        let signed = server.signer().sign("GET", "/shared/small", &[], &sha256(b""));
        connection.send("GET", "/shared/small", &signed.pairs(), b"");
        let mut buffer = [0; 65_536];
        let mut got = connection.stream.read(&mut buffer).unwrap();
        whole += usize::from(buffer[..got].ends_with(&[7; 4_000]));
        while !buffer[..got].ends_with(&[7; 4_000]) {
            got += connection.stream.read(&mut buffer[got..]).unwrap();
        }
    }
    assert!(whole >= 49, "head and body came in one read {whole} times of 50");
    // A delayed acknowledgement costs 40 ms each.
    assert!(began.elapsed() < SECONDS, "{:?}", began.elapsed());
}

#[test]
fn an_early_error_is_read_after_the_body_and_the_connection_lives_on() {
    let server = Server::shared();
    let mut connection = server.connect();
    let body = vec![1; 3 << 20];
    for _ in 0..3 {
        connection.send("PUT", "/shared/k", &[("authorization", "nonsense")], &body);
        assert_eq!(connection.read("PUT").said(), is(400, "AuthorizationHeaderMalformed"));
        let signed = server.signer().sign("PUT", "/no-such-bucket/k", &[], &sha256(&body));
        connection.send("PUT", "/no-such-bucket/k", &signed.pairs(), &body);
        assert_eq!(connection.read("PUT").said(), is(404, "NoSuchBucket"));
    }
    let signed = server.signer().sign("GET", "/shared/none", &[], &sha256(b""));
    connection.send("GET", "/shared/none", &signed.pairs(), b"");
    assert_eq!(connection.read("GET").status, 404);
}

#[test]
fn a_client_that_waits_to_continue_is_told_to_or_gets_its_error_at_once() {
    let server = Server::shared();
    let body = b"continued";
    let signed = server.signer().sign("PUT", "/shared/continue", &[], &sha256(body));
    let mut pairs = signed.pairs();
    pairs.push(("expect", "100-continue"));
    let mut connection = server.connect();
    connection.head("PUT", "/shared/continue", &pairs, Some(body.len()));
    let mut interim = [0; 25];
    connection.stream.read_exact(&mut interim).unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    connection.stream.write_all(body).unwrap();
    assert_eq!(connection.read("PUT").status, 200);

    let mut connection = server.connect();
    let began = Instant::now();
    connection.head("PUT", "/shared/continue", &[("expect", "100-continue")], Some(1 << 30));
    let answer = connection.read("PUT");
    assert_eq!(answer.said(), is(403, "AccessDenied"));
    assert_eq!(answer.header("connection"), Some("close"));
    assert!(began.elapsed() < SECONDS);
}

#[test]
fn half_sent_heads_stalled_bodies_and_readers_that_do_not_read_are_cut_off() {
    let server = Server::start("[limits]\nheader_seconds = 1\nbody_idle_seconds = 1\n");
    let signer = server.signer();
    assert_eq!(signer.send("PUT", "/bucket", &[], b"").status, 200);
    let big: Vec<u8> = (0..16u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    assert_eq!(signer.send("PUT", "/bucket/big", &[], &big).status, 200);

    let mut half = server.connect();
    half.stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx-half").unwrap();
    assert!(half.is_closed_within(SECONDS * 4), "a half-sent head lives on");

    let signed = signer.sign("PUT", "/bucket/stalled", &[], "UNSIGNED-PAYLOAD");
    let mut stalled = server.connect();
    stalled.head("PUT", "/bucket/stalled", &signed.pairs(), Some(1_000_000));
    stalled.stream.write_all(&[0; 1_000]).unwrap();
    assert_eq!(stalled.read("PUT").said(), is(400, "RequestTimeout"));
    assert!(stalled.is_closed_within(SECONDS * 2), "a stalled upload's connection lives on");

    let signed = signer.sign("GET", "/bucket/big", &[], &sha256(b""));
    let mut deaf = server.connect();
    deaf.send("GET", "/bucket/big", &signed.pairs(), b"");
    // It is being answered; from here on nobody reads.
    deaf.stream.read_exact(&mut [0; 100]).unwrap();
    let began = Instant::now();
    while server.metric("breakwater_connections", "s3") > 0.0 && began.elapsed() < SECONDS * 8 {
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(server.metric("breakwater_connections", "s3"), 0.0, "a connection is left");
    assert_eq!(server.metric("breakwater_s3_requests_in_flight", ""), 0.0);
    assert_eq!(signer.send("HEAD", "/bucket/stalled", &[], b"").status, 404);
}

#[test]
fn connections_above_the_bound_are_told_to_slow_down() {
    let server = Server::start("[limits]\nconnections = 3\n");
    let held: Vec<Connection> = (0..3).map(|_| server.connect()).collect();
    let began = Instant::now();
    while server.metric("breakwater_connections", "s3") < 3.0 && began.elapsed() < SECONDS * 5 {
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut fourth = server.connect();
    assert_eq!(fourth.read("GET").said(), is(503, "SlowDown"));
    assert!(server.metric("breakwater_connections_refused_total", "s3") >= 1.0);
    drop(held);
    let began = Instant::now();
    let mut status = 0;
    while status != 200 && began.elapsed() < SECONDS * 5 {
        status = server.signer().send("GET", "/", &[], b"").status;
    }
    assert_eq!(status, 200);
}

#[test]
fn heads_that_are_too_large_or_broken_end_in_an_error_and_not_in_the_process() {
    let server = Server::shared();
    let long = "x".repeat(20_000);
    let signed = server.signer().sign("GET", "/", &[("x-amz-meta-long", &long)], &sha256(b""));
    let mut connection = server.connect();
    connection.send("GET", "/", &signed.pairs(), b"");
    assert_eq!(connection.read("GET").said(), is(400, "RequestHeaderSectionTooLarge"));
    let longer = "x".repeat(100_000);
    let mut connection = server.connect();
    connection.send("GET", "/", &[("x-long", &longer)], b"");
    assert_eq!(connection.read("GET").status, 431);
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
        b"GET  /  HTTP/1.1\r\n\r\n",
        b"PUT /a HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n",
    ] {
        let mut connection = server.connect();
        connection.stream.write_all(bytes).unwrap();
        let _ = connection.stream.shutdown(std::net::Shutdown::Write);
        assert!(connection.is_closed_within(SECONDS * 5), "{:?}", String::from_utf8_lossy(bytes));
    }
    assert_eq!(server.signer().send("GET", "/", &[], b"").status, 200);
}

#[test]
fn a_body_that_ends_with_its_connection_is_not_stored() {
    let server = Server::shared();
    let signed = server.signer().sign("PUT", "/shared/cut", &[], "UNSIGNED-PAYLOAD");
    let mut connection = server.connect();
    connection.head("PUT", "/shared/cut", &signed.pairs(), Some(100_000));
    connection.stream.write_all(&[1; 50_000]).unwrap();
    let _ = connection.stream.shutdown(std::net::Shutdown::Write);
    let said = connection.try_read("PUT").map(|answer| answer.said());
    assert!(said.is_none() || said == Some(is(400, "IncompleteBody")), "{said:?}");
    assert_eq!(server.signer().send("HEAD", "/shared/cut", &[], b"").status, 404);
}

#[test]
fn https_serves_what_http_does_and_bad_certificates_are_named() {
    let place = folder();
    let path = |name: &str| place.path().join(name).display().to_string();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let made = Command::new("openssl")
        .args([
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
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            &key,
            "-out",
            &cert,
        ])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let wrong = breakwater(&[
        "serve",
        "--data",
        &path("other"),
        "--listen",
        "127.0.0.1:0",
        "--ops-listen",
        "127.0.0.1:0",
        "--tls-cert",
        &key,
        "--tls-key",
        &cert,
    ])
    .output()
    .unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("holds no certificate"), "{}", String::from_utf8_lossy(&wrong.stderr));

    let server = Server::start_in(place, "", &["--tls-cert", &cert, "--tls-key", &key]);
    assert!(server.printed.starts_with("S3 on https://"), "{}", server.printed);
    let signed = server.signer().sign("GET", "/", &[], &sha256(b""));
    let mut curl = Command::new("curl");
    curl.args(["-sS", "--cacert", &cert, "-w", "%{http_code} %{http_version}", &format!("https://{}/", server.s3)]);
    for (name, value) in signed.headers.iter().filter(|(name, _)| name != "host") {
        curl.args(["-H", &format!("{name}: {value}")]);
    }
    let answer = curl.output().unwrap();
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    assert!(text.contains("ListAllMyBucketsResult") && text.ends_with("200 1.1"), "{text} {}", String::from_utf8_lossy(&answer.stderr));
    // Plain HTTP to a TLS port ends, and the server goes on.
    let mut plain = server.connect();
    plain.stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    assert!(plain.is_closed_within(SECONDS * 5));
}
