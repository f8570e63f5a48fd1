//! Questions: to the group of their place, to all groups of their chunks, or to one group after the other.
//!
//! Invariants: a list of chunks is gathered from spans that cover all of them, each owned by who answered for it; a listing goes on where
//! the range of who answered ended. What is not ordered over groups (outboxes, work lists) is taken group by group up to `max`.

use super::split::spans;
use super::uploads::Uploads;
use super::{Patience, Router, unexpected};
use crate::root::map::ROOT;
use spine::id::{BucketId, ChunkId, GroupId, VersionId};
use spine::listing::{Listing, ListingError};
use spine::map::{Map, NamePoint};
use spine::wire::chunk::{ChunkAnswer, ChunkQuery, ChunkRecord, Totals};
use spine::wire::namespace::{IntentRecord, ListQuery, NamespaceAnswer, NamespaceQuery, UploadsQuery};
use spine::wire::range::{ALL_CHUNKS, ChunkSpan};
use spine::wire::root::{MoveStep, RootAnswer, RootQuery};
use spine::wire::{Answer, MetadataError, Query};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// How long a group that is only being made may take to say what it has.
const UNSERVED: Duration = Duration::from_secs(1);

pub async fn answer(router: &Router, query: Query) -> Result<Answer, MetadataError> {
    match query {
        Query::Root(_) => router.groups.query_of(ROOT, query).await,
        Query::Namespace(query) => names(router, query).await.map(Answer::Namespace),
        Query::Chunk(ChunkQuery::Records(chunks)) => records(router, chunks).await.map(|found| Answer::Chunk(ChunkAnswer::Records(found))),
        Query::Chunk(query @ ChunkQuery::References { chunk, .. }) => {
            routed(router, |map| map.chunks().of(&chunk).group, Query::Chunk(query)).await
        }
        Query::Chunk(query) => work(router, ALL_CHUNKS, query).await.map(Answer::Chunk),
        Query::Within { span, query } => work(router, span, query).await.map(Answer::Chunk),
        Query::Copy(copy) => router.groups.query_of(copy.group, query).await,
        Query::Range(_) => Err(super::storage("a mover's question was asked of nobody")),
    }
}

/// Asks the group that has it, until it does.
async fn routed(router: &Router, of: impl Fn(&Map) -> GroupId, query: Query) -> Result<Answer, MetadataError> {
    let mut patience = Patience::new();
    loop {
        let map = router.map();
        let group = of(&map);
        match router.groups.query_of(group, query.clone()).await {
            Err(MetadataError::NotHere) => router.again(&mut patience, true, map.epoch()).await?,
            Err(MetadataError::Unavailable { .. }) if router.is_elsewhere(group, map.epoch(), &of).await => {}
            other => return other,
        }
    }
}

async fn names(router: &Router, query: NamespaceQuery) -> Result<NamespaceAnswer, MetadataError> {
    let (bucket, key) = match &query {
        NamespaceQuery::Head { bucket, key }
        | NamespaceQuery::Open { bucket, key }
        | NamespaceQuery::Reopen { bucket, key, .. }
        | NamespaceQuery::Manifests { bucket, key, .. }
        | NamespaceQuery::Upload { bucket, key, .. }
        | NamespaceQuery::Parts { bucket, key, .. } => (*bucket, key),
        NamespaceQuery::List { query, .. } => return list(router, query.clone()).await,
        NamespaceQuery::Uploads { query, .. } => return uploads(router, query.clone()).await,
        NamespaceQuery::Outbox { max } => return outbox(router, *max).await,
        NamespaceQuery::Intents { after, max } => return intents(router, *after, *max).await,
    };
    match at(router, bucket, key.as_bytes().to_vec(), query).await? {
        Answer::Namespace(answer) => Ok(answer),
        _ => Err(unexpected()),
    }
}

async fn at(router: &Router, bucket: BucketId, key: Vec<u8>, query: NamespaceQuery) -> Result<Answer, MetadataError> {
    let point = NamePoint { bucket, key };
    routed(router, |map| map.names().of(&point).group, Query::Namespace(query)).await
}

fn listing(error: ListingError) -> MetadataError {
    MetadataError::Unavailable { reason: format!("a listing over several groups broke off: {error}") }
}

async fn list(router: &Router, query: ListQuery) -> Result<NamespaceAnswer, MetadataError> {
    let mut gathering = Listing::new(query);
    while let Some(ask) = gathering.ask() {
        let NamePoint { bucket, key } = ask.place.clone();
        let query = NamespaceQuery::List { query: ask.query, place: Some(ask.place) };
        let Answer::Namespace(NamespaceAnswer::List { page, end }) = at(router, bucket, key, query).await? else {
            return Err(unexpected());
        };
        gathering.heard(end.as_ref(), page).map_err(listing)?;
    }
    Ok(NamespaceAnswer::List { page: gathering.page(), end: None })
}

async fn uploads(router: &Router, query: UploadsQuery) -> Result<NamespaceAnswer, MetadataError> {
    let mut gathering = Uploads::new(query);
    while let Some((place, query)) = gathering.ask() {
        let NamePoint { bucket, key } = place.clone();
        let query = NamespaceQuery::Uploads { query, place: Some(place) };
        let Answer::Namespace(NamespaceAnswer::Uploads { page, end }) = at(router, bucket, key, query).await? else {
            return Err(unexpected());
        };
        gathering.heard(end.as_ref(), page).map_err(listing)?;
    }
    Ok(NamespaceAnswer::Uploads { page: gathering.page(), end: None })
}

/// Every group that may have names, or an outbox of names that it had; `false`: it has none before its move is through, which may be this
/// moment. Asked of the root each time: a group that an old map does not know would be passed over, and nobody would refuse anything that
/// told so.
async fn all_groups(router: &Router) -> Result<BTreeMap<GroupId, bool>, MetadataError> {
    router.look(Instant::now(), router.map().epoch()).await?;
    let mut groups = BTreeMap::from([(ROOT, true)]);
    if router.map().epoch().0 == 0 {
        return Ok(groups);
    }
    match router.groups.query_of(ROOT, Query::Root(RootQuery::Groups)).await? {
        Answer::Root(RootAnswer::Groups(records)) => groups.extend(records.iter().map(|record| (record.id, true))),
        _ => return Err(unexpected()),
    }
    // A group that is only being made, perhaps by processes that are down, holds up nothing.
    match router.groups.query_of(ROOT, Query::Root(RootQuery::Moves)).await? {
        Answer::Root(RootAnswer::Moves(moves)) => {
            for known in moves.iter().filter(|known| known.ask.founders().is_some()) {
                match known.step {
                    // One that was given up has served nothing, and never will.
                    MoveStep::Begun | MoveStep::GaveUp => drop(groups.remove(&known.to)),
                    MoveStep::Copying => drop(groups.insert(known.to, false)),
                    _ => {}
                }
            }
        }
        _ => return Err(unexpected()),
    }
    groups.extend(router.map().names().iter().map(|route| (route.group, true)));
    Ok(groups)
}

/// What one group says; `None`: it is no more, or not yet.
async fn of_group(
    router: &Router,
    (group, served): (GroupId, bool),
    query: NamespaceQuery,
) -> Result<Option<NamespaceAnswer>, MetadataError> {
    let asked = router.groups.query_of(group, Query::Namespace(query));
    let answer = match served {
        true => asked.await,
        false => tokio::time::timeout(UNSERVED, asked).await.unwrap_or(Err(MetadataError::NotHere)),
    };
    match answer {
        Ok(Answer::Namespace(answer)) => Ok(Some(answer)),
        Ok(_) => Err(unexpected()),
        Err(_) if !served => Ok(None),
        // Who has it may be away: only the root says that it is no more.
        Err(MetadataError::NotHere) => match all_groups(router).await?.contains_key(&group) {
            true => Err(MetadataError::Unavailable { reason: format!("nobody who has group {group} can be asked") }),
            false => Ok(None),
        },
        Err(error) => Err(error),
    }
}

async fn outbox(router: &Router, max: usize) -> Result<NamespaceAnswer, MetadataError> {
    let mut out = Vec::new();
    for group in all_groups(router).await? {
        let left = max.saturating_sub(out.len());
        if left == 0 {
            break;
        }
        match of_group(router, group, NamespaceQuery::Outbox { max: left }).await? {
            Some(NamespaceAnswer::Outbox(entries)) => out.extend(entries),
            Some(_) => return Err(unexpected()),
            None => {}
        }
    }
    Ok(NamespaceAnswer::Outbox(out))
}

async fn intents(router: &Router, after: Option<VersionId>, max: usize) -> Result<NamespaceAnswer, MetadataError> {
    // One that moved between two answers comes twice, and is the same.
    let mut out: BTreeMap<VersionId, IntentRecord> = BTreeMap::new();
    for group in all_groups(router).await? {
        match of_group(router, group, NamespaceQuery::Intents { after, max }).await? {
            Some(NamespaceAnswer::Intents(found)) => out.extend(found.into_iter().map(|intent| (intent.version, intent))),
            Some(_) => return Err(unexpected()),
            None => {}
        }
    }
    Ok(NamespaceAnswer::Intents(out.into_values().take(max).collect()))
}

async fn records(router: &Router, chunks: Vec<ChunkId>) -> Result<Vec<Option<ChunkRecord>>, MetadataError> {
    let mut out: Vec<Option<ChunkRecord>> = vec![None; chunks.len()];
    let mut missing: Vec<usize> = (0..chunks.len()).collect();
    let mut patience = Patience::new();
    while !missing.is_empty() {
        let map = router.map();
        let mut by_group: BTreeMap<GroupId, Vec<usize>> = BTreeMap::new();
        missing.iter().for_each(|at| by_group.entry(map.chunks().of(&chunks[*at]).group).or_default().push(*at));
        let asked = by_group.into_iter().map(|(group, places)| {
            let ids = places.iter().map(|at| chunks[*at]).collect();
            async move { (group, places, router.groups.query_of(group, Query::Chunk(ChunkQuery::Records(ids))).await) }
        });
        missing.clear();
        for (group, places, answer) in futures::future::join_all(asked).await {
            match answer {
                Ok(Answer::Chunk(ChunkAnswer::Records(found))) if found.len() == places.len() => {
                    places.into_iter().zip(found).for_each(|(at, record)| out[at] = record);
                }
                Ok(_) => return Err(unexpected()),
                Err(MetadataError::NotHere) => missing.extend(places),
                Err(error @ MetadataError::Unavailable { .. }) => {
                    let first = places.first().map(|at| chunks[*at]).ok_or_else(unexpected)?;
                    if !router.is_elsewhere(group, map.epoch(), |map| map.chunks().of(&first).group).await {
                        return Err(error);
                    }
                    missing.extend(places);
                }
                Err(error) => return Err(error),
            }
        }
        if !missing.is_empty() {
            router.again(&mut patience, true, map.epoch()).await?;
        }
    }
    Ok(out)
}

/// What is being gathered over the groups.
enum Gathered {
    Ids(Vec<(spine::id::ChunkId, spine::id::Gen)>),
    Scan(Vec<(ChunkId, ChunkRecord)>),
    Totals(Totals),
    Held(bool),
    Doubted(bool),
    /// The least; `None`: no group has answered yet.
    Given(Option<u64>),
}

impl Gathered {
    fn add(&mut self, answer: ChunkAnswer) -> Option<()> {
        match (self, answer) {
            (Gathered::Ids(all), ChunkAnswer::Ids(these)) => all.extend(these),
            (Gathered::Scan(all), ChunkAnswer::Scan(these)) => all.extend(these),
            (Gathered::Totals(all), ChunkAnswer::Totals(these)) => {
                all.chunks += these.chunks;
                all.references += these.references;
                all.owed += these.owed;
                all.plain_bytes += these.plain_bytes;
                all.sealed_bytes += these.sealed_bytes;
            }
            (Gathered::Held(any), ChunkAnswer::Held(this)) | (Gathered::Doubted(any), ChunkAnswer::Doubted(this)) => *any |= this,
            (Gathered::Given(least), ChunkAnswer::Given(this)) => *least = Some(least.map_or(this, |least| least.min(this))),
            _ => return None,
        }
        Some(())
    }

    fn len(&self) -> usize {
        match self {
            Gathered::Ids(all) => all.len(),
            Gathered::Scan(all) => all.len(),
            Gathered::Totals(_) | Gathered::Held(_) | Gathered::Doubted(_) | Gathered::Given(_) => 0,
        }
    }

    fn answer(self) -> ChunkAnswer {
        match self {
            Gathered::Ids(all) => ChunkAnswer::Ids(all),
            Gathered::Scan(all) => ChunkAnswer::Scan(all),
            Gathered::Totals(all) => ChunkAnswer::Totals(all),
            Gathered::Held(any) => ChunkAnswer::Held(any),
            Gathered::Doubted(any) => ChunkAnswer::Doubted(any),
            Gathered::Given(least) => ChunkAnswer::Given(least.unwrap_or(0)),
        }
    }
}

/// Where the walk begins, what it gathers, and how many at most.
fn begin(query: &ChunkQuery) -> Option<(Option<ChunkId>, Gathered, usize)> {
    Some(match query {
        ChunkQuery::Unreferenced { max } | ChunkQuery::Condemned { max, .. } => (None, Gathered::Ids(Vec::new()), *max),
        ChunkQuery::Deleting { max } => (None, Gathered::Scan(Vec::new()), *max),
        ChunkQuery::Owed { after, max } | ChunkQuery::Scan { after, max } => (*after, Gathered::Scan(Vec::new()), *max),
        ChunkQuery::Totals => (None, Gathered::Totals(Totals::default()), 1),
        ChunkQuery::Held => (None, Gathered::Held(false), 1),
        ChunkQuery::Doubted => (None, Gathered::Doubted(false), 1),
        ChunkQuery::Given => (None, Gathered::Given(None), 1),
        ChunkQuery::Records(_) | ChunkQuery::References { .. } => return None,
    })
}

fn with_max(query: &ChunkQuery, left: usize) -> ChunkQuery {
    let mut query = query.clone();
    match &mut query {
        ChunkQuery::Unreferenced { max }
        | ChunkQuery::Condemned { max, .. }
        | ChunkQuery::Deleting { max }
        | ChunkQuery::Owed { max, .. }
        | ChunkQuery::Scan { max, .. } => *max = left,
        ChunkQuery::Totals | ChunkQuery::Held | ChunkQuery::Doubted | ChunkQuery::Given => {}
        ChunkQuery::Records(_) | ChunkQuery::References { .. } => {}
    }
    query
}

/// A question about all chunks of a span: range after range, in the order of the chunks.
async fn work(router: &Router, span: ChunkSpan, query: ChunkQuery) -> Result<ChunkAnswer, MetadataError> {
    let (after, mut gathered, max) = begin(&query).ok_or_else(unexpected)?;
    let mut rest = Some(ChunkSpan { start: after.map_or(span.start, |after| after.max(span.start)), end: span.end });
    let (mut patience, mut answered) = (Patience::new(), BTreeSet::new());
    while let Some(open) = rest.filter(|open| !open.is_empty()) {
        let left = max.saturating_sub(gathered.len());
        if left == 0 {
            break;
        }
        let map = router.map();
        let Some((group, first)) = spans(&open, &map).into_iter().next() else { break };
        match router.groups.query_of(group, Query::Within { span: first, query: with_max(&query, left) }).await {
            Ok(Answer::Chunk(answer)) => {
                // Totals are a group's, whatever span it was asked about.
                if answered.insert(group) || !matches!(gathered, Gathered::Totals(_)) {
                    gathered.add(answer).ok_or_else(unexpected)?;
                }
                rest = first.end.map(|start| ChunkSpan { start, end: span.end });
            }
            Ok(_) => return Err(unexpected()),
            Err(MetadataError::NotHere) => router.again(&mut patience, true, map.epoch()).await?,
            Err(MetadataError::Unavailable { .. })
                if router.is_elsewhere(group, map.epoch(), |map| map.chunks().of(&first.start).group).await => {}
            Err(error) => return Err(error),
        }
    }
    Ok(gathered.answer())
}
