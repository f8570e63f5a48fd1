//! The task behind a [`crate::Router`]: drives libp2p, decides who is in the table, keeps its own nodes announced.
//!
//! Invariant: a peer is in the table only if it is a storage node's that is connected, or was; who is retired leaves it within
//! [`SWEEP`], connection and all.

use crate::clock;
use crate::membership::{Membership, Offered, peer_of};
use crate::metric::{KNOWN, LOOKUP_SECONDS, PEERS, REFUSED};
use crate::router::{Lookup, Parts, PartsEvent, Snapshot};
use crate::table;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use libp2p::kad::store::RecordStore;
use libp2p::kad::{self, QueryId, QueryResult, Record, RecordKey};
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::{Multiaddr, PeerId, Swarm};
use spine::fleet::announcement::SignedAnnouncement;
use spine::id::NodeId;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

const TICK: Duration = Duration::from_secs(1);
/// How often retired and expired peers are looked for.
const SWEEP: Duration = Duration::from_secs(10);
/// How often the first routers are tried again while nobody is connected.
const BEGIN_AGAIN: Duration = Duration::from_secs(3);

/// What the handle asks.
pub(crate) enum Ask {
    Introduce(Vec<SignedAnnouncement>),
    Locate(NodeId, oneshot::Sender<Lookup>),
    Nearest(Vec<u8>, oneshot::Sender<Lookup>),
    Snapshot(oneshot::Sender<Snapshot>),
}

/// A lookup that runs.
struct Running {
    answer: oneshot::Sender<Lookup>,
    lookup: Lookup,
    began: Instant,
    /// Whose announcement is looked for.
    node: Option<NodeId>,
}

/// Addresses that were resolved: of a peer for the table, or to dial.
type Resolved = (Option<PeerId>, Vec<Multiaddr>);

pub(crate) struct Drive {
    swarm: Swarm<Parts>,
    membership: Arc<Membership>,
    bootstrap: Vec<String>,
    introduced: bool,
    own: Vec<SignedAnnouncement>,
    announce_every: Duration,
    /// When to announce next, and the pause after that.
    announce: (Instant, Duration),
    begun: Option<Instant>,
    swept: Instant,
    running: HashMap<QueryId, Running>,
    resolving: FuturesUnordered<BoxFuture<'static, Resolved>>,
}

impl Drive {
    pub fn new(swarm: Swarm<Parts>, membership: Arc<Membership>, bootstrap: Vec<String>, announce_every: Duration) -> Drive {
        Drive {
            swarm,
            membership,
            bootstrap,
            introduced: false,
            own: Vec::new(),
            announce_every,
            announce: (Instant::now(), TICK),
            begun: None,
            swept: Instant::now(),
            running: HashMap::new(),
            resolving: FuturesUnordered::new(),
        }
    }

    /// Until told to stop, or until every handle is gone.
    pub async fn run(mut self, mut asks: mpsc::Receiver<Ask>, mut stop: watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                ask = asks.recv() => match ask {
                    Some(ask) => self.answer(ask),
                    None => return,
                },
                Some(resolved) = self.resolving.next() => self.resolved(resolved),
                event = self.swarm.select_next_some() => self.event(event),
                _ = ticks.tick() => self.tick(),
            }
        }
    }

    fn kad(&mut self) -> &mut kad::Behaviour<kad::store::MemoryStore> {
        &mut self.swarm.behaviour_mut().kad
    }

    fn answer(&mut self, ask: Ask) {
        match ask {
            Ask::Introduce(own) => {
                self.own = own;
                self.introduced = true;
                self.announce = (Instant::now() + TICK, TICK);
                for signed in self.own.clone() {
                    if let Ok(bytes) = signed.encode()
                        && let Err(error) = self.membership.offer(&bytes, None, clock::now())
                    {
                        tracing::warn!(%error, "an own announcement does not hold");
                    }
                }
                self.tick();
            }
            Ask::Locate(node, answer) => {
                let query = self.kad().get_record(RecordKey::new(&node.0));
                self.begin(query, answer, Some(node));
            }
            Ask::Nearest(key, answer) => {
                let query = self.kad().get_closest_peers(key);
                self.begin(query, answer, None);
            }
            Ask::Snapshot(answer) => {
                let connected = self.swarm.connected_peers().count();
                let buckets = self.kad().kbuckets();
                let table = buckets.flat_map(|bucket| bucket.iter().map(|entry| *entry.node.key.preimage()).collect::<Vec<_>>()).collect();
                // Whoever asked may have gone.
                let _ = answer.send(Snapshot { connected, table });
            }
        }
    }

    fn begin(&mut self, query: QueryId, answer: oneshot::Sender<Lookup>, node: Option<NodeId>) {
        self.running.insert(query, Running { answer, lookup: Lookup::default(), began: Instant::now(), node });
    }

    fn tick(&mut self) {
        let now = Instant::now();
        PEERS.set(i64::try_from(self.swarm.connected_peers().count()).unwrap_or(i64::MAX));
        KNOWN.set(i64::try_from(self.membership.len()).unwrap_or(i64::MAX));
        if !self.introduced {
            return;
        }
        let alone = self.swarm.connected_peers().next().is_none();
        if self.begun.is_none_or(|begun| alone && now - begun >= BEGIN_AGAIN) {
            self.begun = Some(now);
            for address in self.bootstrap.clone() {
                self.resolving.push(Box::pin(async move { (None, table::resolve(&address).await) }));
            }
        }
        if !alone && now >= self.announce.0 {
            let pause = self.announce.1;
            self.announce = (now + pause, (pause * 2).min(self.announce_every));
            self.publish();
        }
        if now - self.swept >= SWEEP {
            self.swept = now;
            self.sweep();
        }
    }

    /// Gives the own announcements to the peers that are nearest to them.
    fn publish(&mut self) {
        for signed in self.own.clone() {
            let Ok(bytes) = signed.encode() else { continue };
            let said = signed.judge(self.membership.trust(), clock::now(), None);
            // Its own certificate may have run out: then it is renewed soon, and introduced again.
            let Ok(said) = said else { continue };
            let record = Record::new(said.says.node.0.to_vec(), bytes.to_vec());
            if let Err(error) = self.kad().put_record(record, kad::Quorum::One) {
                tracing::warn!(%error, "an announcement was not stored");
            }
        }
    }

    fn sweep(&mut self) {
        let now = clock::now();
        let out: Vec<PeerId> = self.swarm.connected_peers().filter(|peer| !self.membership.may_stay(peer, now)).copied().collect();
        for peer in out {
            tracing::info!(%peer, "a routing peer was retired or its certificate has run out");
            self.kad().remove_peer(&peer);
            // It may be gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        for node in self.membership.sweep(now) {
            self.kad().store_mut().remove(&RecordKey::new(&node.0));
            if let Some(peer) = peer_of(node) {
                self.kad().remove_peer(&peer);
            }
        }
    }

    fn resolved(&mut self, (peer, addresses): Resolved) {
        for address in addresses {
            match peer {
                Some(peer) => {
                    self.kad().add_address(&peer, address);
                }
                None => {
                    let dial = DialOpts::unknown_peer_id().address(address.clone()).build();
                    if let Err(error) = self.swarm.dial(dial) {
                        tracing::debug!(%address, %error, "a first router is not dialled");
                    }
                }
            }
        }
    }

    fn event(&mut self, event: SwarmEvent<PartsEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { peer_id, .. } => self.connected(peer_id),
            SwarmEvent::ConnectionClosed { peer_id, num_established: 0, .. } => self.membership.left(&peer_id),
            SwarmEvent::OutgoingConnectionError { peer_id, error, .. } => {
                tracing::debug!(peer = ?peer_id, %error, "a routing peer was not reached");
            }
            SwarmEvent::Behaviour(PartsEvent::Kad(event)) => self.kademlia(event),
            _ => {}
        }
    }

    /// The handshake let it in: a storage node's goes into the table, under the address that it announced last.
    fn connected(&mut self, peer: PeerId) {
        if let Some(routing) = self.membership.peer(&peer).and_then(|admitted| admitted.routing) {
            // Where it was before counts no more.
            self.kad().remove_peer(&peer);
            self.resolving.push(Box::pin(async move { (Some(peer), table::resolve(&routing).await) }));
        }
    }

    fn kademlia(&mut self, event: kad::Event) {
        match event {
            kad::Event::InboundRequest { request: kad::InboundRequest::PutRecord { record: Some(record), .. } } => self.store(record),
            kad::Event::OutboundQueryProgressed { id, result, stats, step } => {
                self.progress(id, result);
                if step.last
                    && let Some(mut ended) = self.running.remove(&id)
                {
                    ended.lookup.requests = stats.num_requests();
                    ended.lookup.took = ended.began.elapsed();
                    LOOKUP_SECONDS.observe(ended.lookup.took.as_secs_f64());
                    // Whoever asked may have gone.
                    let _ = ended.answer.send(ended.lookup);
                }
            }
            _ => {}
        }
    }

    fn progress(&mut self, id: QueryId, result: QueryResult) {
        let Some(running) = self.running.get_mut(&id) else { return };
        match result {
            QueryResult::GetClosestPeers(Ok(found)) => running.lookup.nearest.extend(found.peers.iter().map(|peer| peer.peer_id)),
            QueryResult::GetClosestPeers(Err(kad::GetClosestPeersError::Timeout { peers, .. })) => {
                running.lookup.nearest.extend(peers.iter().map(|peer| peer.peer_id));
            }
            QueryResult::GetRecord(Ok(kad::GetRecordOk::FoundRecord(found))) => {
                if let Err(error) = self.membership.offer(&found.record.value, running.node, clock::now()) {
                    REFUSED.inc();
                    tracing::debug!(%error, from = ?found.peer, "an announcement does not hold");
                }
            }
            _ => {}
        }
    }

    /// Keeps an announcement for others, if it holds and is not older than what is known.
    fn store(&mut self, record: Record) {
        let Ok(node) = <[u8; 32]>::try_from(record.key.as_ref()) else {
            REFUSED.inc();
            return;
        };
        match self.membership.offer(&record.value, Some(NodeId(node)), clock::now()) {
            Ok((_, Offered::Newer | Offered::Same)) => {
                if let Err(error) = self.kad().store_mut().put(record) {
                    tracing::warn!(%error, "an announcement was not kept");
                }
            }
            Ok((_, Offered::Older)) => {}
            Err(error) => {
                REFUSED.inc();
                tracing::debug!(%error, "an announcement does not hold");
            }
        }
    }
}
