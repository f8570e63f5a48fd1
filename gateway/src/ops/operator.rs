//! What operations and administration are done with.

use crate::fleet::table::Fleet;
use crate::front::auth::KeyRing;
use crate::path::DataPath;
use crate::roster::Roster;
use spine::id::{GroupId, MemberId};
use spine::map::Map;
use spine::wire::cluster::{ClusterStatus, Endpoint, Loads, Member, Understood};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Gives up the disk that was in a folder and takes what is there now; the text says what happened.
pub type Adopt = Box<dyn Fn(PathBuf) -> futures::future::BoxFuture<'static, Result<String, String>> + Send + Sync>;
/// Has every disk give back what is dead.
pub type Compact = Box<dyn Fn() -> futures::future::BoxFuture<'static, ()> + Send + Sync>;

/// Who keeps metadata, as far as an operator looks at it and changes it.
#[async_trait::async_trait]
pub trait Members: Send + Sync {
    /// This process, where it keeps metadata itself; there are no others then.
    fn alone(&self) -> Option<Member>;
    /// The nodes as this process remembers them, nobody asked.
    fn known(&self) -> Vec<Endpoint>;
    /// The map as this process last saw it, nobody asked.
    fn known_map(&self) -> Option<Arc<Map>>;
    /// What one node says of itself, or why it does not.
    async fn status_of(&self, at: &Endpoint) -> Result<ClusterStatus, String>;
    /// What one node understands of what others may say, or why it does not tell.
    async fn format_of(&self, at: &Endpoint) -> Result<Understood, String>;
    /// What one node bears, or why it does not say.
    async fn loads_of(&self, at: &Endpoint) -> Result<Loads, String>;
    /// Has the group's leader hand over to another voter.
    async fn transfer(&self, group: GroupId, to: MemberId) -> Result<(), String>;
    /// Takes a member out of a group.
    async fn take_out(&self, group: GroupId, member: MemberId) -> Result<(), String>;
}

/// What operations are done with.
pub struct Operator {
    pub path: Arc<DataPath>,
    pub ring: Arc<KeyRing>,
    pub nodes: Roster,
    /// Folders of `nodes`, in the same order; none in a fleet.
    pub folders: Vec<PathBuf>,
    /// Where this process is a gateway.
    pub fleet: Option<Arc<Fleet>>,
    pub cluster: Arc<dyn Members>,
    pub k: u8,
    pub m: u8,
    /// How long a chunk without references stays.
    pub grace: Duration,
    pub adopt: Adopt,
    pub compact: Compact,
    /// The data folder.
    pub data: PathBuf,
    pub token: String,
}
