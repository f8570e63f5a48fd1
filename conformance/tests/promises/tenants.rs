//! Who may do what, and what stays secret.

use super::{BUCKET, get, ground, ground_with, put};
use conformance::client::{self, Judge};
use conformance::raw::{self, Request, Signer};
use conformance::server::{Credential, SECRET_KEY, grep};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[tokio::test]
async fn a_tenant_sees_nothing_of_another() {
    let (server, root) = ground().await;
    put(&root, "mine", b"x".to_vec()).await.unwrap();
    let stranger = server.new_tenant("stranger").unwrap();
    let client = client::with(server.endpoint(), &stranger);
    assert_eq!(client.list_buckets().send().await.unwrap().buckets().len(), 0);
    let denied = |code: &str| assert_eq!(code, "AccessDenied");
    denied(client.get_object().bucket(BUCKET).key("mine").send().await.judged().unwrap_err().code());
    denied(client.put_object().bucket(BUCKET).key("theirs").send().await.judged().unwrap_err().code());
    denied(client.list_objects_v2().bucket(BUCKET).send().await.judged().unwrap_err().code());
    denied(client.delete_object().bucket(BUCKET).key("mine").send().await.judged().unwrap_err().code());
    client.create_bucket().bucket("stranger-own").send().await.unwrap();
    let copy = client.copy_object().bucket("stranger-own").key("stolen").copy_source(format!("{BUCKET}/mine"));
    denied(copy.send().await.judged().unwrap_err().code());
    assert_eq!(get(&root, "mine").await.unwrap().unwrap(), "x");
}

#[tokio::test]
async fn a_revoked_key_is_refused() {
    let (server, _root) = ground().await;
    let key = server.new_tenant("short-lived").unwrap();
    let client = client::with(server.endpoint(), &key);
    client.create_bucket().bucket("short-lived").send().await.unwrap();
    server.admin(&["key", "revoke", &key.access_key]).unwrap();
    let mut last = None;
    for _ in 0..50 {
        last = client.list_buckets().send().await.judged().err();
        if last.is_some() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(last.unwrap().code(), "InvalidAccessKeyId");
}

#[tokio::test]
async fn two_tenants_never_share_a_chunk() {
    let (server, root) = ground().await;
    let body = conformance::content::Content::dense(1, 4 << 20).bytes();
    let sealed = || server.metric("breakwater_path_sealed_bytes_total");
    put(&root, "a", body.to_vec()).await.unwrap();
    let one = sealed();
    put(&root, "b", body.to_vec()).await.unwrap();
    assert!(sealed() < one * 1.01, "the same bytes again cost nothing");
    let client = client::with(server.endpoint(), &server.new_tenant("other").unwrap());
    client.create_bucket().bucket("other").send().await.unwrap();
    client.put_object().bucket("other").key("a").body(body.into()).send().await.unwrap();
    assert!(sealed() > one * 1.9, "another tenant's are its own");
}

#[tokio::test]
async fn nothing_readable_lies_on_the_disks_and_no_secret_in_any_file() {
    let (mut server, client) = ground().await;
    let canary = "canary-8a1f0c";
    for repeat in [1, 100, 100_000] {
        put(&client, &format!("k{repeat}"), canary.repeat(repeat)).await.unwrap();
    }
    assert!(server.terminate(Duration::from_secs(30)).unwrap().success());
    assert_eq!(grep(server.place(), canary.as_bytes()).unwrap(), vec![]);
    assert_eq!(grep(server.place(), SECRET_KEY.as_bytes()).unwrap(), vec![]);
}

#[tokio::test]
async fn version_2_signatures_can_be_switched_off() {
    let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 60;
    for (config, status) in [("", 200), ("allow_signature_v2 = false\n", 403)] {
        let (server, client) = ground_with(config).await;
        put(&client, "k", b"x".to_vec()).await.unwrap();
        let host = server.address();
        let request = Request::new("GET", &raw::path_of(BUCKET, "k")).presigned_v2(&Credential::root(), host, expires);
        let answer = raw::exchange(host, &request.wire(), false).unwrap();
        assert!(answer.status == status || (status == 403 && (400..=403).contains(&answer.status)), "{} {}", answer.status, answer.text());
    }
}

#[tokio::test]
async fn version_2_covers_a_bucket_s_path_with_a_slash_at_its_end() {
    let (server, _client) = ground().await;
    let host = server.address();
    let expires = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() + 60;
    let signed = Request::new("GET", &format!("/{BUCKET}/")).presigned_v2(&Credential::root(), host, expires);
    for path in [format!("/{BUCKET}"), format!("/{BUCKET}/")] {
        let answer = raw::exchange(host, &Request { path, ..signed.clone() }.wire(), false).unwrap();
        assert_eq!((answer.status, answer.element("Name").as_deref()), (200, Some(BUCKET)), "{}", answer.text());
    }
    let other = Request { path: "/other".into(), ..signed };
    assert_eq!(raw::exchange(host, &other.wire(), false).unwrap().code(), "SignatureDoesNotMatch");
}

#[tokio::test]
async fn a_presigned_url_is_good_for_documents_and_odd_headers_too() {
    let (server, client) = ground().await;
    let host = server.address();
    let path = raw::path_of(BUCKET, "k");
    let begun = client.create_multipart_upload().bucket(BUCKET).key("k").send().await.unwrap();
    let upload = begun.upload_id().unwrap();
    let part = client.upload_part().bucket(BUCKET).key("k").upload_id(upload).part_number(1).body(b"part".to_vec().into());
    let tag = part.send().await.unwrap().e_tag().unwrap().to_owned();
    let document = format!("<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{tag}</ETag></Part></CompleteMultipartUpload>");
    let sent = |request: Request| raw::exchange(host, &request.wire(), false).unwrap();
    let by_url = |request: Request| request.presigned(&Signer::new(&Credential::root()), host, "60");
    let complete = by_url(Request::new("POST", &path).query("uploadId", upload));
    let wrong = sent(Request { path: raw::path_of(BUCKET, "other"), ..complete.clone() }.body(document.as_bytes()));
    assert_eq!(wrong.code(), "SignatureDoesNotMatch");
    let answer = sent(complete.body(document.as_bytes()));
    assert_eq!((answer.status, answer.element("Key").as_deref()), (200, Some("k")), "{}", answer.text());
    let tags = b"<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>";
    let answer = sent(by_url(Request::new("PUT", &path).query("tagging", "")).body(tags));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let answer = sent(by_url(Request::new("GET", &path)).header("range", "bytes=5-2").header("if-modified-since", "yesterday"));
    assert_eq!((answer.status, answer.text().as_str()), (200, "part"));
}

#[tokio::test]
async fn a_presigned_url_does_what_it_was_signed_for_and_nothing_else() {
    let (server, client) = ground().await;
    put(&client, "k", b"x".to_vec()).await.unwrap();
    put(&client, "other", b"y".to_vec()).await.unwrap();
    let host = server.address();
    let signed = Request::new("GET", &raw::path_of(BUCKET, "k")).presigned(&Signer::new(&Credential::root()), host, "60");
    assert_eq!(raw::exchange(host, &signed.wire(), false).unwrap().text(), "x");
    for wrong in [
        Request { method: "DELETE".into(), ..signed.clone() },
        Request { path: raw::path_of(BUCKET, "other"), ..signed.clone() },
        signed.clone().query("response-content-type", "text/html"),
    ] {
        assert_eq!(raw::exchange(host, &wrong.wire(), false).unwrap().status, 403, "{}", wrong.target());
    }
    assert_eq!(get(&client, "k").await.unwrap().unwrap(), "x");
}
