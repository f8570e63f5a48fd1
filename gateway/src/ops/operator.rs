//! What operations and administration are done with.

use crate::front::auth::KeyRing;
use crate::path::DataPath;
use spine::wire::shard::StorageNode;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Gives up the disk that was in a folder and takes what is there now; the text says what happened.
pub type Adopt = Box<dyn Fn(PathBuf) -> futures::future::BoxFuture<'static, Result<String, String>> + Send + Sync>;
/// Has every disk give back what is dead.
pub type Compact = Box<dyn Fn() -> futures::future::BoxFuture<'static, ()> + Send + Sync>;

/// What operations are done with.
pub struct Operator {
    pub path: Arc<DataPath>,
    pub ring: Arc<KeyRing>,
    pub nodes: Vec<Arc<dyn StorageNode>>,
    /// Folders of `nodes`, in the same order.
    pub folders: Vec<PathBuf>,
    pub k: u8,
    pub m: u8,
    /// How long a chunk without references stays.
    pub grace: Duration,
    pub adopt: Adopt,
    pub compact: Compact,
    pub token: String,
}
