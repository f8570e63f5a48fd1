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
}

impl Room {
    pub fn new(checkpoints: Arc<Checkpoints>, dir: &Path, reserve_bytes: u64) -> Self {
        // A small map keeps a small reserve: an eighth of it.
        let reserve_bytes = reserve_bytes.min(checkpoints.table().usage().map_bytes / 8);
        let room = Self { checkpoints, dir: dir.to_owned(), reserve_bytes, full: AtomicBool::new(false) };
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
/// back: its steps rewrite a record, and what it frees comes last. A gateway without the lease would free nothing at all.
pub(crate) fn grows(command: &Command) -> bool {
    !matches!(
        command,
        Command::Root(
            RootCommand::NoteNode(_)
                | RootCommand::RevokeTenant { .. }
                | RootCommand::RevokeKey { .. }
                | RootCommand::DeleteBucket { .. }
                | RootCommand::EndDelete { .. }
                | RootCommand::EndShift { .. }
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
fn available(dir: &Path) -> io::Result<u64> {
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
