//! Takes a copy: all groups' rows, each group's as of one moment of it, sealed, block by block into a channel.
//!
//! The copies of all groups are begun before the first is read, so that their moments are near each other, and in an order that
//! `moments.rs` judges; while one is read the others are told that they are still wanted. A range that moves meanwhile is waited for.

use super::block::{Name, Sealer};
use super::item::{Item, Order, Packer};
use super::moments;
use super::{SnapshotError, strange, wrong};
use crate::core::now;
use crate::keys::Keys;
use bytes::Bytes;
use futures::future::try_join_all;
use spine::id::GroupId;
use spine::map::Map;
use spine::wire::copy::{CopyPart, CopyQuery, CopyStep, Moment};
use spine::wire::root::{RootAnswer, RootQuery};
use spine::wire::{Answer, Metadata, MetadataError, Query};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long ranges that move, and another copy that is being made, are waited for, and between two looks: longer than a group keeps a copy
/// that nobody asks for any more (180 s), so that one that failed does not fail the next.
const PATIENCE: Duration = Duration::from_secs(240);
const PAUSE: Duration = Duration::from_millis(500);
/// How often groups whose turn is not yet are told that their copies are wanted: several times before those would be let go of.
const KEEP: Duration = Duration::from_secs(30);

/// What was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub name: Name,
    pub rows: u64,
    pub bytes: u64,
}

struct Out<'a> {
    packer: Packer,
    /// Judges what is written as a reader will.
    order: Order,
    blocks: &'a mpsc::Sender<Bytes>,
    bytes: u64,
}

impl Out<'_> {
    async fn push(&mut self, item: Item) -> Result<(), SnapshotError> {
        self.order.take(&item)?;
        for block in self.packer.push(&item)? {
            self.send(block).await?;
        }
        Ok(())
    }

    async fn send(&mut self, block: Bytes) -> Result<(), SnapshotError> {
        self.bytes += block.len() as u64;
        self.blocks.send(block).await.map_err(|_| SnapshotError::Untaken)
    }
}

/// The name of a copy that is to be taken now.
pub fn name() -> Result<Name, SnapshotError> {
    Ok(Name { made: now(), id: random()? })
}

/// Takes one now.
///
/// # Errors
/// Metadata's, also where its leader changed meanwhile: begin anew; `Untaken`. Whatever went into the channel is then no copy: it has no last block.
pub async fn take(metadata: &Arc<dyn Metadata>, keys: &Keys, name: Name, blocks: &mpsc::Sender<Bytes>) -> Result<Taken, SnapshotError> {
    let mut out = Out { packer: Packer::new(Sealer::new(keys, name)), order: Order::default(), blocks, bytes: 0 };
    let Answer::Root(RootAnswer::Fleet(fleet)) = metadata.query(Query::Root(RootQuery::Fleet)).await? else {
        return Err(strange("the fleet"));
    };
    let copying = begin(metadata).await?;
    // After the moments of all groups: none of them is of a newer one.
    let Answer::Root(RootAnswer::Format(format)) = metadata.query(Query::Root(RootQuery::Format)).await? else {
        return Err(strange("the format"));
    };
    out.push(Item::About { fleet: fleet.map(|fleet| fleet.id), format }).await?;
    let mut kept = Instant::now();
    for (at, (group, of)) in copying.groups.iter().enumerate() {
        out.push(Item::Group(*group)).await?;
        for number in 0..u32::MAX {
            if kept.elapsed() > KEEP {
                try_join_all(copying.groups[at + 1..].iter().map(|(group, of)| copying.ask(metadata, *group, CopyStep::Keep, Some(of))))
                    .await?;
                kept = Instant::now();
            }
            let part = copying.ask(metadata, *group, CopyStep::Part(number), Some(of)).await?;
            if !part.rows.is_empty() {
                out.push(Item::Rows(part.rows)).await?;
            }
            if let Some(end) = part.end {
                out.push(Item::EndGroup(end)).await?;
                break;
            }
        }
    }
    let groups = u32::try_from(copying.groups.len()).map_err(|_| wrong("more groups than there are numbers"))?;
    out.push(Item::End { groups }).await?;
    let last = out.packer.finish()?;
    out.send(last).await?;
    Ok(Taken { name, rows: out.order.rows, bytes: out.bytes })
}

fn random() -> Result<[u8; 16], MetadataError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| MetadataError::Unavailable { reason: error.to_string() })?;
    Ok(id)
}

/// Copies that are begun, in the order of their moments.
struct Copying {
    stream: [u8; 16],
    groups: Vec<(GroupId, Moment)>,
}

impl Copying {
    /// - `known`: of which moment the answer must be.
    async fn ask(
        &self,
        metadata: &Arc<dyn Metadata>,
        group: GroupId,
        step: CopyStep,
        known: Option<&Moment>,
    ) -> Result<CopyPart, SnapshotError> {
        match metadata.query(Query::Copy(CopyQuery { group, stream: self.stream, step })).await? {
            Answer::Copy(part) if known.is_none_or(|known| *known == part.of) => Ok(part),
            Answer::Copy(_) => Err(wrong("a group began another copy")),
            _ => Err(strange("a part of a copy")),
        }
    }
}

/// Begins the copies of all groups at moments that belong together.
async fn begin(metadata: &Arc<dyn Metadata>) -> Result<Copying, SnapshotError> {
    let began = Instant::now();
    // The same for each try: a group takes the later one for the earlier one's going on.
    let mut copying = Copying { stream: random()?, groups: Vec::new() };
    loop {
        let reason = match try_to_begin(metadata, &mut copying).await {
            Ok(()) => match moments::judge(&copying.groups) {
                Ok(()) => return Ok(copying),
                Err(reason) => reason.to_string(),
            },
            Err(SnapshotError::Metadata(MetadataError::Unavailable { reason })) => reason,
            Err(SnapshotError::Metadata(MetadataError::NotHere)) => "a group has come or gone".to_string(),
            Err(error) => return Err(error),
        };
        if began.elapsed() > PATIENCE {
            let reason = format!("for {} s there was no moment at which all groups could be copied: {reason}", PATIENCE.as_secs());
            return Err(MetadataError::Unavailable { reason }.into());
        }
        tracing::debug!(reason, "a copy of metadata is begun again");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn try_to_begin(metadata: &Arc<dyn Metadata>, copying: &mut Copying) -> Result<(), SnapshotError> {
    copying.groups.clear();
    let Answer::Root(RootAnswer::Map(map)) = metadata.query(Query::Root(RootQuery::Map { known: None })).await? else {
        return Err(strange("the map"));
    };
    let Answer::Root(RootAnswer::Groups(records)) = metadata.query(Query::Root(RootQuery::Groups)).await? else {
        return Err(strange("the groups"));
    };
    let map = map.unwrap_or_else(|| Map::of_one(GroupId(0)));
    let others = records.iter().filter(|record| !record.ended).map(|record| record.id);
    for group in moments::in_order(&map, others) {
        let part = copying.ask(metadata, group, CopyStep::Begin, None).await?;
        copying.groups.push((group, part.of));
    }
    Ok(())
}
