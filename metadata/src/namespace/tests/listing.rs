use super::*;
use crate::sample::{inline, version};
use proptest::prelude::*;
use spine::id::{UnixMs, UploadId};
use std::collections::BTreeSet;

/// Keys over an alphabet that makes trouble: delimiters beside each other, control characters, bytes above and below the
/// delimiter, several bytes a character, and now and then the longest.
fn name() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => Just("/"), 4 => Just("a"), 3 => Just("b"), 1 => Just("\0"), 1 => Just("\u{1}"), 1 => Just("."), 1 => Just("0"),
        1 => Just("é"), 1 => Just("\u{10ffff}"), 1 => Just("ab"), 1 => Just("\u{7f}"),
    ];
    prop_oneof![
        20 => prop::collection::vec(piece.clone(), 1..6).prop_map(|pieces| pieces.concat()),
        1 => (piece, 0..2usize).prop_map(|(piece, end)| {
            let mut key = piece.repeat(1_024 / piece.len());
            key.truncate((0..=key.len() - end).rev().find(|&at| key.is_char_boundary(at)).unwrap_or(0));
            key
        }),
    ]
}

fn delimiter() -> impl Strategy<Value = String> {
    prop_oneof![4 => Just("/"), 3 => Just(""), 1 => Just("//"), 1 => Just("ab"), 1 => Just("é"), 1 => Just("\u{10ffff}"), 1 => Just("a")]
        .prop_map(str::to_owned)
}

/// What a listing must give, by filtering and grouping all keys: entries in order, true for a common prefix.
fn naive(keys: &BTreeSet<String>, prefix: &str, delimiter: &str, after: Option<&str>) -> Vec<(String, bool)> {
    let group = |key: &str| -> (String, bool) {
        let rest = &key[prefix.len()..];
        match rest.find(delimiter).filter(|_| !delimiter.is_empty()) {
            Some(at) => (key[..prefix.len() + at + delimiter.len()].to_owned(), true),
            None => (key.to_owned(), false),
        }
    };
    let skipped = after.filter(|after| after.starts_with(prefix) && group(after) == (after.to_string(), true));
    let entries: BTreeSet<(String, bool)> = keys
        .iter()
        .filter(|key| key.starts_with(prefix))
        .filter(|key| after.is_none_or(|after| key.as_str() > after))
        .filter(|key| skipped.is_none_or(|skipped| !key.starts_with(skipped)))
        .map(|key| group(key))
        .collect();
    entries.into_iter().collect()
}

fn filled(keys: &BTreeSet<String>) -> MemoryTable {
    let mut table = table();
    for (n, key) in (1..).zip(keys) {
        for bucket in [BucketId(1), BucketId(2)] {
            let new = inline(version(bucket.0 << 32 | n), 1, 1);
            let command = NamespaceCommand::Commit { bucket, key: key.clone(), new, condition: Condition::default() };
            apply(&mut table, GROUP, &command, Seq(n)).unwrap();
        }
    }
    table
}

fn page(table: &MemoryTable, query: ListQuery) -> ListPage {
    let NamespaceAnswer::List { page, .. } = answer(table, GROUP, &ALL_NAMES, &NamespaceQuery::List { query, place: None }).unwrap() else {
        panic!()
    };
    page
}

fn entries(page: &ListPage) -> Vec<(String, bool)> {
    let keys = page.objects.iter().map(|(key, _)| (key.clone(), false));
    let mut entries: Vec<_> = keys.chain(page.prefixes.iter().map(|prefix| (prefix.clone(), true))).collect();
    entries.sort();
    entries
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    #[test]
    fn pages_give_exactly_what_filtering_and_grouping_all_keys_gives(
        keys in prop::collection::btree_set(name(), 0..30),
        prefix in prop_oneof![2 => Just(String::new()), 3 => name()],
        delimiter in delimiter(),
        after in prop::option::of(name()),
        max in 1..6usize,
    ) {
        let table = filled(&keys);
        let expected = naive(&keys, &prefix, &delimiter, after.as_deref());
        let query = ListQuery { bucket: BUCKET, prefix, delimiter, after, max };
        prop_assert_eq!(&entries(&page(&table, ListQuery { max: 1_000, ..query.clone() })), &expected);
        let mut found = Vec::new();
        let mut at = query;
        loop {
            let page = page(&table, at.clone());
            let new = entries(&page);
            prop_assert_eq!(new.len().min(max), new.len());
            prop_assert_eq!(page.next.is_some(), found.len() + new.len() < expected.len());
            prop_assert!(page.next.is_none() || page.next == new.last().map(|last| last.0.clone()));
            found.extend(new);
            let Some(next) = page.next else { break };
            at.after = Some(next);
        }
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn uploads_are_listed_like_keys_and_paged_by_key_and_id(
        keys in prop::collection::btree_set((name(), 0..3u8), 0..25),
        prefix in prop_oneof![2 => Just(String::new()), 3 => name()],
        delimiter in delimiter(),
        max in 1..6usize,
    ) {
        let mut table = table();
        // An id is unique in the whole system, so it carries the place of its key.
        let id = |key: &str, n: u8| {
            let mut bytes = [n; 16];
            bytes[8..].copy_from_slice(&(keys.iter().position(|entry| *entry == (key.to_owned(), n)).unwrap() as u64).to_be_bytes());
            UploadId(bytes)
        };
        for (key, n) in &keys {
            for bucket in [BUCKET, BucketId(2)] {
                let mut id = id(key, *n);
                id.0[1] = bucket.0 as u8;
                let record = UploadRecord {
                    id, bucket, key: key.clone(), created: UnixMs(1), attributes: Attributes::default(), tags: vec![], checksum: None, initiator: String::new(),
                };
                apply(&mut table, GROUP, &NamespaceCommand::CreateUpload(Box::new(record)), Seq(1)).unwrap();
            }
        }
        let names: BTreeSet<String> = keys.iter().map(|(key, _)| key.clone()).collect();
        let expected: Vec<(String, bool)> = naive(&names, &prefix, &delimiter, None)
            .into_iter()
            .flat_map(|(entry, common)| {
                let times = if common { 1 } else { keys.iter().filter(|(key, _)| *key == entry).count() };
                std::iter::repeat_n((entry, common), times)
            })
            .collect();
        let mut found = Vec::new();
        let mut query = UploadsQuery { bucket: BUCKET, prefix, delimiter, key_marker: String::new(), upload_marker: None, max };
        loop {
            let NamespaceAnswer::Uploads { page, .. } = answer(&table, GROUP, &ALL_NAMES, &NamespaceQuery::Uploads { query: query.clone(), place: None }).unwrap() else { panic!() };
            let mut new: Vec<(String, bool, UploadId)> = page.uploads.iter().map(|upload| (upload.key.clone(), false, upload.id)).collect();
            prop_assert!(new.is_sorted());
            new.extend(page.prefixes.iter().map(|prefix| (prefix.clone(), true, UploadId([0; 16]))));
            new.sort();
            found.extend(new.iter().map(|entry| (entry.0.clone(), entry.1)));
            prop_assert_eq!(page.truncated, found.len() < expected.len());
            let Some((key, common, upload)) = new.last().filter(|_| page.truncated) else { break };
            query.key_marker.clone_from(key);
            query.upload_marker = (!common).then_some(*upload);
        }
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_page_of_none_is_empty_and_not_truncated() {
    let table = filled(&["a".to_owned()].into());
    let query = ListQuery { bucket: BUCKET, prefix: String::new(), delimiter: String::new(), after: None, max: 0 };
    assert_eq!(page(&table, query), ListPage { objects: vec![], prefixes: vec![], next: None });
}

#[test]
fn a_key_marker_skips_all_uploads_of_its_key() {
    let mut table = table();
    for (n, key) in [(1, "a"), (2, "a"), (3, "a/b"), (4, "b")] {
        let record = UploadRecord {
            id: UploadId([n; 16]),
            bucket: BUCKET,
            key: key.into(),
            created: UnixMs(1),
            attributes: Attributes::default(),
            tags: vec![],
            checksum: None,
            initiator: String::new(),
        };
        run(&mut table, NamespaceCommand::CreateUpload(Box::new(record)));
    }
    let list = |key_marker: &str, upload_marker| {
        let query = UploadsQuery {
            bucket: BUCKET,
            prefix: String::new(),
            delimiter: String::new(),
            key_marker: key_marker.into(),
            upload_marker,
            max: 9,
        };
        let NamespaceAnswer::Uploads { page, .. } =
            answer(&table, GROUP, &ALL_NAMES, &NamespaceQuery::Uploads { query, place: None }).unwrap()
        else {
            panic!()
        };
        page.uploads.iter().map(|upload| upload.id.0[0]).collect::<Vec<_>>()
    };
    assert_eq!(list("", None), [1, 2, 3, 4]);
    assert_eq!(list("a", None), [3, 4]);
    assert_eq!(list("a", Some(UploadId([1; 16]))), [2, 3, 4]);
    assert_eq!(list("a/", None), [3, 4]);
    assert_eq!(list("b", Some(UploadId([0; 16]))), [4]);
}

#[test]
fn a_delimiter_listing_looks_at_one_key_of_each_prefix() {
    use crate::table::{Entry, Scan, TableError, TableRead};
    use std::cell::Cell;

    struct Counting<'a>(&'a MemoryTable, &'a Cell<usize>);
    struct CountingScan<'a>(Box<dyn Scan + 'a>, &'a Cell<usize>);
    impl TableRead for Counting<'_> {
        fn get(&self, space: Space, key: &[u8]) -> Result<Option<&[u8]>, TableError> {
            self.0.get(space, key)
        }
        fn scan<'a>(&'a self, space: Space, from: &[u8]) -> Result<Box<dyn Scan + 'a>, TableError> {
            Ok(Box::new(CountingScan(self.0.scan(space, from)?, self.1)))
        }
    }
    impl Scan for CountingScan<'_> {
        fn next(&mut self) -> Result<Option<Entry<'_>>, TableError> {
            self.1.set(self.1.get() + 1);
            self.0.next()
        }
        fn seek(&mut self, to: &[u8]) -> Result<(), TableError> {
            self.0.seek(to)
        }
    }

    let keys: BTreeSet<String> = (0..20).flat_map(|dir| (0..50).map(move |file| format!("{dir:02}/{file:02}"))).collect();
    let table = filled(&keys);
    let steps = Cell::new(0);
    let query = ListQuery { bucket: BUCKET, prefix: String::new(), delimiter: "/".into(), after: None, max: 10 };
    let NamespaceAnswer::List { page, .. } =
        answer(&Counting(&table, &steps), GROUP, &ALL_NAMES, &NamespaceQuery::List { query, place: None }).unwrap()
    else {
        panic!()
    };
    assert_eq!(page.prefixes.len(), 10);
    assert_eq!(page.next.as_deref(), Some("09/"));
    assert_eq!(steps.get(), 11);
}
