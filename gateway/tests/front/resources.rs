//! What a request asks for: nothing falls through to another operation.

use crate::server::Server;

fn is(status: u16, code: &str) -> (u16, String) {
    (status, code.to_string())
}

#[test]
fn a_sub_resource_nobody_answers_does_not_fall_through() {
    let server = Server::shared();
    let signer = server.signer();
    assert_eq!(signer.send("PUT", "/shared/kept", &[], b"kept").status, 200);
    for sub in [
        "acl",
        "retention",
        "legal-hold",
        "attributes",
        "torrent",
        "restore",
        "uploads",
        "versions",
        "policy",
        "website",
        "renameObject",
        "annotation",
        "select",
        "encryption",
    ] {
        for method in ["DELETE", "HEAD"] {
            let answer = signer.send(method, &format!("/shared/kept?{sub}="), &[], b"");
            assert_eq!(answer.status, 501, "{method} ?{sub}");
        }
        if ["acl", "attributes", "torrent", "retention", "legal-hold"].contains(&sub) {
            let answer = signer.send("GET", &format!("/shared/kept?{sub}="), &[], b"");
            assert_ne!(answer.body, b"kept", "GET ?{sub} gave the object");
        } else {
            assert_eq!(signer.send("GET", &format!("/shared/kept?{sub}="), &[], b"").said(), is(501, "NotImplemented"), "GET ?{sub}");
        }
        let (status, code) = signer.send("PUT", &format!("/shared/kept?{sub}="), &[], b"<x/>").said();
        assert!(status >= 400, "PUT ?{sub}: {status} {code}");
    }
    assert_eq!(signer.send("GET", "/shared/kept", &[], b"").body, b"kept");
}

#[test]
fn a_bucket_s_sub_resource_does_not_create_or_delete_the_bucket() {
    let server = Server::shared();
    let signer = server.signer();
    assert_eq!(signer.send("PUT", "/bucket-sub", &[], b"").status, 200);
    for sub in [
        "acl",
        "versioning",
        "versions",
        "location",
        "uploads",
        "object-lock",
        "notification",
        "logging",
        "requestPayment",
        "uploadId",
        "delete",
    ] {
        assert_eq!(signer.send("DELETE", &format!("/bucket-sub?{sub}="), &[], b"").said(), is(501, "NotImplemented"), "DELETE ?{sub}");
    }
    for sub in ["location", "versions", "uploads", "uploadId", "delete", "session", "policyStatus"] {
        assert_eq!(signer.send("PUT", &format!("/never-made?{sub}="), &[], b"").said(), is(501, "NotImplemented"), "PUT ?{sub}");
    }
    for sub in ["acl", "cors", "website", "object-lock", "replication"] {
        let (status, _) = signer.send("PUT", &format!("/never-made?{sub}="), &[], b"<x/>").said();
        assert!(status >= 400, "PUT ?{sub}");
    }
    assert_eq!(signer.send("HEAD", "/bucket-sub", &[], b"").status, 200);
    assert_eq!(signer.send("HEAD", "/never-made", &[], b"").status, 404);
}

#[test]
fn two_sub_resources_or_half_a_part_are_invalid() {
    let server = Server::shared();
    let signer = server.signer();
    for (method, target) in [
        ("GET", "/shared/k?acl=&tagging="),
        ("PUT", "/shared/k?acl=&uploadId=x"),
        ("PUT", "/shared/k?uploadId=x"),
        ("PUT", "/shared/k?partNumber=1"),
        ("POST", "/shared/k?uploadId=x&uploads="),
        ("GET", "/shared?policy=&uploads="),
    ] {
        assert_eq!(signer.send(method, target, &[], b"").said(), is(400, "InvalidArgument"), "{method} {target}");
    }
}

#[test]
fn forms_preflights_and_unknown_methods_are_answered_as_such() {
    let server = Server::shared();
    let signer = server.signer();
    let form = [("content-type", "multipart/form-data; boundary=x")];
    assert_eq!(signer.send("POST", "/shared", &form, b"--x--").said(), is(501, "NotImplemented"));
    let mut connection = server.connect();
    connection.send("OPTIONS", "/shared/k", &[("origin", "http://a"), ("access-control-request-method", "GET")], b"");
    assert_eq!(connection.read("OPTIONS").said(), is(403, "AccessForbidden"));
    for method in ["PATCH", "TRACE", "PROPFIND"] {
        assert_eq!(signer.send(method, "/shared/k", &[], b"").said(), is(405, "MethodNotAllowed"), "{method}");
    }
    assert_eq!(signer.send("POST", "/shared/k", &[], b"").said(), is(501, "NotImplemented"));
    assert_eq!(signer.send("PUT", "/", &[], b"").status, 501);
}

#[test]
fn addresses_that_cannot_be_decoded_and_floods_of_parameters_are_refused() {
    let server = Server::shared();
    let signer = server.signer();
    assert_eq!(signer.send("GET", "/shared/%FF%FE", &[], b"").said(), is(400, "InvalidURI"));
    assert_eq!(signer.send("GET", "/shared?prefix=%FF", &[], b"").said(), is(400, "InvalidURI"));
    let flood = (0..100).map(|n| format!("a{n:03}=1")).collect::<Vec<_>>().join("&");
    assert_eq!(signer.send("GET", &format!("/shared?{flood}"), &[], b"").said(), is(400, "InvalidURI"));
}
