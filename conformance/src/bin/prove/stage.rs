//! What rows over hosts of their own share: 16 machines in 4 zones, objects of one chunk each, machines that vanish and return.

use crate::row::{Run, Said};
use aws_sdk_s3::Client;
use conformance::client::{self, Failure, Judge};
use conformance::content::{Content, Dice};
use conformance::fleet::{Fleet, serving};
use conformance::hosts::Network;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub const MACHINES: usize = 16;
pub const ZONES: usize = 4;
/// RS 8+4; what an hour or a day would hold up happens in seconds, and nothing is swept but on demand.
pub const CONFIG: &str = "[coding]\ndata_shards = 8\nparity_shards = 4\n\
    [collector]\ninterval_seconds = 1\ngrace_seconds = 1\npatience_seconds = 3\n\
    [repair]\ninterval_seconds = 1\naway_seconds = 3\n";
const BUCKET: &str = "objects";
const AT_ONCE: usize = 12;
/// How long repair may take until nothing is owed.
pub const REPAIR_LIMIT: Duration = Duration::from_secs(600);

/// The fleet first: it ends before its network does.
pub struct Stage {
    pub fleet: Fleet,
    _network: Network,
}

/// What a read of one object came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    Right,
    /// 503, before any byte.
    Refused,
}

impl Stage {
    pub fn start(run: &Run, config: &str) -> Result<Stage, String> {
        Self::of(run, config, MACHINES)
    }

    /// The same with another number of machines.
    pub fn of(run: &Run, config: &str, machines: usize) -> Result<Stage, String> {
        let began = Instant::now();
        let mut network = Network::new().said("hosts")?;
        let fleet = Fleet::on_hosts(&mut network, run.place()?, machines, ZONES, config).said("a fleet on hosts of their own")?;
        println!("  {machines} machines in {ZONES} zones and a gateway, a network namespace each, in {:.1?}", began.elapsed());
        Ok(Stage { fleet, _network: network })
    }

    /// Machines `which` vanish at once; gives when the first began to.
    pub fn vanish(&mut self, which: &[usize]) -> Result<Instant, String> {
        let began = Instant::now();
        for at in which {
            self.fleet.nodes[*at].vanish().said("cut a machine off")?;
        }
        Ok(began)
    }

    /// They return, and all machines serve.
    pub fn back(&mut self, which: &[usize]) -> Result<(), String> {
        for at in which {
            self.fleet.nodes[*at].back().said("start a machine again")?;
        }
        self.fleet.wait("all machines serve", |status| serving(status) == self.fleet.nodes.len()).said("return")
    }

    /// Waits until as many machines are known to be lost.
    pub fn lost(&self, machines: usize) -> Result<(), String> {
        self.fleet.wait("the dead are known", |status| serving(status) == self.fleet.nodes.len() - machines).said("loss")
    }

    /// Numbers of `count` machines, drawn.
    pub fn draw(&self, dice: &mut Dice, count: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..self.fleet.nodes.len()).collect();
        (0..count).map(|_| all.swap_remove(dice.below(all.len()))).collect()
    }

    /// Machines of the zone that machine `of` is in.
    pub fn zone(&self, of: usize) -> Vec<usize> {
        (0..self.fleet.nodes.len()).filter(|at| self.fleet.nodes[*at].zone() == self.fleet.nodes[of].zone()).collect()
    }

    /// Live shards by machine, as each says itself.
    pub fn shards(&self) -> Vec<u64> {
        self.fleet.nodes.iter().map(|node| node.shards()).collect()
    }

    /// `admin fleet status --placed`.
    pub fn placed(&self) -> Result<Value, String> {
        let printed = self.fleet.gateway.admin(&["fleet", "status", "--placed", "--json"]).said("status")?;
        serde_json::from_str(printed.trim()).said("status")
    }

    /// Shards that the index places on machine `at`.
    pub fn placed_on(&self, status: &Value, at: usize) -> u64 {
        let nodes = status["nodes"].as_array().map_or(&[][..], Vec::as_slice);
        nodes.iter().find(|node| node["node"] == self.fleet.nodes[at].id()).and_then(|node| node["placed"].as_u64()).unwrap_or(u64::MAX)
    }

    /// Waits until nothing is owed.
    pub fn repaired(&self) -> Result<Duration, String> {
        let began = Instant::now();
        loop {
            let printed = self.fleet.gateway.admin(&["status", "--json"]).said("status")?;
            let status: Value = serde_json::from_str(printed.trim()).said("status")?;
            match status["chunks_owing_shards"].as_u64() {
                Some(0) => return Ok(began.elapsed()),
                owed if began.elapsed() > REPAIR_LIMIT => return Err(format!("{owed:?} chunks still owe shards after {REPAIR_LIMIT:?}")),
                _ => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Runs the collector, with the sweep or without; gives what the sweep said of each node.
    pub fn collect(&self, sweep: bool) -> Result<Vec<Value>, String> {
        let arguments: &[&str] = if sweep { &["collect", "--sweep", "--json"] } else { &["collect", "--json"] };
        let printed = self.fleet.gateway.admin(arguments).said("collect")?;
        let value: Value = serde_json::from_str(printed.trim()).said("collect")?;
        Ok(value["swept"].as_array().cloned().unwrap_or_default())
    }
}

/// Objects of one chunk each.
pub struct Objects {
    client: Client,
    pub bodies: Vec<Content>,
}

impl Objects {
    /// Writes `count` objects of 16 KiB to 1 MiB.
    pub async fn write(stage: &Stage, dice: &mut Dice, count: usize) -> Result<Objects, String> {
        let client = client::of(&stage.fleet.gateway);
        client.create_bucket().bucket(BUCKET).send().await.judged().said("bucket")?;
        let bodies: Vec<Content> = (0..count).map(|_| Content::dense(dice.roll(), dice.clone().between(16 << 10, 1 << 20))).collect();
        let objects = Objects { client, bodies };
        objects
            .each(|client, number, content| async move {
                let put = client.put_object().bucket(BUCKET).key(number.to_string()).body(content.bytes().into());
                put.send().await.judged().map(drop).map_err(|failure| format!("put {number}: {failure}"))
            })
            .await?;
        Ok(objects)
    }

    /// Reads them all, in order.
    ///
    /// # Errors
    /// A wrong byte, another refusal than 503, or a body that broke off.
    pub async fn read(&self) -> Result<Vec<Seen>, String> {
        self.each(|client, number, content| async move {
            let answer = client.get_object().bucket(BUCKET).key(number.to_string()).send().await.judged();
            match answer {
                Err(Failure::Answered { status: 503, .. }) => Ok(Seen::Refused),
                Err(failure) => Err(format!("object {number}: {failure}")),
                Ok(answer) => {
                    let body = answer.body.collect().await.said(&format!("body of object {number}"))?.into_bytes();
                    if body == content.bytes() { Ok(Seen::Right) } else { Err(format!("object {number} reads back wrong")) }
                }
            }
        })
        .await
    }

    /// All of them are right.
    pub async fn all_right(&self, when: &str) -> Result<(), String> {
        let refused = self.read().await.said(when)?.iter().filter(|seen| **seen == Seen::Refused).count();
        if refused == 0 { Ok(()) } else { Err(format!("{when}: {refused} of {} objects are refused", self.bodies.len())) }
    }

    /// Deletes the last `count`.
    pub async fn delete(&mut self, count: usize) -> Result<(), String> {
        for number in self.bodies.len() - count..self.bodies.len() {
            self.client.delete_object().bucket(BUCKET).key(number.to_string()).send().await.judged().said("delete")?;
        }
        self.bodies.truncate(self.bodies.len() - count);
        Ok(())
    }

    async fn each<T, F>(&self, act: impl Fn(Client, usize, Content) -> F) -> Result<Vec<T>, String>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, String>> + Send + 'static,
    {
        let places = Arc::new(Semaphore::new(AT_ONCE));
        let mut running = JoinSet::new();
        for (number, content) in self.bodies.iter().enumerate() {
            let (one, places) = (act(self.client.clone(), number, *content), places.clone());
            running.spawn(async move {
                let _place = places.acquire().await;
                one.await.map(|done| (number, done))
            });
        }
        let mut all = Vec::new();
        while let Some(done) = running.join_next().await {
            all.push(done.said("task")??);
        }
        all.sort_unstable_by_key(|(number, _)| *number);
        Ok(all.into_iter().map(|(_, done)| done).collect())
    }
}
