//! Copies of a node's table, and a node that is restored from one.

use super::*;
use spine::id::{GroupId, UnixMs, VersionId};
use spine::wire::copy::{CopyEnd, CopyPart, CopyQuery, CopyStep, RestoreCommand, Sum, Tally, is_counted};
use spine::wire::namespace::NamespaceQuery;

async fn ask(node: &MetadataNode, stream: u8, step: CopyStep) -> Result<CopyPart, MetadataError> {
    match node.query(Query::Copy(CopyQuery { group: GroupId(0), stream: [stream; 16], step })).await? {
        Answer::Copy(part) => Ok(part),
        other => panic!("{other:?}"),
    }
}

async fn part(node: &MetadataNode, stream: u8, number: u32) -> Result<CopyPart, MetadataError> {
    ask(node, stream, CopyStep::Part(number)).await
}

fn commit(n: u64) -> Batch {
    let body =
        Body::Inline { epoch: KeyEpoch(0), codec: Codec::Plain, id: sample::chunk(1), len: 4_000, sealed: vec![n as u8; 4_016].into() };
    let mut new = sample::inline(sample::version(n), 1, 4_000);
    new.body.body = body;
    let key = format!("key-{n:06}");
    let command = NamespaceCommand::Commit { bucket: spine::id::BucketId(1), key, new, condition: Condition::default() };
    Batch { chain: Chain::Stop, commands: vec![Command::Namespace(command)] }
}

async fn fill(node: &MetadataNode, range: std::ops::Range<u64>) {
    for n in range {
        assert!(matches!(node.propose(commit(n)).await.unwrap()[0], Reply::Committed { .. }));
    }
}

async fn head(node: &MetadataNode, n: u64) -> Result<Option<(VersionId, u64)>, MetadataError> {
    let query = NamespaceQuery::Head { bucket: spine::id::BucketId(1), key: format!("key-{n:06}") };
    match node.query(Query::Namespace(query)).await? {
        Answer::Namespace(spine::wire::namespace::NamespaceAnswer::Head(head)) => Ok(head.map(|head| (head.id, head.seq.0))),
        other => panic!("{other:?}"),
    }
}

/// All parts; every second one is asked for twice.
async fn copy(node: &MetadataNode, stream: u8, mut between: impl AsyncFnMut(u32)) -> (Vec<CopyPart>, CopyEnd) {
    let (mut parts, mut tally) = (Vec::new(), Tally::default());
    let begun = ask(node, stream, CopyStep::Begin).await.unwrap();
    assert_eq!((begun.rows.len(), begun.end), (0, None));
    for number in 0.. {
        assert_eq!(ask(node, stream, CopyStep::Keep).await.unwrap(), begun);
        let got = part(node, stream, number).await.unwrap();
        if number % 2 == 1 {
            assert_eq!(part(node, stream, number).await.unwrap(), got);
        }
        assert_eq!(got.of, begun.of);
        got.rows.iter().for_each(|row| tally.count(row.space, &row.key, &row.value));
        let end = got.end;
        parts.push(got);
        if let Some(end) = end {
            assert_eq!((tally.rows(), tally.digest()), (end.rows, end.digest));
            return (parts, end);
        }
        between(number).await;
    }
    unreachable!()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_of_the_moment_of_its_first_part_whatever_is_written_meanwhile_and_one_is_made_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let node = MetadataNode::open(small(dir.path())).await.unwrap();
    let bucket = Batch { chain: Chain::Stop, commands: vec![Command::Root(sample::bucket("one"))] };
    node.propose(bucket).await.unwrap();
    fill(&node, 0..1_000).await;
    let (first, _) = copy(&node, 1, async |_| {}).await;
    assert!(first.len() >= 4, "{} parts", first.len());
    let (second, end) = copy(&node, 2, async |number| {
        fill(&node, 1_000 + u64::from(number) * 10..1_010 + u64::from(number) * 10).await;
        let other = ask(&node, 3, CopyStep::Begin).await.unwrap_err();
        assert!(matches!(other, MetadataError::Unavailable { .. }), "{other}");
    })
    .await;
    let rows = |parts: &[CopyPart]| parts.iter().flat_map(|part| part.rows.clone()).collect::<Vec<_>>();
    assert_eq!(rows(&first), rows(&second));
    assert!(rows(&first).iter().all(|row| !row.key.starts_with(b"raft.") && !row.key.starts_with(b"request")));
    assert!(end.next.0 > 1_000 << crate::machine::ORDINAL_BITS);
    // Parts of a copy that is over, or out of order, are refused; a new copy has what was written.
    assert!(part(&node, 1, 1).await.is_err());
    assert!(ask(&node, 1, CopyStep::Keep).await.is_err());
    assert!(part(&node, 2, 0).await.is_err());
    let (third, _) = copy(&node, 4, async |_| {}).await;
    assert!(rows(&third).len() > rows(&first).len());
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_restored_through_its_log_over_kills_and_its_versions_go_on() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let node = MetadataNode::open(small(from.path())).await.unwrap();
    node.propose(Batch { chain: Chain::Stop, commands: vec![Command::Root(sample::bucket("one"))] }).await.unwrap();
    fill(&node, 0..600).await;
    let (parts, copied) = copy(&node, 1, async |_| {}).await;
    let newest = head(&node, 599).await.unwrap().unwrap().1;
    node.shutdown().await;

    let tell = async |node: &MetadataNode, command: RestoreCommand| {
        node.propose(Batch { chain: Chain::Stop, commands: vec![Command::Restore(command)] }).await.unwrap().remove(0)
    };
    let stream = [9; 16];
    let mut node = MetadataNode::open(small(to.path())).await.unwrap();
    assert_eq!(tell(&node, RestoreCommand::Expect).await, Reply::Done);
    assert_eq!(tell(&node, RestoreCommand::Begin { stream }).await, Reply::Done);
    let mut counted = Sum::default();
    for (number, part) in (0..).zip(&parts) {
        let refused = head(&node, 0).await.unwrap_err();
        assert!(matches!(refused, MetadataError::Unavailable { .. }), "{refused}");
        assert_eq!(node.propose(commit(9_999)).await.unwrap(), [Reply::Refused(Refusal::Restoring)]);
        for row in part.rows.iter().filter(|row| is_counted(row.space, &row.key)) {
            counted.count(row.space, &row.key, &row.value);
        }
        assert_eq!(tell(&node, RestoreCommand::Rows { stream, number, rows: part.rows.clone() }).await, Reply::Done);
        if number == 1 {
            node.kill().await;
            drop(node);
            node = MetadataNode::open(small(to.path())).await.unwrap();
        }
    }
    let end = RestoreCommand::End { stream, next: copied.next, counted: counted.rows(), sum: counted.digest(), now: UnixMs(0) };
    assert_eq!(tell(&node, end.clone()).await, Reply::Done);
    node.kill().await;
    drop(node);
    let node = MetadataNode::open(small(to.path())).await.unwrap();
    assert_eq!(tell(&node, end).await, Reply::Done);
    assert_eq!(head(&node, 599).await.unwrap(), Some((sample::version(599), newest)));
    fill(&node, 600..601).await;
    let next = head(&node, 600).await.unwrap().unwrap().1;
    assert!(next > newest, "{next} is not after {newest}");
    node.shutdown().await;
}
