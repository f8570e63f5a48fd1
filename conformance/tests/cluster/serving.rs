//! Several gateways over one metadata cluster.

use aws_sdk_s3::Client;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use conformance::client::{self, Judge};
use conformance::cluster::{Cluster, Size, USUAL};
use conformance::content::Content;
use conformance::restic::{Restic, made_tree};
use conformance::server::Credential;
use conformance::tools::compare_trees;
use std::fs;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread")]
async fn what_one_gateway_acknowledged_every_other_shows_at_once() {
    let cluster = Cluster::start(USUAL, "").unwrap();
    let clients: Vec<_> = cluster.gateways.iter().map(client::of).collect();
    clients[0].create_bucket().bucket("promises").send().await.unwrap();
    for round in 0..20_u64 {
        let (writer, key) = (round as usize % 3, format!("k-{}", round % 4));
        // One within its record, one a chunk with shards.
        let body = Content::dense(round, if round % 2 == 0 { 100 } else { 300_000 }).bytes();
        let put = clients[writer].put_object().bucket("promises").key(&key).body(body.clone().into()).send().await.unwrap();
        for (number, reader) in clients.iter().enumerate() {
            let got = reader.get_object().bucket("promises").key(&key).send().await.unwrap().body.collect().await.unwrap();
            assert!(got.into_bytes() == body, "round {round}: gateway {number} reads another body");
            let listed = reader.list_objects_v2().bucket("promises").prefix(&key).send().await.unwrap();
            assert_eq!(listed.contents()[0].e_tag(), put.e_tag(), "round {round}: gateway {number} lists another version");
        }
    }
    // Of what has many parts a gateway remembers the list.
    for round in 0..3_u64 {
        let body = in_parts(&clients[round as usize % 2], round).await;
        for reader in &clients {
            for _ in 0..2 {
                let got = reader.get_object().bucket("promises").key("parts").range("bytes=5242000-10485800").send().await.unwrap();
                assert!(
                    got.body.collect().await.unwrap().into_bytes() == body[5_242_000..10_485_801],
                    "round {round}: another version's parts"
                );
            }
        }
    }
    clients[1].delete_object().bucket("promises").key("k-0").send().await.unwrap();
    clients[1].delete_object().bucket("promises").key("parts").send().await.unwrap();
    for reader in &clients {
        assert_eq!(reader.get_object().bucket("promises").key("parts").send().await.judged().unwrap_err().code(), "NoSuchKey");
    }
    for reader in &clients {
        let gone = reader.get_object().bucket("promises").key("k-0").send().await.judged().unwrap_err();
        assert_eq!(gone.code(), "NoSuchKey");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_another_gateway_deleted_is_gone_and_one_of_its_name_made_anew_is_another() {
    let cluster = Cluster::start(USUAL, "").unwrap();
    let (one, other) = (client::of(&cluster.gateways[0]), client::of(&cluster.gateways[1]));
    let bucket = "promises";
    one.create_bucket().bucket(bucket).send().await.unwrap();
    let put = |client: &Client, key: &str| client.put_object().bucket(bucket).key(key).body(vec![b'a'; 10].into()).send();
    let keys = async |client: &Client| -> Result<Vec<String>, client::Failure> {
        let page = client.list_objects_v2().bucket(bucket).send().await.judged()?;
        Ok(page.contents().iter().map(|object| object.key().unwrap().to_owned()).collect())
    };
    for round in 0..3 {
        // Both know the bucket by now.
        put(&one, "k").await.unwrap();
        assert_eq!(keys(&other).await.unwrap(), ["k"]);
        other.head_object().bucket(bucket).key("k").send().await.unwrap();
        other.delete_object().bucket(bucket).key("k").send().await.unwrap();
        other.delete_bucket().bucket(bucket).send().await.unwrap();
        let none = "NoSuchBucket";
        match round {
            0 => assert_eq!(put(&one, "k").await.judged().unwrap_err().code(), none),
            1 => assert_eq!(one.get_object().bucket(bucket).key("k").send().await.judged().unwrap_err().code(), none),
            _ => assert_eq!(one.delete_object().bucket(bucket).key("k").send().await.judged().unwrap_err().code(), none),
        }
        assert_eq!(keys(&one).await.unwrap_err().code(), none);
        assert_eq!(one.head_object().bucket(bucket).key("k").send().await.judged().unwrap_err().status(), 404);
        // Known again as it was, and made anew through the other: each request finds the new one.
        one.create_bucket().bucket(bucket).send().await.unwrap();
        put(&one, "k").await.unwrap();
        one.delete_object().bucket(bucket).key("k").send().await.unwrap();
        other.delete_bucket().bucket(bucket).send().await.unwrap();
        other.create_bucket().bucket(bucket).send().await.unwrap();
        put(&other, "n").await.unwrap();
        match round {
            0 => drop(one.get_object().bucket(bucket).key("n").send().await.unwrap()),
            1 => assert_eq!(keys(&one).await.unwrap(), ["n"]),
            _ => {
                let again = put(&one, "n").await.judged().unwrap_err();
                assert_eq!((again.code(), again.status()), ("SlowDown", 503));
                drop(put(&one, "n").await.unwrap());
            }
        }
        one.delete_object().bucket(bucket).key("n").send().await.unwrap();
        assert_eq!(keys(&other).await.unwrap(), Vec::<String>::new());
    }
}

/// Uploads an object of four parts, and returns it.
async fn in_parts(client: &Client, seed: u64) -> Vec<u8> {
    let upload = client.create_multipart_upload().bucket("promises").key("parts").send().await.unwrap();
    let (mut whole, mut parts) = (Vec::new(), Vec::new());
    for number in 1..=4 {
        let body = Content::dense(seed * 10 + number, 5 << 20).bytes();
        whole.extend_from_slice(&body);
        let part = client.upload_part().bucket("promises").key("parts").upload_id(upload.upload_id().unwrap()).part_number(number as i32);
        let sent = part.body(body.into()).send().await.unwrap();
        parts.push(CompletedPart::builder().part_number(number as i32).set_e_tag(sent.e_tag).build());
    }
    let all = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let complete = client.complete_multipart_upload().bucket("promises").key("parts").upload_id(upload.upload_id().unwrap());
    complete.multipart_upload(all).send().await.unwrap();
    whole
}

#[test]
fn restic_backs_up_through_one_gateway_and_restores_through_another() {
    let cluster = Cluster::start(USUAL, "").unwrap();
    let tree = made_tree(cluster.place(), 1_000, 7).unwrap();
    let home = cluster.place().join("home");
    fs::create_dir_all(&home).unwrap();
    let through = |gateway: usize| Restic::new(&cluster.gateways[gateway], "restic", &home);
    through(0).run(&["init"]).unwrap();
    through(0).run(&["backup", "--quiet", &tree.to_string_lossy()]).unwrap();
    through(1).run(&["check", "--read-data"]).unwrap();
    let target = cluster.place().join("restored");
    through(2).run(&["restore", "latest", "--target", &target.to_string_lossy()]).unwrap();
    assert_eq!(compare_trees(&tree, &target.join(tree.strip_prefix("/").unwrap_or(&tree))), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_revoked_at_one_gateway_is_refused_at_the_others_within_seconds() {
    let cluster = Cluster::start(Size { metadata: 1, gateways: 2, nodes: 0 }, "").unwrap();
    cluster.gateways[0].admin(&["tenant", "create", "guest"]).unwrap();
    let made = cluster.gateways[0].admin(&["key", "create", "guest", "--json"]).unwrap();
    let made: serde_json::Value = serde_json::from_str(made.trim()).unwrap();
    let text = |field: &str| made[field].as_str().unwrap().to_owned();
    let credential = Credential { access_key: text("access_key"), secret_key: text("secret_key") };
    let clients: Vec<_> = cluster.gateways.iter().map(|gateway| client::with(gateway.endpoint(), &credential)).collect();
    for client in &clients {
        client.list_buckets().send().await.unwrap();
    }
    cluster.gateways[0].admin(&["key", "revoke", &credential.access_key]).unwrap();
    let revoked = Instant::now();
    assert_eq!(clients[0].list_buckets().send().await.judged().unwrap_err().code(), "InvalidAccessKeyId", "at once where it was revoked");
    loop {
        match clients[1].list_buckets().send().await.judged() {
            Err(failure) => {
                assert_eq!(failure.code(), "InvalidAccessKeyId");
                break;
            }
            Ok(_) => assert!(revoked.elapsed() < Duration::from_secs(6), "still let in after {:?}", revoked.elapsed()),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[test]
fn one_gateway_at_a_time_works_in_the_background_and_another_takes_over() {
    let mut cluster = Cluster::start(Size { metadata: 1, gateways: 2, nodes: 0 }, "").unwrap();
    let here = |cluster: &Cluster| -> Vec<usize> {
        let works = |at: &usize| cluster.gateways[*at].metric("breakwater_background_here") == 1.0;
        (0..cluster.gateways.len()).filter(works).collect()
    };
    let until = |cluster: &Cluster, limit: Duration, wanted: &dyn Fn(&[usize]) -> bool| {
        let began = Instant::now();
        loop {
            let works = here(cluster);
            assert!(works.len() <= 1, "{works:?} work at once");
            if wanted(&works) {
                return works;
            }
            assert!(began.elapsed() < limit, "after {limit:?}: {works:?}");
            std::thread::sleep(Duration::from_millis(200));
        }
    };
    let first = until(&cluster, Duration::from_secs(30), &|works| works.len() == 1)[0];
    cluster.gateways[first].kill();
    let other = 1 - first;
    let began = Instant::now();
    while cluster.gateways[other].metric("breakwater_background_here") != 1.0 {
        assert!(began.elapsed() < Duration::from_secs(40), "nobody took over");
        std::thread::sleep(Duration::from_millis(200));
    }
    // The one before finds it taken.
    cluster.gateways[first].restart().unwrap();
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(here(&cluster), [other]);
}
