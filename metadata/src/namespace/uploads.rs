//! Listing multipart uploads by key and then by id; grouped and skipped like objects.

use crate::key;
use crate::range::names;
use crate::record::{broken, decode};
use crate::table::{Space, TableError, TableRead};
use spine::listing::group::{self, Group};
use spine::map::NamePoint;
use spine::wire::namespace::{UploadsPage, UploadsQuery};
use spine::wire::range::NameSpan;

/// One page, of what lies in `owned` and at `place` or after it. `max` of 0 gives an empty one that is not truncated.
pub fn list(table: &dyn TableRead, owned: &NameSpan, query: &UploadsQuery, place: Option<&NamePoint>) -> Result<UploadsPage, TableError> {
    let mut page = UploadsPage { uploads: Vec::new(), prefixes: Vec::new(), truncated: false };
    let inside = key::uploads_of_prefix(query.bucket, &query.prefix);
    let Some(from) = first(query, &inside).filter(|_| query.max > 0) else { return Ok(page) };
    let bounds =
        names::uploads(&NameSpan { start: place.map_or(&owned.start, |place| place.max(&owned.start)).clone(), end: owned.end.clone() });
    let mut scan = table.scan(Space::Uploads, from.as_slice().max(&bounds.from))?;
    loop {
        let Some((entry, value)) = scan.next()?.filter(|(entry, _)| entry.starts_with(&inside) && !bounds.ends_before(entry)) else {
            return Ok(page);
        };
        if page.uploads.len() + page.prefixes.len() == query.max {
            page.truncated = true;
            return Ok(page);
        }
        let name = key::key_of_upload(entry).ok_or_else(|| broken(Space::Uploads, entry))?;
        match group::of(&name, &query.prefix, &query.delimiter) {
            Group::Key => page.uploads.push(decode(Space::Uploads, entry, value)?),
            Group::Prefix(common) => {
                page.prefixes.push(common.to_owned());
                let Some(past) = key::after_prefix(&key::uploads_of_prefix(query.bucket, common)) else { return Ok(page) };
                scan.seek(&past)?;
            }
        }
    }
}

/// The name at which a page begins; `None`: nothing can sort there.
pub fn start(query: &UploadsQuery) -> Option<NamePoint> {
    let least = NamePoint::new(query.bucket, query.prefix.as_str());
    if query.key_marker.is_empty() {
        return Some(least);
    }
    let key = if group::is_common_prefix(&query.key_marker, &query.prefix, &query.delimiter) {
        key::after_prefix(query.key_marker.as_bytes())?
    } else if query.upload_marker.is_some() {
        query.key_marker.clone().into_bytes()
    } else {
        [query.key_marker.as_bytes(), &[0]].concat()
    };
    let from = NamePoint::new(query.bucket, key).max(least);
    from.key.starts_with(query.prefix.as_bytes()).then_some(from)
}

/// Where the scan begins; `None`: nothing can sort after the markers.
fn first(query: &UploadsQuery, inside: &[u8]) -> Option<Vec<u8>> {
    if query.key_marker.is_empty() {
        return Some(inside.to_vec());
    }
    let from = if group::is_common_prefix(&query.key_marker, &query.prefix, &query.delimiter) {
        key::after_prefix(&key::uploads_of_prefix(query.bucket, &query.key_marker))?
    } else if let Some(upload) = query.upload_marker {
        let mut from = key::upload(query.bucket, &query.key_marker, upload);
        from.push(0);
        from
    } else {
        key::after_prefix(&key::uploads_of_key(query.bucket, &query.key_marker))?
    };
    Some(from.max(inside.to_vec()))
}
