//! Listings over several groups: what they are where one of the groups cannot be asked, and after the groups have changed under a page token.

use aws_sdk_s3::Client;
use conformance::client::{self, Failure, Judge};
use conformance::cluster::{Cluster, MetadataNode, Size, voting};
use conformance::program::Program;
use std::time::{Duration, Instant};

const BUCKET: &str = "promises";
const LIMIT: Duration = Duration::from_secs(60);

/// One page: its keys and the token of the next one.
async fn page(client: &Client, token: Option<&str>, keys: i32) -> Result<(Vec<String>, Option<String>), Failure> {
    let asked = client.list_objects_v2().bucket(BUCKET).max_keys(keys).set_continuation_token(token.map(str::to_owned));
    let listed = asked.send().await.judged()?;
    let keys = listed.contents().iter().filter_map(|object| object.key().map(str::to_owned)).collect();
    Ok((keys, listed.next_continuation_token().map(str::to_owned)))
}

/// The pages from a token to the end, each with the token that it was asked for by.
async fn rest(client: &Client, token: Option<&str>, keys: i32) -> Result<Vec<(Option<String>, Vec<String>)>, Failure> {
    let (mut pages, mut token) = (Vec::new(), token.map(str::to_owned));
    loop {
        let (keys, next) = page(client, token.as_deref(), keys).await?;
        pages.push((token, keys));
        if next.is_none() {
            return Ok(pages);
        }
        token = next;
    }
}

fn keys_of(pages: &[(Option<String>, Vec<String>)]) -> Vec<String> {
    pages.iter().flat_map(|(_, keys)| keys.clone()).collect()
}

async fn put(client: &Client, key: &str) {
    client.put_object().bucket(BUCKET).key(key).body(b"x".to_vec().into()).send().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_page_token_is_good_after_its_range_was_split_merged_and_led_by_another() {
    let mut cluster = Cluster::start(Size { metadata: 3, gateways: 2, nodes: 0 }, "").unwrap();
    let clients: Vec<Client> = cluster.gateways.iter().map(client::of).collect();
    clients[0].create_bucket().bucket(BUCKET).send().await.unwrap();
    let mut all: Vec<String> = (0..30).map(|n| format!("k/{n:02}")).collect();
    for key in &all {
        put(&clients[0], key).await;
    }
    let (first, token) = page(&clients[0], None, 7).await.unwrap();
    assert_eq!((&first[..], token.is_some()), (&all[..7], true));
    cluster.moved(&["split", "--at", "promises/k/15"], LIMIT).unwrap();
    // Behind the token and before it: the one is shown, the other is on a page that was shown already.
    put(&clients[1], "k/20a").await;
    put(&clients[1], "k/03a").await;
    all.insert(21, "k/20a".into());
    let over_two = rest(&clients[1], token.as_deref(), 4).await.unwrap();
    assert_eq!(keys_of(&over_two), &all[7..], "over two groups, by a token of one");
    let left = cluster.map().unwrap()["names"][0]["owner"]["group"].to_string();
    cluster.moved(&["merge", &left], LIMIT).unwrap();
    let leader = cluster.leader().expect("somebody leads");
    cluster.metadata[leader].kill();
    for (at, (token, _)) in over_two.iter().enumerate() {
        let again = rest(&clients[0], token.as_deref(), 4).await.unwrap();
        assert_eq!(keys_of(&again), keys_of(&over_two[at..]), "of one group under another leader, by a token of two groups");
    }
}

/// Whether a metric of the metadata processes that run comes to be as it should: of the one where it is highest.
fn until(cluster: &Cluster, metric: &str, holds: impl Fn(f64) -> bool) {
    let begun = Instant::now();
    loop {
        let told = cluster.metadata.iter().filter(|node| node.is_running()).filter_map(|node| node.metric(metric).ok());
        let highest = told.fold(0.0, f64::max);
        if holds(highest) {
            return;
        }
        assert!(begun.elapsed() < LIMIT, "{metric} is {highest}");
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_listing_that_needs_a_group_without_its_majority_is_answered_503_and_never_short() {
    // Replicas of the second range on the first three of five nodes, of the root on all.
    let of_three = Program { metadata: vec!["--replicas".into(), "3".into()], ..Program::default() };
    let place = tempfile::Builder::new().prefix("breakwater-listing-").tempdir().unwrap();
    let mut cluster = Cluster::of(of_three.clone(), place, Size { metadata: 3, gateways: 1, nodes: 0 }).unwrap();
    let s3 = client::of(&cluster.gateways[0]);
    s3.create_bucket().bucket(BUCKET).send().await.unwrap();
    for key in ["a", "b", "m", "t"] {
        put(&s3, key).await;
    }
    cluster.moved(&["split", "--at", "promises/h"], LIMIT).unwrap();
    for number in 3..5 {
        let mut node = MetadataNode::new(&cluster.place().join(format!("metadata-{number}")), None).unwrap();
        node.program = of_three.clone();
        node.start(&["--join", &cluster.invite("metadata", &[]).unwrap()]).unwrap();
        cluster.metadata.push(node);
    }
    cluster.wait("five vote", |status| voting(status) == 5).unwrap();
    cluster.wait_for_members(0, 5).unwrap();
    cluster.metadata[0].kill();
    cluster.metadata[1].kill();

    let below = s3.list_objects_v2().bucket(BUCKET).prefix("b").send().await.judged().unwrap();
    assert_eq!(below.contents().len(), 1, "the other group is served as before");
    put(&s3, "c").await;
    let folded = s3.list_objects_v2().bucket(BUCKET).delimiter("/").send();
    let (whole, paged, folded, got, written) = tokio::join!(
        page(&s3, None, 1_000),
        rest(&s3, None, 1),
        folded,
        s3.get_object().bucket(BUCKET).key("m").send(),
        s3.put_object().bucket(BUCKET).key("n").body(b"x".to_vec().into()).send()
    );
    let statuses = [
        whole.map(drop).unwrap_err().status(),
        paged.map(drop).unwrap_err().status(),
        folded.judged().map(drop).unwrap_err().status(),
        got.judged().map(drop).unwrap_err().status(),
        written.judged().map(drop).unwrap_err().status(),
    ];
    assert_eq!(statuses, [503; 5]);
    until(&cluster, "breakwater_metadata_groups_without_leader", |groups| groups >= 1.0);
    until(&cluster, "breakwater_metadata_nodes_silent", |nodes| nodes == 2.0);
    until(&cluster, "breakwater_metadata_behind_entries", |entries| entries >= 1.0);

    for at in [0, 1] {
        cluster.metadata[at].start(&[]).unwrap();
    }
    until(&cluster, "breakwater_metadata_groups_without_leader", |groups| groups == 0.0);
    until(&cluster, "breakwater_metadata_nodes_silent", |nodes| nodes == 0.0);
    // A write that was answered 503 may have been done.
    let mut keys = keys_of(&rest(&s3, None, 1).await.unwrap());
    keys.retain(|key| key != "n");
    assert_eq!(keys, ["a", "b", "c", "m", "t"]);
}
