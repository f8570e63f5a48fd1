//! The format of a group: a row of its table, which an entry of its own log raises. What the numbers mean: `spine/src/wire/format.rs`.
//!
//! ```text
//! entry = RAISE, format
//! ```
//! Invariants: it never gets lower; all replicas raise it at the same place of the log, and what comes after that place may do what the format
//! brought. A version that does not know the entry takes none that comes after it.
//! Not here: who proposes the entry, and when (`service/formats.rs`).

use crate::range::Ranges;
use crate::record::{load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use bytes::Bytes;
use spine::id::GroupId;
use spine::wire::format::{FIRST, Format};

/// First byte of an entry that raises the format.
pub const RAISE: u8 = 6;
/// Key in Meta.
pub const FORMAT: &[u8] = b"format";

/// The group's format.
pub fn of(table: &dyn TableRead) -> Result<Format, TableError> {
    Ok(load(table, Space::Meta, FORMAT)?.unwrap_or(FIRST))
}

/// Whether the format may be raised now. Not while names are given away: places among them are counted as the format says, and a copy that
/// was begun is continued at its place.
pub fn may_rise(table: &dyn TableRead, group: GroupId) -> Result<bool, TableError> {
    Ok(Ranges::load(table, group)?.names.outgoing.is_none())
}

/// Raises the group's format to `to`, if it is lower and may be raised now.
pub fn raise(table: &mut dyn TableWrite, group: GroupId, to: Format) -> Result<(), TableError> {
    if of(table)? < to && may_rise(table, group)? { save(table, Space::Meta, FORMAT, &to) } else { Ok(()) }
}

/// The entry that raises the format to `to`.
pub fn entry(to: Format) -> Bytes {
    Bytes::copy_from_slice(&[RAISE, to.0])
}

/// The format that an entry raises its group to; `None`: it is none that does.
pub fn raised_by(entry: &[u8]) -> Option<Format> {
    match entry {
        [RAISE, format] => Some(Format(*format)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine;
    use crate::table::memory::MemoryTable;
    use spine::id::{BucketId, Seq};
    use spine::map::NamePoint;
    use spine::wire::range::{Mover, NameSpan, Range, RangeCommand, RangeKind};
    use spine::wire::{Batch, Chain, Command, Reply};

    const GROUP: GroupId = GroupId(0);

    fn order(table: &mut MemoryTable, command: RangeCommand, at: u64) {
        let batch = Batch { chain: Chain::Stop, commands: vec![Command::Range(command)] };
        let replies = machine::apply(table, GROUP, &batch, Seq(at)).unwrap();
        assert!(matches!(replies[..], [Reply::Done | Reply::Purged { .. }]), "{replies:?}");
    }

    #[test]
    fn a_format_is_the_first_until_it_is_raised_and_never_gets_lower() {
        let mut table = MemoryTable::default();
        assert_eq!(of(&table).unwrap(), FIRST);
        for (to, then) in [(1, 1), (3, 3), (2, 3), (3, 3), (4, 4)] {
            raise(&mut table, GROUP, Format(to)).unwrap();
            assert_eq!(of(&table).unwrap(), Format(then));
        }
    }

    #[test]
    fn a_format_stays_while_names_are_given_away_and_is_raised_after() {
        let mut table = MemoryTable::default();
        let (by, kind) = (Mover { id: 1, attempt: 1 }, RangeKind::Names);
        let range = Range::Names(NameSpan { start: NamePoint::new(BucketId(1), b"m"), end: None });
        order(&mut table, RangeCommand::Export { by, range, to: GroupId(7) }, 1);
        raise(&mut table, GROUP, Format(2)).unwrap();
        assert_eq!(of(&table).unwrap(), FIRST);
        order(&mut table, RangeCommand::Cancel { by, kind, max: 100 }, 2);
        raise(&mut table, GROUP, Format(2)).unwrap();
        assert_eq!(of(&table).unwrap(), Format(2));
    }

    #[test]
    fn only_the_entry_that_raises_a_format_does() {
        assert_eq!(raised_by(&entry(Format(9))), Some(Format(9)));
        for other in [&b""[..], &[RAISE], &[RAISE, 2, 0], &[4, 2]] {
            assert_eq!(raised_by(other), None);
        }
    }
}
