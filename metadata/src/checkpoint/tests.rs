use super::*;
use crate::table::{Space, TableRead, TableWrite};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::collections::BTreeMap;

const MAP: u64 = 256 << 20;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Debug)]
enum Step {
    /// One commit: keys and value lengths; 0 deletes.
    Commit(Vec<(u16, u16)>),
    Checkpoint,
    Shrink,
}

/// The file of the table that the checkpoint names.
fn data_of(dir: &Path) -> PathBuf {
    let generation = fs::read(dir.join(FILE)).map_or(0, |file| decode(&file).unwrap().0);
    home_of(dir, generation).join(DATA_FILE)
}

fn files_of(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let commit = prop::collection::vec((0u16..400, prop_oneof![2 => Just(0u16), 5 => 1u16..300, 1 => 3_000u16..20_000]), 1..40)
        .prop_map(Step::Commit);
    prop::collection::vec(prop_oneof![12 => commit, 2 => Just(Step::Checkpoint), 1 => Just(Step::Shrink)], 1..60)
}

fn commit(table: &Table, model: &mut Model, changes: &[(u16, u16)], salt: u8) {
    let mut write = table.write().unwrap();
    for &(key, len) in changes {
        let key = key.to_be_bytes().to_vec();
        if len == 0 {
            write.delete(Space::Objects, &key).unwrap();
            model.remove(&key);
        } else {
            let value = vec![salt; usize::from(len)];
            write.put(Space::Objects, &key, &value).unwrap();
            model.insert(key, value);
        }
    }
    write.commit().unwrap();
}

fn contents(table: &Arc<Table>) -> Model {
    let read = table.read().unwrap();
    let mut scan = read.scan(Space::Objects, b"").unwrap();
    let mut out = Model::new();
    while let Some((key, value)) = scan.next().unwrap() {
        out.insert(key.to_vec(), value.to_vec());
    }
    out
}

/// What a power cut may leave: of the pages that changed since the checkpoint's sync, any may hold the bytes of then, of now, or noise.
fn power_cut(synced: &[u8], now: &[u8], mut seed: u64) -> Vec<u8> {
    let mut out = now.to_vec();
    for (n, page) in out.chunks_mut(4_096).enumerate() {
        let at = n * 4_096;
        let then = synced.get(at..at + page.len());
        if then == Some(&*page) {
            continue;
        }
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match (seed >> 60) % 3 {
            0 => match then {
                Some(then) => page.copy_from_slice(then),
                None => page.fill(0),
            },
            1 => page.fill(0xA5),
            _ => {}
        }
    }
    out
}

#[test]
fn after_a_power_cut_with_any_mix_of_pages_the_table_is_the_last_checkpoint() {
    let mut runner = TestRunner::new(Config { cases: Config::default().cases / 4, failure_persistence: None, ..Config::default() });
    runner
        .run(&(prop::collection::vec(steps(), 1..4), any::<u64>()), |(lives, seed)| {
            let dir = tempfile::tempdir().unwrap();
            let (mut durable, mut synced) = (Model::new(), Vec::new());
            for (life, steps) in lives.iter().enumerate() {
                let checkpoints = Checkpoints::open(dir.path(), MAP).unwrap();
                prop_assert_eq!(&contents(&checkpoints.table()), &durable);
                let mut model = durable.clone();
                // What the restore wrote and synced is where the disk starts from in this life.
                if dir.path().join(FILE).exists() {
                    synced = fs::read(data_of(dir.path())).unwrap();
                }
                for (n, step) in steps.iter().enumerate() {
                    match step {
                        Step::Commit(changes) => commit(&checkpoints.table(), &mut model, changes, (life * 61 + n) as u8),
                        Step::Checkpoint => {
                            checkpoints.take().unwrap();
                            synced = fs::read(data_of(dir.path())).unwrap();
                            durable = model.clone();
                        }
                        Step::Shrink => {
                            checkpoints.shrink_for_test().unwrap();
                            synced = fs::read(data_of(dir.path())).unwrap();
                            durable = model.clone();
                        }
                    }
                }
                let data = data_of(dir.path());
                let now = fs::read(&data).unwrap();
                drop(checkpoints);
                fs::write(&data, power_cut(&synced, &now, seed ^ life as u64)).unwrap();
            }
            let checkpoints = Checkpoints::open(dir.path(), MAP).unwrap();
            prop_assert_eq!(contents(&checkpoints.table()), durable);
            Ok(())
        })
        .unwrap();
}

#[test]
fn without_a_checkpoint_the_table_starts_empty() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(dir.path(), MAP).unwrap();
    commit(&checkpoints.table(), &mut Model::new(), &[(1, 5)], 7);
    drop(checkpoints);
    assert!(contents(&Checkpoints::open(dir.path(), MAP).unwrap().table()).is_empty());
}

#[test]
fn garbled_meta_pages_and_a_stale_lock_file_do_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(dir.path(), MAP).unwrap();
    let mut model = Model::new();
    for n in 0..50 {
        commit(&checkpoints.table(), &mut model, &[(n, 900)], 1);
    }
    checkpoints.take().unwrap();
    drop(checkpoints);
    let data = File::options().write(true).open(dir.path().join(DATA_FILE)).unwrap();
    data.write_all_at(&[0xEE; 8_192], 0).unwrap();
    fs::write(dir.path().join(LOCK_FILE), [0xEE; 999]).unwrap();
    assert_eq!(contents(&Checkpoints::open(dir.path(), MAP).unwrap().table()), model);
}

#[test]
fn a_damaged_checkpoint_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(dir.path(), MAP).unwrap();
    checkpoints.take().unwrap();
    drop(checkpoints);
    let path = dir.path().join(FILE);
    let mut bytes = fs::read(&path).unwrap();
    bytes[200] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(matches!(Checkpoints::open(dir.path(), MAP), Err(CheckpointError::Damaged { .. })));
}

#[test]
fn a_checkpoint_whose_table_is_gone_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(dir.path(), MAP).unwrap();
    checkpoints.take().unwrap();
    drop(checkpoints);
    fs::remove_file(dir.path().join(DATA_FILE)).unwrap();
    assert!(matches!(Checkpoints::open(dir.path(), MAP), Err(CheckpointError::NoTable { .. })));
}

#[test]
fn pages_are_used_again_once_a_newer_checkpoint_let_them_go() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoints = Checkpoints::open(dir.path(), MAP).unwrap();
    let mut model = Model::new();
    for round in 0..100 {
        let changes: Vec<(u16, u16)> = (0..50).map(|key| (key, 4_000)).collect();
        commit(&checkpoints.table(), &mut model, &changes, round);
        if round % 5 == 0 {
            checkpoints.take().unwrap();
        }
    }
    // 200 KB live; without reuse 20 MB would have been written.
    assert!(checkpoints.table().usage().high_bytes < 6 << 20, "{:?}", checkpoints.table().usage());
}

fn with_much_removed(dir: &Path) -> (Checkpoints, Model) {
    let checkpoints = Checkpoints::open(dir, MAP).unwrap();
    let mut model = Model::new();
    for round in 0..5 {
        let all: Vec<(u16, u16)> = (0..2_000).map(|key| (key, 900)).collect();
        commit(&checkpoints.table(), &mut model, &all, round);
    }
    let most: Vec<(u16, u16)> = (0..1_990).map(|key| (key, 0)).collect();
    commit(&checkpoints.table(), &mut model, &most, 0);
    (checkpoints, model)
}

#[test]
fn a_table_that_is_mostly_free_pages_gives_them_back_and_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoints, mut model) = with_much_removed(dir.path());
    checkpoints.take().unwrap();
    let before = fs::metadata(data_of(dir.path())).unwrap().len();
    let reader = checkpoints.table().read().unwrap();
    assert!(checkpoints.shrink().unwrap() > before / 2);
    let after = fs::metadata(data_of(dir.path())).unwrap().len();
    assert!(after < before / 10, "{before} -> {after}");
    assert_eq!(contents(&checkpoints.table()), model);
    assert_eq!(reader.get(Space::Objects, &1_999u16.to_be_bytes()).unwrap().map(<[u8]>::len), Some(900), "who reads goes on reading");
    drop(reader);
    assert_eq!(files_of(dir.path()), ["checkpoint", "table-1"], "the old files are gone");
    assert_eq!(checkpoints.shrink().unwrap(), 0, "and now it is small");
    // What comes after counts again, and the next checkpoint is one of the new table.
    commit(&checkpoints.table(), &mut model, &[(7, 100), (1_995, 0)], 9);
    checkpoints.take().unwrap();
    commit(&checkpoints.table(), &mut Model::new(), &[(8, 100)], 9);
    drop(checkpoints);
    let checkpoints = Checkpoints::open(dir.path(), MAP).unwrap();
    assert_eq!(contents(&checkpoints.table()), model);
    checkpoints.shrink_for_test().unwrap();
    assert_eq!(files_of(dir.path()), ["checkpoint", "table-2"]);
    assert_eq!(contents(&checkpoints.table()), model);
}

#[test]
fn a_crash_before_the_switch_keeps_the_old_table_and_one_after_it_the_new_one() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoints, model) = with_much_removed(dir.path());
    checkpoints.take().unwrap();
    // What is written after it and is in no checkpoint yet goes with the copy.
    let mut later = model.clone();
    commit(&checkpoints.table(), &mut later, &[(3, 33)], 3);
    let before = tempfile::tempdir().unwrap();
    for name in [FILE, DATA_FILE] {
        fs::copy(dir.path().join(name), before.path().join(name)).unwrap();
    }
    checkpoints.shrink().unwrap();
    let copied = fs::read(data_of(dir.path())).unwrap();
    for len in [0, 5_000, copied.len() - 1, copied.len()] {
        fs::create_dir_all(home_of(before.path(), 1)).unwrap();
        fs::write(home_of(before.path(), 1).join(DATA_FILE), &copied[..len]).unwrap();
        assert_eq!(contents(&Checkpoints::open(before.path(), MAP).unwrap().table()), model, "{len} bytes were copied");
        assert!(!home_of(before.path(), 1).exists());
    }
    fs::create_dir_all(home_of(before.path(), 1)).unwrap();
    fs::write(home_of(before.path(), 1).join(DATA_FILE), &copied).unwrap();
    fs::copy(dir.path().join(FILE), before.path().join(FILE)).unwrap();
    assert_eq!(contents(&Checkpoints::open(before.path(), MAP).unwrap().table()), later);
    assert_eq!(files_of(before.path()), ["checkpoint", "table-1"]);
}

#[test]
fn a_table_whose_place_was_taken_refuses_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoints, _) = with_much_removed(dir.path());
    let old = checkpoints.table();
    checkpoints.shrink().unwrap();
    assert!(old.write().is_err());
    assert!(checkpoints.turn().write().is_ok());
}

#[test]
fn a_copy_that_cannot_be_made_leaves_the_table_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoints, mut model) = with_much_removed(dir.path());
    fs::write(home_of(dir.path(), 1), b"in the way").unwrap();
    assert!(checkpoints.shrink().is_err());
    commit(&checkpoints.table(), &mut model, &[(3, 33)], 3);
    checkpoints.take().unwrap();
    drop(checkpoints);
    assert_eq!(contents(&Checkpoints::open(dir.path(), MAP).unwrap().table()), model);
}

#[test]
fn a_checkpoint_of_the_first_form_is_still_read() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoints, model) = with_much_removed(dir.path());
    checkpoints.take().unwrap();
    drop(checkpoints);
    let file = fs::read(dir.path().join(FILE)).unwrap();
    let page = &file[HEAD..];
    let first = [MAGIC_OF_ONE_TABLE.as_slice(), &crc_fast::crc32_iscsi(page).to_le_bytes(), page].concat();
    fs::write(dir.path().join(FILE), first).unwrap();
    assert_eq!(contents(&Checkpoints::open(dir.path(), MAP).unwrap().table()), model);
}
