//! Row 6 of the metadata cluster: operations a second of one and of three nodes with 1 to 64 groups, beside openraft with nothing around it
//! over the same log and the same kind of link, in turns.
//!
//! An operation is one small write, synced by a majority. The product's go through what gathers them into entries, are applied to LMDB, and
//! the entries of several groups share messages. The other's are an entry each, applied to nothing, and a group's entries go in messages of its
//! own. The members of both speak TLS over loopback. CPU is the whole process's, writers included.

use crate::row::{Outcome, Run, Said, runtime};
use conformance::plain_raft::PlainRaft;
use conformance::plane::{Authority, admission};
use conformance::process::cpu_of;
use metadata::cluster::{Beat, Begin, Bounds, Client, ClientBounds, Membership, Server};
use metadata::service::{Hosted, MetadataNode, Settings};
use spine::fleet::admission::{Admission, Role};
use spine::fleet::tls::{Served, Shown, client_of};
use spine::id::{GroupId, MemberId, TenantId, UnixMs};
use spine::wire::cluster::{Endpoint, GroupCall, GroupOrder, Member};
use spine::wire::root::{RootCommand, TenantRecord};
use spine::wire::{Batch, Chain, Command, Metadata, Reply};
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

impl Speed {
    /// Half of one turn.
    fn add(&mut self, turn: Speed) {
        (self.rate, self.cpu) = (self.rate + turn.rate / 2.0, self.cpu + turn.cpu / 2.0);
    }
}

/// The speed of each, in two turns each, so that neither has the better disk.
async fn measure(plain: Arc<PlainRaft>, ours: Arc<Ours>, groups: usize, time: Duration) -> Result<(Speed, Speed), String> {
    let (mut of_plain, mut of_ours) = (Speed::default(), Speed::default());
    for _ in 0..2 {
        let target = plain.clone();
        let write = move |group: usize, number: u64| {
            let target = target.clone();
            // As long as the other's batch.
            async move { target.write(group, number.to_be_bytes().repeat(4).into()).await }
        };
        of_plain.add(rate(write, groups, time).await?);
        let target = ours.clone();
        let write = move |group: usize, number: u64| {
            let target = target.clone();
            async move { target.write(group, number).await }
        };
        of_ours.add(rate(write, groups, time).await?);
    }
    let gone = || "somebody still writes".to_string();
    Arc::into_inner(plain).ok_or_else(gone)?.end().await;
    Arc::into_inner(ours).ok_or_else(gone)?.end().await;
    Ok((of_plain, of_ours))
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
                        if began.elapsed() > Duration::from_secs(20) {
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

/// The product's nodes in this process.
struct Ours {
    nodes: Vec<Arc<MetadataNode>>,
    members: Vec<MemberId>,
    /// Of each group, in each node.
    groups: Vec<Vec<Arc<Hosted>>>,
    servers: Vec<JoinHandle<usize>>,
    stop: watch::Sender<bool>,
}

impl Ours {
    async fn start(dir: &Path, nodes: usize, groups: usize) -> Result<Ours, String> {
        let authority = Authority::new()?;
        let mut ours =
            Ours { nodes: Vec::new(), members: Vec::new(), groups: Vec::new(), servers: Vec::new(), stop: watch::Sender::new(false) };
        let mut endpoints = Vec::new();
        for node in 0..nodes {
            ours.join(&authority, &dir.join(format!("node-{node}")), nodes > 1, &mut endpoints).await?;
        }
        let members: Vec<Member> = ours.nodes.iter().map(|node| node.member()).collect();
        ours.members = members.iter().map(|member| member.id).collect();
        for group in 0..groups {
            let (id, first) = (GroupId(group as u32 + 1), group % nodes);
            let mut members = members.clone();
            members.rotate_left(first);
            ours.nodes[first].order(GroupCall { group: id, order: GroupOrder::Create { members } }).await.said("making a group")?;
            let hosted: Option<Vec<_>> = ours.nodes.iter().map(|node| node.group(id)).collect();
            ours.groups.push(hosted.ok_or("a node without a group")?);
        }
        Ok(ours)
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
        node.join(&client, Duration::from_secs(30)).await.said("joining")?;
        self.nodes.push(node);
        Ok(())
    }

    /// One small write through the group's leader.
    async fn write(&self, group: usize, number: u64) -> Result<(), String> {
        let record = TenantRecord {
            id: TenantId(number),
            name: format!("tenant-{number}"),
            secrets: Vec::new(),
            created: UnixMs(1),
            revoked: false,
        };
        let batch = Batch { chain: Chain::Stop, commands: vec![Command::Root(RootCommand::CreateTenant(record))] };
        let group = &self.groups[group];
        let at = group[0].group.leader().and_then(|leader| self.members.iter().position(|member| *member == leader)).unwrap_or(0);
        match &group[at].propose(batch).await.map_err(|e| e.to_string())?[..] {
            [Reply::Done] => Ok(()),
            other => Err(format!("{other:?}")),
        }
    }

    async fn end(self) {
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
