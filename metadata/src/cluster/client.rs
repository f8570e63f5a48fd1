//! The groups of a metadata cluster, as a gateway asks them: finds who leads each, follows hints, and asks again until a deadline.
//!
//! Invariants: a proposal is applied at most once, however often it is sent: all sendings carry one id, and a group that has forgotten so old
//! an id refuses it; `Unavailable` is what comes out where nobody knows whether it was applied. A query may be asked of several.
//! A group that every process says it does not have, or cannot be reached to say so, is `NoSuchGroup` at once, as long as no sending of the
//! proposal may have reached it and somebody said so: nothing was applied. It need not be nowhere.
//! Not here: connections (`link.rs`), which group has what (`router.rs`).

use super::link::{CallError, Link, plain};
use super::roster::{Told, members_of};
use bytes::Bytes;
use futures::future::join_all;
use rustls::ClientConfig;
use serde::de::DeserializeOwned;
use spine::id::{GroupId, MemberId, NodeId};
use spine::limit::MEMBERS;
use spine::wire::cluster::{
    self, Ask, Call, Change, Changed, ClusterError, ClusterStatus, Endpoint, GroupCall, GroupDone, GroupOrder, Loads, MemberChange,
    Propose, Proposed, RequestId, Understood,
};
use spine::wire::format::FIRST;
use spine::wire::peer;
use spine::wire::{Answer, Batch, Metadata, MetadataError, Query, Reply};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// How long a client waits for what.
#[derive(Clone, Copy, Debug)]
pub struct ClientBounds {
    /// Longest call in all; default 20 s: a takeover and then some.
    pub deadline: Duration,
    /// Longest first attempt; the next ones double. Default 3 s: a leader that hangs is left for another after this.
    pub attempt: Duration,
    /// Pause before asking again where nobody leads; doubles up to ten times as long. Default 20 ms.
    pub pause: Duration,
    /// Connections to one process; the next call waits. Default 128.
    pub places: usize,
    /// How often the members are asked for. Default 15 s.
    pub refresh: Duration,
}

impl Default for ClientBounds {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(20),
            attempt: Duration::from_secs(3),
            pause: Duration::from_millis(20),
            places: 128,
            refresh: Duration::from_secs(15),
        }
    }
}

/// The root's group: what a caller means who names none.
const ROOT: GroupId = GroupId(0);
/// Groups whose leader is remembered; beyond, one is forgotten and found again.
const REMEMBERED: usize = 4_096;

pub struct Client {
    seeds: Vec<Endpoint>,
    connect: Arc<ClientConfig>,
    bounds: ClientBounds,
    state: Mutex<State>,
    /// First half of all request ids, and how many there were.
    life: [u8; 8],
    count: AtomicU64,
}

#[derive(Default)]
struct State {
    links: BTreeMap<Endpoint, Arc<Link>>,
    groups: BTreeMap<GroupId, Known>,
    /// How much of the root's log was applied where the newest of what is known of members was heard.
    heard: u64,
}

/// What is known of one group.
#[derive(Clone, Default)]
struct Known {
    leader: Option<Endpoint>,
    /// Whom to ask while nobody is known to lead: an index into `links`.
    next: usize,
    /// Highest [`Proposed::seen`] so far.
    seen: u64,
}

impl State {
    /// Whether this is no older than what is known already, which it then is. What a majority says is new also where the log is shorter than
    /// it was: metadata was restored, and its log began again.
    fn is_new(&mut self, told: &Told) -> bool {
        let new = told.by_majority || told.applied >= self.heard;
        if new {
            self.heard = told.applied;
        }
        new
    }

    fn known(&mut self, group: GroupId) -> &mut Known {
        if self.groups.len() >= REMEMBERED && !self.groups.contains_key(&group) {
            // Any but the root's. What it had seen goes too: 0 is always right, and at worst a proposal is refused as forgotten and sent anew.
            let other =
                self.groups.keys().copied().find(|other| *other != ROOT && *other > group).or(self.groups.keys().next_back().copied());
            other.and_then(|other| self.groups.remove(&other));
        }
        self.groups.entry(group).or_default()
    }
}

/// What one attempt says about the next.
enum Verdict<A> {
    Done(A),
    /// Somebody else leads.
    Elsewhere,
    /// This one does not have the group.
    NotThere,
    /// Nothing was sent to this one.
    Unreached(String),
    /// Nobody is known to lead; ask another one after a pause.
    Pause(String),
    Failed(ClusterError),
}

impl Client {
    /// - `seeds`: processes to begin with; the others are learned from them. At least one must answer before anything works.
    /// - `connect`: as `spine::fleet::tls::client_of` makes it for the role of metadata nodes.
    ///
    /// Needs a runtime: members are asked for in the background while the client lives.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub fn start(seeds: Vec<Endpoint>, connect: Arc<ClientConfig>, bounds: ClientBounds) -> io::Result<Arc<Client>> {
        let mut life = [0; 8];
        getrandom::fill(&mut life).map_err(|e| io::Error::other(e.to_string()))?;
        let client = Client { seeds, connect, bounds, state: Mutex::default(), life, count: AtomicU64::new(0) };
        client.know(client.seeds.clone());
        let client = Arc::new(client);
        tokio::spawn(refresh(Arc::downgrade(&client), bounds.refresh));
        Ok(client)
    }

    /// Everybody known now: the members, and the seeds as long as none are known.
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.state().links.keys().cloned().collect()
    }

    /// What one process says of itself and its groups.
    ///
    /// # Errors
    /// It does not answer, or refuses to.
    pub async fn status_of(&self, endpoint: &Endpoint) -> Result<ClusterStatus, CallError> {
        let link = self.link(endpoint);
        let asked = timeout(self.bounds.attempt, link.send(Call::Status, Bytes::new())).await;
        let answer = asked.map_err(|_| CallError::Lost("it took too long".to_string()))??;
        let status = peer::decode::<ClusterStatus>(&answer).ok().filter(cluster::is_bounded);
        status.ok_or_else(|| CallError::Lost("the status does not read".to_string()))
    }

    /// What one process bears.
    ///
    /// # Errors
    /// It does not answer, or refuses to.
    pub async fn loads_of(&self, endpoint: &Endpoint) -> Result<Loads, CallError> {
        let link = self.link(endpoint);
        let asked = timeout(self.bounds.attempt, link.send(Call::Loads, Bytes::new())).await;
        let answer = asked.map_err(|_| CallError::Lost("it took too long".to_string()))??;
        let loads = peer::decode::<Loads>(&answer).ok().filter(Loads::is_bounded);
        loads.ok_or_else(|| CallError::Lost("what it says of its load does not read".to_string()))
    }

    /// What one process understands. Who does not know the question understands the first format.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn format_of(&self, endpoint: &Endpoint) -> Result<Understood, CallError> {
        let link = self.link(endpoint);
        let asked = timeout(self.bounds.attempt, link.call(Call::Format, &())).await;
        match asked.map_err(|_| CallError::Lost("it took too long".to_string()))? {
            Err(CallError::Refused(ClusterError::Invalid { .. })) => Ok(Understood { newest: FIRST, root: FIRST, least: FIRST }),
            told => told,
        }
    }

    /// Asks the leader for a change of who is in the root's group.
    ///
    /// # Errors
    /// What the leader says; `Unavailable` if none was found in time.
    pub async fn change(&self, change: MemberChange) -> Result<Changed, ClusterError> {
        self.change_of(ROOT, change).await
    }

    /// The same for any group.
    ///
    /// # Errors
    /// As [`Self::change`].
    pub async fn change_of(&self, group: GroupId, change: MemberChange) -> Result<Changed, ClusterError> {
        let body = peer::encode(&Change { group, change });
        self.ask(group, Call::Change, |_| body.clone()).await
    }

    /// Has the group's leader hand over to another voter.
    ///
    /// # Errors
    /// As [`Self::change`].
    pub async fn transfer(&self, group: GroupId, to: MemberId) -> Result<GroupDone, ClusterError> {
        let body = peer::encode(&GroupCall { group, order: GroupOrder::Transfer { to } });
        self.ask(group, Call::Group, |_| body.clone()).await
    }

    /// Orders one process to do something about a group.
    ///
    /// # Errors
    /// It does not answer, or refuses.
    pub async fn order(&self, endpoint: &Endpoint, call: &GroupCall) -> Result<GroupDone, CallError> {
        let link = self.link(endpoint);
        let asked = timeout(self.bounds.deadline, link.send(Call::Group, peer::encode(call))).await;
        let answer = asked.map_err(|_| CallError::Lost("it took too long".to_string()))??;
        peer::decode::<GroupDone>(&answer).map_err(|_| CallError::Lost("the answer does not read".to_string()))
    }

    /// Has a process let go of its replica of a group, as of the entry of the log that says on a majority that it is no member.
    ///
    /// # Errors
    /// `Unavailable` if it is one, or by what it has of the log became one again later, or does not answer.
    pub async fn let_go(&self, at: &Endpoint, group: GroupId) -> Result<(), ClusterError> {
        let unavailable = |error: CallError| match error {
            CallError::Refused(error) => error,
            error => unavailable(&error.to_string()),
        };
        let member = self.status_of(at).await.map_err(unavailable)?.member.id;
        match self.change_of(group, MemberChange::Left(member)).await? {
            Changed::Out { since } => {
                self.order(at, &GroupCall { group, order: GroupOrder::LetGo { since } }).await.map(drop).map_err(unavailable)
            }
            _ => Err(ClusterError::Invalid { what: "an answer to another question".to_string() }),
        }
    }

    /// Has the group's leader apply `batch`, once.
    ///
    /// # Errors
    /// What the leader says; `Unavailable` where nobody knows whether it was applied; `NoSuchGroup` where it was not, since nobody has the group.
    pub async fn propose_to(&self, group: GroupId, batch: Batch) -> Result<Vec<Reply>, ClusterError> {
        let request = Some(self.next_id());
        let seen = self.state().known(group).seen;
        let first = Propose { group, request, seen, batch };
        let body = peer::encode(&first);
        let again = |seen: Option<u64>| match seen {
            None => body.clone(),
            Some(seen) => peer::encode(&Propose { seen, ..first.clone() }),
        };
        let Proposed { replies, seen } = self.ask(group, Call::Propose, again).await?;
        let mut state = self.state();
        let known = state.known(group);
        known.seen = known.seen.max(seen);
        Ok(replies)
    }

    /// Has the group's leader answer `query`.
    ///
    /// # Errors
    /// As [`Self::propose_to`].
    pub async fn query_of(&self, group: GroupId, query: Query) -> Result<Answer, ClusterError> {
        let body = peer::encode(&Ask { group, query });
        self.ask(group, Call::Query, |_| body.clone()).await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces who is known; connections to those who stay are kept. A seed stays if it is another address of one of these: who is no
    /// member any more would be waited for as if it were down. Of nobody, the seeds are known.
    pub fn know(&self, mut endpoints: Vec<Endpoint>) {
        let nodes: BTreeSet<NodeId> = endpoints.iter().map(|endpoint| endpoint.node).collect();
        endpoints.extend(self.seeds.iter().filter(|seed| nodes.is_empty() || nodes.contains(&seed.node)).cloned());
        let mut state = self.state();
        let mut links = BTreeMap::new();
        for endpoint in endpoints {
            let link = state.links.get(&endpoint).cloned();
            let link = link.unwrap_or_else(|| Link::new(endpoint.clone(), self.connect.clone(), self.bounds.places));
            links.insert(endpoint, link);
        }
        state.links = links;
    }

    fn link(&self, endpoint: &Endpoint) -> Arc<Link> {
        let known = self.state().links.get(endpoint).cloned();
        known.unwrap_or_else(|| Link::new(endpoint.clone(), self.connect.clone(), self.bounds.places))
    }

    /// Whom to ask now.
    fn target(&self, group: GroupId) -> Option<Arc<Link>> {
        let state = &mut *self.state();
        let Known { leader, next, .. } = state.known(group).clone();
        if let Some(link) = leader.as_ref().and_then(|leader| state.links.get(leader)) {
            return Some(link.clone());
        }
        let at = next.checked_rem(state.links.len())?;
        state.links.values().nth(at).cloned()
    }

    /// `from` says that `leader` leads the group, if it knows.
    fn hear(&self, group: GroupId, from: &Endpoint, leader: Option<Endpoint>) {
        let state = &mut *self.state();
        match leader {
            Some(leader) => {
                // Members that a status has not named yet; never more than a group may have.
                if !state.links.contains_key(&leader) && state.links.len() < 2 * MEMBERS + self.seeds.len() {
                    let link = Link::new(leader.clone(), self.connect.clone(), self.bounds.places);
                    state.links.insert(leader.clone(), link);
                }
                state.known(group).leader = Some(leader);
            }
            None => {
                let at = state.links.keys().position(|endpoint| endpoint == from).unwrap_or(0);
                let known = state.known(group);
                // Else somebody else was found meanwhile.
                if known.leader.is_none() || known.leader.as_ref() == Some(from) {
                    (known.leader, known.next) = (None, at + 1);
                }
            }
        }
    }

    /// Whether of everybody who is known, some said that the group is not there and the others were not reached.
    ///
    /// - `without`: the last that was heard of each; whether it said so.
    fn is_nowhere(&self, without: &BTreeMap<Endpoint, bool>) -> bool {
        without.values().any(|said| *said) && self.state().links.keys().all(|endpoint| without.contains_key(endpoint))
    }

    /// Asks until there is an answer that counts or the deadline is over.
    ///
    /// - `body`: the message, given what the group says it has forgotten up to, if it does.
    async fn ask<A: DeserializeOwned>(&self, group: GroupId, call: Call, body: impl Fn(Option<u64>) -> Bytes) -> Result<A, ClusterError> {
        let until = Instant::now() + self.bounds.deadline;
        let (mut patience, mut pause, mut hops) = (self.bounds.attempt, self.bounds.pause, 0);
        // Whether some sending may have been applied though nobody said so.
        let mut unknown = false;
        let (mut forgotten, mut without) = (None, BTreeMap::new());
        let mut why = "no metadata node is known".to_string();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(unavailable(&why));
            }
            let verdict = match self.target(group) {
                Some(link) => {
                    let verdict = self.attempt(group, &link, call, body(forgotten), patience.min(left), &mut unknown).await;
                    match &verdict {
                        Verdict::NotThere => without.insert(link.endpoint().clone(), true),
                        Verdict::Unreached(_) => without.insert(link.endpoint().clone(), false),
                        _ => without.remove(link.endpoint()),
                    };
                    verdict
                }
                None => Verdict::Pause(why.clone()),
            };
            match verdict {
                Verdict::NotThere | Verdict::Unreached(_) if self.is_nowhere(&without) => {
                    if !unknown {
                        return Err(ClusterError::NoSuchGroup { group });
                    }
                    without.clear();
                    why = "no metadata node has the group".to_string();
                    sleep(pause.min(left)).await;
                    pause = (pause * 2).min(self.bounds.pause * 10);
                }
                Verdict::NotThere => {}
                Verdict::Done(answer) => return Ok(answer),
                // Nobody has applied it yet, so that it may begin anew from what is remembered.
                Verdict::Failed(ClusterError::Forgotten { seen }) if !unknown && forgotten.is_none() => forgotten = Some(seen),
                Verdict::Failed(error) => return Err(error),
                Verdict::Elsewhere if hops < MEMBERS => hops += 1,
                Verdict::Elsewhere => {
                    hops = 0;
                    sleep(pause.min(left)).await;
                }
                Verdict::Pause(reason) | Verdict::Unreached(reason) => {
                    why = reason;
                    sleep(pause.min(left)).await;
                    pause = (pause * 2).min(self.bounds.pause * 10);
                    patience = (patience * 2).min(self.bounds.deadline);
                }
            }
        }
    }

    async fn attempt<A: DeserializeOwned>(
        &self,
        group: GroupId,
        link: &Link,
        call: Call,
        body: Bytes,
        patience: Duration,
        unknown: &mut bool,
    ) -> Verdict<A> {
        let asked = timeout(patience, link.send(call, body)).await;
        let asked = asked.unwrap_or_else(|_| Err(CallError::Lost("it took too long".to_string())));
        let error = match asked {
            Ok(answer) => match peer::decode(&answer) {
                Ok(answer) => {
                    self.hear(group, link.endpoint(), Some(link.endpoint().clone()));
                    return Verdict::Done(answer);
                }
                Err(_) => CallError::Lost("the answer does not read".to_string()),
            },
            Err(error) => error,
        };
        let reason = || format!("{}: {}", link.endpoint().address, plain(&error.to_string()));
        match &error {
            CallError::Refused(ClusterError::NotLeader { leader: Some(leader) }) if leader.at != *link.endpoint() => {
                self.hear(group, link.endpoint(), Some(leader.at.clone()));
                Verdict::Elsewhere
            }
            CallError::Refused(ClusterError::NoSuchGroup { .. }) => {
                self.hear(group, link.endpoint(), None);
                Verdict::NotThere
            }
            CallError::Unreachable(_) | CallError::Stranger(_) => {
                self.hear(group, link.endpoint(), None);
                Verdict::Unreached(reason())
            }
            CallError::Refused(ClusterError::NotLeader { .. } | ClusterError::OtherMember { .. }) => {
                self.hear(group, link.endpoint(), None);
                Verdict::Pause(reason())
            }
            // It may have been applied, or be applied yet.
            CallError::Lost(_) | CallError::Refused(ClusterError::Metadata(MetadataError::Unavailable { .. })) => {
                *unknown = true;
                self.hear(group, link.endpoint(), None);
                Verdict::Pause(reason())
            }
            CallError::Refused(error) => Verdict::Failed(error.clone()),
        }
    }

    fn next_id(&self) -> RequestId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.life);
        id[8..].copy_from_slice(&self.count.fetch_add(1, Ordering::Relaxed).to_be_bytes());
        RequestId(id)
    }
}

#[async_trait::async_trait]
impl Metadata for Client {
    // The root's group.
    async fn propose(&self, batch: Batch) -> Result<Vec<Reply>, MetadataError> {
        self.propose_to(ROOT, batch).await.map_err(metadata_error)
    }

    async fn query(&self, query: Query) -> Result<Answer, MetadataError> {
        self.query_of(ROOT, query).await.map_err(metadata_error)
    }
}

/// Asks for the members now and then, so that whoever joined is known before the others are gone.
async fn refresh(client: Weak<Client>, every: Duration) {
    loop {
        sleep(every).await;
        let Some(client) = client.upgrade() else { return };
        let known = client.endpoints();
        let told = join_all(known.iter().map(|endpoint| client.status_of(endpoint))).await;
        let told: Vec<ClusterStatus> = told.into_iter().flatten().collect();
        match members_of(&told).filter(|told| client.state().is_new(told)) {
            Some(told) => client.know(told.members),
            // All may have gone elsewhere meanwhile: whoever the caller named may know where.
            None => client.know([known, client.seeds.clone()].concat()),
        }
    }
}

fn unavailable(reason: &str) -> ClusterError {
    ClusterError::Metadata(MetadataError::Unavailable { reason: reason.to_string() })
}

/// What a caller of [`Metadata`] hears.
pub(super) fn metadata_error(error: ClusterError) -> MetadataError {
    match error {
        ClusterError::Metadata(error) => error,
        ClusterError::NoSuchGroup { .. } => MetadataError::NotHere,
        other => MetadataError::Unavailable { reason: plain(&other.to_string()) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_heard_before_is_not_believed_again_unless_a_majority_says_it() {
        let mut state = State::default();
        let mut is_new = |applied, by_majority| state.is_new(&Told { members: vec![], applied, by_majority });
        assert_eq!([80, 50, 80, 81, 80].map(|applied| is_new(applied, false)), [true, false, true, true, false]);
        assert_eq!([(3, true), (2, false), (4, false)].map(|(applied, sure)| is_new(applied, sure)), [true, false, true]);
    }
}
