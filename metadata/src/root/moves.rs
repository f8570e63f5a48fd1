//! Moves of ranges: what is under way, how far, who has taken it up, and what was.
//!
//! ```text
//! BeginMove -> Begun -> Copying -> Released -> Mapped -> Done
//!                 \________\______________________________> GaveUp (only where it is unwanted)
//! ```
//! Invariants: a group is in at most one move; a step goes forwards, one at a time, and only for who took the move up last; the map
//! changes with the step to `Mapped` and at no other time; a group made for a move that is given up ends with it.
//! Not here: doing it (`mover.rs`), what the two groups make of it.

use super::map;
use crate::format;
use crate::key;
use crate::record::{decode, each, load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::id::{Epoch, GroupId, MoveId, UnixMs};
use spine::limit::{MOVES, MOVES_KEPT};
use spine::map::{Change, Map, MapError, Point, Ranges};
use spine::wire::cluster::Member;
use spine::wire::format::LEVELLED;
use spine::wire::range::{Range, Span};
use spine::wire::root::{MoveAsk, MoveRecord, MoveStep};
use spine::wire::{Refusal, Reply};
use std::ops::ControlFlow;

/// The map's change that ends the move.
fn change_of(record: &MoveRecord) -> Change {
    let (from, to) = (record.from, record.to);
    match &record.ask {
        MoveAsk::SplitNames { at, .. } => Change::SplitNames { at: at.clone(), group: to },
        MoveAsk::SplitChunks { at, .. } => Change::SplitChunks { at: *at, group: to },
        MoveAsk::MergeNames { into } => Change::MergeNames { group: *into },
        MoveAsk::MergeChunks { into } => Change::MergeChunks { group: *into },
        MoveAsk::MoveNames { .. } => Change::MoveNames { from, to },
        MoveAsk::MoveChunks { .. } => Change::MoveChunks { from, to },
    }
}

/// What an ask means by the map of now.
struct Plan<'a> {
    span: Range,
    from: GroupId,
    /// `Err`: a new group of these.
    to: Result<GroupId, &'a [Member]>,
}

fn plan<'a>(map: &Map, ask: &'a MoveAsk) -> Option<Plan<'a>> {
    let names = |(start, end, from): Cut<_>, to| Plan { span: Range::Names(Span { start, end }), from, to };
    let chunks = |(start, end, from): Cut<_>, to| Plan { span: Range::Chunks(Span { start, end }), from, to };
    Some(match ask {
        MoveAsk::SplitNames { at, members } => names(cut(map.names(), at)?, Err(members)),
        MoveAsk::SplitChunks { at, members } => chunks(cut(map.chunks(), at)?, Err(members)),
        MoveAsk::MergeNames { into } => names(after(map.names(), *into)?, Ok(*into)),
        MoveAsk::MergeChunks { into } => chunks(after(map.chunks(), *into)?, Ok(*into)),
        MoveAsk::MoveNames { from, members } => names(whole(map.names(), *from)?, Err(members)),
        MoveAsk::MoveChunks { from, members } => chunks(whole(map.chunks(), *from)?, Err(members)),
    })
}

/// Start, end, and the group that has it.
type Cut<P> = (P, Option<P>, GroupId);

/// From `at` to the end of its range; `None`: a range begins there already.
fn cut<P: Point>(ranges: &Ranges<P>, at: &P) -> Option<Cut<P>> {
    let route = ranges.of(at);
    (route.start != at).then(|| (at.clone(), route.end.cloned(), route.group))
}

/// The range after the group's.
fn after<P: Point>(ranges: &Ranges<P>, group: GroupId) -> Option<Cut<P>> {
    let route = ranges.of(ranges.of_group(group)?.end?);
    Some((route.start.clone(), route.end.cloned(), route.group))
}

fn whole<P: Point>(ranges: &Ranges<P>, group: GroupId) -> Option<Cut<P>> {
    let route = ranges.of_group(group)?;
    Some((route.start.clone(), route.end.cloned(), group))
}

pub fn begin(table: &mut dyn TableWrite, ask: &MoveAsk, expected: Epoch, reason: &str, now: UnixMs) -> Result<Reply, TableError> {
    let refuse = |why| Ok(Reply::Refused(why));
    let map = map::get(table)?;
    if map.epoch() != expected {
        return refuse(Refusal::MapChanged);
    }
    let Some(Plan { span, from, to }) = plan(&map, ask) else { return refuse(Refusal::NoSuchRange) };
    if to.is_err_and(<[Member]>::is_empty) {
        return refuse(Refusal::NoSuchRange);
    }
    let all = all(table)?;
    let under_way: Vec<&MoveRecord> = all.iter().filter(|known| !known.step.is_over()).collect();
    if under_way.len() >= MOVES {
        return refuse(Refusal::TooManyMoves);
    }
    if under_way.iter().any(|known| [Some(known.from), Some(known.to)].iter().any(|busy| *busy == Some(from) || *busy == to.ok())) {
        return refuse(Refusal::GroupMoves);
    }
    // Tried before anything is written: a group's id that the map would not take is not given.
    let fits = match to {
        Ok(_) => true,
        Err(_) => map.names().len() + map.chunks().len() + under_way.len() < spine::limit::MAP_RANGES,
    };
    let to = match to {
        _ if !fits => None,
        Ok(group) => Some(group),
        Err(members) => map::new_group(table, members, now)?,
    };
    let Some(to) = to else { return refuse(Refusal::MapFull) };
    let id = next_id(table)?;
    let reason = reason.to_owned();
    let record = MoveRecord {
        id,
        ask: ask.clone(),
        span,
        from,
        to,
        step: MoveStep::Begun,
        attempt: 0,
        unwanted: false,
        reason,
        begun: now,
        changed: now,
    };
    save(table, Space::Root, &key::moved(id), &record)?;
    let over: Vec<MoveId> = all.iter().filter(|known| known.step.is_over()).map(|known| known.id).collect();
    for old in over.iter().take((over.len() + 1).saturating_sub(MOVES_KEPT)) {
        table.delete(Space::Root, &key::moved(*old))?;
    }
    Ok(Reply::Moving(id))
}

/// The next number of a move, of a range or of anything else that goes from one server to another.
pub fn next_id(table: &mut dyn TableWrite) -> Result<MoveId, TableError> {
    let id = next(table)?;
    begin_from(table, MoveId(id.0 + 1))?;
    Ok(id)
}

/// The number that [`next_id`] gives.
pub fn next(table: &dyn TableRead) -> Result<MoveId, TableError> {
    Ok(MoveId(load(table, Space::Root, key::ROOT_MOVE_COUNTER)?.unwrap_or(1)))
}

/// Has the next number be this one.
pub fn begin_from(table: &mut dyn TableWrite, next: MoveId) -> Result<(), TableError> {
    save(table, Space::Root, key::ROOT_MOVE_COUNTER, &next)
}

fn under_way(table: &dyn TableRead, id: MoveId) -> Result<Option<MoveRecord>, TableError> {
    load::<MoveRecord>(table, Space::Root, &key::moved(id)).map(|known| known.filter(|known| !known.step.is_over()))
}

pub fn take(table: &mut dyn TableWrite, id: MoveId) -> Result<Reply, TableError> {
    let Some(known) = under_way(table, id)? else { return Ok(Reply::Refused(Refusal::NoSuchMove)) };
    let attempt = known.attempt + 1;
    save(table, Space::Root, &key::moved(id), &MoveRecord { attempt, ..known })?;
    Ok(Reply::Attempt(attempt))
}

pub fn give_up(table: &mut dyn TableWrite, id: MoveId) -> Result<Reply, TableError> {
    let Some(known) = under_way(table, id)? else { return Ok(Reply::Refused(Refusal::NoSuchMove)) };
    save(table, Space::Root, &key::moved(id), &MoveRecord { unwanted: true, ..known })?;
    Ok(Reply::Done)
}

/// Whether a move may go from one step to the other.
fn may_step(from: MoveStep, to: MoveStep) -> bool {
    use MoveStep::*;
    matches!((from, to), (Begun, Copying) | (Copying, Released) | (Released, Mapped) | (Mapped, Done) | (Begun | Copying, GaveUp))
}

pub fn step(table: &mut dyn TableWrite, id: MoveId, attempt: u64, to: MoveStep, now: UnixMs) -> Result<Reply, TableError> {
    let Some(known) = load::<MoveRecord>(table, Space::Root, &key::moved(id))? else { return Ok(Reply::Refused(Refusal::NoSuchMove)) };
    if known.attempt != attempt {
        return Ok(Reply::Refused(Refusal::OldAttempt));
    }
    if known.step == to {
        return Ok(Reply::Done);
    }
    if !may_step(known.step, to) {
        return Ok(Reply::Refused(Refusal::NoSuchMove));
    }
    if to == MoveStep::Mapped
        && let Err(error) = map::change(table, &change_of(&known))?
    {
        return Ok(Reply::Refused(match error {
            MapError::Full => Refusal::MapFull,
            _ => Refusal::NoSuchRange,
        }));
    }
    if to == MoveStep::GaveUp && known.ask.founders().is_some() && format::of(table)? >= LEVELLED {
        // It has served nothing, and may not even have come about: nobody can be asked whether it has something left.
        map::note_ended(table, known.to)?;
    }
    save(table, Space::Root, &key::moved(id), &MoveRecord { step: to, changed: now, ..known })?;
    Ok(Reply::Done)
}

/// Whether a move that is under way has the group.
pub fn has(table: &dyn TableRead, group: GroupId) -> Result<bool, TableError> {
    Ok(all(table)?.iter().any(|known| !known.step.is_over() && (known.from == group || known.to == group)))
}

/// All that are known, by id.
pub fn all(table: &dyn TableRead) -> Result<Vec<MoveRecord>, TableError> {
    let mut out = Vec::new();
    each(table, Space::Root, &[key::ROOT_MOVE], &[], |at, value| {
        out.push(decode(Space::Root, at, value)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}
