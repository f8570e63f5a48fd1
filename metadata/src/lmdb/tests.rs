use super::*;
use crate::table::{Scan, TableRead, TableWrite};

fn table() -> (tempfile::TempDir, Arc<Table>) {
    let dir = tempfile::tempdir().unwrap();
    let table = Table::open(dir.path(), 1 << 30).unwrap();
    (dir, table)
}

fn put(table: &Table, pairs: &[(&str, &str)]) {
    let mut write = table.write().unwrap();
    for (key, value) in pairs {
        write.put(Space::Objects, key.as_bytes(), value.as_bytes()).unwrap();
    }
    write.commit().unwrap();
}

fn rest(scan: &mut dyn Scan) -> Vec<String> {
    let mut keys = Vec::new();
    while let Some((key, _)) = scan.next().unwrap() {
        keys.push(String::from_utf8(key.to_vec()).unwrap());
    }
    keys
}

#[test]
fn a_reader_sees_one_moment_and_the_writer_its_own_changes() {
    let (_dir, table) = table();
    put(&table, &[("a", "1")]);
    let before = table.read().unwrap();
    let mut write = table.write().unwrap();
    write.put(Space::Objects, b"a", b"2").unwrap();
    assert_eq!(write.get(Space::Objects, b"a").unwrap(), Some(&b"2"[..]));
    assert!(write.delete(Space::Objects, b"a").unwrap());
    assert!(!write.delete(Space::Objects, b"a").unwrap());
    write.commit().unwrap();
    assert_eq!(before.get(Space::Objects, b"a").unwrap(), Some(&b"1"[..]));
    assert_eq!(table.read().unwrap().get(Space::Objects, b"a").unwrap(), None);
    assert_eq!(table.read().unwrap().get(Space::Bodies, b"a").unwrap(), None);
}

#[test]
fn a_dropped_write_transaction_changed_nothing() {
    let (_dir, table) = table();
    let mut write = table.write().unwrap();
    write.put(Space::Objects, b"a", b"2").unwrap();
    drop(write);
    assert_eq!(table.read().unwrap().get(Space::Objects, b"a").unwrap(), None);
}

#[test]
fn scans_go_in_byte_order_seek_both_ways_and_end() {
    let (_dir, table) = table();
    let read = table.read().unwrap();
    assert_eq!(rest(&mut *read.scan(Space::Objects, b"").unwrap()), Vec::<String>::new());
    drop(read);
    put(&table, &[("b", ""), ("a", "1"), ("c", "3"), ("bb", "2")]);
    let read = table.read().unwrap();
    let mut scan = read.scan(Space::Objects, b"").unwrap();
    assert_eq!(rest(&mut *scan), ["a", "b", "bb", "c"]);
    assert!(scan.next().unwrap().is_none());
    scan.seek(b"b0").unwrap();
    assert_eq!(scan.next().unwrap(), Some((&b"bb"[..], &b"2"[..])));
    scan.seek(b"b").unwrap();
    assert_eq!(scan.next().unwrap(), Some((&b"b"[..], &b""[..])));
    scan.seek(b"d").unwrap();
    assert!(scan.next().unwrap().is_none());
    assert!(scan.next().unwrap().is_none());
    scan.seek(b"").unwrap();
    assert_eq!(rest(&mut *scan).len(), 4);
}

#[test]
fn the_longest_s3_key_fits_with_what_stands_around_it() {
    let (_dir, table) = table();
    let mut write = table.write().unwrap();
    let key = vec![b'x'; KEY_BYTES];
    write.put(Space::Uploads, &key, &vec![7; 1 << 20]).unwrap();
    assert!(write.put(Space::Uploads, b"", b"").is_err());
    write.commit().unwrap();
    assert_eq!(table.read().unwrap().get(Space::Uploads, &key).unwrap().unwrap().len(), 1 << 20);
}

#[test]
fn a_table_opens_again_with_what_was_committed_and_another_map() {
    let dir = tempfile::tempdir().unwrap();
    let table = Table::open(dir.path(), 1 << 30).unwrap();
    put(&table, &[("a", "1")]);
    drop(table);
    let table = Table::open(dir.path(), 256 << 30).unwrap();
    assert_eq!(table.read().unwrap().get(Space::Objects, b"a").unwrap(), Some(&b"1"[..]));
    assert_eq!(table.usage().map_bytes, 256 << 30);
}

#[test]
fn deleted_pages_show_up_as_free() {
    let (_dir, table) = table();
    let keys: Vec<String> = (0..2_000).map(|n| format!("{n:05}")).collect();
    let value = "v".repeat(1_000);
    put(&table, &keys.iter().map(|k| (k.as_str(), value.as_str())).collect::<Vec<_>>());
    let high = table.usage().high_bytes;
    assert!(high > 2_000_000);
    let mut write = table.write().unwrap();
    for key in &keys {
        write.delete(Space::Objects, key.as_bytes()).unwrap();
    }
    write.commit().unwrap();
    assert!(table.free_bytes().unwrap() > 2_000_000);
}

#[test]
fn readers_from_many_threads_share_the_pool() {
    let (_dir, table) = table();
    put(&table, &[("a", "1")]);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let read = table.read().unwrap();
                    assert!(read.get(Space::Objects, b"a").unwrap().is_some());
                }
            });
        }
        for n in 0..200 {
            put(&table, &[("a", &n.to_string())]);
        }
    });
    assert!(lock(&table.idle).len() <= IDLE_READERS);
}
