//! What a 200 means.

use super::{BUCKET, get, ground, keys, put};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use conformance::client::Judge;
use conformance::content::Content;
use conformance::raw::{self, Request};
use conformance::server::Credential;
use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[tokio::test]
async fn an_acknowledged_write_is_read_and_listed_at_once() {
    let (server, client) = ground().await;
    // Another client has other connections: nothing is remembered on this one's behalf.
    let other = conformance::client::of(&server);
    for n in 0..60u64 {
        let content = Content::dense(n, [10, 9_000, 1_200_000][n as usize % 3]).bytes();
        put(&client, &format!("k/{n}"), content.to_vec()).await.unwrap();
        assert!(get(&other, &format!("k/{n}")).await.unwrap().unwrap() == content);
        assert!(keys(&other).await.contains(&format!("k/{n}")));
    }
}

#[tokio::test]
async fn a_deleted_object_is_gone_at_once_and_does_not_return() {
    let (mut server, client) = ground().await;
    let other = conformance::client::of(&server);
    for n in 0..30 {
        let key = format!("k/{}", n % 3);
        put(&client, &key, vec![1; 20_000]).await.unwrap();
        client.delete_object().bucket(BUCKET).key(&key).send().await.unwrap();
        assert_eq!(get(&other, &key).await.unwrap(), None);
        assert!(!keys(&other).await.contains(&key));
    }
    server.kill();
    server.restart().unwrap();
    assert_eq!(keys(&conformance::client::of(&server)).await, Vec::<String>::new());
}

#[tokio::test]
async fn nothing_of_an_unfinished_write_is_visible() {
    let (server, client) = ground().await;
    put(&client, "kept", b"the old one".to_vec()).await.unwrap();
    let host = server.address();
    for key in ["new", "kept"] {
        let request = Request::new("PUT", &raw::path_of(BUCKET, key)).body(&vec![7; 3_000_000]).signed(&Credential::root(), host);
        let wire = request.wire();
        let mut stream = raw::connect(host).unwrap();
        stream.write_all(&wire[..wire.len() - 5]).unwrap();
        stream.flush().unwrap();
        drop(stream);
    }
    let begun = client.create_multipart_upload().bucket(BUCKET).key("parts").send().await.unwrap();
    let part = client.upload_part().bucket(BUCKET).key("parts").upload_id(begun.upload_id().unwrap()).part_number(1);
    part.body(vec![1; 100_000].into()).send().await.unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(keys(&client).await, vec!["kept"]);
    assert_eq!(get(&client, "kept").await.unwrap().unwrap(), "the old one");
    assert_eq!(get(&client, "new").await.unwrap(), None);
    assert_eq!(get(&client, "parts").await.unwrap(), None);
}

#[tokio::test]
async fn deleting_what_is_not_there_succeeds() {
    let (server, client) = ground().await;
    let path = raw::path_of(BUCKET, "never");
    let answer = raw::send(server.address(), &Credential::root(), Request::new("DELETE", &path)).unwrap();
    assert_eq!(answer.status, 204);
    client.delete_object().bucket(BUCKET).key("never").send().await.unwrap();
}

#[tokio::test]
async fn the_etag_is_the_md5_of_the_body_and_of_the_parts_md5s() {
    let (_server, client) = ground().await;
    for len in [0usize, 1, 8_192, 8_193, 1 << 20, 3_000_001] {
        let body = Content::dense(len as u64, len).bytes();
        assert_eq!(put(&client, "k", body.to_vec()).await.unwrap(), hex::encode(raw::md5(&body)));
    }
    let parts = [Content::dense(1, 5 << 20).bytes(), Content::dense(2, 77).bytes()];
    let begun = client.create_multipart_upload().bucket(BUCKET).key("parts").send().await.unwrap();
    let mut list = Vec::new();
    for (n, body) in parts.iter().enumerate() {
        let request = client.upload_part().bucket(BUCKET).key("parts").upload_id(begun.upload_id().unwrap()).part_number(n as i32 + 1);
        let sent = request.body(body.clone().into()).send().await.unwrap();
        list.push(CompletedPart::builder().part_number(n as i32 + 1).set_e_tag(sent.e_tag).build());
    }
    let all = CompletedMultipartUpload::builder().set_parts(Some(list)).build();
    let request = client.complete_multipart_upload().bucket(BUCKET).key("parts").upload_id(begun.upload_id().unwrap());
    let done = request.multipart_upload(all).send().await.unwrap();
    let digests: Vec<u8> = parts.iter().flat_map(|p| raw::md5(p)).collect();
    assert_eq!(done.e_tag().unwrap(), format!("\"{}-2\"", hex::encode(raw::md5(&digests))));
}

#[tokio::test]
async fn a_part_sent_again_replaces_the_first_and_a_repeated_completion_gets_the_same_answer() {
    let (_server, client) = ground().await;
    let begun = client.create_multipart_upload().bucket(BUCKET).key("k").send().await.unwrap();
    let id = begun.upload_id().unwrap();
    let send = |body: Vec<u8>| client.upload_part().bucket(BUCKET).key("k").upload_id(id).part_number(1).body(body.into()).send();
    let first = send(vec![1; 50_000]).await.unwrap();
    let second = send(vec![2; 60_000]).await.unwrap();
    let complete = |etag: &str| {
        let part = CompletedPart::builder().part_number(1).e_tag(etag).build();
        let all = CompletedMultipartUpload::builder().parts(part).build();
        client.complete_multipart_upload().bucket(BUCKET).key("k").upload_id(id).multipart_upload(all).send()
    };
    assert_eq!(complete(first.e_tag().unwrap()).await.judged().unwrap_err().code(), "InvalidPart");
    let done = complete(second.e_tag().unwrap()).await.unwrap();
    assert_eq!(get(&client, "k").await.unwrap().unwrap(), vec![2u8; 60_000]);
    // The answer was lost on its way, say: the client asks again.
    let again = complete(second.e_tag().unwrap()).await.judged().map(|d| d.e_tag().map(str::to_owned));
    assert_eq!(again.unwrap().as_deref(), done.e_tag());
    // With another list it is not that request, and the upload is no more.
    assert_eq!(complete(first.e_tag().unwrap()).await.judged().unwrap_err().code(), "NoSuchUpload");
    put(&client, "k", b"another".to_vec()).await.unwrap();
    assert_eq!(complete(second.e_tag().unwrap()).await.judged().unwrap_err().code(), "NoSuchUpload");
}

#[tokio::test]
async fn last_modified_follows_the_clock_and_never_goes_back() {
    let (_server, client) = ground().await;
    let mut last = 0;
    for n in 0..5 {
        put(&client, "k", format!("{n}")).await.unwrap();
        let head = client.head_object().bucket(BUCKET).key("k").send().await.unwrap();
        let modified = head.last_modified().unwrap().secs();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        assert!((now - modified).abs() <= 2, "{modified} at {now}");
        assert!(modified >= last);
        last = modified;
    }
}

#[tokio::test]
async fn metadata_and_headers_come_back_as_they_were_sent() {
    let (server, client) = ground().await;
    let request = client.put_object().bucket(BUCKET).key("k").body(b"x".to_vec().into()).content_type("a/b").cache_control("no-store");
    let request = request.content_encoding("gzip").content_language("de").content_disposition("inline").metadata("Some-Name", "Some Value");
    // Looks like encoded words of RFC 2047, with something between them.
    let words = "=?UTF-8?Q?a?= and =?UTF-8?Q?b?=";
    let request = request.metadata("words", words);
    request.send().await.unwrap();
    let answer = raw::send(server.address(), &Credential::root(), Request::new("GET", &raw::path_of(BUCKET, "k"))).unwrap();
    for (name, value) in [
        ("content-type", "a/b"),
        ("cache-control", "no-store"),
        ("content-encoding", "gzip"),
        ("content-language", "de"),
        ("content-disposition", "inline"),
        ("x-amz-meta-some-name", "Some Value"),
        ("x-amz-meta-words", words),
        ("accept-ranges", "bytes"),
    ] {
        assert_eq!(answer.header(name), Some(value), "{name}");
    }
}

#[tokio::test]
async fn head_answers_what_get_would() {
    let (server, client) = ground().await;
    let tag = put(&client, "k", vec![7; 1_000]).await.unwrap();
    let asked: [(&str, &str, u16); 6] = [
        ("x-none", "", 200),
        ("range", "bytes=10-19", 206),
        ("range", "bytes=1000-", 416),
        ("if-none-match", &tag, 304),
        ("if-match", "\"0\"", 412),
        ("x-amz-checksum-mode", "ENABLED", 200),
    ];
    for (name, value, status) in asked {
        let answer = |method: &str| {
            let request = Request::new(method, &raw::path_of(BUCKET, "k")).header(name, value);
            let answer = raw::send(server.address(), &Credential::root(), request).unwrap();
            let own = ["x-amz-request-id", "x-amz-id-2", "date", "connection"];
            let mut headers = answer.headers.clone();
            headers.retain(|(name, _)| !own.contains(&name.as_str()) && (status < 300 || name != "content-length"));
            headers.sort();
            (answer.status, headers)
        };
        let (get, head) = (answer("GET"), answer("HEAD"));
        assert_eq!(get.0, status, "{name}: {value}");
        assert_eq!(get, head, "{name}: {value}");
    }
}
