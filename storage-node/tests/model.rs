//! Random histories of one disk against a map in memory.

mod fixture;

use fixture::{name, settings, shard};
use proptest::prelude::*;
use spine::wire::shard::{NodeError, StorageNode};
use std::collections::BTreeMap;
use std::time::Duration;
use storage_node::{Disk, Settings, fsck};

#[derive(Clone, Debug)]
enum Step {
    Put {
        n: u64,
        salt: u64,
        len: usize,
    },
    Trash {
        names: Vec<u64>,
    },
    Get {
        n: u64,
    },
    Reopen,
    /// Opens again without the index.
    Reindex,
    Compact,
    Expire,
}

const NAMES: u64 = 24;

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![4 => 0..5_000usize, 2 => 20_000..70_000usize, 1 => Just(300_000usize)];
    prop_oneof![
        12 => (0..NAMES, 0..2u64, len).prop_map(|(n, salt, len)| Step::Put { n, salt, len }),
        6 => proptest::collection::vec(0..NAMES, 1..6).prop_map(|names| Step::Trash { names }),
        4 => (0..NAMES).prop_map(|n| Step::Get { n }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Reindex),
        2 => Just(Step::Compact),
        1 => Just(Step::Expire),
    ]
}

async fn check(disk: &Disk, model: &BTreeMap<u64, (u64, usize)>) {
    let mut expected: Vec<_> = model.iter().map(|(n, (_, len))| (name(*n), *len as u32)).collect();
    expected.sort();
    assert_eq!(disk.list(None, 1_000).await.unwrap(), expected);
    let status = disk.status();
    assert_eq!((status.shards, status.shard_bytes), (expected.len() as u64, expected.iter().map(|(_, len)| u64::from(*len)).sum()));
    for (n, (salt, len)) in model {
        assert_eq!(disk.get(name(*n)).await.unwrap(), shard(*n, *salt, *len));
    }
}

async fn run(steps: Vec<Step>, trash_age: Duration) {
    let dir = tempfile::tempdir().unwrap();
    let with = || Settings { trash_age, segment_bytes: 256 << 10, compact_share: 0.2, ..settings(dir.path()) };
    let mut disk = Disk::open(with()).unwrap();
    let mut model: BTreeMap<u64, (u64, usize)> = BTreeMap::new();
    for step in steps {
        match step {
            Step::Put { n, salt, len } => {
                let (header, data) = shard(n, salt, len);
                let said = disk.put(header, data).await;
                match model.get(&n) {
                    Some(&there) if there != (salt, len) => assert!(matches!(said, Err(NodeError::Invalid { .. })), "{said:?}"),
                    _ => {
                        assert_eq!(said, Ok(()));
                        model.insert(n, (salt, len));
                    }
                }
            }
            Step::Trash { names } => {
                disk.trash(names.iter().copied().map(name).collect()).await.unwrap();
                model.retain(|n, _| !names.contains(n));
            }
            Step::Get { n } => match model.get(&n) {
                Some((salt, len)) => assert_eq!(disk.get(name(n)).await.unwrap(), shard(n, *salt, *len)),
                None => assert_eq!(disk.get(name(n)).await, Err(NodeError::NotFound)),
            },
            Step::Compact => drop(disk.compact().await.unwrap()),
            Step::Expire => tokio::time::sleep(Duration::from_millis(3)).await,
            Step::Reopen | Step::Reindex => {
                disk.shutdown().await;
                drop(disk);
                let report = fsck(dir.path()).unwrap();
                assert!(report.is_clean(), "{report:?}");
                assert_eq!(report.live.len(), model.len());
                if matches!(step, Step::Reindex) {
                    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
                }
                disk = Disk::open(with()).unwrap();
                check(&disk, &model).await;
            }
        }
    }
    check(&disk, &model).await;
    // Everything that can be seen is also what the segments alone say.
    disk.shutdown().await;
    drop(disk);
    let report = fsck(dir.path()).unwrap();
    assert!(report.is_clean(), "{report:?}");
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let disk = Disk::open(with()).unwrap();
    check(&disk, &model).await;
    // And nothing of it is left when all of it is removed.
    disk.trash((0..NAMES).map(name).collect()).await.unwrap();
    tokio::time::sleep(trash_age + Duration::from_millis(3)).await;
    disk.compact().await.unwrap();
    assert_eq!(fixture::segments(dir.path()).len(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_disk_is_a_map_whatever_happens_to_it(steps in proptest::collection::vec(step(), 1..120), aged in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(steps, if aged { Duration::from_millis(2) } else { Duration::ZERO }));
    }
}
