//! What a gateway has beside the parts of every server: its hold on the fleet, and the listener that admits nodes.

use super::compose::Store;
use super::{Behind, ServeError, local, routes, waiting};
use crate::boot::Home;
use crate::config::Config;
use crate::fleet::listener;
use crate::fleet::table::{self, Fleet, Settings};
use crate::keys::Keys;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A gateway's fleet, being followed and served.
pub struct Joined {
    pub fleet: Arc<Fleet>,
    /// Where nodes are admitted.
    pub address: SocketAddr,
    stop: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Joined {
    /// `bootstrap`: routers to begin with; none: no routing.
    pub async fn open(
        config: &Config,
        home: &Arc<Home>,
        store: &Store,
        keys: Arc<Keys>,
        socket: TcpListener,
        bootstrap: Vec<String>,
    ) -> Result<Joined, ServeError> {
        let address = local(&socket)?;
        let told = &config.fleet.admission_address;
        let admission_address = if told.is_empty() { address.to_string() } else { told.clone() };
        let settings = Settings { admission_address, life: Duration::from_secs(config.fleet.certificate_seconds) };
        let open = async || Ok(Fleet::open(home, keys.clone(), store.metadata(), settings.clone()).await?);
        let fleet = match waiting::patiently(store.elsewhere(), open).await {
            Ok(fleet) => fleet,
            Err(error) => {
                store.shutdown().await;
                return Err(error);
            }
        };
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(fleet.clone().run(stopped.clone()));
        tasks.spawn(routes::run(fleet.clone(), bootstrap, stopped.clone()));
        if let Some(elsewhere) = store.elsewhere() {
            tasks.spawn(elsewhere.clone().run(home.clone(), fleet.clone(), stopped.clone()));
        }
        tasks.spawn(listener::serve(socket, fleet.clone(), stopped));
        Ok(Joined { fleet, address, stop, tasks })
    }

    pub async fn shutdown(mut self) {
        let _ = self.stop.send(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

/// A data folder serves one role for life: what its metadata says is where shards lie.
pub fn suits(home: &Home, behind: &Behind) -> Result<(), ServeError> {
    let shown = home.dir().display();
    if super::metadata::papers::is_member(home.dir()) {
        return Err(ServeError::OtherRole(format!("the data folder is a metadata node's. path=`{shown}`. Use `breakwater metadata`.")));
    }
    if let Some(node) = super::metadata::take::given_to(home.dir())? {
        return Err(ServeError::OtherRole(format!(
            "the data folder's metadata was given to the metadata node {node}. path=`{shown}`. Serve with an empty folder and --metadata; this one can be removed once the node serves."
        )));
    }
    match behind {
        Behind::Disks if table::folder(home.dir()).is_dir() => Err(ServeError::OtherRole(format!(
            "the data folder is a gateway's: its shards are on a fleet's nodes. path=`{shown}`. Use `breakwater gateway`, and `breakwater admin fsck` while it runs."
        ))),
        Behind::Fleet { .. } if home.slots_file().exists() => Err(ServeError::OtherRole(format!(
            "the data folder is a single server's: its shards are on its own disks. path=`{shown}`. Use `breakwater serve`, or choose an empty folder with --data."
        ))),
        _ => Ok(()),
    }
}
