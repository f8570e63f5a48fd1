//! Proposals that may come twice: each has an id, and its replies are kept, so that the second is answered as the first and changes nothing.
//!
//! ```text
//! Meta  "requests"           -> Counters
//! Meta  "request." id        -> (number u64, [Reply])
//! Meta  "request#" number    -> (id, bytes of the record above)
//! ```
//! Kept are the newest [`REQUESTS_KEPT`], or fewer if their replies take more than [`REQUESTS_BYTES`]. A proposal says how many the group
//! had applied before it was sent for the first time; if it was ever applied, its number is above that. So the look-up decides as long
//! as all numbers above are still kept, and otherwise the proposal is refused: it is never applied twice.
//!
//! Invariant: every number in `forgotten + 1 ..= applied` has exactly one record of each kind.
//! Proposals without an id never touch this.

use crate::group::Applied;
use crate::machine;
use crate::record;
use crate::table::{Space, TableError, TableWrite};
use serde::{Deserialize, Serialize};
use spine::id::{GroupId, Seq};
use spine::limit::{REQUESTS_BYTES, REQUESTS_KEPT};
use spine::wire::cluster::RequestId;
use spine::wire::{Batch, Reply};
use std::ops::ControlFlow;

const COUNTERS: &[u8] = b"requests";
const BY_ID: &[u8] = b"request.";
const BY_NUMBER: &[u8] = b"request#";

/// What marks a proposal: its id, and how many the proposer had seen applied before it sent it for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    pub id: RequestId,
    pub seen: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counters {
    /// Number of the last one that was applied; the first is 1.
    applied: u64,
    /// Number of the last one that is kept no more.
    forgotten: u64,
    /// Bytes of the records that are kept.
    bytes: u64,
}

/// Applies `batch` unless it was applied before.
///
/// # Errors
/// The table's.
pub fn apply(table: &mut dyn TableWrite, group: GroupId, stamp: &Stamp, batch: &Batch, at: Seq) -> Result<Applied, TableError> {
    apply_within(table, group, stamp, batch, at, REQUESTS_KEPT, REQUESTS_BYTES)
}

fn apply_within(
    table: &mut dyn TableWrite,
    group: GroupId,
    stamp: &Stamp,
    batch: &Batch,
    at: Seq,
    most: u64,
    most_bytes: u64,
) -> Result<Applied, TableError> {
    let mut counters: Counters = record::load(table, Space::Meta, COUNTERS)?.unwrap_or_default();
    let by_id = [BY_ID, &stamp.id.0].concat();
    if let Some((_, replies)) = record::load::<(u64, Vec<Reply>)>(table, Space::Meta, &by_id)? {
        return Ok(Applied::Replies { replies, seen: counters.applied });
    }
    if stamp.seen < counters.forgotten {
        return Ok(Applied::Forgotten { seen: counters.applied });
    }
    let replies = machine::apply(table, group, batch, at)?;
    // The end of a restore has forgotten them all.
    counters = record::load(table, Space::Meta, COUNTERS)?.unwrap_or(counters);
    counters.applied += 1;
    let record = record::encode(&(counters.applied, &replies))?;
    let bytes = record.len() as u64;
    table.put(Space::Meta, &by_id, &record)?;
    record::save(table, Space::Meta, &by_number(counters.applied), &(stamp.id, bytes))?;
    counters.bytes += bytes;
    while counters.applied - counters.forgotten > most || (counters.bytes > most_bytes && counters.forgotten + 1 < counters.applied) {
        let oldest = by_number(counters.forgotten + 1);
        let (id, bytes): (RequestId, u64) =
            record::load(table, Space::Meta, &oldest)?.ok_or_else(|| record::broken(Space::Meta, &oldest))?;
        table.delete(Space::Meta, &[BY_ID, &id.0].concat())?;
        table.delete(Space::Meta, &oldest)?;
        counters.forgotten += 1;
        counters.bytes = counters.bytes.saturating_sub(bytes);
    }
    record::save(table, Space::Meta, COUNTERS, &counters)?;
    Ok(Applied::Replies { replies, seen: counters.applied })
}

/// After a restore: forgets every proposal, and has all that began before it refused. Who sent one saw the numbers of another log.
///
/// - `before`: higher than any number that log can have given.
pub fn begin_anew(table: &mut dyn TableWrite, before: u64) -> Result<(), TableError> {
    for prefix in [BY_ID, BY_NUMBER] {
        let mut keys = Vec::new();
        record::each(table, Space::Meta, prefix, prefix, |key, _| {
            keys.push(key.to_vec());
            Ok(ControlFlow::Continue(()))
        })?;
        for key in keys {
            table.delete(Space::Meta, &key)?;
        }
    }
    record::save(table, Space::Meta, COUNTERS, &Counters { applied: before, forgotten: before, bytes: 0 })
}

fn by_number(number: u64) -> Vec<u8> {
    [BY_NUMBER, &number.to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::memory::MemoryTable;
    use spine::id::{TenantId, UnixMs};
    use spine::wire::root::{RootCommand, TenantRecord};
    use spine::wire::{Chain, Command, Refusal};

    fn tenant(id: u64) -> Batch {
        let record = TenantRecord { id: TenantId(id), name: format!("t{id}"), secrets: Vec::new(), created: UnixMs(id), revoked: false };
        Batch { chain: Chain::Stop, commands: vec![Command::Root(RootCommand::CreateTenant(record))] }
    }

    fn stamp(n: u64, seen: u64) -> Stamp {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&n.to_be_bytes());
        Stamp { id: RequestId(id), seen }
    }

    #[test]
    fn what_comes_twice_is_applied_once_and_answered_alike() {
        let mut table = MemoryTable::default();
        let first = apply(&mut table, GroupId(0), &stamp(1, 0), &tenant(1), Seq(1)).unwrap();
        assert_eq!(first, Applied::Replies { replies: vec![Reply::Done], seen: 1 });
        assert_eq!(apply(&mut table, GroupId(0), &stamp(1, 0), &tenant(1), Seq(2)).unwrap(), first);
        let other = apply(&mut table, GroupId(0), &stamp(2, 0), &tenant(1), Seq(3)).unwrap();
        assert_eq!(other, Applied::Replies { replies: vec![Reply::Refused(Refusal::TenantExists)], seen: 2 });
    }

    #[test]
    fn one_that_may_have_been_forgotten_is_refused_and_a_new_one_is_not() {
        let mut table = MemoryTable::default();
        let mut run = |n: u64, seen: u64| apply_within(&mut table, GroupId(0), &stamp(n, seen), &tenant(n), Seq(n), 10, u64::MAX).unwrap();
        for n in 1..=30 {
            assert_eq!(run(n, n - 1), Applied::Replies { replies: vec![Reply::Done], seen: n });
        }
        // 1 to 20 are forgotten: those that began before 20 cannot be told from new ones.
        assert_eq!(run(5, 4), Applied::Forgotten { seen: 30 });
        assert_eq!(run(99, 19), Applied::Forgotten { seen: 30 });
        assert_eq!(run(21, 20), Applied::Replies { replies: vec![Reply::Done], seen: 30 });
        assert_eq!(run(99, 20), Applied::Replies { replies: vec![Reply::Done], seen: 31 });
        assert_eq!(run(21, 20), Applied::Forgotten { seen: 31 });
    }

    #[test]
    fn replies_that_take_too_much_are_forgotten_sooner_and_the_table_stays_bounded() {
        let mut table = MemoryTable::default();
        for n in 1..=1_000 {
            apply_within(&mut table, GroupId(0), &stamp(n, n - 1), &tenant(n), Seq(n), 100, 40).unwrap();
        }
        let counters: Counters = record::load(&table, Space::Meta, COUNTERS).unwrap().unwrap();
        assert!(counters.bytes <= 40 && counters.applied == 1_000, "{counters:?}");
        assert_eq!(table.len(Space::Meta) as u64, 2 * (counters.applied - counters.forgotten) + 1);
    }

    /// Any order of sendings, each stamped with what its sender had seen: nothing is ever applied twice.
    #[test]
    fn under_thousands_of_seeds_no_proposal_is_applied_twice() {
        for seed in 1u64..=2_000 {
            let mut table = MemoryTable::default();
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            let mut draw = |below: u64| {
                state ^= state >> 12;
                state ^= state << 25;
                state ^= state >> 27;
                state.wrapping_mul(0x2545_F491_4F6C_DD1D) % below
            };
            let (mut seen, mut sent, mut done) = (0, Vec::<(Stamp, u64)>::new(), std::collections::BTreeSet::new());
            for step in 1..=60 {
                if sent.is_empty() || draw(2) == 0 {
                    sent.push((stamp(step, seen), step));
                }
                let (stamp, tenant_id) = sent[draw(sent.len() as u64) as usize];
                match apply_within(&mut table, GroupId(0), &stamp, &tenant(tenant_id), Seq(step), 4, 1 << 20).unwrap() {
                    Applied::Replies { replies, seen: now } => {
                        // A second application would answer TenantExists.
                        assert_eq!(replies, [Reply::Done], "seed {seed}, step {step}");
                        done.insert(tenant_id);
                        seen = now;
                    }
                    Applied::Forgotten { seen: now } => seen = now,
                }
            }
            assert!(!done.is_empty(), "seed {seed}");
        }
    }

    #[test]
    fn after_a_restore_nothing_that_began_before_it_is_applied_and_all_that_begins_after_it_is_applied_once() {
        let mut table = MemoryTable::default();
        for n in 1..=5 {
            apply(&mut table, GroupId(0), &stamp(n, 0), &tenant(n), Seq(n)).unwrap();
        }
        let before = 1 << 40;
        begin_anew(&mut table, before).unwrap();
        assert_eq!(table.len(Space::Meta), 1, "an answer to an old proposal is still there");
        for seen in [0, 5, 1_000_000] {
            let late = apply(&mut table, GroupId(0), &stamp(3, seen), &tenant(3), Seq(9)).unwrap();
            assert_eq!(late, Applied::Forgotten { seen: before });
        }
        let first = apply(&mut table, GroupId(0), &stamp(7, before), &tenant(7), Seq(10)).unwrap();
        assert_eq!(first, Applied::Replies { replies: vec![Reply::Done], seen: before + 1 });
        assert_eq!(apply(&mut table, GroupId(0), &stamp(7, before), &tenant(7), Seq(11)).unwrap(), first);
    }
}
