//! Which of all that processes tell each other and write into logs every one of them understands: a number that rises with releases.
//!
//! A group has a format: [`FIRST`] when it is made, raised by an entry of its own log once all who have a replica said that they understand
//! the next. Until then nothing newer is proposed to it, and its state machine does what the older one did: a log means the same to every
//! replica, whatever version runs. It is never lowered, and who does not understand it takes no part.
//!
//! | format | since | what came with it |
//! |---|---|---|
//! | 1 | | all that is not named below |
//! | 2 | metadata processes that are levelled out | [`RootCommand::LeaveMetadataNode`], `BeginShift`, `EndShift`; [`RangeCommand::ImportChecked`]; a group made for a move that is given up ends with it; every part of an upload counts as two rows of an export; [`Command::Restore`], [`ChunkCommand::Forget`]; a chunk range that moves while the collection is held takes its doubts along; what a page leaves of versions that have ended is not read back |
//!
//! A new command, or a command that is to do something else than before, takes the next number: [`of_command`] and the state machine ask
//! for it. Not here: a group's own format (`metadata/src/format.rs`), who raises it (`metadata/src/service/formats.rs`).

use crate::wire::chunk::ChunkCommand;
use crate::wire::range::RangeCommand;
use crate::wire::root::RootCommand;
use crate::wire::{Batch, Command};
use serde::{Deserialize, Serialize};
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Format(pub u8);

/// What a process understands that does not say, and what a new group has.
pub const FIRST: Format = Format(1);
/// See the table above.
pub const LEVELLED: Format = Format(2);
/// The newest that this version understands.
pub const NEWEST: Format = LEVELLED;

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The first format whose groups know the command.
pub fn of_command(command: &Command) -> Format {
    match command {
        Command::Root(RootCommand::LeaveMetadataNode { .. } | RootCommand::BeginShift { .. } | RootCommand::EndShift { .. }) => LEVELLED,
        Command::Range(RangeCommand::ImportChecked { .. }) | Command::Chunk(ChunkCommand::Forget { .. }) | Command::Restore(_) => LEVELLED,
        Command::Root(_) | Command::Namespace(_) | Command::Chunk(_) | Command::Range(_) => FIRST,
    }
}

/// The first format whose groups know all of the batch.
pub fn of_batch(batch: &Batch) -> Format {
    batch.commands.iter().map(of_command).max().unwrap_or(FIRST)
}

/// The newest format that may be used among these, by what each says that it understands.
///
/// - `understood`: one a replica, whether it votes or learns; `None`: it does not answer.
///
/// `None`: nobody knows, and all stays as it is.
pub fn agreed(understood: impl IntoIterator<Item = Option<Format>>) -> Option<Format> {
    let mut least = Some(Format(u8::MAX));
    let mut any = false;
    for one in understood {
        any = true;
        least = least.min(one);
    }
    // `None` is less than any `Some`.
    least.filter(|_| any)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{MoveId, NodeId, UnixMs};
    use crate::wire::Chain;

    #[test]
    fn what_all_understand_is_what_the_oldest_does_and_nothing_is_agreed_while_one_is_silent() {
        assert_eq!(agreed([]), None);
        assert_eq!(agreed([Some(Format(2))]), Some(Format(2)));
        assert_eq!(agreed([Some(Format(3)), Some(Format(1)), Some(Format(2))]), Some(Format(1)));
        assert_eq!(agreed([Some(Format(3)), None, Some(Format(3))]), None);
        // Of every three answers: never more than any of them, and what one of them is.
        for n in 0..125_u8 {
            let said = [n % 5, n / 5 % 5, n / 25].map(|format| (format > 0).then_some(Format(format)));
            match agreed(said) {
                None => assert!(said.contains(&None)),
                Some(format) => assert!(said.contains(&Some(format)) && said.iter().flatten().all(|other| format <= *other)),
            }
        }
    }

    #[test]
    fn a_batch_is_as_new_as_its_newest_command() {
        let old = Command::Root(RootCommand::GiveUpMove { id: MoveId(1) });
        let new = Command::Root(RootCommand::LeaveMetadataNode { node: NodeId([1; 32]), now: UnixMs(1) });
        let of = |commands: Vec<Command>| of_batch(&Batch { chain: Chain::Stop, commands });
        assert_eq!(of(vec![]), FIRST);
        assert_eq!(of(vec![old.clone(), old.clone()]), FIRST);
        assert_eq!(of(vec![old, new]), LEVELLED);
    }
}
