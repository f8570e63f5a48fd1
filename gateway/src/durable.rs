//! Proof that a chunk may be committed.
//!
//! A [`Durable`] comes from two places only: the index answered that it has the chunk and the reference pins it
//! ([`Pinned`], made from that answer), or its shards were synced to quorum ([`Quorum`], made by `store.rs`). Commit
//! takes nothing else.

use spine::wire::chunk::{Confirmation, Placement, ReserveOutcome};
use spine::wire::namespace::ChunkRef;

/// Something whose bytes survive a crash of this process and the loss of `m` nodes less what is owed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable<T>(T);

impl<T: Copy> Durable<T> {
    pub fn get(&self) -> T {
        self.0
    }
}

/// The index holds the chunk durably and our reference keeps it.
#[derive(Debug)]
pub struct Pinned(());

impl Pinned {
    /// Only from the index's own answer to our reservation.
    pub fn by(outcome: &ReserveOutcome) -> Option<Pinned> {
        matches!(outcome, ReserveOutcome::Hit).then_some(Pinned(()))
    }
}

/// Enough nodes synced their shards of one chunk.
#[derive(Clone, Debug)]
pub struct Quorum {
    placement: Placement,
}

impl Quorum {
    /// Write quorum of a code: what must be synced before a write counts.
    pub fn needed(k: u8, m: u8) -> u8 {
        k + m.div_ceil(2)
    }

    /// `None` if too few places were acknowledged.
    pub(crate) fn reached(placement: Placement) -> Option<Quorum> {
        let acked = placement.shards.iter().flatten().count();
        (acked >= usize::from(Self::needed(placement.sealed.k, placement.sealed.m))).then_some(Quorum { placement })
    }

    pub fn placement(&self) -> &Placement {
        &self.placement
    }
}

impl Durable<ChunkRef> {
    pub fn pinned(chunk: ChunkRef, _: Pinned) -> Self {
        Durable(chunk)
    }

    /// Counts once `confirmation` went through, at the latest in the commit's own chain.
    pub fn stored(chunk: ChunkRef, quorum: &Quorum, generation: spine::id::Gen) -> (Self, Confirmation) {
        (Durable(chunk), Confirmation { chunk: chunk.id, generation, placement: quorum.placement.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spine::id::{Gen, KeyEpoch, NodeId, ShardRoot, Tag, TenantId};
    use spine::wire::chunk::{Place, Sealed};
    use spine::wire::namespace::Codec;

    #[test]
    fn only_a_hit_pins_and_only_a_quorum_proves() {
        assert!(Pinned::by(&ReserveOutcome::Hit).is_some());
        assert!(Pinned::by(&ReserveOutcome::Upload { generation: Gen(1), tag: Tag(1) }).is_none());
        let sealed = Sealed { tenant: TenantId(1), epoch: KeyEpoch(0), codec: Codec::Plain, len: 1, sealed_len: 17, k: 4, m: 2 };
        let place = Some(Place { node: NodeId([1; 32]), tag: Tag(1), root: ShardRoot([0; 32]) });
        let placement = |placed: usize| Placement { sealed, shards: (0..6).map(|i| place.filter(|_| i < placed)).collect() };
        assert!(Quorum::reached(placement(4)).is_none());
        assert!(Quorum::reached(placement(5)).is_some());
        assert_eq!([Quorum::needed(4, 2), Quorum::needed(8, 3), Quorum::needed(1, 0), Quorum::needed(10, 4)], [5, 10, 1, 12]);
    }
}
