//! All nodes' shards side by side, chunk by chunk in the order of their names.
//!
//! Every node lists in name order, so a page of each is enough to know all copies of the next chunk. Invariants: a node that answers no
//! more is asked [`TRIES`] times and then counts as away, with everything behind that point; memory is a page a node, [`HEADERS`] in all.

use super::judge::Seen;
use crate::nodes::Node;
use futures::StreamExt;
use spine::id::{ChunkId, NodeId};
use spine::limit::CALL_HEADERS;
use spine::wire::chunk::ShardName;
use spine::wire::shard::{Held, NodeError};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Headers of all nodes in memory.
const HEADERS: usize = 65_536;
const LEAST: usize = 16;
/// Nodes that are asked at a time.
const ASKING: usize = 64;
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// How it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    pub nodes: usize,
    pub away: Vec<NodeId>,
    pub shards: u64,
    pub unread: u64,
}

pub struct Walk {
    lists: Vec<List>,
    page: usize,
    shards: u64,
    unread: u64,
}

struct List {
    node: Arc<Node>,
    waiting: VecDeque<Held>,
    after: Option<ShardName>,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    More,
    Whole,
    Away,
}

impl Walk {
    pub fn begin(nodes: Vec<Arc<Node>>) -> Walk {
        let page = (HEADERS / nodes.len().max(1)).clamp(LEAST, CALL_HEADERS);
        let list = |node| List { node, waiting: VecDeque::new(), after: None, state: State::More };
        Walk { lists: nodes.into_iter().map(list).collect(), page, shards: 0, unread: 0 }
    }

    /// The next chunks, up to `max`, each with every copy of it that a node shows. Empty: there are no more.
    pub async fn next(&mut self, max: usize) -> Vec<(ChunkId, Vec<Seen>)> {
        let mut out = Vec::new();
        while out.len() < max {
            self.fill().await;
            let Some(chunk) = self.lists.iter().filter_map(|list| list.waiting.front()).map(|held| held.name().chunk).min() else { break };
            let mut seen = Vec::new();
            loop {
                self.take(chunk, &mut seen);
                // A chunk's copies may go on in the next page of a node that had several.
                if !self.lists.iter().any(List::is_empty) {
                    break;
                }
                self.fill().await;
                if !self.lists.iter().any(|list| list.waiting.front().is_some_and(|held| held.name().chunk == chunk)) {
                    break;
                }
            }
            out.push((chunk, seen));
        }
        out
    }

    fn take(&mut self, chunk: ChunkId, seen: &mut Vec<Seen>) {
        for list in &mut self.lists {
            while let Some(held) = list.waiting.pop_front_if(|held| held.name().chunk == chunk) {
                self.shards += 1;
                match held {
                    Held::Whole(header) => seen.push(Seen { node: list.node.id, header }),
                    Held::Unread(_) => self.unread += 1,
                }
            }
        }
    }

    /// Asks every node whose page is used up for another.
    async fn fill(&mut self) {
        let page = self.page;
        let empty: Vec<_> = self.lists.iter_mut().filter(|list| list.is_empty()).map(|list| list.ask(page)).collect();
        futures::stream::iter(empty).buffer_unordered(ASKING).collect::<Vec<()>>().await;
    }

    pub fn end(self) -> Ended {
        let away: Vec<NodeId> = self.lists.iter().filter(|list| list.state == State::Away).map(|list| list.node.id).collect();
        Ended { nodes: self.lists.len() - away.len(), away, shards: self.shards, unread: self.unread }
    }
}

impl List {
    fn is_empty(&self) -> bool {
        self.state == State::More && self.waiting.is_empty()
    }

    async fn ask(&mut self, page: usize) {
        for attempt in 0..TRIES {
            match self.node.link.headers(self.after, page).await {
                Ok(found) => {
                    match found.last() {
                        Some(last) => self.after = Some(last.name()),
                        None => self.state = State::Whole,
                    }
                    self.waiting = found.into();
                    return;
                }
                Err(NodeError::Unavailable { .. }) if attempt + 1 < TRIES && self.node.reachable() => tokio::time::sleep(PAUSE).await,
                Err(error) => {
                    tracing::warn!(target: "breakwater", node = %self.node.id, %error, "a node's shards are not re-indexed from here on");
                    break;
                }
            }
        }
        self.state = State::Away;
    }
}
