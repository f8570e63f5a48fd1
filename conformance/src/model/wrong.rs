//! The protocol's steps, each as the code has it or as one mutant has it.

use super::world::CHUNK;
use metadata::chunk_index::transition::{self, Confirmed};
use metadata::namespace::intent::{self, Standing};
use spine::id::{Gen, NodeId, ShardIndex, Tag, UnixMs};
use spine::wire::Refusal;
use spine::wire::chunk::{ChunkRecord, ChunkState, Place, Placement, ReserveOutcome, ShardName};

/// One step done wrong.
///
/// Two rules of the code have no mutant, because breaking one alone breaks nothing here: a Confirm asks for the generation as well
/// as for the reference, and a chain stops at a Confirm that is false. A version that holds the chunk keeps its generation alive, and
/// one that does not has lost its intent too. They are second locks on the same door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wrong {
    /// A condemned chunk that never was durable is taken for a hit.
    CondemnForgetsDurable,
    /// Every generation has the same number.
    OneGeneration,
    /// Generations start again once a chunk was forgotten.
    GenerationReused,
    /// The reference is added by Commit instead of Reserve.
    ReferenceAtCommit,
    /// References are dropped before the version is terminal.
    UnrefBeforeTerminal,
    /// A chunk that is being deleted is taken for a hit.
    DeletingRevived,
    /// References are a number instead of a set.
    ReferencesCounted,
    /// A node acknowledges a shard before it is synced.
    AcknowledgedUnsynced,
    /// The sweep asks the index first and looks at the disk later.
    SweepAsksFirst,
    /// The sweep takes shards of an upload in progress for orphans.
    SweepIgnoresUploads,
    /// The sweep takes the copy that repair is making for an orphan.
    SweepIgnoresTargets,
    /// A Reserve that comes after its version's Unref is accepted.
    ReserveUnfenced,
    /// OpenIntent opens whatever is not open.
    IntentReopened,
    /// Commit does not ask for its intent.
    CommitUnfenced,
    /// Confirm asks neither for the generation nor for the reference.
    ConfirmUnchecked,
    /// A rival's Confirm fills in what the first left owed.
    ConfirmMerges,
    /// BeginDelete takes a chunk that was revived since it was listed.
    DeleteUnchecked,
    /// An outbox entry is forgotten before its Unref went through.
    OutboxForgets,
    /// Repair announces its copy before it is made.
    MoveBeforeCopy,
    /// Repair's copy bears the old tag.
    RepairKeepsTag,
    /// Shards are given up below what reading needs.
    LostBelowReadable,
}

impl Wrong {
    /// Those that need no repair to do harm.
    pub const GARBAGE: [Wrong; 16] = [
        Wrong::CondemnForgetsDurable,
        Wrong::OneGeneration,
        Wrong::GenerationReused,
        Wrong::ReferenceAtCommit,
        Wrong::UnrefBeforeTerminal,
        Wrong::DeletingRevived,
        Wrong::ReferencesCounted,
        Wrong::AcknowledgedUnsynced,
        Wrong::SweepAsksFirst,
        Wrong::SweepIgnoresUploads,
        Wrong::ReserveUnfenced,
        Wrong::IntentReopened,
        Wrong::CommitUnfenced,
        Wrong::ConfirmUnchecked,
        Wrong::DeleteUnchecked,
        Wrong::OutboxForgets,
    ];
    /// Those of repair.
    pub const REPAIR: [Wrong; 5] =
        [Wrong::SweepIgnoresTargets, Wrong::ConfirmMerges, Wrong::MoveBeforeCopy, Wrong::RepairKeepsTag, Wrong::LostBelowReadable];
}

/// The steps of one protocol.
#[derive(Clone, Copy)]
pub struct Steps {
    pub wrong: Option<Wrong>,
}

impl Steps {
    pub fn is(self, wrong: Wrong) -> bool {
        self.wrong == Some(wrong)
    }

    /// The generation for a new record; `last` is what the index still remembers of an older one.
    pub fn fresh(self, next: u64, last: Option<&ChunkRecord>) -> Gen {
        match self.wrong {
            Some(Wrong::OneGeneration) => Gen(1),
            Some(Wrong::GenerationReused) => Gen(last.map_or(1, |last| last.generation.0 + 1)),
            _ => Gen(next),
        }
    }

    pub fn reserve(
        self,
        record: Option<&ChunkRecord>,
        deleting: Option<&ChunkRecord>,
        fresh: Gen,
    ) -> (Option<ChunkRecord>, ReserveOutcome) {
        let live = |record: &ChunkRecord| ChunkRecord { state: ChunkState::Live, condemned: None, ..record.clone() };
        match (self.wrong, record) {
            (Some(Wrong::CondemnForgetsDurable), Some(record)) if record.state == ChunkState::Condemned => {
                (Some(live(record)), ReserveOutcome::Hit)
            }
            (Some(Wrong::DeletingRevived), None) if deleting.is_some() => (deleting.map(live), ReserveOutcome::Hit),
            _ => transition::reserve(record, fresh),
        }
    }

    pub fn confirm(self, record: Option<&ChunkRecord>, held: bool, generation: Gen, placement: &Placement) -> Confirmed {
        let held = held || matches!(self.wrong, Some(Wrong::ReferenceAtCommit | Wrong::UnrefBeforeTerminal | Wrong::ReferencesCounted));
        match (self.wrong, record) {
            (Some(Wrong::ConfirmUnchecked), Some(record)) => transition::confirm(Some(record), true, record.generation, placement),
            (Some(Wrong::ConfirmMerges), Some(record)) if record.generation == generation && held => {
                let Some(known) = &record.placement else { return transition::confirm(Some(record), held, generation, placement) };
                let shards = known.shards.iter().zip(&placement.shards).map(|(known, new)| known.or(*new)).collect();
                Confirmed::Now(ChunkRecord { placement: Some(Placement { shards, ..known.clone() }), ..record.clone() })
            }
            _ => transition::confirm(record, held, generation, placement),
        }
    }

    pub fn condemn(self, record: &ChunkRecord, referenced: bool) -> Option<ChunkRecord> {
        transition::condemn(Some(record), record.generation, referenced, UnixMs(0))
    }

    pub fn begin_delete(self, record: &ChunkRecord, referenced: bool) -> Option<ChunkRecord> {
        if self.is(Wrong::DeleteUnchecked) {
            let listed = matches!(record.state, ChunkState::Condemned | ChunkState::Live);
            return listed.then(|| ChunkRecord { state: ChunkState::Deleting, ..record.clone() });
        }
        transition::begin_delete(Some(record), record.generation, referenced)
    }

    pub fn may_open(self, standing: Standing) -> Result<bool, Refusal> {
        if self.is(Wrong::IntentReopened) { Ok(standing != Standing::Open) } else { intent::may_open(standing) }
    }

    pub fn may_commit(self, standing: Standing) -> bool {
        self.is(Wrong::CommitUnfenced) || intent::may_commit(standing).is_ok()
    }

    pub fn may_abort(self, standing: Standing) -> bool {
        intent::may_abort(standing)
    }

    pub fn reserve_target(self, record: &ChunkRecord, index: ShardIndex, node: NodeId, fresh: Tag) -> Option<(ChunkRecord, Tag)> {
        let tag = if self.is(Wrong::RepairKeepsTag) { transition::writers_tag(record.generation) } else { fresh };
        transition::reserve_target(Some(record), record.generation, index, node, tag).ok().map(|record| (record, tag))
    }

    pub fn relocate(self, record: Option<&ChunkRecord>, generation: Gen, index: ShardIndex, place: Place) -> Option<ChunkRecord> {
        transition::relocate(record, generation, index, place).ok().map(|(record, _)| record)
    }

    pub fn mark_lost(self, record: &ChunkRecord, index: ShardIndex, place: Place) -> Option<ChunkRecord> {
        let shard = ShardName { chunk: CHUNK, generation: record.generation, index, tag: place.tag };
        if self.is(Wrong::LostBelowReadable) {
            let mut record = record.clone();
            record.placement.as_mut()?.shards[usize::from(index.0)] = None;
            return Some(record);
        }
        transition::mark_lost(Some(record), shard, place.node)
    }

    pub fn names(self, record: Option<&ChunkRecord>, shard: ShardName, node: NodeId) -> bool {
        let mut record = record.cloned();
        if let Some(record) = record.as_mut().filter(|_| self.is(Wrong::SweepIgnoresTargets)) {
            record.targets.clear();
        }
        if self.is(Wrong::SweepIgnoresUploads) && record.as_ref().is_some_and(|record| record.placement.is_none()) {
            return false;
        }
        transition::names(record.as_ref(), shard, node)
    }
}
