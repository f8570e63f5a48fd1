//! Row 10 of the fleet: what the data plane costs, both ends together, beside the same bytes over bare rustls.
//!
//! Both ends run in this process, so its CPU time is theirs. Bare: the same configurations, certificates and cipher suite, four
//! connections, a mebibyte written whole and read whole into one buffer that is used again, a byte of answer. Data plane: the real
//! server and the real link over a node in memory, four calls at a time. A put includes the server's check of the shard's root; what
//! BLAKE3 alone costs is printed beside it. Kinds alternate within a round, and a ratio is taken within its round, so that a machine
//! that changes its speed changes both sides; the median of the rounds counts.

use crate::row::{Outcome, Run, Said, runtime};
use bytes::Bytes;
use conformance::plane::{Authority, CAPACITY, Certified, MemoryNode, Plane, client, keep_nothing, shard};
use gateway::remote::{Bounds, Link, Peer};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use spine::fleet::admission::Role;
use spine::fleet::name::name_of;
use spine::fleet::tls::{self, Served};
use spine::wire::shard::{ShardHeader, StorageNode};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use storage_node::serve;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const SHARD: usize = 1 << 20;
const AT_ONCE: usize = 4;
const ROUNDS: usize = 11;
/// As the data plane fills TLS.
const BUFFER: usize = 256 << 10;

pub fn run(run: &Run) -> Outcome {
    let shards = run.size(1_024usize, 128);
    // As the server does: huge pages would clear two mebibytes for each shard.
    // SAFETY: sets a flag of this process.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
    runtime()?.block_on(async {
        let mut bench = Bench::start().await?;
        let mut figures: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for round in 0..=ROUNDS {
            for kind in ["bare put", "put", "bare get", "get", "root"] {
                let before = cpu();
                match kind {
                    "bare put" => bench.bare(b'P', shards).await?,
                    "bare get" => bench.bare(b'G', shards).await?,
                    "put" => bench.plane(true, shards).await?,
                    "get" => bench.plane(false, shards).await?,
                    _ => bench.roots(shards),
                }
                let per_gib = (cpu() - before).as_secs_f64() * 1e3 * 1_024.0 / shards as f64;
                // The first round warms up.
                if round > 0 {
                    figures.entry(kind).or_default().push(per_gib);
                }
            }
            println!("  round {round} of {ROUNDS}");
        }
        let of = |kind: &str| figures[kind].clone();
        let ratio = |over: &[&str], under: &[&str]| {
            let sum = |kinds: &[&str], round: usize| kinds.iter().map(|kind| figures[*kind][round]).sum::<f64>();
            median((0..ROUNDS).map(|round| sum(over, round) / sum(under, round)).collect())
        };
        let (put, get) = (ratio(&["put"], &["bare put"]), ratio(&["get"], &["bare get"]));
        let both = ratio(&["put", "get"], &["bare put", "bare get"]);
        let figure = format!(
            "both {both:.2} x; put {:.0} of {:.0} ms/GiB = {put:.2} x, of which the root's check {:.0}; get {:.0} of {:.0} = {get:.2} x",
            median(of("put")),
            median(of("bare put")),
            median(of("root")),
            median(of("get")),
            median(of("bare get")),
        );
        if both <= 1.3 { Ok(figure) } else { Err(figure) }
    })
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

/// CPU time of this process.
fn cpu() -> Duration {
    // SAFETY: an all-zero rusage is a valid one, and the call fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let of = |time: libc::timeval| Duration::new(time.tv_sec as u64, time.tv_usec as u32 * 1_000);
    of(usage.ru_utime) + of(usage.ru_stime)
}

struct Bench {
    bare: Vec<(TlsStream<TcpStream>, Vec<u8>)>,
    link: Arc<Link>,
    shard: (ShardHeader, Bytes),
    _plane: Plane,
}

impl Bench {
    async fn start() -> Result<Bench, String> {
        let authority = Authority::new()?;
        let (node, gateway) = (authority.admit(Role::StorageNode)?, authority.admit(Role::Gateway)?);
        let trust = authority.trust()?;
        let config = client(&trust, &gateway)?;
        let memory = MemoryNode::new(node.node);
        let plane = Plane::start(trust.clone(), &node, memory, serve::Bounds::default(), keep_nothing()).await?;
        let address = plane.address.to_string();
        let peer = Peer { node: node.node, machine: "m".to_string(), zone: "z".to_string(), capacity: CAPACITY, address };
        let link = Link::start(peer, config.clone(), trust.clone(), Bounds { calls: AT_ONCE, ..Bounds::default() });
        let shard = shard(1, SHARD);
        link.put(shard.0, shard.1.clone()).await.said("put")?;

        let served = Arc::new(Served::default());
        served.set(node.identity()?);
        let server = tls::server(trust, served, &[Role::Gateway]).said("configuration")?;
        let address = bare_server(server, shard.1.clone()).await?;
        let mut bare = Vec::new();
        for _ in 0..AT_ONCE {
            bare.push((bare_client(address, config.clone(), &node).await?, vec![0; SHARD]));
        }
        Ok(Bench { bare, link, shard, _plane: plane })
    }

    /// `shards` mebibytes over the bare connections, shared between them.
    async fn bare(&mut self, kind: u8, shards: usize) -> Result<(), String> {
        let data = self.shard.1.clone();
        let mut running = Vec::new();
        for (mut stream, mut buffer) in self.bare.drain(..) {
            let data = data.clone();
            running.push(tokio::spawn(async move {
                for _ in 0..shards / AT_ONCE {
                    stream.write_all(&[kind]).await?;
                    if kind == b'P' {
                        stream.write_all(&data).await?;
                        stream.flush().await?;
                        stream.read_exact(&mut buffer[..1]).await?;
                    } else {
                        stream.flush().await?;
                        stream.read_exact(&mut buffer).await?;
                    }
                }
                Ok::<_, std::io::Error>((stream, buffer))
            }));
        }
        for one in running {
            self.bare.push(one.await.said("bare")?.said("bare")?);
        }
        Ok(())
    }

    /// As many over the data plane.
    async fn plane(&self, put: bool, shards: usize) -> Result<(), String> {
        let running = (0..AT_ONCE).map(|_| {
            let (link, (header, data)) = (self.link.clone(), self.shard.clone());
            tokio::spawn(async move {
                for _ in 0..shards / AT_ONCE {
                    if put {
                        link.put(header, data.clone()).await.said("put")?;
                    } else if link.get(header.name).await.said("get")?.1.len() != SHARD {
                        return Err("a short shard".to_string());
                    }
                }
                Ok(())
            })
        });
        for one in running.collect::<Vec<_>>() {
            one.await.said("data plane")??;
        }
        Ok(())
    }

    /// What the check of a root costs by itself.
    fn roots(&self, shards: usize) {
        for _ in 0..shards {
            std::hint::black_box(blake3::hash(std::hint::black_box(&self.shard.1)));
        }
    }
}

async fn bare_server(config: Arc<ServerConfig>, data: Bytes) -> Result<SocketAddr, String> {
    let socket = TcpListener::bind("127.0.0.1:0").await.said("listen")?;
    let address = socket.local_addr().said("address")?;
    let acceptor = TlsAcceptor::from(config);
    tokio::spawn(async move {
        while let Ok((stream, _)) = socket.accept().await {
            let (acceptor, data) = (acceptor.clone(), data.clone());
            // It ends when its client does.
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let mut stream = acceptor.accept(stream).await?;
                stream.get_mut().1.set_buffer_limit(Some(BUFFER));
                let (mut kind, mut buffer) = ([0], vec![0; SHARD]);
                loop {
                    stream.read_exact(&mut kind).await?;
                    if kind == *b"P" {
                        stream.read_exact(&mut buffer).await?;
                        stream.write_all(b"k").await?;
                    } else {
                        stream.write_all(&data).await?;
                    }
                    stream.flush().await?;
                }
                #[allow(unreachable_code, reason = "the type of what ends the loop")]
                Ok::<(), std::io::Error>(())
            });
        }
    });
    Ok(address)
}

async fn bare_client(address: SocketAddr, config: Arc<ClientConfig>, node: &Certified) -> Result<TlsStream<TcpStream>, String> {
    let stream = TcpStream::connect(address).await.said("connect")?;
    stream.set_nodelay(true).said("nodelay")?;
    let name = ServerName::try_from(name_of(node.node)).said("name")?;
    let mut stream = TlsConnector::from(config).connect(name, stream).await.said("handshake")?;
    stream.get_mut().1.set_buffer_limit(Some(BUFFER));
    Ok(stream)
}
