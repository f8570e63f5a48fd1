//! Listing objects: one ordered scan that skips over each common prefix, so that a page costs what it returns.
//!
//! Invariant: a page is complete up to its `next`, or it is an error; never short.

use crate::key;
use crate::metric::LISTING_ENTRIES;
use crate::range::names;
use crate::record::{broken, decode};
use crate::table::{Space, TableError, TableRead};
use spine::listing;
use spine::listing::group::{self, Group};
use spine::map::NamePoint;
use spine::wire::namespace::{ListPage, ListQuery};
use spine::wire::range::NameSpan;

/// One page, of what lies in `owned` and at `place` or after it. `max` of 0 gives an empty one that is not truncated.
pub fn list(table: &dyn TableRead, owned: &NameSpan, query: &ListQuery, place: Option<&NamePoint>) -> Result<ListPage, TableError> {
    let mut looked_at = 0;
    let page = walk(table, owned, query, place, &mut looked_at);
    LISTING_ENTRIES.inc_by(looked_at);
    page
}

fn walk(
    table: &dyn TableRead,
    owned: &NameSpan,
    query: &ListQuery,
    place: Option<&NamePoint>,
    looked_at: &mut u64,
) -> Result<ListPage, TableError> {
    let mut page = ListPage { objects: Vec::new(), prefixes: Vec::new(), next: None };
    let inside = key::object(query.bucket, query.prefix.as_bytes());
    let Some(from) = listing::start(query, query.after.as_deref()).filter(|_| query.max > 0) else { return Ok(page) };
    let bounds = names::objects(&NameSpan { start: place.map_or(&from, |place| place.max(&from)).clone(), end: owned.end.clone() });
    let mut scan = table.scan(Space::Objects, &bounds.from)?;
    loop {
        *looked_at += 1;
        let Some((entry, value)) = scan.next()?.filter(|(entry, _)| entry.starts_with(&inside) && !bounds.ends_before(entry)) else {
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

/// The last entry of a page, which is the greater of its last key and its last prefix.
fn last(page: &ListPage) -> Option<String> {
    let key = page.objects.last().map(|(key, _)| key);
    key.max(page.prefixes.last()).cloned()
}
