//! Row 11: 4 KiB objects, sixteen at once, every write synced before it is answered.
//!
//! The peers' figures are those of peers.md, of the servers that sync too.

use crate::row::{Outcome, Run, Said, runtime};
use conformance::bench::figure::Operations;
use conformance::bench::small::{self, Load};
use conformance::bench::target::Target;

/// Ceph RGW.
const BEST_PUT: f64 = 761.0;
/// RustFS with strict sync.
const BEST_GET: f64 = 2_734.0;

pub fn run(run: &Run) -> Outcome {
    let objects = run.size(8_000, 1_000);
    let rounds = run.size(3, 1);
    let place = run.place()?;
    let server = run.server(&place, "")?;
    let target = Target::of(&server);
    let runtime = runtime()?;
    runtime.block_on(target.bucket("small")).said("bucket")?;
    let (mut puts, mut gets) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let load = Load { size: 4 << 10, objects, at_once: 16, seed: run.seed.wrapping_add(round) };
        let small = runtime.block_on(small::measure(&target, "small", load)).said("round")?;
        println!(
            "  round {}: PUT {:.0}/s p99 {:.1} ms, GET {:.0}/s p99 {:.1} ms",
            round + 1,
            small.put.per_s,
            small.put.p99_ms,
            small.get.per_s,
            small.get.p99_ms
        );
        puts.push(small.put);
        gets.push(small.get);
    }
    let (put, get) = (Operations::median(&puts), Operations::median(&gets));
    let figure = format!(
        "PUT {:.0}/s (p50 {:.1}, p99 {:.1} ms; best peer {BEST_PUT}/s), GET {:.0}/s (p50 {:.1}, p99 {:.1} ms; best peer {BEST_GET}/s)",
        put.per_s, put.p50_ms, put.p99_ms, get.per_s, get.p50_ms, get.p99_ms
    );
    if put.per_s > BEST_PUT && get.per_s > BEST_GET { Ok(figure) } else { Err(figure) }
}
