//! Row 12: every wrong request gets its exact answer, stores nothing, and leaves nothing behind in the process.

use crate::row::{Outcome, Progress, Run, Said, mib, none_of, runtime};
use conformance::bad_input::{Ground, stall};
use conformance::server::Server;
use std::time::{Duration, Instant};

/// Longer than the server's own time-outs set below.
const CLOSED_WITHIN: Duration = Duration::from_secs(20);
const CONFIG: &str = "[limits]\nheader_seconds = 3\nbody_idle_seconds = 3\n";
/// What an allocator may keep.
const RSS_SLACK: u64 = 48 << 20;

pub fn run(run: &Run) -> Outcome {
    let rounds = run.size(20, 2);
    let place = run.place()?;
    let server = run.server(&place, CONFIG)?;
    let runtime = runtime()?;
    let ground = runtime.block_on(Ground::prepare(&server))?;
    let before = runtime.block_on(ground.holds())?;
    let cases = ground.cases();

    let mut progress = Progress::new();
    let mut wrong = Vec::new();
    for (n, case) in cases.iter().enumerate() {
        progress.say(|| format!("case {n} of {}: {}", cases.len(), case.name));
        wrong.extend(ground.judge(case).err());
        match runtime.block_on(ground.holds()) {
            Ok(now) if now == before => {}
            Ok(now) => wrong.push(format!("{}: the bucket changed from {before} to {now}", case.name)),
            Err(e) => wrong.push(format!("{}: afterwards the server answers {e}", case.name)),
        }
    }
    for finding in &wrong {
        println!("  {finding}");
    }
    none_of(&wrong)?;

    // One round has filled caches and pools; what grows from now on is a leak.
    let start = Left::of(&server);
    for round in 1..=rounds {
        for case in &cases {
            progress.say(|| format!("again, {round} of {rounds}: {}", case.name));
            ground.judge(case)?;
        }
    }
    println!("  all cases again {rounds} times; now clients that stop in the middle");
    let stalled = stall::open(&ground, 40).said("stalled connections")?;
    let stalls = stalled.len();
    let open = stall::still_open(stalled, CLOSED_WITHIN);
    if open > 0 {
        return Err(format!("{open} of {stalls} stalled connections were still open after {CLOSED_WITHIN:?}"));
    }
    let end = settled(&server, &start);
    if runtime.block_on(ground.holds())? != before {
        return Err("the bucket changed".into());
    }
    let figure = format!(
        "{} cases right, {} times each, {stalls} stalled connections closed; RSS {} -> {}, threads {} -> {}, files {} -> {}",
        cases.len(),
        rounds + 1,
        mib(start.rss),
        mib(end.rss),
        start.threads,
        end.threads,
        start.files,
        end.files
    );
    if end.is_back_to(&start) { Ok(figure) } else { Err(figure) }
}

struct Left {
    rss: u64,
    threads: u64,
    files: usize,
}

impl Left {
    fn of(server: &Server) -> Left {
        Left { rss: server.rss(), threads: server.threads(), files: server.open_files() }
    }

    fn is_back_to(&self, start: &Left) -> bool {
        self.rss <= start.rss + RSS_SLACK && self.threads <= start.threads + 4 && self.files <= start.files + 8
    }
}

/// Waits for closed connections to be forgotten.
fn settled(server: &Server, start: &Left) -> Left {
    let began = Instant::now();
    loop {
        let now = Left::of(server);
        if now.is_back_to(start) || began.elapsed() > Duration::from_secs(30) {
            return now;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
