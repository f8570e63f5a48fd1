//! The operations listener.

use crate::server::Server;

#[test]
fn liveness_and_readiness_are_told_and_other_paths_are_not_found() {
    let server = Server::shared();
    assert_eq!(server.ops("GET", "/health/live", &[]).status, 200);
    let ready = server.ops("GET", "/health/ready", &[]);
    assert_eq!(ready.status, 200);
    assert!(ready.text().contains("\"writes\":true") && ready.text().contains("\"disks_serving\":6"), "{}", ready.text());
    assert_eq!(server.ops("GET", "/", &[]).status, 404);
    assert_eq!(server.ops("POST", "/health/live", &[]).status, 405);
}

#[test]
fn requests_are_measured_by_operation_size_class_and_code() {
    let server = Server::start("");
    let signer = server.signer();
    assert_eq!(signer.send("PUT", "/bucket", &[], b"").status, 200);
    assert_eq!(signer.send("PUT", "/bucket/small", &[], &[1; 1_000]).status, 200);
    assert_eq!(signer.send("PUT", "/bucket/large", &[], &vec![1; 100_000]).status, 200);
    assert_eq!(signer.send("GET", "/bucket/large", &[], b"").status, 200);
    assert_eq!(signer.send("GET", "/bucket/none", &[], b"").status, 404);
    assert_eq!(signer.send("GET", "/none/none?acl=&policy=", &[], b"").status, 400);
    // An answer is counted when its last byte went out, which may be a moment after it was read.
    std::thread::sleep(std::time::Duration::from_millis(100));
    let count = |operation: &str, class: &str| {
        server.metric("breakwater_s3_request_seconds_count", &format!("operation=\"{operation}\",size_class=\"{class}\""))
    };
    assert_eq!(count("PutObject", "<=4KiB"), 1.0);
    assert_eq!(count("PutObject", "<=1MiB"), 1.0);
    assert_eq!(count("GetObject", "<=1MiB"), 1.0);
    assert_eq!(server.metric("breakwater_s3_errors_total", "NoSuchKey"), 1.0);
    assert_eq!(server.metric("breakwater_s3_errors_total", "InvalidArgument"), 1.0);
    assert_eq!(server.metric("breakwater_s3_received_bytes_total", "PutObject"), 101_000.0);
    assert_eq!(server.metric("breakwater_s3_requests_total", "operation=\"CreateBucket\",status=\"200\""), 1.0);
    assert_eq!(server.metric("breakwater_s3_requests_in_flight", ""), 0.0);
    assert_eq!(server.metric("breakwater_s3_answers_cut_off_total", ""), 0.0);
    for name in
        ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds", "process_max_fds", "breakwater_runtime_tasks"]
    {
        assert!(server.metric(name, "") > 0.0, "{name}");
    }
}

#[test]
fn a_request_leaves_one_line_in_the_log_if_asked_and_no_secret_ever() {
    let place = crate::server::folder();
    let data = place.path().join("data").display().to_string();
    let mut command = crate::server::breakwater(&["serve", "--data", &data, "--listen", "127.0.0.1:0", "--ops-listen", "127.0.0.1:0"]);
    command.env("RUST_LOG", "debug,breakwater::access=info");
    command.env("BREAKWATER_ROOT_ACCESS_KEY", crate::server::ACCESS_KEY).env("BREAKWATER_ROOT_SECRET_KEY", crate::server::SECRET_KEY);
    let server = Server::spawn(place, command);
    let signer = server.signer();
    assert_eq!(signer.send("PUT", "/bucket", &[], b"").status, 200);
    assert_eq!(signer.send("PUT", "/bucket/the-key-name", &[("x-amz-meta-canary", "canary-meta")], b"canary-data").status, 200);
    std::thread::sleep(std::time::Duration::from_millis(100));
    let log = server.log();
    let lines = log.lines().filter(|line| line.contains("breakwater::access") && line.contains("PutObject")).count();
    assert_eq!(lines, 1, "{log}");
    let line = log.lines().find(|line| line.contains("breakwater::access") && line.contains("PutObject")).unwrap();
    assert!(!line.contains("the-key-name"), "{line}");
    for secret in [crate::server::SECRET_KEY, "canary-data"] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}
