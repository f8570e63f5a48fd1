//! What one disk is told when it is opened, and why it may refuse.

use spine::id::NodeId;
use std::path::{Path, PathBuf};
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Settings {
    /// The disk's directory. Holds `node.json`, `lock`, `segments/` and `index/`, in a fleet also `node-key`, `fleet.json` and `scrub`;
    /// nothing else belongs there.
    pub dir: PathBuf,
    /// Bytes this node may hold, index and trash included. `None`: as much as the file system has.
    pub capacity: Option<u64>,
    /// Failure domain: shards of one chunk go to distinct machines.
    pub machine: String,
    /// Larger failure domain.
    pub zone: String,
    /// The disk's name in metrics and logs. Keep the set of names small and fixed: the disk's number, say.
    pub label: String,
    /// Bytes of one segment, preallocated while it is written. Default 256 MiB.
    /// Larger: fewer files. Smaller: compaction moves less at a time.
    pub segment_bytes: u64,
    /// How long a removed shard is kept before compaction may drop it. Default 7 days.
    pub trash_age: Duration,
    /// Whether an empty or missing directory becomes a new node with a new identity when the disk is opened.
    /// Never while it is running: see [`crate::Disk::adopt`].
    pub adopt_empty: bool,
    /// Whether the disk is for a fleet: a new one makes an Ed25519 key (`node-key`), whose public half is its identity; one that
    /// has no key of its own does not open. Default false: a new disk has a random identity and no key.
    pub keyed: bool,
    /// The identity this disk must have. With it, a disk that is missing, empty or another one opens as `Lost` and is
    /// looked for, instead of failing to open or being adopted.
    pub expected: Option<NodeId>,
    /// Bytes of puts that may wait for the disk; further puts wait with their callers. Default 16 MiB.
    /// Larger: fuller groups on slow disks. Costs that much memory a disk.
    pub queue_bytes: u32,
    /// Shards read at once. Default 32. Larger: more threads busy on one slow disk.
    pub reads: usize,
    /// Address space of the index; a sparse file that never outgrows it. Default 64 GiB, some 400 million shards.
    pub index_map_bytes: usize,
    /// How often the index is made durable. Default 1 s. Larger: less writing, more to read again after a crash.
    pub fold_every: Duration,
    /// How often compaction looks for work. Default 60 s. `None`: only when asked.
    pub compact_every: Option<Duration>,
    /// A segment is compacted when at least this share of its bytes is dead. Default 0.4.
    /// Smaller: more space back, more copying.
    pub compact_share: f64,
    /// How long reading and checking everything takes, round after round. Default `None`: only when asked. A fleet's disks: 30 days.
    /// Smaller: damage is found sooner, more reading.
    pub scrub_round: Option<Duration>,
    /// How long the open segment may lie unused before its preallocated rest is given back. Default 10 s.
    pub seal_idle: Duration,
    /// How often a serving disk is looked at, and so how soon a vanished one is noticed. Default 500 ms.
    pub watch_every: Duration,
    /// How often a lost disk is looked for. Default 2 s.
    pub seek_every: Duration,
}

impl Settings {
    /// The defaults, for the disk in `dir`.
    pub fn new(dir: impl AsRef<Path>) -> Self {
        Self {
            dir: dir.as_ref().to_path_buf(),
            capacity: None,
            machine: String::new(),
            zone: String::new(),
            label: "0".to_string(),
            segment_bytes: 256 << 20,
            trash_age: Duration::from_secs(7 * 86_400),
            adopt_empty: true,
            keyed: false,
            expected: None,
            queue_bytes: 16 << 20,
            reads: 32,
            index_map_bytes: 64 << 30,
            fold_every: Duration::from_secs(1),
            compact_every: Some(Duration::from_secs(60)),
            compact_share: 0.4,
            scrub_round: None,
            seal_idle: Duration::from_secs(10),
            watch_every: Duration::from_millis(500),
            seek_every: Duration::from_secs(2),
        }
    }
}

/// Why a disk did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("another process uses this disk. dir=`{dir}`")]
    InUse { dir: PathBuf },
    /// Empty or missing, and not to be adopted.
    #[error("there is no disk here. dir=`{dir}`")]
    Missing { dir: PathBuf },
    /// There are shards, but the file that says whose they are is gone.
    #[error("the disk has segments but no node.json; restore the file or move the segments away. dir=`{dir}`")]
    NoIdentity { dir: PathBuf },
    /// The identity is there, the shards are not: most likely they were moved, and will be back.
    #[error("the disk has a node.json but no segments directory. dir=`{dir}`, node=`{node}`")]
    NoSegments { dir: PathBuf, node: NodeId },
    #[error("the disk's node.json does not read. dir=`{dir}`, reason=`{reason}`")]
    BadIdentity { dir: PathBuf, reason: String },
    /// Made by a process that has its disks for itself. Its identity is random, and no key can prove it.
    #[error("the disk has an identity without a key and cannot join a fleet; give the fleet an empty folder. dir=`{dir}`, node=`{node}`")]
    NoKey { dir: PathBuf, node: NodeId },
    #[error("the disk's node-key cannot be used. dir=`{dir}`, reason=`{reason}`")]
    BadKey { dir: PathBuf, reason: String },
    #[error("the disk was written by another version. dir=`{dir}`, format=`{format}`, known=`{known}`")]
    Format { dir: PathBuf, format: u32, known: u32 },
    #[error("this is another disk. dir=`{dir}`, found=`{found}`, expected=`{expected}`")]
    OtherDisk { dir: PathBuf, found: NodeId, expected: NodeId },
    /// The disk answered with an error.
    #[error("the disk failed while opening. step=`{step}`, reason=`{source}`")]
    Io { step: &'static str, source: std::io::Error },
    #[error("the index failed while opening. reason=`{reason}`")]
    Index { reason: String },
}

impl OpenError {
    /// For `map_err`: which step met the I/O error.
    pub(crate) fn io(step: &'static str) -> impl FnOnce(std::io::Error) -> OpenError {
        move |source| OpenError::Io { step, source }
    }
}
