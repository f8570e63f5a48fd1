//! How much each peer has at once: connections and calls.
//!
//! Invariant: what is counted is given back when its guard is dropped, whatever ended it.

use spine::id::NodeId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub(super) struct Peers {
    connections: usize,
    connections_per_peer: usize,
    calls_per_peer: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    connections: usize,
    /// Only peers that have a connection.
    peers: HashMap<NodeId, Count>,
}

#[derive(Default)]
struct Count {
    connections: usize,
    calls: usize,
}

impl Peers {
    pub fn new(connections: usize, connections_per_peer: usize, calls_per_peer: usize) -> Peers {
        Peers { connections, connections_per_peer, calls_per_peer, held: Mutex::default() }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one more connection of `peer`; `None`: it or all have enough.
    pub fn connect(self: &Arc<Self>, peer: NodeId) -> Option<Connected> {
        let mut held = self.held();
        let of_peer = held.peers.get(&peer).map_or(0, |count| count.connections);
        if held.connections >= self.connections || of_peer >= self.connections_per_peer {
            return None;
        }
        held.connections += 1;
        held.peers.entry(peer).or_default().connections += 1;
        Some(Connected { peers: self.clone(), peer })
    }
}

/// One connection of one peer.
pub(super) struct Connected {
    peers: Arc<Peers>,
    peer: NodeId,
}

impl Connected {
    /// Room for one more call; `None`: the peer has enough running.
    pub fn call(&self) -> Option<Calling<'_>> {
        let mut held = self.peers.held();
        let count = held.peers.entry(self.peer).or_default();
        if count.calls >= self.peers.calls_per_peer {
            return None;
        }
        count.calls += 1;
        Some(Calling { connected: self })
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut held = self.peers.held();
        held.connections -= 1;
        if let Some(count) = held.peers.get_mut(&self.peer) {
            count.connections -= 1;
            if count.connections == 0 {
                held.peers.remove(&self.peer);
            }
        }
    }
}

/// One running call.
pub(super) struct Calling<'a> {
    connected: &'a Connected,
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        if let Some(count) = self.connected.peers.held().peers.get_mut(&self.connected.peer) {
            count.calls -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_has_its_own_bound_and_gives_back_what_it_took() {
        let peers = Arc::new(Peers::new(2, 1, 1));
        let (a, b, c) = (NodeId([1; 32]), NodeId([2; 32]), NodeId([3; 32]));
        let first = peers.connect(a).unwrap();
        assert!(peers.connect(a).is_none(), "its own bound");
        let second = peers.connect(b).unwrap();
        assert!(peers.connect(c).is_none(), "everybody's bound");
        let call = first.call().unwrap();
        assert!(first.call().is_none());
        assert!(second.call().is_some());
        drop(call);
        assert!(first.call().is_some());
        drop((first, second));
        assert!(peers.connect(c).is_some());
    }
}
