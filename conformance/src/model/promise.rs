//! What must hold in every world, and what must be seen in some.

use super::Protocol;
use super::world::World;
use super::wrong::Wrong;
use metadata::chunk_index::transition::writers_tag;
use metadata::namespace::intent::Standing;
use spine::wire::chunk::ChunkState;

impl World {
    pub fn committed_is_durable(&self, model: &Protocol) -> bool {
        let counted = model.steps().is(Wrong::ReferencesCounted);
        self.writers.iter().filter(|writer| writer.visible).all(|writer| {
            let live = self.record.as_ref().filter(|record| record.state == ChunkState::Live);
            let readable =
                live.and_then(|record| record.placement.as_ref()).is_some_and(|placement| placement.shards.iter().any(Option::is_some));
            readable && (writer.holds || counted)
        })
    }

    pub fn placed_is_there(&self) -> bool {
        self.placed().all(|shard| self.disk.contains(&shard) || self.wiped.contains(&shard))
    }

    pub fn over_holds_nothing(&self) -> bool {
        self.writers.iter().all(|writer| writer.standing != Standing::Ended || writer.outbox || !writer.holds)
    }

    pub fn hit_commits(&self) -> bool {
        self.writers.iter().filter(|writer| writer.visible).count() >= 2
    }

    pub fn reclaimed(&self) -> bool {
        let over = self.writers.iter().all(|writer| writer.standing == Standing::Ended && !writer.outbox);
        over && self.record.is_none() && self.disk.is_empty() && self.next > 1
    }

    pub fn repaired(&self, model: &Protocol) -> bool {
        let Some(record) = &self.record else { return false };
        let whole = record.placement.as_ref().is_some_and(|placement| placement.shards.iter().all(Option::is_some));
        let moved = self.placed().any(|shard| shard.tag != writers_tag(record.generation));
        let read = self.writers.iter().any(|writer| writer.visible);
        whole && moved && read && self.left.wipes < model.budget.wipes && self.placed().all(|shard| self.disk.contains(&shard))
    }
}
