//! The rows of a span of names: in which order they are copied, and which lie under one name.
//!
//! Copied: buckets that take no writes; objects, each with its body and its pieces' manifests; uploads, each with its parts and theirs; open
//! intents. A row that changes while they are copied is noted ([`super::noting`]) and comes again, so a place in this order need not stay true.

use super::page::{Place, Rows};
use crate::format;
use crate::key;
use crate::namespace::{closed, intent};
use crate::record::{broken, decode, each, load};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::BucketId;
use spine::map::NamePoint;
use spine::wire::format::LEVELLED;
use spine::wire::namespace::{Body, PartRecord, VersionBody, VersionHead};
use spine::wire::range::NameSpan;
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// Stages of copying.
pub const STAGES: u8 = 4;

/// A row's table and key.
pub type RowKey = (Space, Vec<u8>);

/// Copies what comes at `place` and after it; where the page became full, or `None` at the end of the stage.
pub fn copy(table: &dyn TableRead, span: &NameSpan, place: &Place, page: &mut Rows) -> Result<Option<Place>, TableError> {
    match place.stage {
        0 => closings(table, span, place, page),
        1 => nested(table, Space::Objects, objects(span), place, page, object_rows),
        2 => nested(table, Space::Uploads, uploads(span), place, page, |table, at, _| upload_rows(table, at)),
        _ => intents(table, span, place, page),
    }
}

/// Bounds of the keys of a span in a table.
pub struct Bounds {
    pub from: Vec<u8>,
    pub to: Option<Vec<u8>>,
}

impl Bounds {
    pub fn ends_before(&self, key: &[u8]) -> bool {
        self.to.as_ref().is_some_and(|to| key >= to.as_slice())
    }
}

pub fn objects(span: &NameSpan) -> Bounds {
    let at = |point: &NamePoint| key::object(point.bucket, &point.key);
    Bounds { from: at(&span.start), to: span.end.as_ref().map(at) }
}

pub fn uploads(span: &NameSpan) -> Bounds {
    let at = |point: &NamePoint| key::uploads_from(point.bucket, &point.key);
    Bounds { from: at(&span.start), to: span.end.as_ref().map(at) }
}

fn closings(table: &dyn TableRead, span: &NameSpan, place: &Place, page: &mut Rows) -> Result<Option<Place>, TableError> {
    let from = key::closing(span.start.bucket);
    let last = span.end.as_ref().map(|end| key::closing(end.bucket));
    if place.key.is_empty() {
        let ends = [Some(span.start.bucket), span.end.as_ref().map(|end| end.bucket)].into_iter().flatten().flat_map(closed::of_era);
        let outside: BTreeSet<_> = ends.map(key::closing).filter(|at| *at < from || last.is_some_and(|last| *at > last)).collect();
        for at in outside {
            if let Some(value) = table.get(Space::Meta, &at)? {
                page.push(Space::Meta, &at, Some(value));
            }
        }
    }
    let mut full = None;
    each(table, Space::Meta, key::CLOSING, place.key.as_slice().max(&from[..]), |at, value| {
        if last.as_ref().is_some_and(|last| at > &last[..]) {
            return Ok(ControlFlow::Break(()));
        }
        if page.is_full() {
            full = Some(place.at(at, 0));
            return Ok(ControlFlow::Break(()));
        }
        page.push(Space::Meta, at, Some(value));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(full)
}

/// Entries of a table with the rows that hang on each.
fn nested(
    table: &dyn TableRead,
    space: Space,
    bounds: Bounds,
    place: &Place,
    page: &mut Rows,
    rows: impl Fn(&dyn TableRead, &[u8], &[u8]) -> Result<Vec<RowKey>, TableError>,
) -> Result<Option<Place>, TableError> {
    let mut full = None;
    each(table, space, &[], place.key.as_slice().max(&bounds.from), |at, value| {
        if bounds.ends_before(at) {
            return Ok(ControlFlow::Break(()));
        }
        let copied = if at == place.key { place.nth as usize } else { 0 };
        for (nth, (space, key)) in rows(table, at, value)?.iter().enumerate().skip(copied) {
            if page.is_full() {
                full = Some(place.at(at, nth as u32));
                return Ok(ControlFlow::Break(()));
            }
            if let Some(value) = table.get(*space, key)? {
                page.push(*space, key, Some(value));
            }
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(full)
}

/// The rows of the object at `at`, its own first.
pub fn object_rows(table: &dyn TableRead, at: &[u8], value: &[u8]) -> Result<Vec<RowKey>, TableError> {
    let head: VersionHead = decode(Space::Objects, at, value)?;
    let mut rows = vec![(Space::Objects, at.to_vec()), (Space::Bodies, head.id.0.to_vec())];
    if let Some(body) = load::<VersionBody>(table, Space::Bodies, &head.id.0)? {
        add_manifests(&mut rows, &body.body);
    }
    Ok(rows)
}

/// The rows of the upload at `at`, its own first.
pub fn upload_rows(table: &dyn TableRead, at: &[u8]) -> Result<Vec<RowKey>, TableError> {
    let upload = at.last_chunk::<16>().ok_or_else(|| broken(Space::Uploads, at))?;
    let (mut rows, every) = (vec![(Space::Uploads, at.to_vec())], format::of(table)? >= LEVELLED);
    each(table, Space::Parts, upload, &[], |at, value| {
        rows.push((Space::Parts, at.to_vec()));
        // The upload alone, without a number, is where it is found by its id.
        if at.len() == upload.len() {
            return Ok(ControlFlow::Continue(()));
        }
        let part: PartRecord = decode(Space::Parts, at, value)?;
        // Every part counts as two rows, also one without a piece: a place among them stays where it is when a part is replaced.
        match every {
            true => rows.push((Space::Manifests, part.version.0.to_vec())),
            false => add_manifests(&mut rows, &part.body),
        }
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(rows)
}

fn add_manifests(rows: &mut Vec<RowKey>, body: &Body) {
    if let Body::Pieces(pieces) = body {
        rows.extend(pieces.iter().map(|piece| (Space::Manifests, piece.version.0.to_vec())));
    }
}

fn intents(table: &dyn TableRead, span: &NameSpan, place: &Place, page: &mut Rows) -> Result<Option<Place>, TableError> {
    let mut full = None;
    each(table, Space::Intents, &[key::INTENT_OPEN], &place.key, |at, value| {
        if !span.holds(&intent::name_of(at, value)?) {
            return Ok(ControlFlow::Continue(()));
        }
        if page.is_full() {
            full = Some(place.at(at, 0));
            return Ok(ControlFlow::Break(()));
        }
        page.push(Space::Intents, at, Some(value));
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(full)
}

/// What a noted row is for the target: as it is here, but for the manifest of a version that has ended.
pub fn as_noted<'a>(table: &'a dyn TableRead, space: Space, key: &[u8]) -> Result<Option<&'a [u8]>, TableError> {
    if space == Space::Manifests
        && let Some(version) = key::version_at_end(key)
        && intent::ENDED.contains(table, version)?
    {
        return Ok(None);
    }
    table.get(space, key)
}

/// The part of `bucket` that lies in `span`, from `from` on; `None`: nothing can.
pub fn of_bucket(span: &NameSpan, bucket: BucketId, from: &[u8]) -> Option<NameSpan> {
    let start = NamePoint::new(bucket, from).max(span.start.clone());
    let after = bucket.0.checked_add(1).map(|next| NamePoint::new(BucketId(next), Vec::new()));
    let end = match (after, span.end.clone()) {
        (Some(after), Some(end)) => Some(after.min(end)),
        (after, end) => after.or(end),
    };
    let part = NameSpan { start, end };
    (!part.is_empty()).then_some(part)
}

/// Whether an object or an upload lies in the span.
pub fn any(table: &dyn TableRead, span: &NameSpan) -> Result<bool, TableError> {
    for (space, bounds) in [(Space::Objects, objects(span)), (Space::Uploads, uploads(span))] {
        let mut scan = table.scan(space, &bounds.from)?;
        if scan.next()?.is_some_and(|(at, _)| !bounds.ends_before(at)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Deletes up to `budget` rows of the span, which nobody reads any more; the budget that is left.
///
/// What hangs on an entry goes before the entry, so that the next step finds the rest.
pub fn purge(table: &mut dyn TableWrite, span: &NameSpan, mut budget: u32) -> Result<u32, TableError> {
    for (space, bounds) in [(Space::Objects, objects(span)), (Space::Uploads, uploads(span))] {
        while budget > 0 {
            let first = {
                let mut scan = table.scan(space, &bounds.from)?;
                scan.next()?.filter(|(at, _)| !bounds.ends_before(at)).map(|(at, value)| (at.to_vec(), value.to_vec()))
            };
            let Some((at, value)) = first else { break };
            let rows = if space == Space::Objects { object_rows(table, &at, &value)? } else { upload_rows(table, &at)? };
            for (space, key) in rows.iter().rev() {
                if budget == 0 {
                    return Ok(0);
                }
                budget -= u32::from(table.delete(*space, key)?);
            }
        }
    }
    let mut open = Vec::new();
    if budget > 0 {
        each(table, Space::Intents, &[key::INTENT_OPEN], &[], |at, value| {
            if span.holds(&intent::name_of(at, value)?) {
                open.push(at.to_vec());
            }
            Ok(if open.len() < budget as usize { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
    }
    for at in &open {
        table.delete(Space::Intents, at)?;
    }
    Ok(budget - open.len() as u32)
}
