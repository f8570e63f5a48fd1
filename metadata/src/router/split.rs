//! One command cut into what each group has to do, and the replies put together again. Pure.
//!
//! A part can be cut again by a newer map: its slots say which elements of the whole it has.
//! Invariant: every element of a command is in exactly one part, and what goes to all groups covers all chunks that it was to cover.

use super::storage;
use crate::root::map::ROOT;
use spine::id::{ChunkId, GroupId};
use spine::map::{Map, NamePoint};
use spine::wire::chunk::{ChunkCommand, ReserveOutcome};
use spine::wire::namespace::{NamespaceCommand, OutboxEntry};
use spine::wire::range::{ChunkSpan, RangeCommand};
use spine::wire::{Command, MetadataError, Refusal, Reply};
use std::collections::BTreeMap;

/// What one group does of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    pub group: GroupId,
    pub command: Command,
    /// Which elements of the whole command these are; none where it has none.
    pub slots: Vec<usize>,
}

impl Part {
    /// The whole command, for nobody in particular yet.
    pub fn whole(command: Command) -> Part {
        let elements = match &command {
            Command::Chunk(ChunkCommand::Reserve { chunks, .. }) => chunks.len(),
            Command::Chunk(ChunkCommand::Confirm { chunks, .. } | ChunkCommand::Restore { chunks, .. }) => chunks.len(),
            Command::Chunk(ChunkCommand::Forget { chunks }) => chunks.len(),
            _ => 0,
        };
        Part { group: ROOT, command, slots: (0..elements).collect() }
    }
}

/// The part's parts by this map.
///
/// # Errors
/// A mover's order: those go to a group by name.
pub fn split(part: Part, map: &Map) -> Result<Vec<Part>, MetadataError> {
    let Part { command, slots, .. } = part;
    let one = |group, command| Ok(vec![Part { group, command, slots: slots.clone() }]);
    match command {
        // What is restored, the root's group gets, which has everything then.
        Command::Root(_) | Command::Restore(_) => one(ROOT, command),
        Command::Namespace(NamespaceCommand::OutboxDone { entries }) => Ok(outbox(entries)),
        Command::Namespace(ref named) => {
            let group = place(named).map_or(ROOT, |point| map.names().of(&point).group);
            one(group, command)
        }
        Command::Chunk(command) => Ok(chunks(command, &slots, map)),
        Command::Range(RangeCommand::Bucket { bucket, ref from, .. }) => {
            let group = map.names().of(&NamePoint::new(bucket, from.to_vec())).group;
            one(group, command)
        }
        Command::Range(_) => Err(storage("a mover's order was given to nobody")),
    }
}

/// The place in the namespace that the command is about; `None`: it names its groups.
fn place(command: &NamespaceCommand) -> Option<NamePoint> {
    let (bucket, key) = match command {
        NamespaceCommand::OpenIntent { bucket, key, .. }
        | NamespaceCommand::RenewIntent { bucket, key, .. }
        | NamespaceCommand::AbortIntent { bucket, key, .. }
        | NamespaceCommand::Commit { bucket, key, .. }
        | NamespaceCommand::Delete { bucket, key, .. }
        | NamespaceCommand::SetTags { bucket, key, .. }
        | NamespaceCommand::PutPart { bucket, key, .. }
        | NamespaceCommand::CompleteUpload { bucket, key, .. }
        | NamespaceCommand::AbortUpload { bucket, key, .. } => (bucket, key),
        NamespaceCommand::CreateUpload(record) => (&record.bucket, &record.key),
        NamespaceCommand::OutboxDone { .. } => return None,
    };
    Some(NamePoint::new(*bucket, key.as_str()))
}

fn outbox(entries: Vec<OutboxEntry>) -> Vec<Part> {
    let mut by_group: BTreeMap<GroupId, Vec<OutboxEntry>> = BTreeMap::new();
    entries.into_iter().for_each(|entry| by_group.entry(entry.group).or_default().push(entry));
    let done = |entries| Command::Namespace(NamespaceCommand::OutboxDone { entries });
    if by_group.is_empty() {
        return vec![Part { group: ROOT, command: done(Vec::new()), slots: Vec::new() }];
    }
    by_group.into_iter().map(|(group, entries)| Part { group, command: done(entries), slots: Vec::new() }).collect()
}

/// Elements by the group of their chunk, with their slots.
fn by_group<T>(items: Vec<T>, slots: &[usize], map: &Map, chunk: impl Fn(&T) -> ChunkId) -> BTreeMap<GroupId, (Vec<T>, Vec<usize>)> {
    let mut out: BTreeMap<GroupId, (Vec<T>, Vec<usize>)> = BTreeMap::new();
    if items.is_empty() {
        out.entry(map.chunks().of(&ChunkId([0; 32])).group).or_default();
    }
    for (at, item) in items.into_iter().enumerate() {
        let (of, places) = out.entry(map.chunks().of(&chunk(&item)).group).or_default();
        of.push(item);
        places.extend(slots.get(at));
    }
    out
}

/// The parts of `span` by the map, each with its group.
pub fn spans(span: &ChunkSpan, map: &Map) -> Vec<(GroupId, ChunkSpan)> {
    let covering = map.chunks().covering(span.start, span.end);
    covering
        .map(|route| {
            let end = match (route.end.copied(), span.end) {
                (Some(route), Some(span)) => Some(route.min(span)),
                (route, span) => route.or(span),
            };
            (route.group, ChunkSpan { start: span.start.max(*route.start), end })
        })
        .collect()
}

fn chunks(command: ChunkCommand, slots: &[usize], map: &Map) -> Vec<Part> {
    let part = |group, command, slots| Part { group, command: Command::Chunk(command), slots };
    let many = |parts: Vec<(GroupId, ChunkCommand)>| parts.into_iter().map(|(group, command)| part(group, command, Vec::new())).collect();
    match command {
        ChunkCommand::Reserve { version, chunks } => {
            let parts = by_group(chunks, slots, map, |chunk| *chunk).into_iter();
            parts.map(|(group, (chunks, slots))| part(group, ChunkCommand::Reserve { version, chunks }, slots)).collect()
        }
        ChunkCommand::Confirm { version, chunks } => {
            let parts = by_group(chunks, slots, map, |confirmation| confirmation.chunk).into_iter();
            parts.map(|(group, (chunks, slots))| part(group, ChunkCommand::Confirm { version, chunks }, slots)).collect()
        }
        ChunkCommand::Restore { chunks, above } => {
            let parts = by_group(chunks, slots, map, |confirmation| confirmation.chunk).into_iter();
            parts.map(|(group, (chunks, slots))| part(group, ChunkCommand::Restore { chunks, above }, slots)).collect()
        }
        ChunkCommand::Condemn { chunks, now } => {
            let parts = by_group(chunks, &[], map, |(chunk, _)| *chunk).into_iter();
            many(parts.map(|(group, (chunks, _))| (group, ChunkCommand::Condemn { chunks, now })).collect())
        }
        ChunkCommand::BeginDelete { chunks } => {
            let parts = by_group(chunks, &[], map, |(chunk, _)| *chunk).into_iter();
            many(parts.map(|(group, (chunks, _))| (group, ChunkCommand::BeginDelete { chunks })).collect())
        }
        ChunkCommand::FinishDelete { chunks } => {
            let parts = by_group(chunks, &[], map, |(chunk, _)| *chunk).into_iter();
            many(parts.map(|(group, (chunks, _))| (group, ChunkCommand::FinishDelete { chunks })).collect())
        }
        ChunkCommand::Forget { chunks } => {
            let parts = by_group(chunks, slots, map, |(chunk, _)| *chunk).into_iter();
            parts.map(|(group, (chunks, slots))| part(group, ChunkCommand::Forget { chunks }, slots)).collect()
        }
        ChunkCommand::Unref { version, span } => {
            many(spans(&span, map).into_iter().map(|(group, span)| (group, ChunkCommand::Unref { version, span })).collect())
        }
        ChunkCommand::Hold { held, span } => {
            many(spans(&span, map).into_iter().map(|(group, span)| (group, ChunkCommand::Hold { held, span })).collect())
        }
        ChunkCommand::ReserveTarget { chunk, .. } | ChunkCommand::Move { chunk, .. } => {
            vec![part(map.chunks().of(&chunk).group, command, Vec::new())]
        }
        ChunkCommand::MarkLost { shard, .. } => vec![part(map.chunks().of(&shard.chunk).group, command, Vec::new())],
    }
}

/// The reply of a command whose parts gave these; `elements` as [`Part::whole`] counted them. `None`: they do not fit together.
pub fn merge(elements: usize, mut parts: Vec<(Vec<usize>, Reply)>) -> Option<Reply> {
    if parts.len() == 1 {
        return parts.pop().map(|(_, reply)| reply);
    }
    // What was refused was not done everywhere; what says most of why goes first.
    let refusals: Vec<Refusal> =
        parts.iter().filter_map(|(_, reply)| if let Reply::Refused(why) = reply { Some(*why) } else { None }).collect();
    if let Some(why) = refusals.iter().find(|why| **why != Refusal::Skipped).or(refusals.first()) {
        return Some(Reply::Refused(*why));
    }
    let (_, first) = parts.first()?;
    match first {
        Reply::Done => parts.iter().all(|(_, reply)| *reply == Reply::Done).then_some(Reply::Done),
        Reply::Unreferenced { .. } => {
            let each = parts.iter().map(|(_, reply)| if let Reply::Unreferenced { more } = reply { Some(*more) } else { None });
            let each: Vec<bool> = each.collect::<Option<_>>()?;
            Some(Reply::Unreferenced { more: each.contains(&true) })
        }
        Reply::Deleting(_) => {
            let mut all = Vec::new();
            for (_, reply) in parts {
                let Reply::Deleting(these) = reply else { return None };
                all.extend(these);
            }
            all.sort_unstable();
            Some(Reply::Deleting(all))
        }
        Reply::Reserved(_) => {
            let parts = parts.into_iter().map(|(slots, reply)| if let Reply::Reserved(of) = reply { Some((slots, of)) } else { None });
            gather::<ReserveOutcome>(elements, parts).map(Reply::Reserved)
        }
        Reply::Confirmed(_) => {
            let parts = parts.into_iter().map(|(slots, reply)| if let Reply::Confirmed(of) = reply { Some((slots, of)) } else { None });
            gather::<bool>(elements, parts).map(Reply::Confirmed)
        }
        _ => None,
    }
}

/// Outcomes of parts, each in its slot; `None` unless every slot has exactly one.
fn gather<T>(elements: usize, parts: impl Iterator<Item = Option<(Vec<usize>, Vec<T>)>>) -> Option<Vec<T>> {
    let mut out: Vec<Option<T>> = (0..elements).map(|_| None).collect();
    for part in parts {
        let (slots, outcomes) = part?;
        if slots.len() != outcomes.len() {
            return None;
        }
        for (slot, outcome) in slots.into_iter().zip(outcomes) {
            if out.get_mut(slot)?.replace(outcome).is_some() {
                return None;
            }
        }
    }
    out.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample;
    use proptest::prelude::*;
    use spine::id::{Gen, Tag};
    use spine::map::Change;
    use spine::wire::range::ALL_CHUNKS;

    fn map_of(cuts: &[u8]) -> Map {
        let mut map = Map::of_one(ROOT);
        for (at, cut) in cuts.iter().enumerate() {
            let _ = map.change(map.epoch(), &Change::SplitChunks { at: ChunkId([*cut; 32]), group: GroupId(at as u32 + 1) });
        }
        map
    }

    proptest! {
        #[test]
        fn outcomes_come_back_in_the_order_of_the_chunks_however_often_the_map_changes(
            chunks in prop::collection::vec(any::<u8>(), 0..30),
            cuts: Vec<u8>,
            later: Vec<u8>,
        ) {
            let (now, then) = (map_of(&cuts), map_of(&later));
            let ids: Vec<ChunkId> = chunks.iter().map(|n| sample::chunk(*n)).collect();
            let whole = Part::whole(Command::Chunk(ChunkCommand::Reserve { version: sample::version(1), chunks: ids }));
            let elements = whole.slots.len();
            let mut done = Vec::new();
            for part in split(whole, &now).unwrap() {
                for part in split(part, &then).unwrap() {
                    let Command::Chunk(ChunkCommand::Reserve { chunks, .. }) = &part.command else { panic!() };
                    prop_assert!(chunks.iter().all(|chunk| then.chunks().of(chunk).group == part.group));
                    let upload = |chunk: &ChunkId| ReserveOutcome::Upload { generation: Gen(u64::from(chunk.0[0])), tag: Tag(1) };
                    done.push((part.slots, Reply::Reserved(chunks.iter().map(upload).collect())));
                }
            }
            let merged = merge(elements, done);
            let expected = chunks.iter().map(|n| ReserveOutcome::Upload { generation: Gen(u64::from(*n)), tag: Tag(1) }).collect();
            prop_assert_eq!(merged, Some(Reply::Reserved(expected)));
        }

        #[test]
        fn what_goes_to_all_groups_covers_all_chunks_once_however_often_it_is_cut(cuts: Vec<u8>, later: Vec<u8>) {
            let (now, then) = (map_of(&cuts), map_of(&later));
            let mut parts = spans(&ALL_CHUNKS, &now).into_iter().flat_map(|(_, span)| spans(&span, &then)).collect::<Vec<_>>();
            parts.sort_by_key(|(_, span)| span.start);
            prop_assert_eq!(parts[0].1.start, ChunkId([0; 32]));
            prop_assert_eq!(parts[parts.len() - 1].1.end, None);
            prop_assert!(parts.windows(2).all(|pair| pair[0].1.end == Some(pair[1].1.start)));
            prop_assert!(parts.iter().all(|(group, span)| then.chunks().of(&span.start).group == *group));
        }
    }

    #[test]
    fn which_chunks_were_forgotten_comes_back_in_the_order_of_the_chunks() {
        let map = map_of(&[100]);
        let chunks: Vec<(ChunkId, Gen)> = [200, 3, 150, 7].map(|n| (ChunkId([n; 32]), Gen(u64::from(n)))).to_vec();
        let whole = Part::whole(Command::Chunk(ChunkCommand::Forget { chunks }));
        let (elements, parts) = (whole.slots.len(), split(whole, &map).unwrap());
        assert_eq!(parts.len(), 2);
        let done = parts.into_iter().map(|part| {
            let Command::Chunk(ChunkCommand::Forget { chunks }) = &part.command else { panic!() };
            assert!(chunks.iter().all(|(chunk, _)| map.chunks().of(chunk).group == part.group));
            let outcomes = chunks.iter().map(|(_, generation)| generation.0 < 170).collect();
            (part.slots, Reply::Confirmed(outcomes))
        });
        assert_eq!(merge(elements, done.collect()), Some(Reply::Confirmed(vec![false, true, true, true])));
    }

    #[test]
    fn a_command_of_which_a_part_was_refused_is_refused_with_the_reason_that_says_most() {
        let done = |reply| (Vec::new(), reply);
        let refused = |why| done(Reply::Refused(why));
        let merged = merge(0, vec![done(Reply::Done), refused(Refusal::Skipped), refused(Refusal::IntentClosed)]);
        assert_eq!(merged, Some(Reply::Refused(Refusal::IntentClosed)));
        assert_eq!(merge(0, vec![done(Reply::Done), done(Reply::Done)]), Some(Reply::Done));
        let unref = |more| done(Reply::Unreferenced { more });
        assert_eq!(merge(0, vec![unref(false), unref(true)]), Some(Reply::Unreferenced { more: true }));
        assert_eq!(merge(0, vec![unref(false), done(Reply::Done)]), None, "a group gave another reply");
        assert_eq!(merge(2, vec![(vec![0], Reply::Confirmed(vec![true])), (vec![0], Reply::Confirmed(vec![true]))]), None);
    }
}
