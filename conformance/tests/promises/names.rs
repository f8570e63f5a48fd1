//! Keys, listings and what they must not mean.

use super::{BUCKET, get, ground, keys, put};
use aws_sdk_s3::types::EncodingType;
use conformance::client::Judge;
use conformance::raw::{self, Request};
use conformance::server::Credential;
use conformance::subject::decode;

#[tokio::test]
async fn keys_are_bytes_in_utf8_order_and_mean_nothing() {
    let (_server, client) = ground().await;
    let mut names: Vec<String> = [
        "a",
        "a/",
        "a/b",
        "a/b/c",
        "a//b",
        "a/./b",
        "a/../b",
        ".",
        "..",
        "/",
        "//",
        "/a",
        "a b",
        "+",
        "%2F",
        "?",
        "#",
        "é",
        "z",
        "😀",
        "\u{10ffff}",
        "~",
        "a\\b",
    ]
    .map(str::to_owned)
    .to_vec();
    names.push("k".repeat(1_024));
    names.push("é".repeat(512));
    for name in &names {
        put(&client, name, name.clone()).await.unwrap();
    }
    names.sort_by(|a, b| a.as_bytes().cmp(b.as_bytes()));
    assert_eq!(keys(&client).await, names);
    for name in &names {
        assert_eq!(get(&client, name).await.unwrap().unwrap(), *name);
    }
}

#[tokio::test]
async fn keys_with_control_characters_survive_a_listing() {
    let (_server, client) = ground().await;
    let names = ["tab\there", "new\nline", "return\r", "bell\u{7}", "escape\u{1b}[0m", "del\u{7f}"];
    for name in names {
        put(&client, name, b"x".to_vec()).await.unwrap();
    }
    let page = client.list_objects_v2().bucket(BUCKET).encoding_type(EncodingType::Url).send().await.unwrap();
    let mut seen: Vec<String> = page.contents().iter().filter_map(|o| o.key().map(decode)).collect();
    let mut expected = names.map(str::to_owned).to_vec();
    seen.sort();
    expected.sort();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn an_empty_delimiter_is_none_and_every_entry_has_its_etag() {
    let (server, client) = ground().await;
    for key in ["a/1", "a/2", "b"] {
        put(&client, key, b"x".to_vec()).await.unwrap();
    }
    for list in [Request::new("GET", &format!("/{BUCKET}")).query("list-type", "2"), Request::new("GET", &format!("/{BUCKET}"))] {
        let answer = raw::send(server.address(), &Credential::root(), list.query("delimiter", "").query("prefix", "")).unwrap();
        let text = answer.text();
        assert_eq!(text.matches("<Key>").count(), 3, "{text}");
        assert_eq!(text.matches("<ETag>").count(), 3, "{text}");
        assert!(!text.contains("<CommonPrefixes>"), "{text}");
    }
}

#[tokio::test]
async fn a_folder_is_not_an_object() {
    let (_server, client) = ground().await;
    put(&client, "folder/file", b"x".to_vec()).await.unwrap();
    for key in ["folder", "folder/", "fold"] {
        assert_eq!(get(&client, key).await.unwrap(), None, "{key}");
    }
    put(&client, "folder/", b"".to_vec()).await.unwrap();
    client.delete_object().bucket(BUCKET).key("folder/").send().await.unwrap();
    assert_eq!(keys(&client).await, vec!["folder/file"]);
}

#[tokio::test]
async fn an_unversioned_bucket_lists_each_object_as_its_null_version() {
    let (_server, client) = ground().await;
    for key in ["a", "b/1", "b/2", "c"] {
        put(&client, key, b"x".to_vec()).await.unwrap();
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = client.list_object_versions().bucket(BUCKET).max_keys(1).set_key_marker(after.clone());
        let page = page.set_version_id_marker(after.map(|_| "null".to_owned())).send().await.unwrap();
        assert!(page.delete_markers().is_empty());
        for version in page.versions() {
            assert_eq!((version.version_id(), version.is_latest(), version.size()), (Some("null"), Some(true), Some(1)));
            seen.push(version.key().unwrap().to_owned());
        }
        after = page.next_key_marker().map(str::to_owned);
        assert_eq!(page.is_truncated(), Some(after.is_some()));
        if after.is_none() {
            break;
        }
    }
    assert_eq!(seen, ["a", "b/1", "b/2", "c"]);
    let folded = client.list_object_versions().bucket(BUCKET).delimiter("/").send().await.unwrap();
    assert_eq!((folded.versions().len(), folded.common_prefixes()[0].prefix()), (2, Some("b/")));
    client.delete_object().bucket(BUCKET).key("a").version_id("null").send().await.unwrap();
    assert_eq!(keys(&client).await, ["b/1", "b/2", "c"]);
}

#[tokio::test]
async fn a_bucket_with_nothing_but_open_uploads_can_be_deleted() {
    let (_server, client) = ground().await;
    let open = client.create_multipart_upload().bucket(BUCKET).key("k").send().await.unwrap();
    let part = client.upload_part().bucket(BUCKET).key("k").upload_id(open.upload_id().unwrap()).part_number(1);
    part.body(vec![1; 1_000].into()).send().await.unwrap();
    put(&client, "object", b"x".to_vec()).await.unwrap();
    assert_eq!(client.delete_bucket().bucket(BUCKET).send().await.judged().unwrap_err().code(), "BucketNotEmpty");
    assert_eq!(client.list_multipart_uploads().bucket(BUCKET).send().await.unwrap().uploads().len(), 1, "a refusal ends no upload");
    client.delete_object().bucket(BUCKET).key("object").send().await.unwrap();
    client.delete_bucket().bucket(BUCKET).send().await.unwrap();
    assert_eq!(client.head_bucket().bucket(BUCKET).send().await.judged().unwrap_err().status(), 404);
}

#[tokio::test]
async fn a_delimiter_listing_costs_its_prefixes_not_its_keys() {
    let (server, client) = ground().await;
    let puts = (0..2_000).map(|n| {
        let client = client.clone();
        async move { put(&client, &format!("one/{n:05}"), b"x".to_vec()).await.unwrap() }
    });
    futures::stream::StreamExt::buffer_unordered(futures::stream::iter(puts), 16).for_each_done().await;
    put(&client, "two", b"x".to_vec()).await.unwrap();
    let looked_at = || server.metric("breakwater_metadata_listing_entries_total");
    let before = looked_at();
    let page = client.list_objects_v2().bucket(BUCKET).delimiter("/").send().await.unwrap();
    assert_eq!((page.common_prefixes().len(), page.contents().len()), (1, 1));
    let skipping = looked_at() - before;
    assert_eq!(keys(&client).await.len(), 2_001);
    let all = looked_at() - before - skipping;
    assert!(skipping <= 4.0 && all >= 2_001.0, "one prefix took {skipping} entries, its keys {all}");
}

/// Drains a stream.
trait Done: futures::Stream + Sized {
    async fn for_each_done(self) {
        futures::StreamExt::for_each(self, |_| async {}).await;
    }
}

impl<S: futures::Stream> Done for S {}
