use super::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::mpsc;

const GROUP: GroupId = GroupId(0);

fn small() -> Settings {
    Settings { segment_bytes: 64 << 10, cache_bytes: 8 << 10, frame_bytes: 16 << 10 }
}

fn at(index: u64) -> Position {
    Position { term: 1, node: 1, index }
}

fn bytes_of(index: u64, len: usize) -> Bytes {
    let mut out = index.to_le_bytes().to_vec();
    out.resize(len.max(8), index as u8);
    out.into()
}

/// Appends `range` one by one, each synced before the next.
fn append(log: &GroupLog, range: Range<u64>, len: usize) {
    for index in range {
        assert!(append_one(log, index, len).is_ok());
    }
}

fn append_one(log: &GroupLog, index: u64, len: usize) -> Result<(), JournalError> {
    let (sender, done) = mpsc::channel();
    log.append(vec![(at(index), bytes_of(index, len))], Box::new(move |outcome| sender.send(outcome).unwrap()))?;
    done.recv().unwrap()
}

fn check(log: &GroupLog, range: Range<u64>, len: usize) {
    let read = log.read(range.clone(), usize::MAX).unwrap();
    assert_eq!(read.len() as u64, range.end - range.start);
    for (index, (position, bytes)) in range.zip(read) {
        assert_eq!((position, bytes), (at(index), bytes_of(index, len)));
    }
}

/// Segments are let go of after the callbacks.
fn eventually(holds: impl Fn() -> bool) {
    let holds = (0..500).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(10));
        holds()
    });
    assert!(holds);
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn entries_read_back_from_memory_from_files_and_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), small()).unwrap();
    let log = journal.group(GROUP);
    append(&log, 0..200, 1_000);
    check(&log, 0..200, 1_000);
    assert_eq!(log.read(10..20, 2_500).unwrap().len(), 2);
    assert_eq!(log.read(10..20, 1).unwrap().len(), 1);
    assert!(journal.segments.count() > 3);
    journal.close();
    drop((log, journal));
    let journal = Journal::open(dir.path(), small()).unwrap();
    let log = journal.group(GROUP);
    assert_eq!(log.state().last, Some(at(199)));
    check(&log, 0..200, 1_000);
    append(&log, 200..210, 500);
    check(&log, 200..210, 500);
}

#[test]
fn vote_commit_truncation_and_purge_survive_also_without_the_segments_they_were_written_in() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), small()).unwrap();
    let log = journal.group(GROUP);
    let (sender, done) = mpsc::channel();
    log.vote(Bytes::from_static(b"vote"), Box::new(move |outcome| sender.send(outcome).unwrap()));
    done.recv().unwrap().unwrap();
    append(&log, 0..10, 100);
    log.truncate(5);
    append(&log, 5..300, 1_000);
    log.committed(at(290));
    log.purge(at(280));
    append(&log, 300..301, 10);
    eventually(|| journal.segments.count() <= 2 && segments(dir.path()).len() <= 3 + segment::SPARE);
    journal.trim();
    assert!(segments(dir.path()).len() <= 3, "{:?}", segments(dir.path()));
    journal.close();
    drop((log, journal));
    let journal = Journal::open(dir.path(), small()).unwrap();
    let log = journal.group(GROUP);
    let state =
        GroupState { vote: Some(Bytes::from_static(b"vote")), committed: Some(at(290)), purged: Some(at(280)), last: Some(at(300)) };
    assert_eq!(log.state(), state);
    check(&log, 281..300, 1_000);
    assert!(log.read(0..281, usize::MAX).unwrap().is_empty());
}

#[test]
fn a_segment_stays_until_every_group_has_purged_it() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), small()).unwrap();
    let (one, two) = (journal.group(GROUP), journal.group(GroupId(1)));
    append(&two, 0..1, 100);
    append(&one, 0..300, 1_000);
    let before = journal.segments.count();
    one.purge(at(299));
    append(&one, 300..301, 10);
    assert_eq!(journal.segments.count(), before);
    two.purge(at(0));
    append(&one, 301..302, 10);
    eventually(|| journal.segments.count() <= 2);
    journal.close();
    drop((one, two, journal));
    let journal = Journal::open(dir.path(), small()).unwrap();
    assert_eq!(journal.group(GroupId(1)).state().last, Some(at(0)));
    check(&journal.group(GROUP), 300..302, 10);
}

#[test]
fn a_large_append_goes_out_in_several_frames_and_one_too_large_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), small()).unwrap();
    let log = journal.group(GROUP);
    let (sender, done) = mpsc::channel();
    let entries = (0..50).map(|index| (at(index), bytes_of(index, 10_000))).collect();
    log.append(entries, Box::new(move |outcome| sender.send(outcome).unwrap())).unwrap();
    done.recv().unwrap().unwrap();
    check(&log, 0..50, 10_000);
    assert!(matches!(append_one(&log, 50, 40_000), Err(JournalError::TooLarge { .. })));
    append(&log, 50..51, 30_000);
}

/// Cuts or garbles the last frame anywhere: what was synced before it stays, exactly.
#[test]
fn a_torn_end_at_any_offset_loses_only_the_frame_that_was_not_synced() {
    let mut runner = TestRunner::new(Config { cases: Config::default().cases / 4, failure_persistence: None, ..Config::default() });
    runner
        .run(
            &(1u64..40, 1usize..6_000, any::<prop::sample::Index>(), any::<u8>(), any::<bool>()),
            |(count, last_len, place, noise, recycled)| {
                let dir = tempfile::tempdir().unwrap();
                let settings = Settings { segment_bytes: 1 << 20, ..small() };
                if recycled {
                    // Stale frames of an earlier use lie behind the end.
                    let journal = Journal::open(dir.path(), settings.clone()).unwrap();
                    let log = journal.group(GroupId(9));
                    append(&log, 0..60, 300);
                    journal.close();
                    let files = segments(dir.path());
                    fs::rename(&files[0], dir.path().join("0000000000000005.log")).unwrap();
                }
                let journal = Journal::open(dir.path(), settings.clone()).unwrap();
                let log = journal.group(GROUP);
                append(&log, 0..count, 700);
                let before = journal.written_bytes();
                append(&log, count..count + 1, last_len);
                let after = journal.written_bytes();
                journal.close();
                drop((log, journal));
                let tail = segments(dir.path()).into_iter().find(|path| holds_frames(path)).unwrap();
                let file = File::options().write(true).open(&tail).unwrap();
                // Some sectors of the frame never arrived, or arrived wrong.
                let used = (frame::FRAME_HEAD + frame::RECORD_HEAD + last_len.max(8)) as u64;
                let from = before + place.index(used as usize) as u64;
                let to = ((from / frame::ALIGN + 1) * frame::ALIGN).min(before + used).max(from + 1);
                let old = fs::read(&tail).unwrap();
                let garbled = vec![noise; (to - from) as usize];
                let same = old[from as usize..to as usize] == garbled[..];
                file.write_all_at(&garbled, from).unwrap();
                assert!(after > before);
                let journal = Journal::open(dir.path(), settings).unwrap();
                let log = journal.group(GROUP);
                check(&log, 0..count, 700);
                let expected = if same { count } else { count - 1 };
                prop_assert_eq!(log.state().last, Some(at(expected)));
                append(&log, expected + 1..expected + 3, 50);
                journal.close();
                Ok(())
            },
        )
        .unwrap();
}

fn holds_frames(path: &Path) -> bool {
    let number = segment::number_of(path).unwrap();
    !segment::is_spare(path) && frame::number_at(&fs::read(path).unwrap(), number).is_some()
}

#[test]
fn a_changed_byte_in_any_frame_but_the_last_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), small()).unwrap();
    append(&journal.group(GROUP), 0..100, 1_000);
    journal.close();
    drop(journal);
    let files: Vec<_> = segments(dir.path()).into_iter().filter(|path| holds_frames(path)).collect();
    assert!(files.len() > 1);
    let mut refused = 0;
    for (file_number, path) in files.iter().enumerate() {
        let whole = fs::read(path).unwrap();
        for at in (0..40_000).step_by(1_777) {
            let file = File::options().write(true).open(path).unwrap();
            file.write_all_at(&[whole[at] ^ 0x40], at as u64).unwrap();
            match Journal::open(dir.path(), small()) {
                Err(JournalError::Damaged { .. }) => refused += 1,
                Err(e) => panic!("{e}"),
                // A byte of padding, or of the last file's last frame.
                Ok(journal) => {
                    let log = journal.group(GROUP);
                    let last = log.state().last.unwrap().index;
                    assert!(last == 99 || file_number == files.len() - 1 && last == 98, "byte {at} of file {file_number}: {last}");
                    check(&log, 0..last + 1, 1_000);
                    journal.close();
                    if last == 98 {
                        return assert!(refused > 20);
                    }
                }
            }
            file.write_all_at(&[whole[at]], at as u64).unwrap();
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn a_missing_segment_is_refused() {
    for victim in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path(), small()).unwrap();
        append(&journal.group(GROUP), 0..250, 1_000);
        journal.close();
        drop(journal);
        let files: Vec<_> = segments(dir.path()).into_iter().filter(|path| holds_frames(path)).collect();
        assert!(files.len() > 4);
        fs::remove_file(&files[victim]).unwrap();
        assert!(matches!(Journal::open(dir.path(), small()), Err(JournalError::Damaged { .. })), "{victim}");
    }
}

#[test]
fn a_record_changed_on_disk_after_it_was_synced_is_an_error_and_never_an_entry() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), small()).unwrap();
    let log = journal.group(GROUP);
    append(&log, 0..30, 1_000);
    let path = &segments(dir.path())[0];
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&[0xFF], 200).unwrap();
    assert!(matches!(log.read(0..1, 10), Err(JournalError::Damaged { .. })));
    check(&log, 25..30, 1_000);
}

#[test]
fn after_a_failed_write_nothing_is_acknowledged_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), small()).unwrap();
    let log = journal.group(GROUP);
    append(&log, 0..3, 100);
    journal.stop("test".into());
    assert!(matches!(append_one(&log, 3, 100), Err(JournalError::Stopped { .. })));
    assert!(journal.failure().is_some());
    journal.close();
    assert!(matches!(append_one(&log, 4, 100), Err(JournalError::Stopped { .. })));
}

#[test]
fn a_file_that_could_not_be_made_ready_is_tried_once_more_when_it_is_needed() {
    for mended in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let journal = Journal::open(dir.path(), small()).unwrap();
        let log = journal.group(GROUP);
        let in_its_place = segment::path_of(dir.path(), 2);
        fs::create_dir(&in_its_place).unwrap();
        append(&log, 0..3, 1_000);
        // Long enough for the attempt that is made while the first file is filled.
        std::thread::sleep(std::time::Duration::from_millis(200));
        if mended {
            fs::remove_dir(&in_its_place).unwrap();
        }
        let outcome = (3..200).try_for_each(|index| append_one(&log, index, 1_000));
        assert_eq!(outcome.is_ok(), mended, "{outcome:?}");
        assert_eq!(journal.failure().is_none(), mended);
        journal.close();
    }
}

#[test]
fn concurrent_appends_of_many_groups_share_syncs_and_keep_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), Settings { segment_bytes: 8 << 20, ..Settings::default() }).unwrap();
    std::thread::scope(|scope| {
        for group in 0..16 {
            let journal = &journal;
            scope.spawn(move || append(&journal.group(GroupId(group)), 0..200, 400));
        }
    });
    let frames = journal.written_bytes() / frame::ALIGN;
    assert!(frames < 16 * 200, "one sector at least a frame, and fewer frames than entries: {frames}");
    journal.close();
    drop(journal);
    let journal = Journal::open(dir.path(), Settings { segment_bytes: 8 << 20, ..Settings::default() }).unwrap();
    for group in 0..16 {
        check(&journal.group(GroupId(group)), 0..200, 400);
    }
}

#[test]
fn a_segment_that_cannot_be_removed_keeps_those_behind_it() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), small()).unwrap();
    let log = journal.group(GROUP);
    append(&log, 0..300, 1_000);
    // Nothing can be renamed over a folder that is not empty.
    let first = segments(dir.path()).remove(0);
    let in_the_way = first.with_extension("spare");
    fs::create_dir_all(in_the_way.join("x")).unwrap();
    let before = journal.segments.count();
    log.purge(at(299));
    append(&log, 300..301, 10);
    append(&log, 301..302, 10);
    assert_eq!(journal.segments.count(), before);
    fs::remove_dir_all(&in_the_way).unwrap();
    log.purge(at(300));
    append(&log, 302..303, 10);
    eventually(|| journal.segments.count() <= 2);
    journal.close();
    drop((log, journal));
    let journal = Journal::open(dir.path(), small()).unwrap();
    check(&journal.group(GROUP), 301..303, 10);
}

#[test]
fn the_largest_entry_fits_behind_a_frame_that_is_nearly_full() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), Settings::default()).unwrap();
    let log = journal.group(GROUP);
    let largest = spine::limit::LOG_ENTRY_BYTES;
    let sizes = [journal.settings.frame_bytes - 100, largest, largest, 100, largest];
    let (sender, done) = mpsc::channel();
    for (index, len) in (0..).zip(sizes) {
        let sender = sender.clone();
        log.append(vec![(at(index), bytes_of(index, len))], Box::new(move |outcome| sender.send(outcome).unwrap())).unwrap();
    }
    for _ in sizes {
        done.recv().unwrap().unwrap();
    }
    for (index, len) in (0..).zip(sizes) {
        check(&log, index..index + 1, len);
    }
}

fn forget(log: &GroupLog) {
    let (sender, done) = mpsc::channel();
    log.forget(Box::new(move |outcome| sender.send(outcome).unwrap()));
    done.recv().unwrap().unwrap();
}

#[test]
fn a_group_that_is_forgotten_keeps_its_vote_and_holds_no_file_and_can_begin_again_also_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path(), small()).unwrap();
    let (gone, stays) = (journal.group(GroupId(7)), journal.group(GROUP));
    let (sender, done) = mpsc::channel();
    gone.vote(Bytes::from_static(b"vote"), Box::new(move |outcome| sender.send(outcome).unwrap()));
    done.recv().unwrap().unwrap();
    append(&gone, 0..200, 1_000);
    gone.committed(at(150));
    append(&stays, 0..10, 1_000);
    assert!(journal.pinned().1.contains(&GroupId(7)));
    forget(&gone);
    let left = GroupState { vote: Some(Bytes::from_static(b"vote")), ..GroupState::default() };
    assert_eq!(gone.state(), left);
    assert!(gone.read(0..200, usize::MAX).unwrap().is_empty());
    // The other group's entries are in the last files.
    eventually(|| journal.segments.count() <= 2);
    journal.close();
    drop((gone, stays, journal));
    let journal = Journal::open(dir.path(), small()).unwrap();
    let (again, stays) = (journal.group(GroupId(7)), journal.group(GROUP));
    assert_eq!(again.state(), left);
    check(&stays, 0..10, 1_000);
    // It begins again, and what it holds now is kept.
    append(&again, 0..150, 1_000);
    stays.purge(at(9));
    append(&stays, 10..11, 10);
    std::thread::sleep(std::time::Duration::from_millis(100));
    check(&again, 0..150, 1_000);
    journal.close();
    drop((again, stays, journal));
    let journal = Journal::open(dir.path(), small()).unwrap();
    check(&journal.group(GroupId(7)), 0..150, 1_000);
}
