//! What is held against one node, and what takes it back. Pure: no clock, no randomness; `simulation.rs` runs it under thousands of seeds.
//!
//! ```text
//! a strike each   a question of an audit answered with no proof, whatever else was said
//!                 a shard that a read found missing or wrong, once
//!                 a survey in which the node lacked shards and did not say that they are damaged
//!                 questions, or gets, that went on having no answer while the node said that it serves
//!                 so many shards that it said itself, and unasked, are damaged: see `quota`
//! one back        [`FADE`] questions of audits proven in a row
//! three           suspend
//! ```
//! Disks rot, and a node that says so is what a fleet needs: a shard that it names as damaged, in a scrub's report, a survey or a read, is
//! counted once and is no lie. One that says it of more than a [`ADMITTED_SHARE`]th of what it took is as useless as a liar. An audit
//! asks for proof: who names the damage first has had the shard made again and is not asked for it any more.
//! Only audits take strikes back, since nothing else asks for shards that the node cannot guess: who serves what clients read and has
//! dropped the rest is told by no read.
//! Not here: whether the index still places a shard there (its callers ask), how many nodes may be suspended (`sentence.rs`).

use super::{Asked, Outcome};
use spine::id::UnixMs;
use spine::wire::chunk::ShardName;
use spine::wire::shard::ScrubReport;
use std::collections::HashSet;

/// Failures that suspend a node.
pub const STRIKES: u32 = 3;
/// Questions proven in a row that take a strike back: as many as find a node that dropped one shard in a hundred 99 times of 100, so that
/// one that goes on like that does not live off what it still has.
pub const FADE: u32 = 459;
/// One damaged shard in so many of what is placed on the node, by its own word, is as much as one strike ..
const ADMITTED_SHARE: u64 = 256;
/// .. and never less than this many, nor more: the names are kept.
pub(super) const ADMITTED: (u64, u64) = (16, 1_024);
/// Groups of questions without an answer, from a node that says it serves, that are one failure.
const SILENCES: u32 = 3;
/// Gets that broke off within this many milliseconds count as one: a moment of a bad network is not a bad node.
pub(super) const BREAK_MS: u64 = 10_000;
/// So many of those in a row, without one get that went well, are one failure.
const BREAKS: u32 = 3;

/// One node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    pub proven: u64,
    pub failed: u64,
    /// Failures since the node was last suspended for them, less those taken back.
    pub strikes: u32,
    /// When it answered last.
    pub audited: Option<UnixMs>,
    pub scrub: Option<ScrubReport>,
    /// Questions proven since the last that was not.
    streak: u32,
    silent: u32,
    /// Shards that reads have held against it since; never more than suspend.
    misread: Vec<ShardName>,
    /// Shards that it said itself are damaged, since that last came to a strike.
    admitted: HashSet<ShardName>,
    /// Shards placed on it, when last counted.
    placed: u64,
    /// Moments in a row in which gets broke off, and the last of them.
    breaks: u32,
    broke: Option<UnixMs>,
    /// When a get that nobody waited for was seen to its end last.
    followed: Option<UnixMs>,
}

impl Seen {
    /// Takes in what one group of questions came to. `serves`: whether the node said it does.
    pub(super) fn answered(&mut self, group: &[Asked], serves: bool, time: UnixMs) {
        let (mut answers, mut unanswered) = (0, 0);
        for asked in group {
            match &asked.outcome {
                Outcome::Proven(_) => self.prove(),
                Outcome::Missing | Outcome::Damaged | Outcome::Wrong(..) => self.fail(),
                Outcome::Unanswered => unanswered += 1,
                Outcome::Moved => {}
            }
            answers += u32::from(!matches!(asked.outcome, Outcome::Unanswered | Outcome::Moved));
        }
        if answers > 0 {
            self.audited = Some(time);
            self.silent = 0;
        } else if serves && unanswered > 0 {
            // Who serves and never answers an audit has something to hide, or is of no use.
            self.silent += 1;
            if self.silent >= SILENCES {
                self.silent = 0;
                self.strike();
            }
        }
    }

    /// A read found this shard missing or wrong. Whether that is a strike.
    pub(super) fn misread(&mut self, shard: ShardName) -> bool {
        if self.misread.contains(&shard) || self.misread.len() >= STRIKES as usize {
            return false;
        }
        self.misread.push(shard);
        self.fail();
        true
    }

    /// The node, asked for all that it should have, lacked some of it and could not say why: one strike, however many shards.
    pub(super) fn lacked(&mut self) {
        self.fail();
    }

    /// The node said itself that this shard is damaged. Whether that came to a strike.
    pub(super) fn admit(&mut self, shard: ShardName) -> bool {
        self.admitted.insert(shard);
        let strike = self.admitted.len() as u64 >= self.quota();
        if strike {
            self.admitted.clear();
            self.strike();
        }
        strike
    }

    /// Damaged shards, by the node's own word, that are as much as a strike.
    pub(super) fn quota(&self) -> u64 {
        (self.placed / ADMITTED_SHARE).clamp(ADMITTED.0, ADMITTED.1)
    }

    pub(super) fn placed(&mut self, shards: u64) {
        self.placed = shards;
    }

    /// A get from the node, which says it serves, had no usable end. Whether that is a strike.
    pub(super) fn broke_off(&mut self, time: UnixMs) -> bool {
        if self.broke.is_some_and(|before| time.0.saturating_sub(before.0) < BREAK_MS) {
            return false;
        }
        self.broke = Some(time);
        self.breaks += 1;
        let strike = self.breaks >= BREAKS;
        if strike {
            self.breaks = 0;
            self.fail();
        }
        strike
    }

    /// Whether a get that nobody waits for is to be seen to its end: once in the time that counts as a moment.
    pub(super) fn follows(&mut self, time: UnixMs) -> bool {
        let now = self.followed.is_none_or(|before| time.0.saturating_sub(before.0) >= BREAK_MS);
        if now {
            self.followed = Some(time);
        }
        now
    }

    /// A get went well. Whether the one before did not.
    pub(super) fn went_well(&mut self) -> bool {
        self.breaks = 0;
        self.broke.take().is_some()
    }

    /// Whether its last get broke off.
    pub(super) fn is_breaking(&self) -> bool {
        self.broke.is_some()
    }

    /// It was suspended, or begins anew for another reason.
    pub(super) fn forgive(&mut self) {
        self.strikes = 0;
        self.streak = 0;
        self.misread.clear();
        self.admitted.clear();
    }

    fn prove(&mut self) {
        self.proven += 1;
        self.streak += 1;
        if self.streak >= FADE {
            self.streak = 0;
            self.strikes = self.strikes.saturating_sub(1);
            self.misread.clear();
            self.admitted.clear();
        }
    }

    fn fail(&mut self) {
        self.failed += 1;
        self.strike();
    }

    fn strike(&mut self) {
        self.strikes = self.strikes.saturating_add(1);
        self.streak = 0;
    }
}
