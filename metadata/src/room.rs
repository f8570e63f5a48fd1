//! Whether the table may grow: refuses writes before the map or the file system is full, so that neither ever fails a commit.
//!
//! Reads and commands that only take away go on; a B-tree needs new pages for those, too, which is what the reserve is for.

use crate::checkpoint::Checkpoints;
use crate::lmdb::Usage;
use spine::wire::chunk::ChunkCommand;
use spine::wire::namespace::NamespaceCommand;
use spine::wire::range::RangeCommand;
use spine::wire::root::RootCommand;
use spine::wire::{Batch, Command, MetadataError};
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub struct Room {
    checkpoints: Arc<Checkpoints>,
    dir: PathBuf,
    reserve_bytes: u64,
    full: AtomicBool,
    /// Whether that is for want of disk: other processes may have more.
    disk_full: AtomicBool,
}

impl Room {
    pub fn new(checkpoints: Arc<Checkpoints>, dir: &Path, reserve_bytes: u64) -> Self {
        // A small map keeps a small reserve: an eighth of it.
        let reserve_bytes = reserve_bytes.min(checkpoints.table().usage().map_bytes / 8);
        let (full, disk_full) = Default::default();
        let room = Self { checkpoints, dir: dir.to_owned(), reserve_bytes, full, disk_full };
        room.measure();
        room
    }

    /// Looks again; once a second is often enough for the reserve. May walk the free list when room is short.
    pub fn measure(&self) -> Usage {
        let table = self.checkpoints.table();
        let usage = table.usage();
        let map_left = usage.map_bytes.saturating_sub(usage.high_bytes);
        let disk_left = available(&self.dir).unwrap_or_else(|error| {
            tracing::warn!(%error, "the room on the metadata disk is not known");
            u64::MAX
        });
        let left = map_left.min(disk_left);
        // Pages that are free inside the table are as good as new ones.
        let short = left < self.reserve_bytes && left.saturating_add(table.free_bytes().unwrap_or(0)) < self.reserve_bytes;
        self.disk_full.store(short && disk_left < self.reserve_bytes, Ordering::Release);
        let was = self.full.swap(short, Ordering::AcqRel);
        if short != was {
            tracing::warn!(full = short, map_left, disk_left, reserve = self.reserve_bytes, "room of a metadata table");
        }
        usage
    }

    /// Whether less than the reserve is left.
    pub fn is_short(&self) -> bool {
        self.full.load(Ordering::Acquire)
    }

    /// Whether that is for want of disk, of which other processes may have more. The map is as large everywhere.
    pub fn is_short_of_disk(&self) -> bool {
        self.disk_full.load(Ordering::Acquire)
    }

    /// # Errors
    /// [`MetadataError::Full`] for a batch that would make the table grow when there is no room.
    pub fn admit(&self, batch: &Batch) -> Result<(), MetadataError> {
        if !self.is_short() || !batch.commands.iter().any(grows) {
            return Ok(());
        }
        let usage = self.checkpoints.table().usage();
        Err(MetadataError::Full { used: usage.high_bytes, map: usage.map_bytes })
    }
}

/// Noting a node is what every start does for every disk, a few bytes each: a server whose disk is full has to start. A fleet whose
/// gateway is full goes on renewing certificates, and its operator can still shut a node out. A move that was begun goes on to its end, or
/// back: its steps rewrite a record, and what it frees comes last. A gateway without the lease would free nothing at all. A metadata node
/// that is full can be replaced: another one is invited and let in, it gives its groups up, and goes; meanwhile its kind has its
/// certificates renewed. A few bytes a node, an invitation and a shift, of which so many are kept.
pub(crate) fn grows(command: &Command) -> bool {
    !matches!(
        command,
        Command::Root(
            RootCommand::NoteNode(_)
                | RootCommand::RevokeTenant { .. }
                | RootCommand::RevokeKey { .. }
                | RootCommand::DeleteBucket { .. }
                | RootCommand::EndDelete { .. }
                | RootCommand::BeginShift { .. }
                | RootCommand::EndShift { .. }
                | RootCommand::CreateInvite(_)
                | RootCommand::AdmitMetadataNode(_)
                | RootCommand::LeaveMetadataNode { .. }
                | RootCommand::RemoveMetadataNode { .. }
                | RootCommand::AdmitNode(_)
                | RootCommand::SetNodeState { .. }
                | RootCommand::UseInvite { .. }
                | RootCommand::Revoke { .. }
                | RootCommand::TakeLease { .. }
                | RootCommand::TakeMove { .. }
                | RootCommand::StepMove { .. }
                | RootCommand::GiveUpMove { .. }
                | RootCommand::EndGroup { .. }
        ) | Command::Namespace(
            NamespaceCommand::RenewIntent { .. }
                | NamespaceCommand::AbortIntent { .. }
                | NamespaceCommand::Delete { .. }
                | NamespaceCommand::AbortUpload { .. }
                | NamespaceCommand::OutboxDone { .. }
        ) | Command::Chunk(
            ChunkCommand::Unref { .. }
                | ChunkCommand::Condemn { .. }
                | ChunkCommand::BeginDelete { .. }
                | ChunkCommand::FinishDelete { .. }
                | ChunkCommand::MarkLost { .. }
                | ChunkCommand::Hold { .. }
                | ChunkCommand::Forget { .. }
        ) | Command::Range(
            RangeCommand::Prepare { .. }
                | RangeCommand::Export { .. }
                | RangeCommand::Freeze { .. }
                | RangeCommand::Thaw { .. }
                | RangeCommand::Release { .. }
                | RangeCommand::Serve { .. }
                | RangeCommand::Purge { .. }
                | RangeCommand::Cancel { .. }
                | RangeCommand::Drop { .. }
                | RangeCommand::Bucket { .. }
        )
    )
}

/// Bytes that this process may still write on the file system of `dir`.
pub(crate) fn available(dir: &Path) -> io::Result<u64> {
    let path = CString::new(dir.as_os_str().as_bytes())?;
    // SAFETY: plain out parameter, a path that ends in zero.
    let stat = unsafe {
        let mut stat = std::mem::zeroed::<libc::statvfs>();
        if libc::statvfs(path.as_ptr(), &mut stat) != 0 {
            return Err(io::Error::last_os_error());
        }
        stat
    };
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use spine::id::{BucketId, Epoch, GroupId, InviteId, MemberId, MoveId, NodeId, TenantId, UnixMs};
    use spine::map::NamePoint;
    use spine::wire::cluster::{Endpoint, Member};
    use spine::wire::root::{BucketRecord, InviteRecord, MetadataNodeRecord, MoveAsk, ShiftKind, TenantRecord, Versioning};

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    #[test]
    fn a_full_metadata_node_can_be_replaced_and_certificates_are_renewed_while_there_is_no_room() {
        let now = UnixMs(1);
        let member = |n: u8| Member { id: MemberId(u64::from(n)), at: Endpoint { node: node(n), address: "10.0.0.1:7500".into() } };
        let (address, certificate) = ("10.0.0.1:7500".to_string(), Bytes::from_static(b"certificate"));
        let record = MetadataNodeRecord { id: node(1), address, certificate, not_after: now, removed: false, admitted: now, changed: now };
        let (kind, group, reason) = (ShiftKind::Replica, GroupId(0), "it is full".to_string());
        let let_in = [
            RootCommand::CreateInvite(InviteRecord { id: InviteId([1; 32]), created: now, expires: now, uses_left: 1 }),
            RootCommand::UseInvite { id: InviteId([1; 32]), now },
            RootCommand::AdmitMetadataNode(record),
            RootCommand::LeaveMetadataNode { node: node(1), now },
            RootCommand::BeginShift { kind, group, from: member(1), to: member(2), reason, now },
            RootCommand::EndShift { id: MoveId(1), done: true, now },
            RootCommand::RemoveMetadataNode { node: node(1), now },
            RootCommand::Revoke { version: 1, list: Bytes::new() },
        ];
        for command in let_in {
            assert!(!grows(&Command::Root(command.clone())), "{command:?}");
        }
    }

    #[test]
    fn what_clients_and_operators_add_is_refused_while_there_is_no_room() {
        let (now, tenant) = (UnixMs(1), TenantId(1));
        let bucket = BucketRecord {
            id: BucketId(1),
            name: "promises".into(),
            tenant,
            created: now,
            chunk_bytes: 1 << 20,
            versioning: Versioning::Unversioned,
            location: String::new(),
        };
        let ask = MoveAsk::SplitNames { at: NamePoint::new(BucketId(1), "m"), members: Vec::new() };
        let refused = [
            RootCommand::CreateTenant(TenantRecord { id: tenant, name: "t".into(), secrets: Vec::new(), created: now, revoked: false }),
            RootCommand::CreateBucket(bucket),
            RootCommand::BeginMove { ask, expected: Epoch(1), reason: String::new(), now },
        ];
        for command in refused {
            assert!(grows(&Command::Root(command.clone())), "{command:?}");
        }
    }
}
