//! To whom a process that is short of disk hands a group that it leads. A leader refuses what grows; others may have room.
//!
//! Nobody here knows how much room the others have, so they have their turns. Invariant: of one group at most one hand-over in [`TURN`].

use spine::id::MemberId;
use std::time::{Duration, Instant};

/// How long whoever was handed the group has before the next one has a turn, should it have come back.
const TURN: Duration = Duration::from_secs(30);

/// What was done about one group.
#[derive(Debug, Default)]
pub struct Flight {
    last: Option<(Instant, MemberId)>,
}

impl Flight {
    /// Who is to lead the group now; for a process that leads it and is short of disk.
    ///
    /// - `voters`: of the group, in any order, this process among them.
    pub fn step(&mut self, now: Instant, own: MemberId, voters: &[MemberId]) -> Option<MemberId> {
        if self.last.is_some_and(|(at, _)| now.saturating_duration_since(at) < TURN) {
            return None;
        }
        let others = || voters.iter().copied().filter(|voter| *voter != own);
        let after = self.last.and_then(|(_, last)| others().filter(|other| *other > last).min());
        let to = after.or_else(|| others().min())?;
        self.last = Some((now, to));
        Some(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [MemberId; 3] = [MemberId(7), MemberId(3), MemberId(5)];

    #[test]
    fn the_others_have_their_turns_one_after_another_and_none_before_its_time() {
        let (begun, mut flight) = (Instant::now(), Flight::default());
        let mut step = |seconds: u64| flight.step(begun + Duration::from_secs(seconds), MemberId(5), &ALL);
        assert_eq!(step(0), Some(MemberId(3)));
        assert_eq!(step(1), None);
        assert_eq!(step(29), None);
        assert_eq!(step(30), Some(MemberId(7)));
        assert_eq!(step(59), None);
        assert_eq!(step(61), Some(MemberId(3)), "and from the beginning");
    }

    #[test]
    fn nobody_is_handed_a_group_that_has_no_other_voter() {
        let (begun, mut flight) = (Instant::now(), Flight::default());
        assert_eq!(flight.step(begun, MemberId(5), &[MemberId(5)]), None);
        assert_eq!(flight.step(begun, MemberId(5), &[]), None);
        // Nothing was done, so that whoever comes need not wait.
        assert_eq!(flight.step(begun, MemberId(5), &ALL), Some(MemberId(3)));
    }

    #[test]
    fn who_is_no_voter_any_more_is_passed_over() {
        let (begun, mut flight) = (Instant::now(), Flight::default());
        assert_eq!(flight.step(begun, MemberId(5), &ALL), Some(MemberId(3)));
        assert_eq!(flight.step(begun + TURN, MemberId(5), &[MemberId(3), MemberId(5)]), Some(MemberId(3)), "there is nobody else");
        assert_eq!(flight.step(begun + 2 * TURN, MemberId(5), &[MemberId(9), MemberId(5)]), Some(MemberId(9)));
    }
}
