//! Intents of this process's writes: opened before the first reference, closed by the commit, aborted if the write is dropped.
//!
//! A dropped write is handed to a background worker, which first confirms what it had stored (so that the collector knows
//! where the shards are) and then aborts the intent. Whether a proposal of the dropped write is still on its way does not
//! matter: what it leaves is found by the reaper, because the write is no longer in the list of open ones.
//! Invariant: an intent of this process that is not in the list belongs to no write.
//! Not here: intents of other writers (`collect/reap.rs`).

use crate::body::Name;
use crate::metric::{INTENTS_ABORTED, WRITES_OPEN};
use spine::id::{UnixMs, VersionId, WriterId};
use spine::wire::chunk::{ChunkCommand, Confirmation};
use spine::wire::namespace::NamespaceCommand;
use spine::wire::{Batch, Chain, Command, Metadata};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Confirmations in one proposal.
pub const CONFIRM_STEP: usize = 256;

/// What a dropped write leaves to be done.
pub struct Abandoned {
    version: VersionId,
    name: Arc<Name>,
    unconfirmed: Vec<Confirmation>,
    left: Arc<AtomicUsize>,
}

impl Drop for Abandoned {
    fn drop(&mut self) {
        self.left.fetch_sub(1, Ordering::AcqRel);
    }
}

/// This process's writes under way.
pub struct Intents {
    writer: WriterId,
    open: Mutex<HashSet<VersionId>>,
    abandoned: mpsc::UnboundedSender<Abandoned>,
    /// Dropped writes handed to the worker and not done with.
    left: Arc<AtomicUsize>,
}

impl Intents {
    /// The list, and the other end for [`abort_abandoned`].
    pub fn new(writer: WriterId) -> (Arc<Intents>, mpsc::UnboundedReceiver<Abandoned>) {
        let (abandoned, received) = mpsc::unbounded_channel();
        (Arc::new(Intents { writer, open: Mutex::default(), abandoned, left: Arc::default() }), received)
    }

    pub fn writer(&self) -> WriterId {
        self.writer
    }

    /// A new write; its intent is not proposed yet.
    pub fn begin(self: &Arc<Self>, name: Arc<Name>) -> Result<Intent, getrandom::Error> {
        let mut id = [0; VersionId::LEN];
        getrandom::fill(&mut id)?;
        let version = VersionId(id);
        self.lock().insert(version);
        WRITES_OPEN.inc();
        Ok(Intent { version, name, intents: self.clone(), proposed: AtomicBool::new(false), closed: false, unconfirmed: Mutex::default() })
    }

    /// Whether a write of this process holds this version.
    pub fn is_open(&self, version: VersionId) -> bool {
        self.lock().contains(&version)
    }

    /// Waits until no dropped write waits to be aborted.
    pub async fn settle(&self) {
        while self.left.load(Ordering::Acquire) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<VersionId>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One write's hold on its version. Dropped before [`Intent::close`], the write is aborted.
pub struct Intent {
    pub version: VersionId,
    name: Arc<Name>,
    intents: Arc<Intents>,
    /// Something was proposed in its name: it has to be aborted.
    proposed: AtomicBool,
    closed: bool,
    /// Stored and not yet confirmed.
    unconfirmed: Mutex<Vec<Confirmation>>,
}

impl Intent {
    /// The command that must stand before every reference in a batch: opens the intent, or renews it and so makes sure that it is open.
    pub fn fence(&self, now: UnixMs) -> Command {
        let (version, bucket, key) = (self.version, self.name.bucket, self.name.key.clone());
        Command::Namespace(match self.proposed.swap(true, Ordering::AcqRel) {
            false => NamespaceCommand::OpenIntent { version, bucket, key, writer: self.intents.writer, opened: now },
            true => NamespaceCommand::RenewIntent { version, bucket, key, now },
        })
    }

    /// Whether an intent was ever proposed.
    pub fn proposed(&self) -> bool {
        self.proposed.load(Ordering::Acquire)
    }

    /// Notes a chunk that is stored and has to be confirmed.
    pub fn stored(&self, confirmation: Confirmation) {
        self.lock().push(confirmation);
    }

    /// Confirm commands for all that is stored and not confirmed, and how many chunks they are.
    pub fn to_confirm(&self) -> (usize, Vec<Command>) {
        let unconfirmed = self.lock();
        (unconfirmed.len(), confirm_commands(self.version, &unconfirmed))
    }

    /// Forgets the first `count` unconfirmed: they are confirmed.
    pub fn confirmed(&self, count: usize) {
        self.lock().drain(..count);
    }

    /// The commit went through: nothing is left to abort.
    pub fn close(mut self) {
        self.closed = true;
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Confirmation>> {
        self.unconfirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Intent {
    fn drop(&mut self) {
        self.intents.lock().remove(&self.version);
        WRITES_OPEN.dec();
        if self.proposed() && !self.closed {
            self.intents.left.fetch_add(1, Ordering::AcqRel);
            let left = Abandoned {
                left: self.intents.left.clone(),
                version: self.version,
                name: self.name.clone(),
                unconfirmed: std::mem::take(&mut self.lock()),
            };
            // Without the worker (shutdown) the next start aborts what this process left.
            let _ = self.intents.abandoned.send(left);
        }
    }
}

/// Confirm commands for these, none of them large.
fn confirm_commands(version: VersionId, unconfirmed: &[Confirmation]) -> Vec<Command> {
    unconfirmed.chunks(CONFIRM_STEP).map(|chunks| Command::Chunk(ChunkCommand::Confirm { version, chunks: chunks.to_vec() })).collect()
}

/// The worker: aborts what was dropped, until the list and its other ends are gone.
pub async fn abort_abandoned(metadata: Arc<dyn Metadata>, mut abandoned: mpsc::UnboundedReceiver<Abandoned>) {
    let mut batch = Vec::new();
    while abandoned.recv_many(&mut batch, 32).await > 0 {
        for write in batch.drain(..) {
            abort(&*metadata, &write).await;
        }
    }
}

async fn abort(metadata: &dyn Metadata, write: &Abandoned) {
    let mut commands = confirm_commands(write.version, &write.unconfirmed);
    let Name { bucket, key } = (*write.name).clone();
    commands.push(Command::Namespace(NamespaceCommand::AbortIntent { version: write.version, bucket, key }));
    let mut pause = Duration::from_millis(50);
    for _ in 0..8 {
        match metadata.propose(Batch { chain: Chain::Independent, commands: commands.clone() }).await {
            Ok(_) => {
                INTENTS_ABORTED.inc();
                return;
            }
            Err(error) => tracing::debug!(version = %write.version, %error, "an abandoned write was not aborted yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
    tracing::warn!(version = %write.version, "an abandoned write was not aborted; the reaper will do it");
}
