//! What each action makes of the world.

use super::Protocol;
use super::world::{Action, Phase, Shard, World, name, node, placement, root, shard_of};
use super::wrong::{Steps, Wrong};
use metadata::chunk_index::transition::{Confirmed, writers_tag};
use metadata::namespace::intent::Standing;
use spine::id::{ShardIndex, Tag};
use spine::wire::chunk::{Place, ReserveOutcome};

impl World {
    /// Takes one action; `None`: it changes nothing, or goes past what is bounded.
    pub fn step(&mut self, model: &Protocol, action: Action) -> Option<()> {
        let steps = model.steps();
        match action {
            Action::Condemn | Action::BeginDelete => self.collect(steps, action)?,
            Action::Trash(shard) => {
                self.doomed.remove(&shard);
                self.unsynced.remove(&shard);
                self.disk.remove(&shard);
            }
            Action::SweepAsk => self.answer = Some(self.record.clone()),
            Action::SweepFind(shard) => {
                let record = match &self.answer {
                    Some(answer) => answer,
                    None if steps.is(Wrong::SweepAsksFirst) => return None,
                    None => &self.record,
                };
                let named = steps.names(record.as_ref(), name(shard), node(shard.node));
                (!named && self.doomed.insert(shard)).then_some(())?;
            }
            Action::PowerCut => {
                self.left.power_cuts -= 1;
                for shard in std::mem::take(&mut self.unsynced) {
                    self.disk.remove(&shard);
                }
            }
            Action::Wipe(node) => {
                self.left.wipes -= 1;
                let gone: Vec<Shard> = self.disk.iter().copied().filter(|shard| shard.node == node).collect();
                (!gone.is_empty()).then_some(())?;
                self.disk.retain(|shard| shard.node != node);
                self.wiped.extend(gone);
            }
            Action::ReportLost(_) | Action::FalseAlarm(_) | Action::Target(..) | Action::Copy(_) | Action::Move(..) => {
                self.repair(steps, model, action)?;
            }
            _ => self.step_of_version(model, action)?,
        }
        Some(())
    }

    /// Steps of one writer, and of what becomes of its version.
    fn step_of_version(&mut self, model: &Protocol, action: Action) -> Option<()> {
        let steps = model.steps();
        match action {
            Action::Open(w) => {
                let opened = steps.may_open(self.writers[w].standing).is_ok();
                let writer = &mut self.writers[w];
                writer.phase = if opened { Phase::Opened } else { Phase::End };
                if opened {
                    writer.standing = Standing::Open;
                }
            }
            Action::LateOpen(w) => {
                self.left.late -= 1;
                let opens = steps.may_open(self.writers[w].standing) == Ok(true);
                opens.then(|| self.writers[w].standing = Standing::Open)?;
            }
            Action::Reserve(w) => self.reserve(model, w)?,
            Action::Write(w, aside) => self.write(model, w, aside)?,
            Action::Confirm(w) => {
                self.confirm(model, w)?;
            }
            Action::Finish(w) => {
                if self.confirm(model, w)? {
                    self.commit(steps, w)?;
                }
            }
            Action::Commit(w) => self.commit(steps, w)?,
            Action::Abort(w) => {
                steps.may_abort(self.writers[w].standing).then_some(())?;
                self.end(w);
            }
            Action::Delete(w) => {
                self.writers[w].visible = false;
                self.end(w);
            }
            Action::Unref(w) => {
                let writer = &mut self.writers[w];
                (writer.holds, writer.fenced) = (false, true);
                self.uncount(steps);
            }
            Action::LateUnref(w) => {
                self.left.late -= 1;
                let held = std::mem::replace(&mut self.writers[w].holds, false);
                (held || steps.is(Wrong::ReferencesCounted)).then_some(())?;
                self.uncount(steps);
            }
            Action::EarlyUnref(w) => self.writers[w].holds.then(|| self.writers[w].holds = false)?,
            Action::OutboxDone(w) => {
                let writer = &mut self.writers[w];
                (writer.fenced || steps.is(Wrong::OutboxForgets)).then_some(())?;
                writer.outbox = false;
            }
            _ => return None,
        }
        Some(())
    }

    fn reserve(&mut self, model: &Protocol, w: usize) -> Option<()> {
        let steps = model.steps();
        if self.writers[w].fenced && !steps.is(Wrong::ReserveUnfenced) {
            self.writers[w].phase = Phase::End;
            return Some(());
        }
        let fresh = steps.fresh(self.next, self.record.as_ref());
        let (new, outcome) = steps.reserve(self.record.as_ref(), self.older.as_ref(), fresh);
        if self.record.is_none() && matches!(outcome, ReserveOutcome::Upload { .. }) {
            (self.next <= model.numbers).then_some(())?;
            self.next += 1;
        }
        self.record = new.or(self.record.take());
        let writer = &mut self.writers[w];
        writer.phase = match outcome {
            ReserveOutcome::Hit => Phase::Ready,
            ReserveOutcome::Upload { generation, .. } => Phase::Reserved(generation),
        };
        if !steps.is(Wrong::ReferenceAtCommit) {
            self.refer(steps, w);
        }
        Some(())
    }

    fn refer(&mut self, steps: Steps, w: usize) {
        let new = !std::mem::replace(&mut self.writers[w].holds, true);
        if new && steps.is(Wrong::ReferencesCounted) {
            self.count += 1;
        }
    }

    fn uncount(&mut self, steps: Steps) {
        if steps.is(Wrong::ReferencesCounted) {
            self.count -= 1;
        }
    }

    fn referenced(&self, steps: Steps) -> bool {
        if steps.is(Wrong::ReferencesCounted) { self.count > 0 } else { self.writers.iter().any(|writer| writer.holds) }
    }

    fn write(&mut self, model: &Protocol, w: usize, aside: bool) -> Option<()> {
        let Phase::Reserved(generation) = self.writers[w].phase else { return None };
        let placement = placement(model, generation, aside);
        for (index, place) in (0u8..).zip(placement.shards.iter().flatten()) {
            let shard = shard_of(generation, index, place);
            if self.disk.insert(shard) && model.steps().is(Wrong::AcknowledgedUnsynced) {
                self.unsynced.insert(shard);
            }
        }
        self.writers[w].phase = Phase::Written { generation, aside };
        Some(())
    }

    /// Whether the chain goes on.
    fn confirm(&mut self, model: &Protocol, w: usize) -> Option<bool> {
        let Phase::Written { generation, aside } = self.writers[w].phase else { return None };
        let placement = placement(model, generation, aside);
        let confirmed = model.steps().confirm(self.record.as_ref(), self.writers[w].holds, generation, &placement);
        let good = confirmed != Confirmed::No;
        if let Confirmed::Now(record) = confirmed {
            self.record = Some(record);
        }
        self.writers[w].phase = if good { Phase::Ready } else { Phase::End };
        Some(good)
    }

    fn commit(&mut self, steps: Steps, w: usize) -> Option<()> {
        let writer = &mut self.writers[w];
        writer.phase = Phase::End;
        if steps.may_commit(writer.standing) {
            (writer.standing, writer.visible) = (Standing::Committed, true);
            if steps.is(Wrong::ReferenceAtCommit) {
                self.refer(steps, w);
            }
        }
        Some(())
    }

    fn end(&mut self, w: usize) {
        let writer = &mut self.writers[w];
        (writer.standing, writer.outbox) = (Standing::Ended, true);
    }

    fn collect(&mut self, steps: Steps, action: Action) -> Option<()> {
        let referenced = self.referenced(steps);
        let record = self.record.as_ref()?;
        if action == Action::Condemn {
            self.record = Some(steps.condemn(record, referenced)?);
            return Some(());
        }
        let deleting = steps.begin_delete(record, referenced)?;
        let generation = deleting.generation;
        let placed = deleting.placement.iter().flat_map(|placement| (0u8..).zip(&placement.shards));
        let placed = placed.filter_map(|(index, place)| place.map(|place| shard_of(generation, index, &place)));
        self.doomed.extend(placed);
        let writers = |shard: &&Shard| shard.generation == generation && shard.tag == writers_tag(generation);
        self.doomed.extend(self.disk.iter().filter(writers));
        self.record = None;
        if steps.is(Wrong::DeletingRevived) {
            self.older = Some(deleting);
        }
        Some(())
    }

    fn repair(&mut self, steps: Steps, model: &Protocol, action: Action) -> Option<()> {
        match action {
            Action::ReportLost(index) | Action::FalseAlarm(index) => {
                if action == Action::FalseAlarm(index) {
                    self.left.false_alarms -= 1;
                }
                let record = self.record.as_ref()?;
                let place = record.placement.as_ref()?.shards[usize::from(index)]?;
                self.record = Some(steps.mark_lost(record, ShardIndex(index), place)?);
            }
            Action::Target(index, on) => {
                (self.next <= model.numbers).then_some(())?;
                let record = self.record.as_ref()?;
                let generation = record.generation;
                let (record, tag) = steps.reserve_target(record, ShardIndex(index), node(on), Tag(self.next))?;
                self.record = Some(record);
                self.next += 1;
                self.left.repairs -= 1;
                self.copies.insert((Shard { generation, index, node: on, tag }, false));
            }
            Action::Copy(shard) => {
                self.disk.iter().any(|source| source.generation == shard.generation).then_some(())?;
                self.disk.insert(shard);
                self.copies.remove(&(shard, false));
                self.copies.insert((shard, true));
            }
            Action::Move(shard, copied) => {
                if copied {
                    self.copies.remove(&(shard, true));
                }
                let place = Place { node: node(shard.node), tag: shard.tag, root: root() };
                match steps.relocate(self.record.as_ref(), shard.generation, ShardIndex(shard.index), place) {
                    Some(record) => self.record = Some(record),
                    None if copied => {}
                    None => return None,
                }
            }
            _ => return None,
        }
        Some(())
    }
}
