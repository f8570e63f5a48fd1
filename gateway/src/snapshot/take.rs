//! Takes a copy: every group's rows as of one moment of that group, sealed, block by block into a channel.

use super::block::{Name, Sealer};
use super::item::{Item, Order, Packer};
use super::{SnapshotError, strange, wrong};
use crate::core::now;
use crate::keys::Keys;
use bytes::Bytes;
use spine::id::GroupId;
use spine::wire::copy::CopyQuery;
use spine::wire::root::{RootAnswer, RootQuery};
use spine::wire::{Answer, Metadata, MetadataError, Query};
use std::sync::Arc;
use tokio::sync::mpsc;

/// All groups there are.
const GROUPS: [GroupId; 1] = [GroupId(0)];

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
        let gone = |_| SnapshotError::Refused { what: "whoever takes the copy has ended".into() };
        self.blocks.send(block).await.map_err(gone)
    }
}

/// Takes one now.
///
/// # Errors
/// Metadata's, also where its leader changed meanwhile: begin anew. Whatever went into the channel is then no copy: it has no last block.
pub async fn take(metadata: &Arc<dyn Metadata>, keys: &Keys, blocks: &mpsc::Sender<Bytes>) -> Result<Taken, SnapshotError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| MetadataError::Unavailable { reason: error.to_string() })?;
    let name = Name { made: now(), id };
    let mut out = Out { packer: Packer::new(Sealer::new(keys, name)), order: Order::default(), blocks, bytes: 0 };
    let Answer::Root(RootAnswer::Fleet(fleet)) = metadata.query(Query::Root(RootQuery::Fleet)).await? else {
        return Err(strange("the fleet"));
    };
    out.push(Item::About { fleet: fleet.map(|fleet| fleet.id) }).await?;
    for group in GROUPS {
        copy(metadata, group, &mut out).await?;
    }
    out.push(Item::End { groups: GROUPS.len() as u32 }).await?;
    let last = out.packer.finish()?;
    out.send(last).await?;
    Ok(Taken { name, rows: out.order.rows, bytes: out.bytes })
}

async fn copy(metadata: &Arc<dyn Metadata>, group: GroupId, out: &mut Out<'_>) -> Result<(), SnapshotError> {
    let mut stream = [0; 16];
    getrandom::fill(&mut stream).map_err(|error| MetadataError::Unavailable { reason: error.to_string() })?;
    out.push(Item::Group(group)).await?;
    for number in 0..u32::MAX {
        let Answer::Copy(part) = metadata.query(Query::Copy(CopyQuery { group, stream, number })).await? else {
            return Err(strange("a part of a copy"));
        };
        if !part.rows.is_empty() {
            out.push(Item::Rows(part.rows)).await?;
        }
        if let Some(end) = part.end {
            return out.push(Item::EndGroup(end)).await;
        }
    }
    Err(wrong("a group of too many parts"))
}
