use super::block::{BLOCK_BYTES, HEAD_BYTES, Head, Name, ROOM, Sealer};
use super::item::{Item, Order, Packer};
use super::*;
use crate::keys::{Keys, RootKey};
use crate::path::fake::{CHUNK, FakeMetadata, Rig, noise, rig};
use bytes::Bytes;
use spine::id::{FleetId, GroupId, UnixMs};
use spine::wire::chunk::{ChunkAnswer, ChunkQuery};
use spine::wire::cluster::Row;
use spine::wire::copy::{CopyEnd, RestoreCommand, Tally};
use spine::wire::format::NEWEST;
use spine::wire::{Answer, Batch, Chain, Command, Metadata, Query};
use std::fs;
use std::sync::Arc;

const NAME: Name = Name { made: UnixMs(77), id: [5; 16] };

fn keys() -> Arc<Keys> {
    Arc::new(Keys::new(RootKey::generate().unwrap()))
}

fn rows(count: usize, bytes: usize) -> Vec<Row> {
    (0..count).map(|n| Row { space: 1, key: format!("{n:08}").into_bytes().into(), value: noise(bytes, n as u64).into() }).collect()
}

fn end(rows: &[Row]) -> CopyEnd {
    let mut tally = Tally::default();
    rows.iter().for_each(|row| tally.count(row.space, &row.key, &row.value));
    CopyEnd { next: spine::id::Seq(9), rows: tally.rows(), digest: tally.digest() }
}

/// A copy of three blocks and a bit, of one group.
fn items() -> Vec<Item> {
    let rows = rows(330, 10_000);
    let parts = rows.chunks(100).map(|rows| Item::Rows(rows.to_vec()));
    let begin = [Item::About { fleet: Some(FleetId([3; 16])), format: NEWEST }, Item::Group(GroupId(0))];
    begin.into_iter().chain(parts).chain([Item::EndGroup(end(&rows)), Item::End { groups: 1 }]).collect()
}

fn blocks(keys: &Keys, name: Name) -> Vec<Bytes> {
    let mut packer = Packer::new(Sealer::new(keys, name));
    let mut blocks: Vec<Bytes> = items().iter().flat_map(|item| packer.push(item).unwrap()).collect();
    blocks.push(packer.finish().unwrap());
    blocks
}

fn is_wrong(keys: &Keys, bytes: &[u8]) -> bool {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("copy");
    fs::write(&path, bytes).unwrap();
    matches!(check(keys, &path), Err(SnapshotError::Wrong { .. }))
}

#[test]
fn a_copy_reads_back_as_it_was_written_and_all_its_blocks_but_the_last_are_of_one_size() {
    let keys = keys();
    let blocks = blocks(&keys, NAME);
    assert_eq!(blocks.len(), 4);
    assert!(blocks[..3].iter().all(|block| block.len() == BLOCK_BYTES) && blocks[3].len() < BLOCK_BYTES);
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("copy");
    fs::write(&path, blocks.concat()).unwrap();
    let mut reader = file::Reader::open(&keys, &path).unwrap();
    let mut read = Vec::new();
    while let Some(item) = reader.next().unwrap() {
        read.push(item);
    }
    assert_eq!(read, items());
    let summary = check(&keys, &path).unwrap();
    assert_eq!((summary.name, summary.fleet, summary.rows), (NAME, Some(FleetId([3; 16])), 330));
}

#[test]
fn the_bytes_before_a_block_stay_as_they_are() {
    let block = Sealer::new(&keys(), NAME).seal(7, true, b"abc").unwrap();
    let head = ["42574d53", "01", "01", "0000", &"05".repeat(16), "4d00000000000000", "07000000", "13000000"].concat();
    assert_eq!(hex::encode(&block[..HEAD_BYTES]), head);
    assert_eq!(Head::parse(&block), Some(Head { name: NAME, number: 7, last: true, len: 19 }));
    assert_eq!(block.len(), HEAD_BYTES + 19);
}

#[test]
fn a_copy_that_is_cut_off_altered_reordered_mixed_or_of_another_key_is_refused() {
    let key = keys();
    let blocks = blocks(&key, NAME);
    let whole = blocks.concat();
    assert!(!is_wrong(&key, &whole));
    assert!(is_wrong(&keys(), &whole), "another root key");
    for cut in [0, 1, HEAD_BYTES, BLOCK_BYTES - 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 17, whole.len() - 1] {
        assert!(is_wrong(&key, &whole[..cut]), "cut off at {cut}");
    }
    assert!(is_wrong(&key, &[&whole[..], b"x"].concat()), "something behind it");
    assert!(is_wrong(&key, &[&whole[..], &whole[..]].concat()), "twice");
    for at in [0, 4, 5, 6, 9, 25, 33, 37, HEAD_BYTES, 5_000, BLOCK_BYTES + 1, BLOCK_BYTES + HEAD_BYTES + 3, whole.len() - 1] {
        let mut altered = whole.clone();
        altered[at] ^= 1;
        assert!(is_wrong(&key, &altered), "altered at {at}");
    }
    let swapped = [&blocks[1][..], &blocks[0], &blocks[2], &blocks[3]].concat();
    assert!(is_wrong(&key, &swapped), "two blocks in each other's place");
    let without = [&blocks[0][..], &blocks[2], &blocks[3]].concat();
    assert!(is_wrong(&key, &without), "a block is missing");
    let other = self::blocks(&key, Name { id: [6; 16], ..NAME });
    let mixed = [&blocks[0][..], &other[1], &blocks[2], &blocks[3]].concat();
    assert!(is_wrong(&key, &mixed), "a block of another copy");
}

#[test]
fn items_out_of_order_and_a_group_that_is_not_what_its_end_says_are_refused() {
    let rows = rows(3, 10);
    let (about, group, end, over) =
        (Item::About { fleet: None, format: NEWEST }, Item::Group(GroupId(0)), Item::EndGroup(end(&rows)), Item::End { groups: 1 });
    let all = Item::Rows(rows.clone());
    let fine = [&about, &group, &all, &end, &over];
    let takes = |items: &[&Item]| {
        let mut order = Order::default();
        items.iter().all(|item| order.take(item).is_ok()) && order.is_over()
    };
    assert!(takes(&fine));
    for at in 0..fine.len() {
        let mut without = fine.to_vec();
        without.remove(at);
        assert!(!takes(&without), "without {at}");
        let mut doubled = fine.to_vec();
        doubled.insert(at, fine[at]);
        assert!(!takes(&doubled), "{at} twice");
    }
    let fewer = Item::Rows(rows[1..].to_vec());
    assert!(!takes(&[&about, &group, &fewer, &end, &over]));
    assert!(!takes(&[&about, &group, &all, &end, &group, &all, &end, &Item::End { groups: 2 }]), "a group twice");
}

#[test]
fn an_item_longer_than_a_block_lies_over_several() {
    let keys = keys();
    let row = rows(1, 3 * ROOM);
    let mut packer = Packer::new(Sealer::new(&keys, NAME));
    let items = [
        Item::About { fleet: None, format: NEWEST },
        Item::Group(GroupId(0)),
        Item::Rows(row.clone()),
        Item::EndGroup(end(&row)),
        Item::End { groups: 1 },
    ];
    let mut bytes: Vec<u8> = items.iter().flat_map(|item| packer.push(item).unwrap()).flatten().collect();
    bytes.extend(packer.finish().unwrap());
    assert!(!is_wrong(&keys, &bytes));
    // Longer than anything that is ever logged.
    assert!(packer.push(&Item::Rows(rows(1, 11 << 20))).is_err());
}

async fn held(metadata: &Arc<dyn Metadata>) -> bool {
    metadata.query(Query::Chunk(ChunkQuery::Held)).await.unwrap() == Answer::Chunk(ChunkAnswer::Held(true))
}

#[tokio::test]
async fn what_was_copied_into_a_file_is_restored_into_empty_metadata_once_and_holds_the_collection() {
    let rig = rig().await;
    for n in 0..20 {
        rig.put(&format!("key-{n}"), &noise(CHUNK as usize * 2, n)).await.unwrap();
    }
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("copy");
    let from: Arc<dyn Metadata> = rig.metadata.clone();
    let taken = write(&from, rig.keys.clone(), &path).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), taken.bytes);
    assert!(matches!(write(&from, rig.keys.clone(), &path).await, Err(SnapshotError::File { .. })), "one is there already");

    let empty = || -> Arc<dyn Metadata> { Arc::new(FakeMetadata::default()) };
    let other = keys();
    assert!(matches!(restore(&empty(), other, &path, None).await, Err(SnapshotError::Wrong { .. })));
    let metadata = empty();
    let summary = restore(&metadata, rig.keys.clone(), &path, None).await.unwrap();
    assert_eq!((summary.name, summary.rows), (taken.name, taken.rows));
    assert!(held(&metadata).await);
    let records = |metadata: Arc<dyn Metadata>| async move {
        metadata.query(Query::Chunk(ChunkQuery::Scan { after: None, max: 1_000 })).await.unwrap()
    };
    assert_eq!(records(metadata.clone()).await, records(from.clone()).await);
    // Asked again, nothing happens; over other metadata, nothing is restored.
    let refused = restore(&metadata, rig.keys.clone(), &path, None).await.unwrap_err().to_string();
    assert!(refused.contains("this very copy"), "{refused}");
    assert!(matches!(restore(&from, rig.keys.clone(), &path, None).await, Err(SnapshotError::Refused { .. })));
    assert!(!held(&from).await);
}

#[test]
fn a_machine_whose_clock_was_never_set_restores_nothing() {
    assert!(super::give::check_clock(crate::core::now()).is_ok());
    for never in [0, 1_767_225_599_999] {
        assert!(matches!(super::give::check_clock(UnixMs(never)), Err(SnapshotError::Refused { .. })));
    }
}

#[tokio::test]
async fn over_half_a_restore_of_another_copy_it_is_said_what_is_under_way() {
    let rig = rig().await;
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("copy");
    let from: Arc<dyn Metadata> = rig.metadata.clone();
    write(&from, rig.keys.clone(), &path).await.unwrap();
    let metadata: Arc<dyn Metadata> = Arc::new(FakeMetadata::default());
    let stream = [9; 16];
    let half = [RestoreCommand::Begin { stream }, RestoreCommand::Rows { stream, number: 0, rows: rows(1, 10) }];
    let commands = half.map(Command::Restore).to_vec();
    metadata.propose(Batch { chain: Chain::Stop, commands }).await.unwrap();
    let refused = restore(&metadata, rig.keys.clone(), &path, None).await.unwrap_err().to_string();
    assert!(refused.contains("under way"), "{refused}");
    // Where there is metadata, nothing waits for a restore afterwards.
    let refused = restore(&from, rig.keys.clone(), &path, None).await.unwrap_err().to_string();
    assert!(!refused.contains("under way"), "{refused}");
    rig.put("key", b"still served").await.unwrap();
}

#[tokio::test]
async fn metadata_whose_answers_get_lost_is_restored_all_the_same() {
    let rig = rig().await;
    rig.put("key", &noise(CHUNK as usize, 1)).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("copy");
    let from: Arc<dyn Metadata> = rig.metadata.clone();
    write(&from, rig.keys.clone(), &path).await.unwrap();
    let fake = Arc::new(FakeMetadata::default());
    fake.lose_answers.store(3, std::sync::atomic::Ordering::Relaxed);
    let metadata: Arc<dyn Metadata> = fake;
    restore(&metadata, rig.keys.clone(), &path, None).await.unwrap();
    assert!(held(&metadata).await);
}

#[tokio::test]
async fn a_copy_in_the_store_is_found_by_its_chunks_alone_and_the_newest_whole_one_is_taken() {
    let rig = rig().await;
    rig.put("key", &noise(CHUNK as usize, 1)).await.unwrap();
    let place = tempfile::tempdir().unwrap();
    let out = place.path().join("none");
    assert!(matches!(kept::fetch(&rig.path, &out, None).await, Err(SnapshotError::Wrong { .. })));
    assert!(!out.exists());
    let first = kept::keep(&rig.path).await.unwrap();
    rig.put("later", &noise(CHUNK as usize, 2)).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    let second = kept::keep(&rig.path).await.unwrap();
    let out = place.path().join("newest");
    assert_eq!(kept::fetch(&rig.path, &out, None).await.unwrap().name, second.name);
    // The second one loses a chunk with all of its shards: the first is taken.
    let newest: Vec<_> = {
        let mut all = Vec::new();
        for (chunk, record) in rig.records().await {
            if record.placement.is_some_and(|placement| placement.sealed.tenant == kept::TENANT) {
                let plain = rig.path.chunk(chunk).await.unwrap().unwrap();
                all.extend(Head::parse(&plain).filter(|head| head.name == second.name).map(|_| chunk));
            }
        }
        all
    };
    for node in &rig.nodes {
        node.shards.lock().unwrap().retain(|name, _| name.chunk != newest[0]);
    }
    let out = place.path().join("older");
    assert_eq!(kept::fetch(&rig.path, &out, None).await.unwrap().name, first.name);
    assert_eq!(check(&rig.keys, &out).unwrap().name, first.name);
    let told: Vec<(String, bool)> = kept::list(&rig.path).await.unwrap().into_iter().map(|copy| (copy.id, copy.whole)).collect();
    let whole = first.bytes <= BLOCK_BYTES as u64;
    assert!(whole, "each copy is one chunk here, so that the second is not seen at all once its chunk is gone");
    assert_eq!(told, [(hex::encode(first.name.id), true)]);
}

#[tokio::test]
async fn copies_in_the_store_are_listed_newest_first_and_one_of_them_can_be_chosen() {
    let rig = rig().await;
    let first = kept::keep(&rig.path).await.unwrap();
    rig.put("key", &noise(CHUNK as usize, 1)).await.unwrap();
    let second = kept::keep(&rig.path).await.unwrap();
    let told: Vec<_> =
        kept::list(&rig.path).await.unwrap().into_iter().map(|copy| (copy.id, copy.made_ms, copy.bytes, copy.whole)).collect();
    let of = |taken: &take::Taken| (hex::encode(taken.name.id), taken.name.made.0, taken.bytes, true);
    assert_eq!(told, [of(&second), of(&first)]);
    let place = tempfile::tempdir().unwrap();
    let chosen = hex::encode(first.name.id);
    let out = place.path().join("chosen");
    assert_eq!(kept::fetch(&rig.path, &out, Some(&chosen[..8])).await.unwrap().name, first.name);
    let out = place.path().join("none");
    for wrong in ["", "abc", "00000000000000000000000000000000", "not hexadecimal"] {
        assert!(matches!(kept::fetch(&rig.path, &out, Some(wrong)).await, Err(SnapshotError::Refused { .. })), "{wrong}");
    }
    assert!(!out.exists());
}

async fn names_of_copies(rig: &Rig) -> Vec<String> {
    let bucket = kept::bucket(rig.path.metadata(), "(metadata)").await.unwrap().unwrap();
    kept::all(&rig.path, bucket.id).await.unwrap().into_iter().map(|copy| copy.key).collect()
}

#[tokio::test]
async fn a_copy_dated_in_the_future_neither_stops_the_schedule_nor_outlives_later_ones() {
    let rig = rig().await;
    let ahead = UnixMs(crate::core::now().0 + 86_400_000);
    let wrong = Name { made: ahead, id: [1; 16] };
    kept::keep_as(&rig.path, wrong).await.unwrap();
    let later = [kept::keep(&rig.path).await.unwrap(), kept::keep(&rig.path).await.unwrap()];
    let keys: Vec<String> = later.iter().map(|taken| format!("{:020}-{}", taken.name.made.0, hex::encode(taken.name.id))).collect();
    assert_eq!(names_of_copies(&rig).await.len(), 3);
    kept::forget(&rig.path, 2).await.unwrap();
    assert_eq!(names_of_copies(&rig).await, keys, "the copies that were committed last stay, in that order");
    // The newest is what is fetched, whatever the clocks said.
    let place = tempfile::tempdir().unwrap();
    assert_eq!(kept::fetch(&rig.path, &place.path().join("newest"), None).await.unwrap().name, later[1].name);
    let every = std::time::Duration::from_secs(3_600);
    let due = |made| kept::is_due(UnixMs(made), UnixMs(10_000_000), every);
    assert!(due(10_300_001), "from the future");
    assert!(!due(10_300_000), "by a clock that is some minutes ahead");
    assert!(!due(10_000_000) && !due(6_400_001) && due(6_400_000));
}

#[tokio::test]
async fn no_copy_is_made_by_itself_while_the_collection_is_held() {
    let rig = rig().await;
    rig.put("key", &noise(CHUNK as usize, 1)).await.unwrap();
    rig.path.hold().await.unwrap();
    let every = std::time::Duration::from_millis(10);
    rig.path.keep_snapshots(kept::Schedule { every, kept: 2 });
    tokio::time::sleep(std::time::Duration::from_millis(1_800)).await;
    assert_eq!(kept::list(&rig.path).await.unwrap(), []);
    rig.path.release(false).await.unwrap();
    let began = std::time::Instant::now();
    while kept::list(&rig.path).await.unwrap().is_empty() {
        assert!(began.elapsed() < std::time::Duration::from_secs(30), "no copy is made once it is released");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
