//! Ranges of names and chunks that go from one metadata group to another while they are used.

use aws_sdk_s3::Client;
use conformance::client::{self, Judge};
use conformance::cluster::{Cluster, USUAL};
use conformance::content::Content;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const BUCKET: &str = "promises";
/// How long one move may take here.
const LIMIT: Duration = Duration::from_secs(60);

/// One writer of keys that nobody else writes, through all gateways in turn: what one acknowledged, the next must show.
async fn write(clients: Vec<Client>, number: u64, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) -> Result<BTreeMap<String, u64>, String> {
    let mut keys: BTreeMap<String, u64> = BTreeMap::new();
    let body = |round: u64| Content::dense(number * 1_000_000 + round, if round.is_multiple_of(3) { 20_000 } else { 200 }).bytes();
    let mut round: u64 = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let (writer, reader) = (&clients[round as usize % 3], &clients[(round as usize + 1) % 3]);
        let key = format!("w{number}/{}/{}", round % 3, round % 7);
        let what = format!("round {round}, {key}");
        if round.is_multiple_of(5) {
            writer.delete_object().bucket(BUCKET).key(&key).send().await.judged().map_err(|error| format!("DELETE, {what}: {error}"))?;
            keys.remove(&key);
            let gone = reader.get_object().bucket(BUCKET).key(&key).send().await.judged();
            match gone.map(|_| ()) {
                Err(failure) if failure.code() == "NoSuchKey" => {}
                other => return Err(format!("GET after DELETE, {what}: {other:?}")),
            }
        } else {
            let put = writer.put_object().bucket(BUCKET).key(&key).body(body(round).into()).send().await;
            put.judged().map_err(|error| format!("PUT, {what}: {error}"))?;
            keys.insert(key.clone(), round);
            let got =
                reader.get_object().bucket(BUCKET).key(&key).send().await.judged().map_err(|error| format!("GET, {what}: {error}"))?;
            let bytes = got.body.collect().await.map_err(|error| format!("GET, {what}: {error}"))?.into_bytes();
            if bytes != body(round) {
                return Err(format!("GET, {what}: another body"));
            }
        }
        if round.is_multiple_of(4) {
            let listed = list(reader, &format!("w{number}/"), 4).await.map_err(|error| format!("LIST, {what}: {error}"))?;
            let known: Vec<String> = keys.keys().cloned().collect();
            if listed != known {
                return Err(format!("LIST, {what}: {listed:?} instead of {known:?}"));
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(keys)
}

async fn list(client: &Client, prefix: &str, page: i32) -> Result<Vec<String>, client::Failure> {
    let (mut keys, mut token) = (Vec::new(), None);
    loop {
        let asked = client.list_objects_v2().bucket(BUCKET).prefix(prefix).max_keys(page).set_continuation_token(token);
        let listed = asked.send().await.judged()?;
        keys.extend(listed.contents().iter().filter_map(|object| object.key().map(str::to_owned)));
        token = listed.next_continuation_token().map(str::to_owned);
        if token.is_none() {
            return Ok(keys);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn names_and_chunks_are_split_and_merged_under_load_and_no_request_fails() {
    let cluster = Arc::new(Cluster::start(USUAL, "").unwrap());
    let clients: Vec<_> = cluster.gateways.iter().map(client::of).collect();
    clients[0].create_bucket().bucket(BUCKET).send().await.unwrap();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..4).map(|number| tokio::spawn(write(clients.clone(), number, stop.clone(), done.clone()))).collect();
    let changes = {
        let cluster = cluster.clone();
        tokio::task::spawn_blocking(move || -> Result<(), String> {
            cluster.moved(&["split", "--at", "promises/w2"], LIMIT)?;
            cluster.moved(&["split", "--chunk", "8"], LIMIT)?;
            cluster.moved(&["split", "--at", "promises/w1/1/3"], LIMIT)?;
            // What went to the group made last comes back to the one before it.
            let map = cluster.map().map_err(|error| error.to_string())?;
            let names = map["names"].as_array().cloned().unwrap_or_default();
            let chunks = map["chunks"].as_array().cloned().unwrap_or_default();
            if (names.len(), chunks.len()) != (3, 2) {
                return Err(format!("the map is not as it should be: {map:#}"));
            }
            cluster.moved(&["merge", &names[0]["owner"]["group"].to_string()], LIMIT)?;
            cluster.moved(&["merge", &chunks[0]["owner"]["group"].to_string(), "--chunks"], LIMIT)
        })
    };
    let changed = changes.await.unwrap();
    stop.store(true, Ordering::Relaxed);
    let mut expected = Vec::new();
    for writer in writers {
        expected.extend(writer.await.unwrap().unwrap().into_keys());
    }
    changed.unwrap();
    println!("{} rounds of writes, reads and listings beside five moves", done.load(Ordering::Relaxed));
    assert!(done.load(Ordering::Relaxed) > 40);
    expected.sort_unstable();
    for client in &clients {
        assert_eq!(list(client, "", 1_000).await.unwrap(), expected);
    }
    cluster.gateways[1].admin(&["fsck"]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_over_several_groups_is_deleted_only_where_all_of_it_is_empty() {
    let cluster = Arc::new(Cluster::start(USUAL, "").unwrap());
    let clients: Vec<_> = cluster.gateways.iter().map(client::of).collect();
    clients[0].create_bucket().bucket(BUCKET).send().await.unwrap();
    for key in ["a", "z"] {
        clients[0].put_object().bucket(BUCKET).key(key).body(b"x".to_vec().into()).send().await.unwrap();
    }
    let changing = cluster.clone();
    tokio::task::spawn_blocking(move || changing.moved(&["split", "--at", "promises/m"], LIMIT)).await.unwrap().unwrap();
    for (client, key) in clients.iter().zip(["a", "z"]) {
        let refused = client.delete_bucket().bucket(BUCKET).send().await.judged().unwrap_err();
        assert_eq!(refused.code(), "BucketNotEmpty", "with {key} in it");
        client.put_object().bucket(BUCKET).key("b").body(b"x".to_vec().into()).send().await.unwrap();
        client.delete_object().bucket(BUCKET).key("b").send().await.unwrap();
        client.delete_object().bucket(BUCKET).key(key).send().await.unwrap();
    }
    // An open upload is no object: it ends with the bucket.
    clients[2].create_multipart_upload().bucket(BUCKET).key("zz").send().await.unwrap();
    clients[1].delete_bucket().bucket(BUCKET).send().await.unwrap();
    for client in &clients {
        assert_eq!(client.list_objects_v2().bucket(BUCKET).send().await.judged().unwrap_err().code(), "NoSuchBucket");
    }
    clients[2].create_bucket().bucket(BUCKET).send().await.unwrap();
    assert_eq!(list(&clients[0], "", 10).await.unwrap(), Vec::<String>::new());
}
