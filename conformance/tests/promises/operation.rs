//! Starting, stopping, configuring, and answers that keep a connection alive.

use super::{BUCKET, get, ground, put};
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use conformance::client;
use conformance::clock::Clocks;
use conformance::content::Content;
use conformance::raw::{self, Request, Signer};
use conformance::server::{Credential, Server, Settings};
use std::io::Write;
use std::time::{Duration, Instant, SystemTime};

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_server_finishes_what_it_began_and_the_next_start_finds_everything() {
    let (mut server, client) = ground().await;
    let body = Content::dense(1, 30 << 20).bytes();
    let writing = {
        let (client, body) = (client.clone(), body.clone());
        tokio::spawn(async move { put(&client, "k", body.to_vec()).await })
    };
    tokio::time::sleep(Duration::from_millis(60)).await;
    let status = tokio::task::spawn_blocking(move || (server.terminate(Duration::from_secs(40)), server)).await.unwrap();
    let (status, mut server) = status;
    assert!(status.expect("it ended by itself").success());
    let acknowledged = writing.await.unwrap().is_ok();
    server.restart().unwrap();
    let found = get(&client::of(&server), "k").await.unwrap();
    if acknowledged {
        assert!(found.unwrap() == body);
    } else {
        assert!(found.is_none_or(|b| b == body));
    }
}

#[tokio::test]
async fn a_refused_request_leaves_its_connection_usable() {
    let (server, _client) = ground().await;
    let host = server.address();
    let mut stream = raw::connect(host).unwrap();
    let wrong = Credential { secret_key: "wrong".into(), ..Credential::root() };
    for _ in 0..3 {
        let put = Request::new("PUT", &raw::path_of(BUCKET, "k")).body(&vec![1; 300_000]);
        stream.write_all(&put.signed(&wrong, host).wire()).unwrap();
        assert_eq!(raw::read_response(&mut stream, false).unwrap().code(), "SignatureDoesNotMatch");
    }
    let list = Request::new("GET", &format!("/{BUCKET}")).signed(&Credential::root(), host);
    stream.write_all(&list.wire()).unwrap();
    assert_eq!(raw::read_response(&mut stream, false).unwrap().status, 200);
}

#[test]
fn answers_say_what_the_clock_says_also_after_it_was_set_back() {
    let place = tempfile::tempdir().unwrap();
    let clock = Clocks::build(place.path()).unwrap().clock(place.path()).unwrap();
    let server = Server::start_with(Settings { environment: clock.environment().to_vec(), ..Settings::default() }).unwrap();
    let mut stream = raw::connect(server.address()).unwrap();
    for minutes in [0, 30, 0, -30, 0] {
        clock.set(minutes * 60_000).unwrap();
        // Its Date is asked for, also where it refuses.
        stream.write_all(&Request::new("GET", "/").wire()).unwrap();
        let answer = raw::read_response(&mut stream, false).unwrap();
        let told = DateTime::from_str(answer.header("date").unwrap(), DateTimeFormat::HttpDate).unwrap().secs();
        let ahead = told - DateTime::from(SystemTime::now()).secs();
        assert!((ahead - minutes * 60).abs() <= 5, "set ahead by {minutes} minutes, and answers are by {ahead} s");
    }
}

#[tokio::test]
async fn a_refusal_does_not_wait_for_a_body_that_does_not_come() {
    let (server, _client) = ground().await;
    let host = server.address();
    for length in ["200000", "5368709121"] {
        let put = Request::new("PUT", &raw::path_of("missing-bucket", "k")).set_header("content-length", length);
        let began = Instant::now();
        let answer =
            raw::exchange(host, &put.signed_as(&Signer::new(&Credential::root()), host, "UNSIGNED-PAYLOAD").wire(), false).unwrap();
        assert!((400..=404).contains(&answer.status), "{}", answer.text());
        assert!(began.elapsed() < Duration::from_secs(5), "{length}: the refusal took {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn small_answers_do_not_wait_for_the_client_s_acknowledgement() {
    let (_server, client) = ground().await;
    put(&client, "k", vec![1; 4_096]).await.unwrap();
    let mut times = Vec::new();
    for _ in 0..60 {
        let began = Instant::now();
        get(&client, "k").await.unwrap();
        times.push(began.elapsed());
    }
    times.sort();
    assert!(times[30] < Duration::from_millis(35), "half of the small GETs took {:?} and more", times[30]);
}

#[tokio::test]
async fn a_body_is_asked_for_before_it_is_sent_where_the_client_waits() {
    let (server, client) = ground().await;
    let host = server.address();
    let request = Request::new("PUT", &raw::path_of(BUCKET, "k"))
        .body(b"after the go-ahead")
        .header("expect", "100-continue")
        .signed(&Credential::root(), host);
    let mut stream = raw::connect(host).unwrap();
    stream.write_all(&request.head()).unwrap();
    let mut buffer = [0u8; 25];
    std::io::Read::read_exact(&mut stream, &mut buffer).unwrap();
    assert!(buffer.starts_with(b"HTTP/1.1 100 Continue"), "{}", String::from_utf8_lossy(&buffer));
    stream.write_all(&request.body).unwrap();
    assert_eq!(raw::read_response(&mut stream, false).unwrap().status, 200);
    assert_eq!(get(&client, "k").await.unwrap().unwrap(), "after the go-ahead");
    let empty = Request::new("PUT", &raw::path_of(BUCKET, "empty")).header("expect", "100-continue");
    let answer = raw::send(host, &Credential::root(), empty).unwrap();
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "there was nothing to ask for");
}

#[tokio::test]
async fn what_cannot_be_done_yet_answers_501() {
    let (server, client) = ground().await;
    put(&client, "k", b"x".to_vec()).await.unwrap();
    let bucket = format!("/{BUCKET}");
    for (method, path, query) in [
        ("PUT", &bucket, "replication"),
        ("PUT", &bucket, "website"),
        ("PUT", &bucket, "notification"),
        ("PUT", &bucket, "lifecycle"),
        ("PUT", &bucket, "logging"),
        ("PUT", &bucket, "versioning"),
        ("PUT", &bucket, "object-lock"),
        ("PUT", &bucket, "policy"),
        ("POST", &raw::path_of(BUCKET, "k"), "restore"),
        ("POST", &raw::path_of(BUCKET, "k"), "select"),
        ("PUT", &raw::path_of(BUCKET, "k"), "legal-hold"),
    ] {
        let request = Request::new(method, path).query(query, "").body(b"<x/>");
        let answer = raw::send(server.address(), &Credential::root(), request).unwrap();
        let refused = answer.status == 501 || (answer.status == 400 && answer.code() == "MalformedXML");
        assert!(refused, "{method} ?{query}: {} {}", answer.status, answer.text());
    }
    assert_eq!(get(&client, "k").await.unwrap().unwrap(), "x");
}

#[tokio::test]
async fn a_server_of_another_region_says_so() {
    let server = Server::start_with(Settings { config: Some("region = \"eu-west-7\"\n".into()), ..Settings::default() }).unwrap();
    let host = server.address();
    let there = Signer { region: "eu-west-7".into(), ..Signer::new(&Credential::root()) };
    let send = |method: &str, query: &[&str], signer: &Signer| {
        let request = query.iter().fold(Request::new(method, "/elsewhere"), |request, name| request.query(name, ""));
        raw::exchange(host, &request.signed_as(signer, host, raw::EMPTY_SHA256).wire(), method == "HEAD").unwrap()
    };
    assert_eq!(send("PUT", &[], &there).status, 200);
    assert_eq!(send("HEAD", &[], &there).header("x-amz-bucket-region"), Some("eu-west-7"));
    assert!(send("GET", &["location"], &there).text().contains(">eu-west-7</LocationConstraint>"));
    let wrong = send("GET", &["location"], &Signer::new(&Credential::root()));
    assert_eq!((wrong.code().as_str(), wrong.element("Region").as_deref()), ("AuthorizationHeaderMalformed", Some("eu-west-7")));
}

#[test]
fn a_wrong_configuration_is_refused_by_name() {
    for (config, name) in [
        ("colector = 3\n", "colector"),
        ("[collector]\ninterval_seconds = 0\n", "interval_seconds"),
        ("[limits]\nconections = 3\n", "conections"),
    ] {
        let refused = Server::start_with(Settings { config: Some(config.into()), ..Settings::default() }).unwrap_err();
        assert!(refused.to_string().contains(name), "{refused}");
    }
}

#[tokio::test]
async fn two_servers_never_open_the_same_data() {
    let (server, client) = ground().await;
    let second = Settings { data: Some(server.data().to_path_buf()), ..Settings::default() };
    assert!(Server::start_with(second).is_err(), "the data folder is taken");
    put(&client, "k", b"x".to_vec()).await.unwrap();
}

#[tokio::test]
async fn metrics_and_health_are_served() {
    let (server, client) = ground().await;
    put(&client, "k", vec![1; 100_000]).await.unwrap();
    get(&client, "k").await.unwrap();
    for path in ["/health/live", "/health/ready"] {
        assert_eq!(server.ops_get(path).unwrap().0, 200);
    }
    let (status, text) = server.ops_get("/metrics").unwrap();
    assert_eq!(status, 200);
    assert!(text.lines().any(|l| l.starts_with("breakwater_") && !l.ends_with(" 0")), "{text}");
    assert!(!text.contains(BUCKET), "a bucket's name is no label");
}
