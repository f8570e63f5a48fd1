//! Who says they are who, and how.

use crate::server::Server;
use crate::signer::{EMPTY, Signer, sha256};
use crate::wire::Connection;
use std::time::Duration;

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

fn get(server: &Server, target: &str, headers: &[(&str, &str)]) -> (u16, String) {
    ask(server, "GET", target, headers, b"")
}

fn ask(server: &Server, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> (u16, String) {
    let mut connection = server.connect();
    connection.send(method, target, headers, body);
    connection.read(method).said()
}

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_string())
}

#[test]
fn an_anonymous_request_is_denied_whatever_it_asks() {
    let server = Server::shared();
    for (method, target) in [
        ("GET", "/"),
        ("GET", "/shared"),
        ("GET", "/shared/k"),
        ("PUT", "/shared/k"),
        ("DELETE", "/shared/k"),
        ("POST", "/shared?delete"),
        ("GET", "/shared?acl"),
    ] {
        assert_eq!(ask(&server, method, target, &[], b""), is(403, "AccessDenied"), "{method} {target}");
    }
}

#[test]
fn a_garbled_authorization_is_called_malformed() {
    let server = Server::shared();
    let credential = "Credential=AK/20260101/us-east-1/s3/aws4_request";
    let signature = format!("Signature={}", "0".repeat(64));
    for authorization in [
        "nonsense".to_string(),
        "Bearer abc".into(),
        "AWS4-HMAC-SHA256".into(),
        format!("AWS4-HMAC-SHA256{credential}, SignedHeaders=host, {signature}"),
        format!("AWS4-HMAC-SHA256 {credential}, {signature}"),
        format!("AWS4-HMAC-SHA256 {credential}, {credential}, SignedHeaders=host, {signature}"),
        format!("AWS4-HMAC-SHA256 Credential=AK/20260101/us-east-1/s3, SignedHeaders=host, {signature}"),
        format!("AWS4-HMAC-SHA256 Credential=AK/today/us-east-1/s3/aws4_request, SignedHeaders=host, {signature}"),
        format!("AWS4-HMAC-SHA256 Credential=AK/20260101/us-east-1/ec2/aws4_request, SignedHeaders=host, {signature}"),
        format!("AWS4-HMAC-SHA256 Credential=AK/20260101/us-east-1/s3/aws5_request, SignedHeaders=host, {signature}"),
        format!("AWS4-HMAC-SHA256 Credential=/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, {signature}"),
    ] {
        assert_eq!(
            get(&server, "/shared", &[("authorization", &authorization)]),
            is(400, "AuthorizationHeaderMalformed"),
            "{authorization}"
        );
    }
    let signed = server.signer().sign("GET", "/shared", &[], EMPTY);
    let mut twice = signed.pairs();
    twice.push(("authorization", "AWS4-HMAC-SHA256 x"));
    assert_eq!(get(&server, "/shared", &twice), is(400, "AuthorizationHeaderMalformed"));
}

#[test]
fn a_wrong_region_is_answered_with_the_right_one() {
    let server = Server::shared();
    let signer = Signer { region: "eu-west-1".into(), ..server.signer() };
    let answer = signer.send("GET", "/shared", &[], b"");
    assert_eq!(answer.said(), is(400, "AuthorizationHeaderMalformed"));
    assert!(answer.text().contains("<Region>us-east-1</Region>"), "{}", answer.text());
    let target = signer.presign("GET", "/shared/k", "60", &[]);
    assert_eq!(get(&server, &target, &[]), is(400, "AuthorizationQueryParametersError"));
}

#[test]
fn keys_secrets_and_clocks_that_are_wrong_are_told_apart() {
    let server = Server::shared();
    let signer = server.signer();
    let said = |signer: Signer| signer.send("GET", "/shared", &[], b"").said();
    assert_eq!(said(Signer { access_key: "NOBODY".into(), ..signer.clone() }), is(403, "InvalidAccessKeyId"));
    assert_eq!(said(Signer { secret_key: "wrong".into(), ..signer.clone() }), is(403, "SignatureDoesNotMatch"));
    assert_eq!(said(Signer { time: signer.time - minutes(20), ..signer.clone() }), is(403, "RequestTimeTooSkewed"));
    assert_eq!(said(Signer { time: signer.time + minutes(20), ..signer.clone() }), is(403, "RequestTimeTooSkewed"));
    assert_eq!(said(Signer { time: signer.time - minutes(10), ..signer }).0, 200);
}

#[test]
fn a_signature_that_leaves_out_the_host_or_an_amz_header_is_denied() {
    let server = Server::shared();
    let without_host = Signer { unsigned: vec!["host".into()], ..server.signer() };
    assert_eq!(without_host.send("GET", "/shared", &[], b"").said(), is(403, "AccessDenied"));
    let target = without_host.presign("GET", "/shared/k", "60", &[]);
    assert_eq!(get(&server, &target, &[]), is(403, "AccessDenied"));
    for (name, value) in [("x-amz-copy-source", "/shared/other"), ("x-amz-acl", "public-read"), ("x-amz-meta-a", "b")] {
        let leaves_out = Signer { unsigned: vec![name.into()], ..server.signer() };
        assert_eq!(leaves_out.send("PUT", "/shared/unsigned", &[(name, value)], b"x").said(), is(403, "AccessDenied"), "{name}");
    }
    assert_eq!(server.signer().send("HEAD", "/shared/unsigned", &[], b"").status, 404);
}

#[test]
fn an_unsigned_header_on_a_presigned_put_is_denied_and_nothing_is_stored() {
    let server = Server::shared();
    let target = server.signer().presign("PUT", "/shared/presigned-header", "60", &[]);
    for (name, value) in [
        ("x-amz-copy-source", "/shared/other"),
        ("x-amz-acl", "public-read"),
        ("x-amz-meta-a", "b"),
        ("x-amz-tagging", "a=b"),
        ("x-amz-storage-class", "GLACIER"),
    ] {
        assert_eq!(ask(&server, "PUT", &target, &[(name, value)], b"x"), is(403, "AccessDenied"), "{name}");
    }
    assert_eq!(server.signer().send("HEAD", "/shared/presigned-header", &[], b"").status, 404);
    assert_eq!(ask(&server, "PUT", &target, &[], b"x").0, 200);
    let signed = server.signer().presign("PUT", "/shared/presigned-header", "60", &[("x-amz-meta-a", "b")]);
    assert_eq!(ask(&server, "PUT", &signed, &[("x-amz-meta-a", "b")], b"x").0, 200);
}

#[test]
fn a_header_moved_into_a_presigned_url_is_not_silently_lost() {
    let server = Server::shared();
    for parameter in ["x-amz-meta-a=b", "x-amz-copy-source=%2Fshared%2Fother", "X-Amz-Tagging=a%3Db"] {
        let target = server.signer().presign("PUT", &format!("/shared/hoisted?{parameter}"), "60", &[]);
        assert_eq!(ask(&server, "PUT", &target, &[], b"x"), is(501, "NotImplemented"), "{parameter}");
    }
    assert_eq!(server.signer().send("HEAD", "/shared/hoisted", &[], b"").status, 404);
}

#[test]
fn two_ways_to_authenticate_at_once_are_refused() {
    let server = Server::shared();
    let target = server.signer().presign("GET", "/shared/k", "60", &[]);
    let signed = server.signer().sign("GET", &target, &[], EMPTY);
    assert_eq!(get(&server, &target, &signed.pairs()), is(400, "InvalidArgument"));
    let both = server.signer().presign_v2("GET", &target, minutes(1));
    assert_eq!(get(&server, &both, &[]), is(400, "InvalidArgument"));
}

#[test]
fn a_presigned_url_lives_at_most_a_week_and_not_a_second_longer() {
    let server = Server::shared();
    let signer = server.signer();
    for expires in ["604801", "31536000", "-1", "-604800", "soon", "", "1e3", "+5", "99999999999999999999"] {
        let target = signer.presign("GET", "/shared/k", expires, &[]);
        assert_eq!(get(&server, &target, &[]), is(400, "AuthorizationQueryParametersError"), "{expires}");
    }
    assert_eq!(get(&server, &signer.presign("GET", "/shared/k", "604800", &[]), &[]), is(404, "NoSuchKey"));
    let old = Signer { time: signer.time - minutes(5), ..signer.clone() };
    assert_eq!(get(&server, &old.presign("GET", "/shared/k", "60", &[]), &[]), is(403, "AccessDenied"));
    assert_eq!(get(&server, &old.presign("GET", "/shared/k", "600", &[]), &[]), is(404, "NoSuchKey"));
    let early = Signer { time: signer.time + minutes(30), ..signer };
    assert_eq!(get(&server, &early.presign("GET", "/shared/k", "60", &[]), &[]).0, 403);
}

#[test]
fn a_presigned_url_with_a_part_missing_wrong_or_twice_is_refused() {
    let server = Server::shared();
    let target = server.signer().presign("GET", "/shared/k", "60", &[]);
    let (path, query) = target.split_once('?').unwrap();
    for name in ["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders", "X-Amz-Signature"] {
        let without: Vec<&str> = query.split('&').filter(|pair| !pair.starts_with(name)).collect();
        assert_eq!(
            get(&server, &format!("{path}?{}", without.join("&")), &[]),
            is(400, "AuthorizationQueryParametersError"),
            "without {name}"
        );
        let twice = query.split('&').find(|pair| pair.starts_with(name)).unwrap();
        assert_eq!(get(&server, &format!("{target}&{twice}"), &[]), is(400, "AuthorizationQueryParametersError"), "twice {name}");
    }
    for (old, new) in [
        ("AWS4-HMAC-SHA256", "AWS9"),
        ("aws4_request", "aws5_request"),
        ("X-Amz-Date=20", "X-Amz-Date=99999920"),
        ("%2Fs3%2F", "%2Fec2%2F"),
    ] {
        assert_eq!(get(&server, &target.replace(old, new), &[]), is(400, "AuthorizationQueryParametersError"), "{new}");
    }
    let month_13 = format!(
        "{path}?{}",
        query
            .split('&')
            .map(|pair| if pair.starts_with("X-Amz-Date") { "X-Amz-Date=20261301T000000Z" } else { pair })
            .collect::<Vec<_>>()
            .join("&")
    );
    assert_eq!(get(&server, &month_13, &[]), is(400, "AuthorizationQueryParametersError"));
}

#[test]
fn signature_v2_in_a_query_works_and_expires() {
    let server = Server::shared();
    let signer = server.signer();
    assert_eq!(ask(&server, "PUT", &signer.presign_v2("PUT", "/shared/v2", minutes(1)), &[], b"by V2").0, 200);
    let mut connection = server.connect();
    connection.send("GET", &signer.presign_v2("GET", "/shared/v2", minutes(1)), &[], b"");
    assert_eq!(connection.read("GET").body, b"by V2");
    let old = Signer { time: signer.time - minutes(5), ..signer.clone() };
    assert_eq!(get(&server, &old.presign_v2("GET", "/shared/v2", minutes(1)), &[]), is(403, "AccessDenied"));
    for expires in ["-5", "never", "", "99999999999999999"] {
        assert_eq!(get(&server, &signer.presign_v2_until("GET", "/shared/v2", expires), &[]), is(403, "AccessDenied"), "{expires}");
    }
    let wrong = Signer { secret_key: "wrong".into(), ..signer };
    assert_eq!(get(&server, &wrong.presign_v2("GET", "/shared/v2", minutes(1)), &[]), is(403, "SignatureDoesNotMatch"));
}

#[test]
fn what_signature_v2_does_not_cover_cannot_choose_the_operation() {
    let server = Server::shared();
    let signer = server.signer();
    assert_eq!(ask(&server, "PUT", &signer.presign_v2("PUT", "/shared/v2-covered", minutes(1)), &[], b"x").0, 200);
    let put = signer.presign_v2("PUT", "/shared/v2-covered", minutes(1));
    for added in [
        "tagging&tagging",
        "uploadId=a&uploadId=a&partNumber=1&partNumber=1",
        "retention",
        "legal-hold",
        "encryption",
        "renameObject",
        "attributes",
    ] {
        let (status, code) = ask(&server, "PUT", &format!("{put}&{added}"), &[], b"y");
        assert!((400..500).contains(&status) || status == 501, "{added}: {status} {code}");
    }
    let mut connection = server.connect();
    connection.send("GET", &signer.presign_v2("GET", "/shared/v2-covered", minutes(1)), &[], b"");
    assert_eq!(connection.read("GET").body, b"x");
    let copied = ask(&server, "PUT", &put, &[("x-amz-copy-source", "/shared/other")], b"");
    assert_eq!(copied, is(403, "SignatureDoesNotMatch"));
}

#[test]
fn signature_v2_is_off_with_one_setting() {
    let server = Server::start("allow_signature_v2 = false");
    let signer = server.signer();
    assert_eq!(get(&server, &signer.presign_v2("GET", "/b/k", minutes(1)), &[]), is(400, "InvalidRequest"));
    assert_eq!(get(&server, "/b/k", &[("authorization", "AWS AK:c2ln")]), is(400, "InvalidRequest"));
    assert_eq!(signer.send("GET", "/", &[], b"").status, 200);
}

#[test]
fn the_operation_follows_from_the_request_and_not_from_x_id() {
    let server = Server::shared();
    let signer = server.signer();
    assert_eq!(signer.send("PUT", "/shared/x-id?x-id=DeleteObject", &[], b"kept").status, 200);
    for target in ["/shared/x-id?x-id=GetObject", "/shared/x-id?x-id=DeleteObject", "/shared/x-id?x-id=Nonsense", "/shared/x-id?x-id=a"] {
        assert_eq!(signer.send("GET", target, &[], b"").body, b"kept", "{target}");
    }
}

#[test]
fn other_regions_and_services_are_configured_not_guessed() {
    let server = Server::start("region = \"eu-central-7\"");
    let right = Signer { region: "eu-central-7".into(), ..server.signer() };
    assert_eq!(right.send("GET", "/", &[], b"").status, 200);
    assert_eq!(server.signer().send("GET", "/", &[], b"").said(), is(400, "AuthorizationHeaderMalformed"));
    let other_service = Signer { service: "sts".into(), ..right };
    assert_eq!(other_service.send("GET", "/", &[], b"").said(), is(400, "AuthorizationHeaderMalformed"));
}

#[test]
fn a_domain_makes_names_below_it_buckets_and_leaves_path_style() {
    let server = Server::start("domain = \"s3.test\"");
    let signer = server.signer();
    assert_eq!(signer.send("PUT", "/pictures", &[], b"").status, 200);
    assert_eq!(signer.send("PUT", "/pictures/cat", &[], b"meow").status, 200);
    let mut connection = Connection::open(server.s3);
    let mut signed = signer.sign("GET", "/cat", &[], EMPTY);
    // Signed for another host than it goes to: sign again with that host.
    let (host, date) = ("pictures.s3.test", signer.date());
    signed.headers.retain(|(name, _)| name != "host" && name != "authorization");
    let canonical = format!(
        "GET\n/cat\n\nhost:{host}\nx-amz-content-sha256:{EMPTY}\nx-amz-date:{date}\n\nhost;x-amz-content-sha256;x-amz-date\n{EMPTY}"
    );
    let authorization = signer.authorize(&canonical, "host;x-amz-content-sha256;x-amz-date");
    signed.headers.push(("host".into(), host.into()));
    signed.headers.push(("authorization".into(), authorization));
    connection.send("GET", "/cat", &signed.pairs(), b"");
    assert_eq!(connection.read("GET").body, b"meow");
}

#[test]
fn a_payload_hash_that_is_none_or_does_not_match_is_refused() {
    let server = Server::shared();
    let signer = server.signer();
    let send = |payload: &str, body: &[u8]| {
        let signed = signer.sign("PUT", "/shared/hash", &[], payload);
        ask(&server, "PUT", "/shared/hash", &signed.pairs(), body)
    };
    assert_eq!(send("nonsense", b"x"), is(400, "InvalidArgument"));
    assert_eq!(send("STREAMING-UNSIGNED-PAYLOAD", b"x"), is(400, "InvalidArgument"));
    assert_eq!(send("STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD", b"x"), is(501, "NotImplemented"));
    assert_eq!(send(&sha256(b"y"), b"x"), is(400, "XAmzContentSHA256Mismatch"));
    assert_eq!(signer.send("HEAD", "/shared/hash", &[], b"").status, 404);
}
