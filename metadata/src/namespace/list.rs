//! Listing objects: one ordered scan that skips over each common prefix, so that a page costs what it returns.
//!
//! Invariant: a page is complete up to its `next`, or it is an error; never short.

use crate::key;
use crate::metric::LISTING_ENTRIES;
use crate::record::{broken, decode};
use crate::table::{Space, TableError, TableRead};
use spine::listing::group::{self, Group};
use spine::wire::namespace::{ListPage, ListQuery};

/// One page. `max` of 0 gives an empty one that is not truncated.
pub fn list(table: &dyn TableRead, query: &ListQuery) -> Result<ListPage, TableError> {
    let mut looked_at = 0;
    let page = walk(table, query, &mut looked_at);
    LISTING_ENTRIES.inc_by(looked_at);
    page
}

fn walk(table: &dyn TableRead, query: &ListQuery, looked_at: &mut u64) -> Result<ListPage, TableError> {
    let mut page = ListPage { objects: Vec::new(), prefixes: Vec::new(), next: None };
    let inside = key::object(query.bucket, query.prefix.as_bytes());
    let Some(from) = start(query, &inside).filter(|_| query.max > 0) else { return Ok(page) };
    let mut scan = table.scan(Space::Objects, &from)?;
    loop {
        *looked_at += 1;
        let Some((entry, value)) = scan.next()?.filter(|(entry, _)| entry.starts_with(&inside)) else {
            return Ok(page);
        };
        if page.objects.len() + page.prefixes.len() == query.max {
            page.next = last(&page);
            return Ok(page);
        }
        let name = std::str::from_utf8(&entry[8..]).map_err(|_| broken(Space::Objects, entry))?;
        match group::of(name, &query.prefix, &query.delimiter) {
            Group::Key => page.objects.push((name.to_owned(), decode(Space::Objects, entry, value)?)),
            Group::Prefix(common) => {
                let common = common.to_owned();
                let past = key::after_prefix(&key::object(query.bucket, common.as_bytes()));
                page.prefixes.push(common);
                let Some(past) = past else { return Ok(page) };
                scan.seek(&past)?;
            }
        }
    }
}

/// Where the scan begins; `None`: nothing can sort after the marker.
fn start(query: &ListQuery, inside: &[u8]) -> Option<Vec<u8>> {
    let Some(after) = query.after.as_deref() else { return Some(inside.to_vec()) };
    let mut from = key::object(query.bucket, after.as_bytes());
    if group::is_common_prefix(after, &query.prefix, &query.delimiter) {
        from = key::after_prefix(&from)?;
    } else {
        from.push(0);
    }
    Some(from.max(inside.to_vec()))
}

/// The last entry of a page, which is the greater of its last key and its last prefix.
fn last(page: &ListPage) -> Option<String> {
    let key = page.objects.last().map(|(key, _)| key);
    key.max(page.prefixes.last()).cloned()
}
