//! Row 6 of the metadata cluster: operations a second of one and of three nodes with 1 to 64 groups, beside openraft with nothing around it
//! over the same log and the same kind of link, in turns.
//!
//! An operation is one small write, synced by a majority. The product's is the commit of a small object, whose bytes lie within its record,
//! in a range of names that the group owns. It carries a request's id as a gateway's does, so that it is looked for among those that were
//! applied, goes through what gathers proposals into entries, and is applied to LMDB; the entries of several groups share messages. The
//! other's is an entry of as many bytes, with the same durable log, applied to nothing; a group's entries go in messages of its own. The
//! members of both speak TLS over loopback. Not in it: a gateway's own way to the leader. CPU is the whole process's, writers included.

use crate::row::{Outcome, Run, Said, runtime};
use conformance::plain_raft::PlainRaft;
use conformance::plane::{Authority, admission};
use conformance::process::cpu_of;
use metadata::cluster::{Beat, Begin, Bounds, Client, ClientBounds, Membership, Server};
use metadata::mover::{Founder, Limits, Mover};
use metadata::router::Groups;
use metadata::service::{Hosted, MetadataNode, Settings};
use spine::fleet::admission::{Admission, Role};
use spine::fleet::tls::{Served, Shown, client_of};
use spine::id::{BucketId, ChunkId, GroupId, KeyEpoch, MemberId, Seq, UnixMs, VersionId};
use spine::map::{Map, NamePoint};
use spine::wire::cluster::{Endpoint, Member, Propose, Proposed, RequestId};
use spine::wire::namespace::{Attributes, Body, Codec, Condition, Etag, NamespaceCommand, NewVersion, VersionBody, VersionHead};
use spine::wire::peer::encode;
use spine::wire::root::{MoveAsk, MoveStep, RootAnswer, RootCommand, RootQuery};
use spine::wire::{Answer, Batch, Chain, Command, Query, Reply};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Of what plain openraft does.
const BAR: f64 = 0.7;
/// Writers at once, shared by the groups.
const CLIENTS: usize = 128;
/// Each is measured so often, in turns, so that neither has the better disk; the median counts.
const TURNS: usize = 3;
/// Bytes of an object, sealed.
const SEALED: usize = 64;
const BUCKET: BucketId = BucketId(1);
const ROOT: GroupId = GroupId(0);
/// How long the move of an empty range may take, and writes that fail are tried again.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn run(run: &Run) -> Outcome {
    let seconds = Duration::from_secs(run.size(5, 1));
    let place = run.place()?;
    let runtime = runtime()?;
    let mut worst: Option<(f64, String)> = None;
    println!("  | nodes | groups | plain openraft | Breakwater | share |\n  |---|---|---|---|---|");
    for nodes in run.size(vec![1, 3], vec![1, 3]) {
        for groups in run.size(vec![1, 4, 16, 64], vec![1, 16]) {
            let dir = place.path().join(format!("{nodes}-{groups}"));
            std::fs::create_dir_all(&dir).said("a folder")?;
            let (plain, ours) = runtime.block_on(async {
                let plain = PlainRaft::start(&dir, nodes, groups).await?;
                let ours = Ours::start(&dir, nodes, groups).await?;
                measure(Arc::new(plain), Arc::new(ours), groups, seconds).await
            })?;
            let (Speed { rate: plain, cpu: plain_cpu }, Speed { rate: ours, cpu: our_cpu }) = (plain, ours);
            let share = ours / plain;
            println!(
                "  | {nodes} | {groups} | {plain:.0}/s, {plain_cpu:.0} us of CPU each | {ours:.0}/s, {our_cpu:.0} us | {:.0} % |",
                share * 100.0
            );
            if worst.as_ref().is_none_or(|(least, _)| share < *least) {
                worst = Some((share, format!("{nodes} nodes and {groups} groups: {ours:.0}/s beside {plain:.0}/s")));
            }
            // The disk need not hold all of them.
            std::fs::remove_dir_all(&dir).said("remove a folder")?;
        }
    }
    let (share, which) = worst.ok_or("nothing was measured")?;
    let figure = format!("{:.0} % of plain openraft at least, at {which}", share * 100.0);
    if share >= BAR { Ok(figure) } else { Err(figure) }
}

/// Operations a second, and microseconds of this process's CPU for each.
#[derive(Clone, Copy, Default)]
struct Speed {
    rate: f64,
    cpu: f64,
}

fn median(mut turns: Vec<Speed>) -> Speed {
    turns.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    turns.get(turns.len() / 2).copied().unwrap_or_default()
}

/// The speed of each.
async fn measure(plain: Arc<PlainRaft>, ours: Arc<Ours>, groups: usize, time: Duration) -> Result<(Speed, Speed), String> {
    let (mut of_plain, mut of_ours) = (Vec::new(), Vec::new());
    let length = encode(&proposal(ROOT, u64::MAX, u64::MAX, put(0, u64::MAX))).len();
    for _ in 0..TURNS {
        let target = plain.clone();
        let write = move |group: usize, number: u64| {
            let target = target.clone();
            let payload: Vec<u8> = number.to_be_bytes().into_iter().cycle().take(length).collect();
            async move { target.write(group, payload.into()).await }
        };
        of_plain.push(rate(write, groups, time).await?);
        let target = ours.clone();
        let write = move |group: usize, number: u64| {
            let target = target.clone();
            async move { target.write(group, number).await }
        };
        of_ours.push(rate(write, groups, time).await?);
    }
    let gone = || "somebody still writes".to_string();
    Arc::into_inner(plain).ok_or_else(gone)?.end().await;
    Arc::into_inner(ours).ok_or_else(gone)?.end().await;
    Ok((median(of_plain), median(of_ours)))
}

/// Operations a second over `time`, after as much again of a fifth to warm up. Writes that fail are tried again, and count once.
async fn rate<F: Future<Output = Result<(), String>> + Send>(
    write: impl Fn(usize, u64) -> F + Clone + Send + 'static,
    groups: usize,
    time: Duration,
) -> Result<Speed, String> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let (done, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let writers: Vec<JoinHandle<Result<(), String>>> = (0..CLIENTS)
        .map(|client| {
            let (write, done, stop) = (write.clone(), done.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
                    let began = Instant::now();
                    while let Err(error) = write(client % groups, number).await {
                        if began.elapsed() > PATIENCE {
                            return Err(error);
                        }
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    tokio::time::sleep(time / 5).await;
    let (began, before, cpu) = (Instant::now(), done.load(Ordering::Relaxed), cpu_of(std::process::id()));
    tokio::time::sleep(time).await;
    let count = (done.load(Ordering::Relaxed) - before) as f64;
    let rate = count / began.elapsed().as_secs_f64();
    let cpu = (cpu_of(std::process::id()) - cpu).as_secs_f64() * 1e6 / count.max(1.0);
    stop.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.said("a writer")??;
    }
    Ok(Speed { rate, cpu })
}

/// Where the names of the `number`th group begin.
fn directory(number: usize) -> String {
    format!("part-{number:03}/")
}

/// The commit of a small object of its own.
fn put(group: usize, number: u64) -> Batch {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    let head = VersionHead {
        id: VersionId(id),
        seq: Seq(0),
        modified: UnixMs(1),
        size: SEALED as u64 - 16,
        etag: Etag { md5: id, parts: None },
        checksum: None,
        attributes: Attributes::default(),
        tags: Vec::new(),
        upload: None,
    };
    let sealed = vec![7; SEALED].into();
    let body = Body::Inline { epoch: KeyEpoch(1), codec: Codec::Plain, id: ChunkId([7; 32]), len: SEALED as u32 - 16, sealed };
    let new = Box::new(NewVersion { head, body: VersionBody { body, parts: Vec::new() }, manifest: None });
    let key = format!("{}{number:016x}", directory(group));
    let commit = NamespaceCommand::Commit { bucket: BUCKET, key, new, condition: Condition::default() };
    Batch { chain: Chain::Stop, commands: vec![Command::Namespace(commit)] }
}

/// As a gateway sends it for the first time.
fn proposal(group: GroupId, request: u64, seen: u64, batch: Batch) -> Propose {
    let mut id = [0; 16];
    id[8..].copy_from_slice(&request.to_be_bytes());
    Propose { group, request: Some(RequestId(id)), seen, batch }
}

/// One of the product's groups.
struct Part {
    id: GroupId,
    /// In each node.
    hosted: Vec<Arc<Hosted>>,
    /// Of its answers so far.
    seen: AtomicU64,
}

/// The product's nodes in this process.
struct Ours {
    nodes: Vec<Arc<MetadataNode>>,
    members: Vec<MemberId>,
    parts: Vec<Part>,
    /// Requests so far, of which each has a number of its own.
    requests: AtomicU64,
    /// Of the node that came last; knows all. `None`: one node, which is alone.
    client: Option<Arc<Client>>,
    servers: Vec<JoinHandle<usize>>,
    stop: watch::Sender<bool>,
}

impl Ours {
    async fn start(dir: &Path, nodes: usize, groups: usize) -> Result<Ours, String> {
        let authority = Authority::new()?;
        let mut ours = Ours {
            nodes: Vec::new(),
            members: Vec::new(),
            parts: Vec::new(),
            requests: AtomicU64::new(0),
            client: None,
            servers: Vec::new(),
            stop: watch::Sender::new(false),
        };
        let mut endpoints = Vec::new();
        for node in 0..nodes {
            ours.join(&authority, &dir.join(format!("node-{node}")), nodes > 1, &mut endpoints).await?;
        }
        let members: Vec<Member> = ours.nodes.iter().map(|node| node.member()).collect();
        ours.members = members.iter().map(|member| member.id).collect();
        for group in 0..groups {
            let mut founders = members.clone();
            founders.rotate_left(group % nodes);
            ours.split(group, founders).await?;
        }
        let map = ours.map().await?;
        for group in 0..groups {
            let id = map.names().of(&NamePoint::new(BUCKET, directory(group))).group;
            let hosted: Option<Vec<_>> = ours.nodes.iter().map(|node| node.group(id)).collect();
            ours.parts.push(Part { id, hosted: hosted.ok_or("a node without a group")?, seen: AtomicU64::new(0) });
        }
        Ok(ours)
    }

    fn groups(&self) -> Arc<dyn Groups> {
        match &self.client {
            Some(client) => client.clone(),
            None => self.nodes[0].clone(),
        }
    }

    async fn map(&self) -> Result<Map, String> {
        match self.groups().query_of(ROOT, Query::Root(RootQuery::Map { known: None })).await.said("the map")? {
            Answer::Root(RootAnswer::Map(Some(map))) => Ok(map),
            other => Err(format!("no map: {other:?}")),
        }
    }

    /// Gives the names from a group's directory on to a new group, led by the first of these, as a split by an operator does.
    async fn split(&self, group: usize, members: Vec<Member>) -> Result<(), String> {
        let founder: Arc<dyn Founder> = match &self.client {
            Some(client) => client.clone(),
            None => self.nodes[0].clone(),
        };
        let ask = MoveAsk::SplitNames { at: NamePoint::new(BUCKET, directory(group)), members };
        let expected = self.map().await?.epoch();
        let command = RootCommand::BeginMove { ask, expected, reason: "a range for each group".into(), now: UnixMs(1) };
        let batch = Batch { chain: Chain::Stop, commands: vec![Command::Root(command)] };
        let id = match &self.groups().propose_to(ROOT, batch).await.said("beginning a split")?[..] {
            [Reply::Moving(id)] => *id,
            other => return Err(format!("a split is not begun: {other:?}")),
        };
        let (mover, began) = (Mover::new(self.groups(), founder, Limits::default()), Instant::now());
        loop {
            match mover.carry(id).await {
                Ok(MoveStep::Done) => return Ok(()),
                Ok(other) => return Err(format!("the split for group {group} ended as {other:?}")),
                Err(error) if began.elapsed() > PATIENCE => return Err(format!("the split for group {group}: {error}")),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// One more node, as a member if there are several.
    async fn join(&mut self, authority: &Authority, dir: &Path, among: bool, endpoints: &mut Vec<Endpoint>) -> Result<(), String> {
        let mut settings = Settings::new(dir);
        if !among {
            self.nodes.push(MetadataNode::open(settings).await.said("a node")?);
            return Ok(());
        }
        let socket = TcpListener::bind("127.0.0.1:0").await.said("a socket")?;
        let address = socket.local_addr().said("a socket")?.to_string();
        let certified = authority.certify(Admission { address: Some(address.clone()), ..admission(Role::Metadata) }, 2100)?;
        let (trust, identity) = (authority.trust()?, certified.identity()?);
        let connect = client_of(trust.clone(), Arc::new(Shown::new(identity.clone())), &[Role::Metadata]).said("TLS")?;
        let at = Endpoint { node: certified.node, address };
        let begin = if endpoints.is_empty() { Begin::Found } else { Begin::Join };
        settings.membership = Some(Membership { at: at.clone(), connect: connect.clone(), begin, beat: Beat::default() });
        let node = MetadataNode::open(settings).await.said("a node")?;
        let served = Arc::new(Served::default());
        served.set(identity);
        let server = Server::new(node.clone(), trust, served, Bounds::default()).said("a server")?;
        self.servers.push(tokio::spawn(server.serve(socket, self.stop.subscribe(), Duration::from_secs(1))));
        endpoints.push(at);
        let client = Client::start(endpoints.clone(), connect, ClientBounds::default()).said("a client")?;
        node.join(&client, PATIENCE).await.said("joining")?;
        self.client = Some(client);
        self.nodes.push(node);
        Ok(())
    }

    /// One small write through the group's leader.
    async fn write(&self, group: usize, number: u64) -> Result<(), String> {
        let part = &self.parts[group];
        let leader = part.hosted[0].group.leader();
        let at = leader.and_then(|leader| self.members.iter().position(|member| *member == leader)).unwrap_or(0);
        // Tried again it is another request, which does no more: the version is the same.
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        let propose = proposal(part.id, request, part.seen.load(Ordering::Relaxed), put(group, number));
        let Proposed { replies, seen } = part.hosted[at].propose_once(propose).await.map_err(|e| e.to_string())?;
        part.seen.fetch_max(seen, Ordering::Relaxed);
        match &replies[..] {
            [Reply::Committed { .. }] => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    async fn end(mut self) {
        self.client = None;
        self.stop.send_replace(true);
        for server in self.servers {
            // A server that panicked has said so.
            let _ = server.await;
        }
        for node in &self.nodes {
            node.shutdown().await;
        }
    }
}
