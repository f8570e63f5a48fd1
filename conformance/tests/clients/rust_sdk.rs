//! The AWS SDK for Rust, with all its defaults: chunk-signed bodies with a CRC32 trailer, retries on.

use super::Ground;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumAlgorithm;
use conformance::raw;
use conformance::server::{ACCESS_KEY, SECRET_KEY};
use std::time::Duration;

fn client(ground: &Ground) -> Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::v2026_01_12())
        .endpoint_url(ground.server.endpoint())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test"))
        .force_path_style(true);
    Client::from_conf(config.build())
}

#[tokio::test]
async fn the_rust_sdk_with_its_defaults_stores_every_file_and_reads_it_back() {
    let ground = Ground::new();
    let client = client(&ground);
    client.create_bucket().bucket("sdk").send().await.unwrap();
    for path in conformance::server::walk(&ground.tree) {
        let key = path.strip_prefix(&ground.tree).unwrap().to_string_lossy().into_owned();
        let expected = std::fs::read(&path).unwrap();
        // From a file, as a stream: the checksum follows in the trailer.
        let body = ByteStream::from_path(&path).await.unwrap();
        let stored = client.put_object().bucket("sdk").key(&key).body(body).send().await.unwrap();
        assert_eq!(stored.e_tag().unwrap().trim_matches('"'), hex::encode(raw::md5(&expected)));
        assert_eq!(stored.checksum_crc32(), Some(raw::crc32_base64(&expected).as_str()));
        let read = client.get_object().bucket("sdk").key(&key).send().await.unwrap();
        assert_eq!(read.content_encoding(), None, "aws-chunked does not leak");
        assert!(read.body.collect().await.unwrap().into_bytes() == expected, "{key}");
    }
}

#[tokio::test]
async fn the_rust_sdk_checks_every_checksum_it_asks_for() {
    let ground = Ground::new();
    let client = client(&ground);
    client.create_bucket().bucket("sums").send().await.unwrap();
    use ChecksumAlgorithm as A;
    for algorithm in [A::Crc32, A::Crc32C, A::Crc64Nvme, A::Sha1, A::Sha256] {
        let request = client.put_object().bucket("sums").key(algorithm.as_str()).body(vec![5u8; 200_000].into());
        request.checksum_algorithm(algorithm.clone()).send().await.unwrap();
        let request = client.get_object().bucket("sums").key(algorithm.as_str());
        let read = request.checksum_mode(aws_sdk_s3::types::ChecksumMode::Enabled).send().await.unwrap();
        // The SDK compares the body with the checksum it was given while reading.
        assert_eq!(read.body.collect().await.unwrap().into_bytes().len(), 200_000, "{algorithm}");
    }
}

#[tokio::test]
async fn presigned_requests_of_the_rust_sdk_work() {
    let ground = Ground::new();
    let client = client(&ground);
    client.create_bucket().bucket("signed").send().await.unwrap();
    let config = PresigningConfig::expires_in(Duration::from_secs(60)).unwrap();
    let put = client.put_object().bucket("signed").key("k ü").presigned(config.clone()).await.unwrap();
    let get = client.get_object().bucket("signed").key("k ü").presigned(config).await.unwrap();
    let host = ground.server.address();
    let wire = |method: &str, uri: &str, body: &str| {
        let target = uri.strip_prefix(ground.server.endpoint()).unwrap();
        format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let stored = raw::exchange(host, wire("PUT", put.uri(), "presigned").as_bytes(), false).unwrap();
    assert_eq!(stored.status, 200, "{}", stored.text());
    let read = raw::exchange(host, wire("GET", get.uri(), "").as_bytes(), false).unwrap();
    assert_eq!((read.status, read.text().as_str()), (200, "presigned"));
}
