//! What each order does to what a group has of one kind. Pure: no tables.
//!
//! ```text
//! source   -- export --> outgoing <-- freeze/thaw --> frozen -- release --> leaving -- purge, nothing left --> (over)
//!                            \--- cancel, nothing left --> (over)
//! target   -- prepare --> incoming -- import.. -- serve --> settling -- purge, nothing left --> (over)
//!                            \--- drop, nothing left --> (over)
//! ```
//! Invariants: what a group owns is one span; what it takes in is next to it, and what it gives away is an end of it, so that it stays one.
//! A group is part of one move of a kind at a time. A move that is over, or was taken back before it began, never begins again.

use spine::id::GroupId;
use spine::map::Point;
use spine::wire::Refusal;
use spine::wire::range::{Handover, Holding, Incoming, Leaving, Mover, Outgoing, Progress, Span};

/// What a group begins with.
pub fn at_start<P: Point>(everything: bool) -> Holding<P> {
    let owned = everything.then(|| Span { start: P::first(), end: None });
    Holding { owned, outgoing: None, leaving: None, incoming: None, settling: None, served: 0, released: 0, past: 0 }
}

/// What may be done at a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    Open,
    /// Everything, and a change is to be noted.
    Noted,
    /// It can be read.
    Frozen,
    /// It is another group's.
    Elsewhere,
}

pub fn access<P: Point>(holding: &Holding<P>, point: &P) -> Access {
    if !holding.owned.as_ref().is_some_and(|owned| owned.holds(point)) {
        return Access::Elsewhere;
    }
    match &holding.outgoing {
        Some(outgoing) if outgoing.span.holds(point) && outgoing.frozen => Access::Frozen,
        Some(outgoing) if outgoing.span.holds(point) && !outgoing.cancelled => Access::Noted,
        _ => Access::Open,
    }
}

/// Whether a change may be made there.
///
/// # Errors
/// `NotHere`, `Frozen`.
pub fn may_write(access: Access) -> Result<(), Refusal> {
    match access {
        Access::Open | Access::Noted => Ok(()),
        Access::Frozen => Err(Refusal::Frozen),
        Access::Elsewhere => Err(Refusal::NotHere),
    }
}

/// Whether nothing of this kind is in any other group, nor about to be.
pub fn is_whole<P: Point>(holding: &Holding<P>) -> bool {
    holding.outgoing.is_none() && holding.owned.as_ref().is_some_and(|owned| owned.start == P::first() && owned.end.is_none())
}

/// Whether two spans have a point in common.
pub fn overlap<P: Point>(one: &Span<P>, other: &Span<P>) -> bool {
    let before = |left: &Span<P>, right: &Span<P>| left.end.as_ref().is_some_and(|end| *end <= right.start);
    !one.is_empty() && !other.is_empty() && !before(one, other) && !before(other, one)
}

/// The order is of `by.id`, which is `known`'s: notes its attempt.
fn take_up(known: &mut Mover, by: Mover) -> Result<(), Refusal> {
    if by.attempt < known.attempt {
        return Err(Refusal::OldAttempt);
    }
    known.attempt = by.attempt;
    Ok(())
}

fn is_busy<P>(holding: &Holding<P>) -> bool {
    holding.outgoing.is_some() || holding.leaving.is_some() || holding.incoming.is_some() || holding.settling.is_some()
}

/// # Errors
/// `NoSuchMove`: it is over, the group is part of another, or the range does not fit; `OldAttempt`.
pub fn prepare<P: Point>(holding: &mut Holding<P>, by: Mover, span: &Span<P>, from: GroupId) -> Result<(), Refusal> {
    if let Some(incoming) = &mut holding.incoming
        && incoming.by.id == by.id
    {
        let same = incoming.span == *span && incoming.from == from && !incoming.dropped;
        return if same { take_up(&mut incoming.by, by) } else { Err(Refusal::NoSuchMove) };
    }
    let fits = match &holding.owned {
        None => true,
        Some(owned) => owned.end.as_ref() == Some(&span.start) || span.end.as_ref() == Some(&owned.start),
    };
    if by.id <= holding.past || is_busy(holding) || span.is_empty() || !fits {
        return Err(Refusal::NoSuchMove);
    }
    holding.incoming = Some(Incoming { by, span: span.clone(), from, progress: Progress::start(), dropped: false });
    Ok(())
}

/// # Errors
/// As [`prepare`].
pub fn export<P: Point>(holding: &mut Holding<P>, by: Mover, span: &Span<P>, to: GroupId) -> Result<(), Refusal> {
    if let Some(outgoing) = &mut holding.outgoing
        && outgoing.by.id == by.id
    {
        let same = outgoing.span == *span && outgoing.to == to && !outgoing.cancelled;
        return if same { take_up(&mut outgoing.by, by) } else { Err(Refusal::NoSuchMove) };
    }
    let is_end = |owned: &Span<P>| owned.covers(span) && (owned.start == span.start || owned.end == span.end);
    if by.id <= holding.past || is_busy(holding) || span.is_empty() || !holding.owned.as_ref().is_some_and(is_end) {
        return Err(Refusal::NoSuchMove);
    }
    holding.outgoing = Some(Outgoing { by, span: span.clone(), to, frozen: false, cancelled: false, changes: 0 });
    Ok(())
}

/// The source's part of a move that goes on.
///
/// # Errors
/// `NoSuchMove`, `OldAttempt`.
pub fn source<P>(holding: &mut Holding<P>, by: Mover) -> Result<&mut Outgoing<P>, Refusal> {
    let outgoing = holding.outgoing.as_mut().filter(|outgoing| outgoing.by.id == by.id && !outgoing.cancelled);
    let outgoing = outgoing.ok_or(Refusal::NoSuchMove)?;
    take_up(&mut outgoing.by, by)?;
    Ok(outgoing)
}

/// The target's part of a move that goes on.
///
/// # Errors
/// `NoSuchMove`, `OldAttempt`.
pub fn target<P>(holding: &mut Holding<P>, by: Mover) -> Result<&mut Incoming<P>, Refusal> {
    let incoming = holding.incoming.as_mut().filter(|incoming| incoming.by.id == by.id && !incoming.dropped);
    let incoming = incoming.ok_or(Refusal::NoSuchMove)?;
    take_up(&mut incoming.by, by)?;
    Ok(incoming)
}

/// Freezes, or thaws. After the release there is nothing more to freeze, and that is no error.
///
/// # Errors
/// `NoSuchMove`, `OldAttempt`.
pub fn freeze<P>(holding: &mut Holding<P>, by: Mover, frozen: bool) -> Result<(), Refusal> {
    if frozen && holding.released == by.id {
        return Ok(());
    }
    source(holding, by)?.frozen = frozen;
    Ok(())
}

/// Takes one step of imports.
///
/// # Errors
/// `NotDrained` unless the target has come exactly as far as `after`; `NoSuchMove`, `OldAttempt`.
pub fn import<P>(holding: &mut Holding<P>, by: Mover, after: &Progress, upto: &Progress) -> Result<(), Refusal> {
    let incoming = target(holding, by)?;
    if incoming.progress != *after || upto < after {
        return Err(Refusal::NotDrained);
    }
    incoming.progress = upto.clone();
    Ok(())
}

/// Gives the range away, with what the target must know. The second time it answers as the first.
///
/// # Errors
/// `NotDrained`: not frozen, or `change` is not the last one; `NoSuchMove`, `OldAttempt`.
pub fn release<P: Point>(holding: &mut Holding<P>, by: Mover, change: u64, handover: Handover) -> Result<Handover, Refusal> {
    if let Some(leaving) = &mut holding.leaving
        && leaving.by.id == by.id
    {
        take_up(&mut leaving.by, by)?;
        return Ok(leaving.handover);
    }
    let outgoing = source(holding, by)?;
    if !outgoing.frozen || outgoing.changes != change {
        return Err(Refusal::NotDrained);
    }
    let (by, span, handover) = (outgoing.by, outgoing.span.clone(), Handover { change, ..handover });
    let owned = holding.owned.take().ok_or(Refusal::NoSuchMove)?;
    holding.owned = without(owned, &span);
    holding.outgoing = None;
    holding.leaving = Some(Leaving { by, span, handover });
    holding.released = by.id;
    Ok(handover)
}

/// What is left of `owned` if `span`, an end of it, goes.
fn without<P: Point>(owned: Span<P>, span: &Span<P>) -> Option<Span<P>> {
    if owned.start == span.start {
        let start = if owned.end == span.end { None } else { span.end.clone() };
        return start.map(|start| Span { start, end: owned.end });
    }
    Some(Span { start: owned.start, end: Some(span.start.clone()) })
}

/// Owns the range from here on; whether it did not before.
///
/// # Errors
/// `NotDrained`: changes are missing; `NoSuchMove`, `OldAttempt`.
pub fn serve<P: Point>(holding: &mut Holding<P>, by: Mover, handover: &Handover) -> Result<bool, Refusal> {
    if holding.served == by.id {
        return Ok(false);
    }
    let incoming = target(holding, by)?;
    if incoming.progress != (Progress::Following { change: handover.change }) {
        return Err(Refusal::NotDrained);
    }
    let (by, span) = (incoming.by, incoming.span.clone());
    holding.owned = Some(match holding.owned.take() {
        None => span,
        Some(owned) if owned.end.as_ref() == Some(&span.start) => Span { start: owned.start, end: span.end },
        Some(owned) => Span { start: span.start, end: owned.end },
    });
    holding.incoming = None;
    holding.settling = Some(by);
    holding.served = by.id;
    Ok(true)
}

/// What is to be deleted in bounded steps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rubbish<P> {
    /// Rows of the range, and the changes that were noted.
    Left(Span<P>),
    /// What the target noted of its imports.
    Notes,
    /// The changes that were noted.
    Changes,
    /// Rows that were imported.
    Imported(Span<P>),
}

/// What Purge deletes; `None`: it is all gone.
///
/// # Errors
/// `NoSuchMove`: the group was no part of the move, or the move has not come so far; `OldAttempt`.
pub fn purge<P: Point>(holding: &mut Holding<P>, by: Mover) -> Result<Option<Rubbish<P>>, Refusal> {
    if let Some(leaving) = &mut holding.leaving
        && leaving.by.id == by.id
    {
        take_up(&mut leaving.by, by)?;
        return Ok(Some(Rubbish::Left(leaving.span.clone())));
    }
    if let Some(settling) = &mut holding.settling
        && settling.id == by.id
    {
        take_up(settling, by)?;
        return Ok(Some(Rubbish::Notes));
    }
    if holding.served == by.id || holding.released == by.id { Ok(None) } else { Err(Refusal::NoSuchMove) }
}

/// What Cancel deletes, and that nothing is frozen or noted any more; `None`: it is all gone, or never was.
///
/// # Errors
/// `NoSuchMove`: it was released, or the group is part of another; `OldAttempt`.
pub fn cancel<P: Point>(holding: &mut Holding<P>, by: Mover) -> Result<Option<Rubbish<P>>, Refusal> {
    if let Some(outgoing) = &mut holding.outgoing
        && outgoing.by.id == by.id
    {
        take_up(&mut outgoing.by, by)?;
        (outgoing.frozen, outgoing.cancelled) = (false, true);
        return Ok(Some(Rubbish::Changes));
    }
    never_began(holding, by, holding.released)
}

/// What Drop deletes; `None`: it is all gone, or never was.
///
/// # Errors
/// `NoSuchMove`: it is served, or the group is part of another; `OldAttempt`.
pub fn discard<P: Point>(holding: &mut Holding<P>, by: Mover) -> Result<Option<Rubbish<P>>, Refusal> {
    if let Some(incoming) = &mut holding.incoming
        && incoming.by.id == by.id
    {
        take_up(&mut incoming.by, by)?;
        incoming.dropped = true;
        return Ok(Some(Rubbish::Imported(incoming.span.clone())));
    }
    never_began(holding, by, holding.served)
}

/// Shuts the door for a move that is not known here, unless it is the one that was `done`.
fn never_began<P>(holding: &mut Holding<P>, by: Mover, done: u64) -> Result<Option<Rubbish<P>>, Refusal> {
    if by.id == done || (by.id > holding.past && is_busy(holding)) {
        return Err(Refusal::NoSuchMove);
    }
    holding.past = holding.past.max(by.id);
    Ok(None)
}

/// Nothing is left of what [`purge`], [`cancel`] or [`discard`] named.
pub fn over<P>(holding: &mut Holding<P>, id: u64) {
    holding.leaving.take_if(|leaving| leaving.by.id == id);
    holding.settling.take_if(|settling| settling.id == id);
    holding.outgoing.take_if(|outgoing| outgoing.by.id == id);
    holding.incoming.take_if(|incoming| incoming.by.id == id);
    holding.past = holding.past.max(id);
}
