//! Who may take part, and where everyone said to be.
//!
//! Invariants: everything in here was judged by [`Trust`]; of a node's announcements the one of the highest version counts, whoever
//! brought it; both tables are bounded.
//! Not here: connections, Kademlia.

use bytes::Bytes;
use libp2p::PeerId;
use libp2p::identity::{PublicKey, ed25519};
use rustls::pki_types::{CertificateDer, UnixTime};
use spine::fleet::admission::Role;
use spine::fleet::announcement::{Announced, AnnouncementError, SignedAnnouncement};
use spine::fleet::certificate::Certified;
use spine::fleet::trust::{Refusal, Trust};
use spine::id::NodeId;
use spine::limit::FLEET_NODES;
use spine::wire::routing::Hello;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Why a peer is not let in.
#[derive(Debug, thiserror::Error)]
pub enum Stranger {
    #[error("its hello does not read")]
    Hello,
    #[error("its key is not Ed25519")]
    Key,
    #[error("{0}")]
    Refused(#[from] Refusal),
    #[error("{0}")]
    Announcement(#[from] AnnouncementError),
}

/// A peer that was let in.
#[derive(Clone, Debug)]
pub struct Admitted {
    pub says: Certified,
    /// `host:port` of its routing layer; a gateway has none.
    pub routing: Option<String>,
}

/// The tables of one process.
pub struct Membership {
    trust: Arc<Trust>,
    /// What this process says of itself, encoded.
    hello: RwLock<Bytes>,
    /// Peers that are connected or about to be; at most [`FLEET_NODES`].
    peers: RwLock<HashMap<PeerId, Admitted>>,
    /// The newest announcement of each node.
    announced: RwLock<HashMap<NodeId, Known>>,
}

/// An announcement and what it said.
#[derive(Clone, Debug)]
pub struct Known {
    pub said: Announced,
    pub signed: SignedAnnouncement,
}

/// What became of an announcement that was brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It is the node's newest.
    Newer,
    /// It was known.
    Same,
    /// A newer one is known.
    Older,
}

impl Membership {
    /// # Errors
    /// [`Stranger::Hello`] if it does not encode.
    pub fn new(trust: Arc<Trust>, hello: &Hello) -> Result<Membership, Stranger> {
        let membership = Membership { trust, hello: RwLock::default(), peers: RwLock::default(), announced: RwLock::default() };
        membership.set_hello(hello)?;
        Ok(membership)
    }

    /// What is said of this process from the next connection on.
    pub fn set_hello(&self, hello: &Hello) -> Result<(), Stranger> {
        let bytes = postcard::to_stdvec(hello).map_err(|_| Stranger::Hello)?;
        *self.hello.write().unwrap_or_else(PoisonError::into_inner) = bytes.into();
        Ok(())
    }

    pub fn hello(&self) -> Bytes {
        self.hello.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Judges what the peer with this proven key said.
    pub fn admit(&self, peer: PeerId, hello: &[u8], now: UnixTime) -> Result<(), Stranger> {
        let (hello, rest): (Hello, _) = postcard::take_from_bytes(hello).map_err(|_| Stranger::Hello)?;
        if !rest.is_empty() {
            return Err(Stranger::Hello);
        }
        let says =
            self.trust.judge(&CertificateDer::from(hello.certificate.as_ref()), &[], now, &[Role::StorageNode, Role::Gateway], None)?;
        if peer_of(says.node) != Some(peer) {
            return Err(Stranger::Key);
        }
        let mut routing = None;
        if let Some(signed) = hello.announcement {
            let said = signed.judge(&self.trust, now, Some(says.node))?;
            routing = Some(said.routing.clone());
            self.take(said, signed);
        }
        let mut peers = self.peers.write().unwrap_or_else(PoisonError::into_inner);
        if peers.len() >= FLEET_NODES && !peers.contains_key(&peer) {
            // More than a fleet has: they are judged anew when they come again.
            peers.clear();
        }
        peers.insert(peer, Admitted { says, routing });
        Ok(())
    }

    /// What a connected peer was let in with.
    pub fn peer(&self, peer: &PeerId) -> Option<Admitted> {
        self.peers.read().unwrap_or_else(PoisonError::into_inner).get(peer).cloned()
    }

    /// Its last connection is gone.
    pub fn left(&self, peer: &PeerId) {
        self.peers.write().unwrap_or_else(PoisonError::into_inner).remove(peer);
    }

    /// Whether a connected peer may stay.
    pub fn may_stay(&self, peer: &PeerId, now: UnixTime) -> bool {
        self.peer(peer).is_some_and(|admitted| self.trust.still_in(&admitted.says, now).is_ok())
    }

    /// Takes an announcement that anybody brought, if it holds and is newer. `node`: whose it must be.
    pub fn offer(&self, bytes: &[u8], node: Option<NodeId>, now: UnixTime) -> Result<(NodeId, Offered), AnnouncementError> {
        let signed = SignedAnnouncement::decode(bytes)?;
        let said = signed.judge(&self.trust, now, node)?;
        Ok((said.says.node, self.take(said, signed)))
    }

    fn take(&self, said: Announced, signed: SignedAnnouncement) -> Offered {
        let mut all = self.announced.write().unwrap_or_else(PoisonError::into_inner);
        let node = said.says.node;
        match all.get(&node) {
            Some(known) if known.said.version > said.version => Offered::Older,
            Some(known) if known.signed == signed => Offered::Same,
            _ => {
                all.insert(node, Known { said, signed });
                Offered::Newer
            }
        }
    }

    /// A node's newest announcement, as long as its node is not retired.
    pub fn announced(&self, node: NodeId) -> Option<Known> {
        let known = self.announced.read().unwrap_or_else(PoisonError::into_inner).get(&node).cloned()?;
        (!self.trust.is_revoked(node)).then_some(known)
    }

    /// How many nodes' announcements are known.
    pub fn len(&self) -> usize {
        self.announced.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Forgets retired nodes, and those whose certificates ran out; the nodes that were announced and are no more.
    pub fn sweep(&self, now: UnixTime) -> Vec<NodeId> {
        let stays = |says: &Certified| self.trust.still_in(says, now).is_ok();
        let mut gone = Vec::new();
        self.announced.write().unwrap_or_else(PoisonError::into_inner).retain(|node, known| {
            let stays = stays(&known.said.says);
            if !stays {
                gone.push(*node);
            }
            stays
        });
        self.peers.write().unwrap_or_else(PoisonError::into_inner).retain(|_, admitted| stays(&admitted.says));
        gone
    }

    pub fn trust(&self) -> &Trust {
        &self.trust
    }
}

/// The peer that a node is: the same key under libp2p's name. `None`: the id is no point of the curve.
pub fn peer_of(node: NodeId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(&node.0).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}
