//! Row 10 of the metadata cluster: what two hundred groups cost three processes while nobody asks for anything.
//!
//! Real processes. Every group has all three as voters, was written to, and is led by one after the other. Memory is what is resident of a
//! process but for the pages of LMDB's files, which are the kernel's to take back.

use crate::row::{Outcome, Progress, Run, Said, mib, runtime};
use conformance::cluster::{Cluster, Size};
use metadata::cluster::Link;
use spine::id::{GroupId, TenantId, UnixMs};
use spine::wire::cluster::{Call, ClusterStatus, GroupCall, GroupDone, GroupOrder, Member, Propose, Proposed, RequestId};
use spine::wire::root::{RootCommand, TenantRecord};
use spine::wire::{Batch, Chain, Command, Reply};
use std::sync::Arc;
use std::time::{Duration, Instant};

const MEMORY: u64 = 256 << 20;
/// Of one core.
const CPU: f64 = 0.05;
const SIZE: Size = Size { metadata: 3, gateways: 1, nodes: 0 };
/// Writes to each group before it is left alone.
const WRITES: u64 = 20;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn run(run: &Run) -> Outcome {
    let (count, rest) = (run.size(200, 40), Duration::from_secs(run.size(60, 15)));
    let cluster = Cluster::start(SIZE, "").said("a cluster")?;
    let runtime = runtime()?;
    let connect = cluster.connect().said("a gateway's certificate")?;
    let before = measure(&cluster, Duration::from_secs(10))?;
    println!("  with the root group alone: {}", before.text());
    let asked = runtime.block_on(async {
        let links = links(&cluster, connect)?;
        let members = members(&links).await?;
        let mut progress = Progress::new();
        for group in 1..=count {
            create(&links, &members, group).await?;
            for number in 0..WRITES {
                write(&links, group, number).await?;
            }
            progress.say(|| format!("{group} of {count} groups"));
        }
        Ok::<_, String>((links, members))
    });
    let (links, members) = asked?;
    // Checkpoints come when nothing was written for some seconds.
    std::thread::sleep(Duration::from_secs(15));
    let after = measure(&cluster, rest)?;
    println!("  with {count} groups: {}", after.text());
    // They are all there, and serve.
    runtime.block_on(async {
        for group in 1..=count {
            write(&links, group, WRITES).await?;
        }
        Ok::<_, String>(())
    })?;
    let led = runtime.block_on(status(&links[0]))?.groups;
    let led_by = |member: &Member| led.iter().filter(|group| group.leader == Some(member.id)).count();
    println!("  groups led: {:?}", members.iter().map(led_by).collect::<Vec<_>>());
    let figure = format!(
        "{count} groups on 3 nodes: {} beside LMDB's map in the largest process ({} with the root group alone), {:.1} % of a core in the \
         busiest ({:.1} % alone)",
        mib(after.memory),
        mib(before.memory),
        after.cpu * 100.0,
        before.cpu * 100.0
    );
    if after.memory <= MEMORY && after.cpu < CPU { Ok(figure) } else { Err(figure) }
}

/// Of the process that has most.
struct Cost {
    memory: u64,
    cpu: f64,
    each: Vec<(u64, u64, f64)>,
}

impl Cost {
    fn text(&self) -> String {
        let each = self
            .each
            .iter()
            .map(|(memory, mapped, cpu)| format!("{} and {} of LMDB's files, {:.2} %", mib(*memory), mib(*mapped), cpu * 100.0));
        each.collect::<Vec<_>>().join("; ")
    }
}

/// Memory now, CPU over `time`.
fn measure(cluster: &Cluster, time: Duration) -> Result<Cost, String> {
    let cpu = || cluster.metadata.iter().map(|node| node.cpu()).collect::<Vec<_>>();
    let (began, before) = (Instant::now(), cpu());
    std::thread::sleep(time);
    let (seconds, after) = (began.elapsed().as_secs_f64(), cpu());
    let mut each = Vec::new();
    for (node, (before, after)) in cluster.metadata.iter().zip(before.into_iter().zip(after)) {
        let (memory, mapped) = node.resident(".mdb").said("a process's memory")?;
        each.push((memory, mapped, after.saturating_sub(before).as_secs_f64() / seconds));
    }
    let memory = each.iter().map(|(memory, ..)| *memory).max().unwrap_or(0);
    let cpu = each.iter().map(|(.., cpu)| *cpu).fold(0.0, f64::max);
    Ok(Cost { memory, cpu, each })
}

fn links(cluster: &Cluster, connect: Arc<rustls::ClientConfig>) -> Result<Vec<Arc<Link>>, String> {
    let endpoint = |at: usize| cluster.metadata[at].endpoint().ok_or("a metadata node without an address".to_string());
    (0..cluster.metadata.len()).map(|at| Ok(Link::new(endpoint(at)?, connect.clone(), 4))).collect()
}

async fn status(link: &Link) -> Result<ClusterStatus, String> {
    let answer = link.send(Call::Status, bytes::Bytes::new()).await.said("a status")?;
    spine::wire::peer::decode(&answer).map_err(|_| "a status that does not read".to_string())
}

async fn members(links: &[Arc<Link>]) -> Result<Vec<Member>, String> {
    let mut members = Vec::new();
    for link in links {
        members.push(status(link).await?.member);
    }
    Ok(members)
}

/// Each process founds, and so leads, one group after the other.
async fn create(links: &[Arc<Link>], members: &[Member], group: u32) -> Result<(), String> {
    let first = group as usize % members.len();
    let mut members = members.to_vec();
    members.rotate_left(first);
    let call = GroupCall { group: GroupId(group), order: GroupOrder::Create { members } };
    let made: Result<GroupDone, _> = tokio::time::timeout(PATIENCE, links[first].call(Call::Group, &call)).await.said("making a group")?;
    made.map(drop).said("making a group")
}

/// One command through whoever leads.
async fn write(links: &[Arc<Link>], group: u32, number: u64) -> Result<(), String> {
    let id = TenantId(u64::from(group) << 32 | number);
    let record = TenantRecord { id, name: format!("tenant-{number}"), secrets: Vec::new(), created: UnixMs(number), revoked: false };
    let batch = Batch { chain: Chain::Stop, commands: vec![Command::Root(RootCommand::CreateTenant(record))] };
    let mut request = [0; 16];
    request[..8].copy_from_slice(&id.0.to_be_bytes());
    let propose = Propose { group: GroupId(group), request: Some(RequestId(request)), seen: 0, batch };
    let began = Instant::now();
    let mut why = String::new();
    while began.elapsed() < PATIENCE {
        for at in 0..links.len() {
            let link = &links[(group as usize + at) % links.len()];
            match tokio::time::timeout(Duration::from_secs(3), link.call::<_, Proposed>(Call::Propose, &propose)).await {
                Ok(Ok(proposed)) if proposed.replies == [Reply::Done] => return Ok(()),
                Ok(Ok(proposed)) => return Err(format!("group {group} answered {:?}", proposed.replies)),
                Ok(Err(error)) => why = error.to_string(),
                Err(_) => why = "it took too long".to_string(),
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Err(format!("group {group} does not take a write: {why}"))
}
