//! The fleet as one gateway holds it: opened from the root group, followed every second, changed by the operator.
//!
//! ```text
//! DATA/fleet/          0700  says that this data folder is a gateway's
//!   ca-key             0600  the CA's key (PKCS#8), wrapped by the root key, hexadecimal
//! ```
//! Invariants: the roster is what the root group said last, retired nodes left out; a node that is retired is revoked in the same
//! batch of the log; one change at a time in this process.
//! Not here: who may join (`admit.rs`).

use super::FleetError;
use super::authority::{Authority, fingerprint};
use super::token::{Door, Token, invite_id};
use super::whereabouts::{self, Sought, Whereabouts};
use crate::audit::sentence::is_by_audit;
use crate::boot::credentials::{root_command, root_query};
use crate::boot::{BootError, Home, read_text, write_whole};
use crate::core::now;
use crate::keys::Keys;
use crate::metric::FLEET_NODES;
use crate::remote::{Bounds, Link, Peer};
use crate::roster::{Member, Roster};
use bytes::Bytes;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ClientConfig, ServerConfig};
use spine::fleet::admission::{Admission, Role};
use spine::fleet::revocation::Revocations;
use spine::fleet::tls::{Identity, Shown};
use spine::fleet::trust::Trust;
use spine::id::{FleetId, NodeId, UnixMs};
use spine::wire::root::{FleetNodeRecord, FleetNodeState, FleetRecord, InviteRecord, RootAnswer, RootCommand, RootQuery};
use spine::wire::shard::{NodeState, StorageNode};
use spine::wire::{Batch, Chain, Command, Metadata, Refusal, Reply};
use std::collections::HashMap;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// How often the root group is asked who belongs to the fleet.
const FOLLOW: Duration = Duration::from_secs(1);
/// How long a start waits for nodes to answer.
const FIRST_LOOK: Duration = Duration::from_secs(3);
/// Machine and zone in the certificate of a gateway, which holds no shards.
const GATEWAY: &str = "gateway";
/// Two gateways may revoke at once; the one that is second tries again.
const TRIES: usize = 5;

/// Every [`word`].
const STATES: [&str; 4] = ["active", "draining", "suspended", "retired"];

/// What an operator chooses.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where nodes reach the admission listener, unless an invitation says otherwise: `host:port`.
    pub admission_address: String,
    /// Life of a certificate.
    pub life: Duration,
}

/// One gateway's hold on its fleet. There may be no fleet yet.
pub struct Fleet {
    key_file: PathBuf,
    keys: Arc<Keys>,
    metadata: Arc<dyn Metadata>,
    pub settings: Settings,
    roster: Roster,
    live: RwLock<Option<Arc<Live>>>,
    turn: tokio::sync::Mutex<()>,
    following: tokio::sync::Mutex<()>,
    nudge: Notify,
    whereabouts: RwLock<Option<Arc<dyn Whereabouts>>>,
}

/// A fleet that exists.
pub struct Live {
    pub authority: Authority,
    pub trust: Arc<Trust>,
    shown: Arc<Shown>,
    /// When the certificates of this process were made.
    made: Mutex<UnixMs>,
    admission: RwLock<Arc<ServerConfig>>,
    client: Arc<ClientConfig>,
    links: Mutex<HashMap<NodeId, Sought>>,
}

/// What an operator calls a state.
pub fn word(state: &FleetNodeState) -> &'static str {
    match state {
        FleetNodeState::Active => "active",
        FleetNodeState::Draining => "draining",
        FleetNodeState::Suspended { .. } => "suspended",
        FleetNodeState::Retired => "retired",
    }
}

/// The folder that says that a data folder is a gateway's.
pub fn folder(data: &Path) -> PathBuf {
    data.join("fleet")
}

/// Where the CA's key lies, wrapped.
pub fn key_file(data: &Path) -> PathBuf {
    folder(data).join("ca-key")
}

pub fn make_folder(home: &Home) -> Result<(), BootError> {
    let path = folder(home.dir());
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
    made.map_err(|source| BootError::Folder { path, source })
}

impl Fleet {
    /// The fleet that the root group has, if it has one, with its nodes in the roster.
    ///
    /// # Errors
    /// [`FleetError::Wrong`] if there is a fleet and its CA's key is not in the data folder.
    pub async fn open(home: &Home, keys: Arc<Keys>, metadata: Arc<dyn Metadata>, settings: Settings) -> Result<Arc<Fleet>, FleetError> {
        make_folder(home)?;
        let fleet = Arc::new(Fleet {
            key_file: key_file(home.dir()),
            keys,
            metadata,
            settings,
            roster: Roster::default(),
            live: RwLock::default(),
            turn: tokio::sync::Mutex::default(),
            following: tokio::sync::Mutex::default(),
            nudge: Notify::new(),
            whereabouts: RwLock::default(),
        });
        if let Some(record) = fleet.record().await? {
            let key = read_key(&fleet.key_file, &fleet.keys, record.id)?;
            fleet.begin(Authority::open(record.id, &key, &record.authority)?)?;
            fleet.follow().await?;
            let links: Vec<Arc<Link>> =
                fleet.live()?.links.lock().unwrap_or_else(PoisonError::into_inner).values().map(|sought| sought.link.clone()).collect();
            // What is there is there before the first request, and what is not does not hold up the start.
            futures::future::join_all(links.iter().map(|link| link.first_look(FIRST_LOOK))).await;
        }
        Ok(fleet)
    }

    /// Where the CA's key lies, wrapped.
    pub fn key_file(&self) -> &Path {
        &self.key_file
    }

    pub fn roster(&self) -> Roster {
        self.roster.clone()
    }

    pub fn live(&self) -> Result<Arc<Live>, FleetError> {
        self.live.read().unwrap_or_else(PoisonError::into_inner).clone().ok_or(FleetError::NoFleet)
    }

    pub(super) fn metadata(&self) -> &Arc<dyn Metadata> {
        &self.metadata
    }

    /// What the admission listener shows.
    pub(super) fn admission_tls(&self) -> Option<Arc<ServerConfig>> {
        Some(self.live().ok()?.admission.read().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Has nodes that do not answer sought where they say that they are, too.
    pub fn set_whereabouts(&self, whereabouts: Arc<dyn Whereabouts>) {
        *self.whereabouts.write().unwrap_or_else(PoisonError::into_inner) = Some(whereabouts);
    }

    /// Has the followed list looked at now rather than within a second.
    pub(super) fn changed(&self) {
        self.nudge.notify_one();
    }

    /// Follows the root group and renews this gateway's own certificates, until told to stop.
    pub async fn run(self: Arc<Fleet>, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => break,
                () = self.nudge.notified() => {}
                () = tokio::time::sleep(FOLLOW) => {}
            }
            if let Err(error) = self.follow().await {
                tracing::warn!(target: "breakwater", %error, "the fleet's nodes could not be looked up");
            }
            if let Ok(live) = self.live()
                && let Err(error) = live.renew(self.settings.life)
            {
                tracing::warn!(target: "breakwater", %error, "the gateway's certificate was not renewed");
            }
        }
    }

    /// Makes the fleet: id, CA, its record.
    ///
    /// # Errors
    /// [`FleetError::Wrong`] if there is one already.
    pub async fn init(&self) -> Result<FleetRecord, FleetError> {
        let _turn = self.turn.lock().await;
        if self.record().await?.is_some() {
            return Err(FleetError::Wrong(Refusal::FleetExists.to_string()));
        }
        let mut id = [0; FleetId::LEN];
        getrandom::fill(&mut id).map_err(|error| FleetError::Wrong(error.to_string()))?;
        let (id, time) = (FleetId(id), now());
        let authority = Authority::create(id, time)?;
        // The key before the record: a fleet whose key was never written would be a fleet for nobody.
        self.write_key(id, &authority.key())?;
        let certificate = Bytes::copy_from_slice(authority.certificate());
        let record = FleetRecord { id, authority: certificate, created: time, revocations_version: 0, revocations: Bytes::new() };
        root_command(&self.metadata, RootCommand::CreateFleet(record.clone())).await?;
        self.begin(authority)?;
        Ok(record)
    }

    /// A new invitation, for `uses` machines, until `life` from now.
    pub async fn invite(&self, door: Door, uses: u32, life: Duration, address: Option<String>) -> Result<(Token, UnixMs), FleetError> {
        let live = self.live()?;
        let address = address.unwrap_or_else(|| self.settings.admission_address.clone());
        let mut token = Token { door, fingerprint: fingerprint(live.authority.certificate()), secret: [0; 32], address };
        token.to_string().parse::<Token>().map_err(|_| FleetError::Wrong(format!("{} is not host:port", token.address)))?;
        getrandom::fill(&mut token.secret).map_err(|error| FleetError::Wrong(error.to_string()))?;
        let created = now();
        let expires = UnixMs(created.0.saturating_add(u64::try_from(life.as_millis()).unwrap_or(u64::MAX)));
        let record = InviteRecord { id: invite_id(door, &token.secret), created, expires, uses_left: uses };
        root_command(&self.metadata, RootCommand::CreateInvite(record)).await?;
        Ok((token, expires))
    }

    /// Changes what a node may do, but for retiring it.
    pub async fn set_state(&self, node: NodeId, state: FleetNodeState) -> Result<(), FleetError> {
        root_command(&self.metadata, RootCommand::SetNodeState { node, state, now: now() }).await?;
        self.follow().await
    }

    /// Retires a node for good: revoked and out of the roster, so that what it held is made again elsewhere.
    pub async fn retire(&self, node: NodeId) -> Result<(), FleetError> {
        let _turn = self.turn.lock().await;
        let live = self.live()?;
        for _ in 0..TRIES {
            let (record, nodes) = (self.record().await?.ok_or(FleetError::NoFleet)?, self.nodes().await?);
            let known = nodes.iter().find(|known| known.id == node).ok_or_else(|| FleetError::Wrong(Refusal::NoSuchNode.to_string()))?;
            if known.state == FleetNodeState::Retired {
                return Ok(());
            }
            let removed = self.metadata_nodes().await?.into_iter().filter(|known| known.removed).map(|known| known.id);
            let retired = nodes.iter().filter(|known| known.state == FleetNodeState::Retired).map(|known| known.id);
            let (version, list) = next_revocations(&live, &record, retired.chain(removed).chain([node]))?;
            // The list first: should it be refused, the node is not half retired.
            let commands = vec![
                Command::Root(RootCommand::Revoke { version, list }),
                Command::Root(RootCommand::SetNodeState { node, state: FleetNodeState::Retired, now: now() }),
            ];
            let replies = self.metadata.propose(Batch { chain: Chain::Stop, commands }).await?;
            match replies.iter().find_map(|reply| if let Reply::Refused(refusal) = reply { Some(*refusal) } else { None }) {
                None => return self.follow().await,
                Some(Refusal::OldRevocations) => continue,
                Some(refusal) => return Err(FleetError::Wrong(refusal.to_string())),
            }
        }
        Err(FleetError::Wrong("other gateways kept changing the revocation list".into()))
    }

    /// Has a metadata node leave its groups, for good: who leads the root group sees to it.
    pub async fn leave_metadata_node(&self, node: NodeId) -> Result<(), FleetError> {
        Ok(root_command(&self.metadata, RootCommand::LeaveMetadataNode { node, now: now() }).await?)
    }

    /// Revokes a metadata node for good. That it does not vote any more is the caller's to have seen to.
    pub async fn remove_metadata_node(&self, node: NodeId) -> Result<(), FleetError> {
        let _turn = self.turn.lock().await;
        let live = self.live()?;
        for _ in 0..TRIES {
            let record = self.record().await?.ok_or(FleetError::NoFleet)?;
            let known = self.metadata_nodes().await?;
            if known.iter().any(|known| known.id == node && known.removed) {
                return Ok(());
            }
            let nodes = self.nodes().await?;
            let retired = nodes.iter().filter(|known| known.state == FleetNodeState::Retired).map(|known| known.id);
            let removed = known.iter().filter(|known| known.removed).map(|known| known.id);
            let (version, list) = next_revocations(&live, &record, retired.chain(removed).chain([node]))?;
            let commands = vec![
                Command::Root(RootCommand::Revoke { version, list }),
                Command::Root(RootCommand::RemoveMetadataNode { node, now: now() }),
            ];
            let replies = self.metadata.propose(Batch { chain: Chain::Stop, commands }).await?;
            match replies.iter().find_map(|reply| if let Reply::Refused(refusal) = reply { Some(*refusal) } else { None }) {
                None => return self.follow().await,
                Some(Refusal::OldRevocations) => continue,
                Some(refusal) => return Err(FleetError::Wrong(refusal.to_string())),
            }
        }
        Err(FleetError::Wrong("other gateways kept changing the revocation list".into()))
    }

    pub async fn record(&self) -> Result<Option<FleetRecord>, FleetError> {
        match root_query(&self.metadata, RootQuery::Fleet).await? {
            RootAnswer::Fleet(record) => Ok(record),
            _ => Err(unexpected().into()),
        }
    }

    /// All nodes that were ever admitted.
    pub async fn nodes(&self) -> Result<Vec<FleetNodeRecord>, FleetError> {
        match root_query(&self.metadata, RootQuery::FleetNodes).await? {
            RootAnswer::FleetNodes(nodes) => Ok(nodes),
            _ => Err(unexpected().into()),
        }
    }

    /// Takes over what the root group says now.
    async fn follow(&self) -> Result<(), FleetError> {
        // One after another: an older answer must not take the place of a newer one, and with it drop a node that has just come.
        let _following = self.following.lock().await;
        let Ok(live) = self.live() else { return Ok(()) };
        let (record, nodes) = (self.record().await?.ok_or(FleetError::NoFleet)?, self.nodes().await?);
        if record.revocations_version > live.trust.revocations().0 {
            live.trust.follow(&record.revocations).map_err(|error| FleetError::Wrong(error.to_string()))?;
        }
        for state in STATES {
            let count = nodes.iter().filter(|node| word(&node.state) == state).count();
            FLEET_NODES.with_label_values(&[state]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let whereabouts = self.whereabouts.read().unwrap_or_else(PoisonError::into_inner).clone();
        let members = live.members(&nodes, whereabouts.as_deref());
        let one =
            |m: &Member| (m.link.id(), m.zone.to_string(), [m.takes_shards, m.leaves, m.distrusted], Arc::as_ptr(&m.link).cast::<()>());
        let told = |members: &[Member]| members.iter().map(one).collect::<Vec<_>>();
        if told(&members) != told(&self.roster.members()) {
            tracing::info!(target: "breakwater", nodes = members.len(), "the fleet's nodes changed");
            self.roster.set(members);
        }
        Ok(())
    }

    fn begin(&self, authority: Authority) -> Result<(), FleetError> {
        let live = Live::new(authority, self.settings.life)?;
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(live));
        Ok(())
    }

    fn write_key(&self, fleet: FleetId, key: &[u8]) -> Result<(), FleetError> {
        let wrapped = self.keys.wrap_fleet_key(fleet, key).map_err(BootError::from)?;
        Ok(write_whole(&self.key_file, &hex::encode(wrapped), 0o600)?)
    }
}

/// The CA's key that lies in `path`.
pub fn read_key(path: &Path, keys: &Keys, fleet: FleetId) -> Result<Vec<u8>, FleetError> {
    let shown = path.display();
    let text = read_text(path)?.ok_or_else(|| {
        FleetError::Wrong(format!("the key of the fleet's CA is missing. path=`{shown}`. Put the file back from your copy of it."))
    })?;
    let wrapped = hex::decode(text).map_err(|error| FleetError::Wrong(format!("{shown} does not read: {error}")))?;
    Ok(keys.unwrap_fleet_key(fleet, &wrapped).map_err(BootError::from)?)
}

impl Live {
    fn new(authority: Authority, life: Duration) -> Result<Live, FleetError> {
        let tls = |error: String| FleetError::Tls(error);
        let trust = Trust::new(authority.fleet(), authority.certificate()).map_err(|error| tls(error.to_string()))?;
        let trust = Arc::new(trust);
        let time = now();
        let shown = Arc::new(Shown::new(own_identity(&authority, time, life)?));
        let admission = RwLock::new(admission_config(&authority, time, life)?);
        let client = spine::fleet::tls::client(trust.clone(), shown.clone()).map_err(|error| tls(error.to_string()))?;
        Ok(Live { authority, trust, shown, made: Mutex::new(time), admission, client, links: Mutex::default() })
    }

    /// Renews the certificates of this process from a third of their life on: new keys, too.
    fn renew(&self, life: Duration) -> Result<(), FleetError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let time = now();
        if Duration::from_millis(time.0.saturating_sub(made.0)) < life / 3 {
            return Ok(());
        }
        self.shown.set(own_identity(&self.authority, time, life)?);
        *self.admission.write().unwrap_or_else(PoisonError::into_inner) = admission_config(&self.authority, time, life)?;
        *made = time;
        Ok(())
    }

    /// Everyone who is not retired. Links of nodes that stay where they were are kept.
    fn members(&self, nodes: &[FleetNodeRecord], whereabouts: Option<&dyn Whereabouts>) -> Vec<Member> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        let there: Vec<&FleetNodeRecord> = nodes.iter().filter(|node| node.state != FleetNodeState::Retired).collect();
        links.retain(|id, _| there.iter().any(|node| node.id == *id));
        let mut out = Vec::with_capacity(there.len());
        for node in there {
            let link = self.link(links.remove(&node.id), node, whereabouts);
            out.push(Member {
                link: link.link.clone(),
                zone: node.zone.as_str().into(),
                takes_shards: node.state == FleetNodeState::Active,
                leaves: node.state == FleetNodeState::Draining,
                distrusted: is_by_audit(&node.state),
            });
            links.insert(node.id, link);
        }
        out
    }

    /// The link that a node had, if it leads where the node is sought now; else a new one.
    fn link(&self, sought: Option<Sought>, node: &FleetNodeRecord, whereabouts: Option<&dyn Whereabouts>) -> Sought {
        let silent =
            sought.as_ref().is_some_and(|s| s.link.status().state == NodeState::Lost && s.since.elapsed() >= whereabouts::PATIENCE);
        let announced = if silent { whereabouts.and_then(|whereabouts| whereabouts.announced(node.id)) } else { None };
        let now = sought.as_ref().map(|s| (s.told.as_str(), s.link.peer().address.as_str()));
        let address = whereabouts::choose(&node.address, announced.as_deref(), now, silent).to_string();
        let peer = Peer { node: node.id, machine: node.machine.clone(), zone: node.zone.clone(), capacity: node.capacity, address };
        match sought {
            Some(sought) if *sought.link.peer() == peer => sought,
            _ => {
                let link = Link::start(peer, self.client.clone(), self.trust.clone(), Bounds::default());
                Sought { link, told: node.address.clone(), since: Instant::now() }
            }
        }
    }

    /// Certificate (DER) and key (PKCS#8) of a gateway, for routing.
    pub fn routing_papers(&self, life: Duration) -> Result<(Bytes, PrivateKeyDer<'static>), FleetError> {
        Ok(self.authority.for_gateway(&own_admission(self.authority.fleet()), now(), life)?)
    }

    /// Another certificate of that same key.
    pub fn renew_routing_papers(&self, node: NodeId, life: Duration) -> Result<Bytes, FleetError> {
        Ok(self.authority.certify(node, &own_admission(self.authority.fleet()), now(), life)?.certificate)
    }
}

/// The revocation list after the known one, signed. Who is on the list in force stays on it: restored metadata may not know of them.
fn next_revocations(live: &Live, record: &FleetRecord, out: impl Iterator<Item = NodeId>) -> Result<(u64, Bytes), FleetError> {
    let mut nodes: Vec<NodeId> = out.chain(live.trust.revoked()).collect();
    nodes.sort();
    nodes.dedup();
    let version = record.revocations_version + 1;
    Ok((version, live.authority.revoke(&Revocations { fleet: record.id, version, nodes })?))
}

/// The gateway's own identity on the data plane. Its key is in this process alone and dies with it.
pub(super) fn own_identity(authority: &Authority, time: UnixMs, life: Duration) -> Result<Identity, FleetError> {
    let (certificate, key) = authority.for_gateway(&own_admission(authority.fleet()), time, life)?;
    Identity::new(&certificate, key).map_err(|error| FleetError::Tls(error.to_string()))
}

fn own_admission(fleet: FleetId) -> Admission {
    Admission { fleet, role: Role::Gateway, machine: GATEWAY.into(), zone: GATEWAY.into(), capacity: 0, address: None }
}

fn admission_config(authority: &Authority, time: UnixMs, life: Duration) -> Result<Arc<ServerConfig>, FleetError> {
    let tls = |error: rustls::Error| FleetError::Tls(error.to_string());
    let (chain, key) = authority.for_listener(time, life)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]).map_err(tls)?;
    let mut config = builder.with_no_client_auth().with_single_cert(chain, key).map_err(tls)?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

fn unexpected() -> BootError {
    BootError::Refused { what: "metadata gave an answer to another question".into() }
}
