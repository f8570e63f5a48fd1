//! Row 10: CPU of the server for 1 GiB in four streams, beside the sum of what the work needs at least, both measured here.
//!
//! The peers' figures are those of peers.md, measured on the same kind of machine.

use crate::row::{Outcome, Run, Said, runtime};
use conformance::bench::figure::Transfer;
use conformance::bench::large::{self, Large};
use conformance::bench::target::Target;
use conformance::primitives;
use conformance::ram::{Place, RamDisk};
use conformance::server::{Server, Settings};

const STREAMS: usize = 4;
const RATIO: f64 = 1.3;
/// CPU seconds per GiB of the best peer: PUT, Ceph RGW; GET, RustFS.
const BEST_PUT: f64 = 5.1;
const BEST_GET: f64 = 0.97;
/// Bytes of RAM disk per byte of the object: its shards, what the server keeps ready, and as much again to warm the memory.
const ROOM: u64 = 8;

pub fn run(run: &Run) -> Outcome {
    let bytes = run.size(1u64 << 30, 128 << 20);
    let rounds = run.size(7, 1);
    let place = match &run.dir {
        Some(_) => Place::Folder(run.place()?),
        None => Place::Ram(RamDisk::new(bytes * ROOM).said("RAM disk")?),
    };
    if let Place::Ram(disk) = &place {
        println!("  RAM disk: {}", disk.kind());
    }
    let runtime = runtime()?;
    let (mut puts, mut gets) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let folder = place.path().join(format!("round-{round}"));
        let config = Some("[collector]\ninterval_seconds = 86400\n".to_owned());
        let server = Server::start_with(Settings { place: Some(folder.clone()), config, ..Settings::default() }).said("start")?;
        let target = Target::of(&server);
        let body = Large::new(run.seed.wrapping_add(round), bytes);
        // A server that has just started takes its memory from the system first, once.
        let warm_up = Large::new(!run.seed.wrapping_add(round), bytes / 4);
        let (put, get) = runtime.block_on(async {
            target.bucket("ram").await.said("bucket")?;
            large::put(&target, "ram", "warm-up", &warm_up, STREAMS).await.said("PUT")?;
            large::get(&target, "ram", "warm-up", &warm_up, STREAMS).await.said("GET")?;
            let put = large::put(&target, "ram", "object", &body, STREAMS).await.said("PUT")?;
            let get = large::get(&target, "ram", "object", &body, STREAMS).await.said("GET")?;
            Ok::<_, String>((put, get))
        })?;
        println!(
            "  round {}: PUT {:.0} MB/s, {:.2} CPU s/GiB; GET {:.0} MB/s, {:.2} CPU s/GiB",
            round + 1,
            put.mb_s,
            put.cpu_s_per_gib,
            get.mb_s,
            get.cpu_s_per_gib
        );
        puts.push(put);
        gets.push(get);
        drop(server);
        let _ = std::fs::remove_dir_all(&folder);
    }
    let floor = primitives::measure(place.path(), bytes as usize).said("primitives")?;
    let (put, get) = (Transfer::median(&puts).cpu_s_per_gib, Transfer::median(&gets).cpu_s_per_gib);
    let (put_sum, get_sum) = (floor.put_sum(STREAMS) / 1e3, floor.get_sum() / 1e3);
    let figure = format!(
        "PUT {put:.2} CPU s/GiB = {:.2} x its primitives ({put_sum:.2}), best peer {BEST_PUT}; GET {get:.2} = {:.2} x ({get_sum:.2}), best peer {BEST_GET}",
        put / put_sum,
        get / get_sum
    );
    let holds = put <= RATIO * put_sum && get <= RATIO * get_sum && put <= BEST_PUT / 2.0 && get <= BEST_GET;
    if holds { Ok(figure) } else { Err(figure) }
}
