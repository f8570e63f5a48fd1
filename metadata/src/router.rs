//! Metadata that lies in many groups, as one: each command and each question goes to the groups that own what it is about.
//!
//! ```text
//! batch -> parts by the map (split.rs) -> runs, each to one group -> replies put together again, in order
//! query -> the group of its place | all groups of its chunks | group after group of a listing (walk.rs, uploads.rs)
//! Frozen: wait a little, ask again      NotHere: look at the map again, ask again
//! ```
//! Invariants:
//! - The map is a hint. A group refuses what it does not own, and a list says where its group's range ended: an old map makes more
//!   questions, never another answer.
//! - What a group has not definitely refused is never sent to another: an unknown outcome ends here as `Unavailable`.
//! - A chain stops at a refusal wherever it was. Over several groups it is not one place in the log: the protocol of references needs its
//!   order and no more (references first, commit last). An independent batch keeps the order of names before chunks before names.
//!
//! Not here: who leads a group ([`crate::cluster`]), what a group answers (`machine.rs`), changing the map (`mover.rs`).

mod split;
#[cfg(test)]
pub(crate) mod tests;
mod uploads;
mod walk;

use crate::root::map::ROOT;
use futures::future::join_all;
use spine::id::{Epoch, GroupId};
use spine::map::Map;
use spine::wire::namespace::NamespaceCommand;
use spine::wire::root::{RootAnswer, RootQuery};
use spine::wire::{Answer, Batch, Chain, Command, Metadata, MetadataError, Query, Refusal, Reply};
use split::{Part, merge, split};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long a call may find ranges frozen or moved away before nobody knows.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long the root may take to say where a range is that its group gives no answer for.
const LOOK: Duration = Duration::from_secs(2);
/// First and longest pause before a range that is about to move is asked for again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));

/// Groups by their ids: replicated over machines, or in one process.
#[async_trait::async_trait]
pub trait Groups: Send + Sync + 'static {
    /// As [`Metadata::propose`], of one group. `NotHere`: whoever could be asked does not have it, and nothing was applied.
    async fn propose_to(&self, group: GroupId, batch: Batch) -> Result<Vec<Reply>, MetadataError>;

    /// As [`Metadata::query`], of one group.
    async fn query_of(&self, group: GroupId, query: Query) -> Result<Answer, MetadataError>;
}

/// What is known of the map.
struct Known {
    map: Arc<Map>,
    /// When it was asked for last.
    looked: Option<Instant>,
}

pub struct Router {
    groups: Arc<dyn Groups>,
    known: Mutex<Known>,
    /// One look at a time: those who come meanwhile take what it brings.
    looking: tokio::sync::Mutex<()>,
}

/// Patience of one call with ranges that are on their way.
struct Patience {
    until: Instant,
    pause: Duration,
}

impl Patience {
    fn new() -> Self {
        Self { until: Instant::now() + DEADLINE, pause: PAUSE.0 }
    }

    async fn wait(&mut self) -> Result<(), MetadataError> {
        if Instant::now() >= self.until {
            return Err(MetadataError::Unavailable { reason: "a range is on its way from one group to another for too long".into() });
        }
        tokio::time::sleep(self.pause).await;
        self.pause = (self.pause * 2).min(PAUSE.1);
        Ok(())
    }
}

impl Router {
    /// Begins with the map of one group, which every cluster began with; the first refusal brings the true one.
    pub fn new(groups: Arc<dyn Groups>) -> Arc<Router> {
        let known = Known { map: Arc::new(Map::of_one(ROOT)), looked: None };
        Arc::new(Router { groups, known: Mutex::new(known), looking: tokio::sync::Mutex::default() })
    }

    /// The map as it was last seen.
    pub fn map(&self) -> Arc<Map> {
        self.known().map.clone()
    }

    /// The groups behind this.
    pub fn groups(&self) -> &Arc<dyn Groups> {
        &self.groups
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the root for the map, unless somebody has since `since`. Whether it is another one than that of `epoch`.
    async fn look(&self, since: Instant, epoch: Epoch) -> Result<bool, MetadataError> {
        let _turn = self.looking.lock().await;
        let (known, looked) = {
            let known = self.known();
            (known.map.epoch(), known.looked)
        };
        if looked.is_none_or(|looked| looked < since) {
            let begun = Instant::now();
            let query = Query::Root(RootQuery::Map { known: Some(known) });
            match self.groups.query_of(ROOT, query).await? {
                Answer::Root(RootAnswer::Map(None)) => self.known().looked = Some(begun),
                Answer::Root(RootAnswer::Map(Some(map))) if map.is_sound() => {
                    let mut known = self.known();
                    if map.epoch() > known.map.epoch() {
                        known.map = Arc::new(map);
                    }
                    known.looked = Some(begun);
                }
                Answer::Root(RootAnswer::Map(Some(_))) => return Err(storage("the root's map is none")),
                _ => return Err(unexpected()),
            }
        }
        Ok(self.known().map.epoch() != epoch)
    }

    /// After `group` gave no answer: whether what `now` finds by the map is another one's by now. The group may have ended, and who would say
    /// so be away.
    async fn is_elsewhere(&self, group: GroupId, epoch: Epoch, now: impl Fn(&Map) -> GroupId) -> bool {
        if group == ROOT {
            return false;
        }
        let looked = tokio::time::timeout(LOOK, self.look(Instant::now(), epoch)).await;
        matches!(looked, Ok(Ok(true))) && now(&self.map()) != group
    }

    /// After a range was found elsewhere, or frozen: looks again, and waits if that brought nothing new.
    async fn again(&self, patience: &mut Patience, moved: bool, epoch: Epoch) -> Result<(), MetadataError> {
        if moved && self.look(Instant::now(), epoch).await? {
            return Ok(());
        }
        patience.wait().await
    }
}

/// One command of a batch on its way.
struct Job {
    /// Not definitely answered yet; a group of before is only where it was last tried.
    pending: Vec<Part>,
    /// Elements of the command, for replies that have one each.
    elements: usize,
    done: Vec<(Vec<usize>, Reply)>,
    reply: Option<Reply>,
}

/// What one round found.
#[derive(Default)]
struct Astray {
    frozen: bool,
    moved: bool,
}

impl Job {
    fn new(command: Command) -> Job {
        let part = Part::whole(command);
        Job { elements: part.slots.len(), pending: vec![part], done: Vec::new(), reply: None }
    }

    /// Finishes if nothing is pending.
    fn settle(&mut self) -> Result<(), MetadataError> {
        if self.pending.is_empty() && self.reply.is_none() {
            self.reply = Some(merge(self.elements, std::mem::take(&mut self.done)).ok_or_else(unexpected)?);
        }
        Ok(())
    }
}

/// Whether the commands may be sent side by side.
fn class(job: &Job) -> u8 {
    match job.pending.first().map(|part| &part.command) {
        Some(Command::Chunk(_)) => 1,
        Some(Command::Root(_)) => 2,
        _ => 0,
    }
}

/// Parts that go to one group in one batch: which job, and which of its pending parts.
type Load = (GroupId, Vec<(usize, usize)>);

/// What to send next; the pending parts are by the map of now. `jobs[at]` is the first that is not finished.
fn next_loads(chain: Chain, jobs: &[Job], at: usize) -> Vec<Load> {
    let mut loads: BTreeMap<GroupId, Vec<(usize, usize)>> = BTreeMap::new();
    let sole = |job: &Job| match &job.pending[..] {
        [part] if job.done.is_empty() => Some(part.group),
        _ => None,
    };
    let first = sole(&jobs[at]);
    match (chain, first) {
        // Everything up to the end in one group: one batch, as if there were only this group.
        (_, Some(group)) if jobs[at..].iter().all(|job| job.reply.is_none() && sole(job) == Some(group)) => {
            return vec![(group, (at..jobs.len()).map(|job| (job, 0)).collect())];
        }
        (Chain::Stop, Some(group)) => {
            let run = jobs[at..].iter().take_while(|job| sole(job) == Some(group)).count();
            return vec![(group, (at..at + run).map(|job| (job, 0)).collect())];
        }
        (Chain::Stop, None) => {
            for (part, of) in jobs[at].pending.iter().enumerate() {
                loads.entry(of.group).or_default().push((at, part));
            }
        }
        (Chain::Independent, _) => {
            let kind = class(&jobs[at]);
            let open = jobs.iter().enumerate().skip(at).filter(|(_, job)| job.reply.is_none());
            for (nth, job) in open.take_while(|(_, job)| class(job) == kind) {
                for (part, of) in job.pending.iter().enumerate() {
                    loads.entry(of.group).or_default().push((nth, part));
                }
            }
        }
    }
    loads.into_iter().collect()
}

impl Router {
    /// Sends the loads side by side and takes their replies in. A group that is nowhere has refused all, and has no outbox.
    async fn send(&self, chain: Chain, jobs: &mut [Job], loads: Vec<Load>) -> Result<Astray, MetadataError> {
        let calls = loads.iter().map(|(group, parts)| {
            let commands: Vec<Command> = parts.iter().map(|(job, part)| jobs[*job].pending[*part].command.clone()).collect();
            let nowhere: Vec<Reply> = commands.iter().map(of_nobody).collect();
            async move {
                match self.groups.propose_to(*group, Batch { chain, commands }).await {
                    Err(MetadataError::NotHere) => Ok(nowhere),
                    Err(error @ MetadataError::Unavailable { .. }) => {
                        // Whether it was applied nobody knows; the next call begins with the map of now.
                        self.is_elsewhere(*group, self.map().epoch(), |_| *group).await;
                        Err(error)
                    }
                    other => other,
                }
            }
        });
        let answers = join_all(calls).await;
        let (mut astray, mut answered) = (Astray::default(), Vec::new());
        let mut failed = None;
        for ((_, parts), answer) in loads.into_iter().zip(answers) {
            let replies = match answer {
                Ok(replies) if replies.len() == parts.len() => replies,
                Ok(_) => return Err(unexpected()),
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            };
            let mut overtaken = false;
            for (place, reply) in parts.into_iter().zip(replies) {
                match reply {
                    Reply::Refused(Refusal::Frozen) => (astray.frozen, overtaken) = (true, true),
                    Reply::Refused(Refusal::NotHere) => (astray.moved, overtaken) = (true, true),
                    // Skipped behind one that is only to be asked again.
                    Reply::Refused(Refusal::Skipped) if overtaken => {}
                    reply => answered.push((place, reply)),
                }
            }
        }
        if let Some(error) = failed {
            return Err(error);
        }
        // From the back, so that places stay what they are.
        answered.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
        for ((job, part), reply) in answered {
            let part = jobs[job].pending.remove(part);
            jobs[job].done.push((part.slots, reply));
        }
        Ok(astray)
    }
}

/// What a group that is nowhere has to say. An outbox of one that is there after all is told of again.
fn of_nobody(command: &Command) -> Reply {
    match command {
        Command::Namespace(NamespaceCommand::OutboxDone { .. }) => Reply::Done,
        _ => Reply::Refused(Refusal::NotHere),
    }
}

#[async_trait::async_trait]
impl Metadata for Router {
    async fn propose(&self, batch: Batch) -> Result<Vec<Reply>, MetadataError> {
        let Batch { chain, commands } = batch;
        let mut jobs: Vec<Job> = commands.into_iter().map(Job::new).collect();
        let mut patience = Patience::new();
        while let Some(at) = jobs.iter().position(|job| job.reply.is_none()) {
            let map = self.map();
            for job in jobs.iter_mut().filter(|job| job.reply.is_none()) {
                let pending = std::mem::take(&mut job.pending);
                for part in pending {
                    job.pending.extend(split(part, &map)?);
                }
            }
            let loads = next_loads(chain, &jobs, at);
            let astray = self.send(chain, &mut jobs, loads).await?;
            for job in &mut jobs[at..] {
                job.settle()?;
            }
            let stopped = jobs.iter().position(|job| job.reply.as_ref().is_some_and(crate::machine::stops));
            if let (Chain::Stop, Some(stopped)) = (chain, stopped) {
                for job in &mut jobs[stopped + 1..] {
                    job.reply = Some(Reply::Refused(Refusal::Skipped));
                }
            } else if astray.frozen || astray.moved {
                self.again(&mut patience, astray.moved, map.epoch()).await?;
            }
        }
        Ok(jobs.into_iter().filter_map(|job| job.reply).collect())
    }

    async fn query(&self, query: Query) -> Result<Answer, MetadataError> {
        walk::answer(self, query).await
    }
}

fn storage(what: &str) -> MetadataError {
    MetadataError::Storage { reason: what.to_string() }
}

fn unexpected() -> MetadataError {
    storage("a group gave an answer to another question")
}
