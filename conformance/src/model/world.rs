//! Writers, nodes and messages around one chunk's record, and what may happen next.

use super::wrong::Wrong;
use super::{Budget, Protocol};
use metadata::chunk_index::transition::{self, writers_tag};
use metadata::namespace::intent::Standing;
use spine::id::{ChunkId, Gen, KeyEpoch, NodeId, ShardIndex, ShardRoot, Tag, TenantId};
use spine::wire::chunk::{ChunkRecord, Place, Placement, Sealed, ShardName};
use spine::wire::namespace::Codec;
use std::collections::BTreeSet;

/// The one chunk there is.
pub const CHUNK: ChunkId = ChunkId([7; 32]);

/// One shard on one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Shard {
    pub generation: Gen,
    pub index: u8,
    pub node: u8,
    pub tag: Tag,
}

/// How far a gateway is with its write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    Start,
    Opened,
    Reserved(Gen),
    /// Shards are acknowledged; `aside`: the last one lies on another node than a rival would choose.
    Written {
        generation: Gen,
        aside: bool,
    },
    /// Confirmed, or a hit.
    Ready,
    End,
}

/// One version: its writer, its subtree, and what the chunk range knows of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Writer {
    pub phase: Phase,
    /// The subtree: its intent.
    pub standing: Standing,
    /// The subtree: it is an object's current version.
    pub visible: bool,
    /// The subtree: its Unref is queued.
    pub outbox: bool,
    /// The chunk range: its reference.
    pub holds: bool,
    /// The chunk range: its Unref was applied.
    pub fenced: bool,
}

/// Everything there is at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub record: Option<ChunkRecord>,
    /// Next generation or tag.
    pub(super) next: u64,
    /// Shards on disk; those not synced; those that a node was told to trash, or that the sweep found to be orphans.
    pub(super) disk: BTreeSet<Shard>,
    pub(super) unsynced: BTreeSet<Shard>,
    pub(super) doomed: BTreeSet<Shard>,
    /// Shards that went with an emptied disk.
    pub(super) wiped: BTreeSet<Shard>,
    /// Copies that repair is making, and whether they are synced.
    pub(super) copies: BTreeSet<(Shard, bool)>,
    pub writers: Vec<Writer>,
    pub(super) left: Budget,
    /// Only mutants remember these: an older record, an answer that the sweep had, a count of references.
    pub(super) older: Option<ChunkRecord>,
    pub(super) answer: Option<Option<ChunkRecord>>,
    pub(super) count: i8,
}

/// What may happen. Writers are named by their place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Open(usize),
    Reserve(usize),
    Write(usize, bool),
    Confirm(usize),
    /// Confirm and Commit chained in one batch.
    Finish(usize),
    Commit(usize),
    /// The reaper's AbortIntent, or the gateway's own.
    Abort(usize),
    Delete(usize),
    Unref(usize),
    OutboxDone(usize),
    LateOpen(usize),
    LateUnref(usize),
    EarlyUnref(usize),
    Condemn,
    BeginDelete,
    SweepAsk,
    SweepFind(Shard),
    /// A node trashes what it was told to, by the collector or by the sweep.
    Trash(Shard),
    PowerCut,
    Wipe(u8),
    ReportLost(u8),
    FalseAlarm(u8),
    Target(u8, u8),
    Copy(Shard),
    Move(Shard, bool),
}

impl World {
    pub fn new(model: &Protocol) -> Self {
        let writer =
            Writer { phase: Phase::Start, standing: Standing::Unknown, visible: false, outbox: false, holds: false, fenced: false };
        Self {
            record: None,
            next: 1,
            disk: BTreeSet::new(),
            unsynced: BTreeSet::new(),
            doomed: BTreeSet::new(),
            wiped: BTreeSet::new(),
            copies: BTreeSet::new(),
            writers: vec![writer; model.writers],
            left: model.budget,
            older: None,
            answer: None,
            count: 0,
        }
    }

    pub fn actions(&self, model: &Protocol, actions: &mut Vec<Action>) {
        for (w, writer) in self.writers.iter().enumerate() {
            self.actions_of(model, w, writer, actions);
        }
        if let Some(record) = &self.record {
            actions.extend([Action::Condemn, Action::BeginDelete]);
            for (index, place) in (0u8..).zip(record.placement.iter().flat_map(|placement| &placement.shards)) {
                if place.is_some_and(|place| !self.disk.contains(&shard_of(record.generation, index, &place))) {
                    actions.push(Action::ReportLost(index));
                } else if place.is_some() && self.left.false_alarms > 0 {
                    actions.push(Action::FalseAlarm(index));
                }
                if self.left.repairs > 0 {
                    actions.extend((0..model.nodes).map(|node| Action::Target(index, node)));
                }
            }
        }
        if model.steps().is(Wrong::SweepAsksFirst) {
            actions.push(Action::SweepAsk);
        }
        actions.extend(self.disk.iter().map(|shard| Action::SweepFind(*shard)));
        actions.extend(self.doomed.iter().map(|shard| Action::Trash(*shard)));
        for (shard, copied) in &self.copies {
            if !copied {
                actions.push(Action::Copy(*shard));
            }
            if *copied || model.steps().is(Wrong::MoveBeforeCopy) {
                actions.push(Action::Move(*shard, *copied));
            }
        }
        if self.left.power_cuts > 0 && !self.unsynced.is_empty() {
            actions.push(Action::PowerCut);
        }
        if self.left.wipes > 0 {
            actions.extend((0..model.nodes).map(Action::Wipe));
        }
    }

    fn actions_of(&self, model: &Protocol, w: usize, writer: &Writer, actions: &mut Vec<Action>) {
        match writer.phase {
            Phase::Start => actions.push(Action::Open(w)),
            Phase::Opened => actions.push(Action::Reserve(w)),
            Phase::Reserved(_) => {
                actions.push(Action::Write(w, false));
                if model.nodes > model.parity + 1 {
                    actions.push(Action::Write(w, true));
                }
            }
            Phase::Written { .. } => actions.extend([Action::Confirm(w), Action::Finish(w)]),
            Phase::Ready => actions.push(Action::Commit(w)),
            Phase::End => {}
        }
        if writer.standing == Standing::Open {
            actions.push(Action::Abort(w));
            if model.steps().is(Wrong::UnrefBeforeTerminal) {
                actions.push(Action::EarlyUnref(w));
            }
        }
        if writer.visible {
            actions.push(Action::Delete(w));
        }
        if writer.outbox {
            actions.extend([Action::Unref(w), Action::OutboxDone(w)]);
        }
        if self.left.late > 0 {
            if writer.phase != Phase::Start {
                actions.push(Action::LateOpen(w));
            }
            if writer.fenced {
                actions.push(Action::LateUnref(w));
            }
        }
    }

    /// Forgets what no later step can ask for, so that worlds that differ only in it are one. The true protocol's alone: a mutant may
    /// use a number twice, and then nothing is over.
    ///
    /// Over is an order to trash a shard that is gone and whose generation nobody writes any more, a wiped shard that the record
    /// names no more, and a copy that is made but was cancelled.
    pub fn forget(&mut self) {
        let record = self.record.clone();
        self.wiped.retain(|shard| transition::names(record.as_ref(), name(*shard), node(shard.node)));
        let current = self.record.as_ref().map(|record| record.generation);
        let written = |generation| self.writers.iter().any(|writer| writer.phase == Phase::Reserved(generation));
        let may_return =
            |shard: &Shard| current == Some(shard.generation) || written(shard.generation) || self.copies.contains(&(*shard, false));
        self.doomed.retain(|shard| self.disk.contains(shard) || may_return(shard));
        let targets = self.record.as_ref().map_or(&[][..], |record| &record.targets);
        let wanted = |shard: &Shard| targets.contains(&(ShardIndex(shard.index), node(shard.node), shard.tag));
        self.copies.retain(|(shard, copied)| !copied || wanted(shard));
    }

    /// Shards that the record places.
    pub(super) fn placed(&self) -> impl Iterator<Item = Shard> {
        let placed = |record: &ChunkRecord| {
            let shards = record.placement.iter().flat_map(|placement| (0u8..).zip(&placement.shards));
            shards.filter_map(|(index, place)| place.map(|place| shard_of(record.generation, index, &place))).collect::<Vec<_>>()
        };
        self.record.as_ref().map(placed).unwrap_or_default().into_iter()
    }
}

pub(super) fn placement(model: &Protocol, generation: Gen, aside: bool) -> Placement {
    let sealed = Sealed { tenant: TenantId(1), epoch: KeyEpoch(1), codec: Codec::Plain, len: 1, sealed_len: 17, k: 1, m: model.parity };
    let on = |index: u8| if aside && index == model.parity { model.nodes - 1 } else { index };
    let shards =
        (0..=model.parity).map(|index| Some(Place { node: node(on(index)), tag: writers_tag(generation), root: root() })).collect();
    Placement { sealed, shards }
}

pub(super) fn node(n: u8) -> NodeId {
    NodeId([n; 32])
}

pub(super) fn root() -> ShardRoot {
    ShardRoot([0; 32])
}

pub(super) fn shard_of(generation: Gen, index: u8, place: &Place) -> Shard {
    Shard { generation, index, node: place.node.0[0], tag: place.tag }
}

pub(super) fn name(shard: Shard) -> ShardName {
    ShardName { chunk: CHUNK, generation: shard.generation, index: ShardIndex(shard.index), tag: shard.tag }
}
