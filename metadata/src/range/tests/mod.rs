mod chunks;
mod names;
mod orders;

use super::Ranges;
use crate::table::Space;
use crate::table::memory::MemoryTable;
use crate::{format, machine};
use spine::id::{GroupId, Seq};
use spine::map::Point;
use spine::wire::format::NEWEST;
use spine::wire::range::*;
use spine::wire::{Answer, Batch, Chain, Command, MetadataError, Query, Refusal, Reply};

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A move as the root has it: what is not here, a mover that takes it up finds out from the two groups.
#[derive(Clone, Debug)]
struct Move {
    by: Mover,
    range: Range,
    from: usize,
    to: usize,
    given_up: bool,
}

/// Some groups with a log each, and at most one move at a time.
struct World {
    tables: Vec<MemoryTable>,
    /// Positions given in each log. They begin far apart, so that a version's place would go back if nobody saw to it.
    at: Vec<u64>,
    moving: Option<Move>,
    moves: u64,
    finished: u64,
    given_up: u64,
    /// Orders that were sent once and come again, late.
    sent: Vec<(usize, RangeCommand)>,
}

impl World {
    fn new(groups: usize) -> Self {
        let at = (0..groups).map(|group| 1_000_000 - 300_000 * group as u64).collect();
        let mut tables = vec![MemoryTable::default(); groups];
        tables.iter_mut().for_each(|table| format::raise(table, GroupId(0), NEWEST).unwrap());
        World { tables, at, moving: None, moves: 0, finished: 0, given_up: 0, sent: Vec::new() }
    }

    fn send(&mut self, group: usize, command: Command) -> Reply {
        self.at[group] += 1;
        let before = self.tables[group].clone();
        let batch = Batch { chain: Chain::Independent, commands: vec![command.clone()] };
        machine::check(&batch).unwrap();
        let replies = machine::apply(&mut self.tables[group], GroupId(group as u32), &batch, Seq(self.at[group])).unwrap();
        let [reply] = replies.as_slice() else { panic!("{replies:?}") };
        if matches!(reply, Reply::Refused(why) if *why != Refusal::Mismatch) {
            assert_eq!(self.tables[group], before, "a refused command changed the table: {command:?} {reply:?}");
        }
        reply.clone()
    }

    fn ask(&self, group: usize, query: &Query) -> Result<Answer, MetadataError> {
        machine::answer(&self.tables[group], GroupId(group as u32), query)
    }

    fn ranges(&self, group: usize) -> Ranges {
        Ranges::load(&self.tables[group], GroupId(group as u32)).unwrap()
    }

    /// To the group that owns what it is about; `None`: nobody does at the moment, or it is frozen.
    fn send_owner(&mut self, command: &Command) -> Option<(usize, Reply)> {
        let mut found = None;
        for group in 0..self.tables.len() {
            match self.send(group, command.clone()) {
                Reply::Refused(Refusal::NotHere) => {}
                reply => assert!(found.replace((group, reply)).is_none(), "two groups took {command:?}"),
            }
        }
        found.filter(|(_, reply)| *reply != Reply::Refused(Refusal::Frozen))
    }

    /// The one answer; `None`: nobody owns it at the moment.
    fn of_owner(&self, query: &Query) -> Option<Answer> {
        let mut found = None;
        for group in 0..self.tables.len() {
            match self.ask(group, query) {
                Err(MetadataError::NotHere) => {}
                answer => assert!(found.replace(answer.unwrap()).is_none(), "two groups answered {query:?}"),
            }
        }
        found
    }

    fn order(&mut self, group: usize, command: RangeCommand) -> Reply {
        self.sent.push((group, command.clone()));
        self.send(group, Command::Range(command))
    }

    /// Something that was sent before arrives again.
    fn late(&mut self, dice: &mut Dice) {
        if self.sent.is_empty() {
            return;
        }
        let (group, command) = self.sent[dice.below(self.sent.len() as u64) as usize].clone();
        self.send(group, Command::Range(command));
    }

    /// One step of a mover that knows nothing but the root's record and what the groups say.
    fn step(&mut self, dice: &mut Dice) {
        let Some(moving) = self.moving.clone() else { return };
        let Move { by, range, from, to, given_up } = moving;
        let kind = range.kind();
        let (source, target) = (self.state(from, kind), self.state(to, kind));
        let max = 1 + dice.below(6) as u32;
        if target.served == by.id {
            let more = [from, to].map(|group| match self.order(group, RangeCommand::Purge { by, kind, max }) {
                Reply::Purged { more } => more,
                other => panic!("{other:?}"),
            });
            if more == [false, false] {
                (self.moving, self.finished) = (None, self.finished + 1);
            }
        } else if let Some(handover) = source.handover.filter(|_| source.released == by.id) {
            assert_eq!(self.order(to, RangeCommand::Serve { by, kind, handover }), Reply::Done);
        } else if given_up {
            match self.order(from, RangeCommand::Cancel { by, kind, max }) {
                Reply::Purged { more: true } => {}
                Reply::Purged { more: false } => {
                    if self.order(to, RangeCommand::Drop { by, kind, max }) == (Reply::Purged { more: false }) {
                        (self.moving, self.given_up) = (None, self.given_up + 1);
                    }
                }
                other => panic!("{other:?}"),
            }
        } else {
            self.carry(dice, by, &range, from, to);
        }
    }

    /// A step before the release.
    fn carry(&mut self, dice: &mut Dice, by: Mover, range: &Range, from: usize, to: usize) {
        let kind = range.kind();
        let prepare = RangeCommand::Prepare { by, range: range.clone(), from: GroupId(from as u32) };
        assert_eq!(self.order(to, prepare), Reply::Done);
        let export = RangeCommand::Export { by, range: range.clone(), to: GroupId(to as u32) };
        assert_eq!(self.order(from, export), Reply::Done);
        let after = self.state(to, kind).progress.unwrap();
        let max_bytes = 1 + dice.below(2_000) as u32;
        let query = Query::Range(RangeQuery::Export { by, kind, after: after.clone(), max_bytes });
        let Ok(Answer::Range(RangeAnswer::Exported(page))) = self.ask(from, &query) else { panic!() };
        let Page { rows, upto, left, digest } = page;
        if upto != after {
            let import = RangeCommand::ImportChecked { by, kind, after, upto: upto.clone(), rows, digest };
            assert_eq!(self.order(to, import.clone()), Reply::Imported { digest }, "{import:?}");
        }
        match upto {
            Progress::Following { change } if left == 0 && self.state(from, kind).frozen => {
                if dice.one_in(8) {
                    assert_eq!(self.order(from, RangeCommand::Thaw { by, kind }), Reply::Done);
                } else {
                    let reply = self.order(from, RangeCommand::Release { by, kind, change });
                    assert!(matches!(reply, Reply::Released(_)), "{reply:?}");
                }
            }
            Progress::Following { .. } if left < 3 => {
                assert_eq!(self.order(from, RangeCommand::Freeze { by, kind }), Reply::Done);
            }
            _ => {}
        }
    }

    /// The mover is killed: another takes the move up, and may give it up while that is possible.
    fn kill(&mut self, dice: &mut Dice) {
        let Some(moving) = &mut self.moving else { return };
        moving.by.attempt += 1;
        let (from, by, kind) = (moving.from, moving.by, moving.range.kind());
        if dice.one_in(4) && self.state(from, kind).released != by.id {
            // Only what the source refuses from then on may be given up: the source is asked first.
            let reply = self.order(from, RangeCommand::Cancel { by, kind, max: 1 });
            assert!(matches!(reply, Reply::Purged { .. }), "{reply:?}");
            self.moving.iter_mut().for_each(|moving| moving.given_up = true);
        }
    }

    /// Begins to move an end of what a group owns, cut at `point`, to another that fits.
    fn begin<P: Point>(
        &mut self,
        dice: &mut Dice,
        point: P,
        span_of: impl Fn(&Ranges) -> Option<Span<P>>,
        range_of: impl Fn(Span<P>) -> Range,
    ) {
        let groups = self.tables.len() as u64;
        let (from, to) = (dice.below(groups) as usize, dice.below(groups) as usize);
        let Some(owned) = span_of(&self.ranges(from)).filter(|_| from != to && self.moving.is_none()) else { return };
        let inside = owned.holds(&point) && owned.start < point;
        let span = match dice.below(3) {
            0 if inside => Span { start: owned.start, end: Some(point) },
            1 if inside => Span { start: point, end: owned.end },
            _ => owned,
        };
        let fits = span_of(&self.ranges(to))
            .is_none_or(|owned| owned.end.as_ref() == Some(&span.start) || span.end.as_ref() == Some(&owned.start));
        if fits {
            self.moves += 1;
            self.moving = Some(Move { by: Mover { id: self.moves, attempt: 1 }, range: range_of(span), from, to, given_up: false });
        }
    }

    /// Ends the move, if there is one.
    fn settle(&mut self, dice: &mut Dice) {
        for _ in 0..100_000 {
            if self.moving.is_none() {
                for table in &self.tables {
                    assert!(table.is_empty(Space::Changed), "a move left something");
                }
                return;
            }
            self.step(dice);
        }
        panic!("the move does not end: {:?}", self.moving);
    }

    fn state(&self, group: usize, kind: RangeKind) -> State {
        fn of<P>(holding: Holding<P>) -> State {
            State {
                frozen: holding.outgoing.as_ref().is_some_and(|outgoing| outgoing.frozen),
                handover: holding.leaving.as_ref().map(|leaving| leaving.handover),
                progress: holding.incoming.map(|incoming| incoming.progress),
                served: holding.served,
                released: holding.released,
            }
        }
        let ranges = self.ranges(group);
        match kind {
            RangeKind::Names => of(ranges.names),
            RangeKind::Chunks => of(ranges.chunks),
        }
    }
}

/// What a mover looks at.
struct State {
    frozen: bool,
    handover: Option<Handover>,
    progress: Option<Progress>,
    served: u64,
    released: u64,
}
