//! Row 12 of the fleet: response time against object size, as the paper's figure: 4 KiB to 1 GiB, backup and restore, with no node, one
//! node and `m` nodes down. RS 4+2 over eight nodes.
//!
//! Prints a table and writes a plot. Near linear is judged for each of the six lines twice: by the least squares of `time = a + b * size`,
//! whose R^2 has to be 0.97 at least, and by the slope in the logarithms of the sizes from 4 MiB on, which may be 1.15 at most: twice the
//! size never takes much more than twice the time.
//! At full size it needs 20 GiB of disk: what was overwritten is kept for longer than the row takes.

use crate::row::{Outcome, Run, Said, runtime};
use aws_sdk_s3::Client;
use conformance::client::{self, Judge};
use conformance::content::Content;
use conformance::fleet::{Fleet, serving};
use conformance::plot::{Axis, Line, plot};
use conformance::server::repository;
use std::time::{Duration, Instant};

const NODES: usize = 8;
const M: usize = 2;
const DOWN: [usize; 3] = [0, 1, M];
const BUCKET: &str = "sizes";
const R2: f64 = 0.97;
const SLOPE: f64 = 1.15;
/// From here on the slope is judged: below it, fixed costs weigh.
const LARGE: usize = 4 << 20;
/// A node that is down stays so: nothing is rebuilt meanwhile.
const CONFIG: &str = "[repair]\naway_seconds = 86400\n";

/// Median times by size, backup and restore.
type Series = Vec<(usize, Duration, Duration)>;

pub fn run(run: &Run) -> Outcome {
    let largest = run.size(1usize << 30, 64 << 20);
    let sizes: Vec<usize> = (0..).map(|step| (4usize << 10) << (2 * step)).take_while(|size| *size <= largest).collect();
    let mut fleet = Fleet::start(NODES, CONFIG).said("a fleet")?;
    let runtime = runtime()?;
    let client = client::of(&fleet.gateway);
    runtime.block_on(client.create_bucket().bucket(BUCKET).send()).said("bucket")?;
    runtime.block_on(measure(&client, run.seed ^ 1, 1 << 20, 10)).said("warm up")?;
    let mut all: Vec<Series> = Vec::new();
    for (number, down) in DOWN.into_iter().enumerate() {
        for node in fleet.nodes.iter_mut().take(down) {
            node.kill();
        }
        fleet.wait("the dead are known", |status| serving(status) == NODES - down).said("nodes down")?;
        let mut series = Vec::new();
        for size in &sizes {
            let times = run.size(times(*size), times(*size).div_ceil(3));
            let seed = run.seed.wrapping_add((number as u64) << 40).wrapping_add((*size as u64) << 1);
            let (backup, restore) =
                runtime.block_on(measure(&client, seed, *size, times)).said(&format!("{down} down, {}", shown(*size)))?;
            println!("  {down} down, {:>8}: backup {:>8.1} ms, restore {:>8.1} ms", shown(*size), ms(backup), ms(restore));
            series.push((*size, backup, restore));
        }
        all.push(series);
    }
    table(&all);
    let path = repository().join("target/prove/response-time.svg");
    std::fs::create_dir_all(path.parent().unwrap_or(&path)).and_then(|()| std::fs::write(&path, drawn(&all))).said("the plot")?;
    println!("  the plot is in {}", path.display());
    judged(&all)
}

/// Fewer of the larger: they vary less, and take longer.
fn times(size: usize) -> usize {
    match size >> 20 {
        0 => 30,
        1..16 => 15,
        16..256 => 5,
        _ => 3,
    }
}

/// Medians of writing and reading `times` objects of `size` bytes, one after another.
async fn measure(client: &Client, seed: u64, size: usize, times: usize) -> Result<(Duration, Duration), String> {
    let (mut backups, mut restores) = (Vec::new(), Vec::new());
    for n in 0..times {
        let body = Content::dense(seed.wrapping_mul(31).wrapping_add(n as u64), size).bytes();
        let began = Instant::now();
        let put = client.put_object().bucket(BUCKET).key("object").body(body.clone().into());
        put.send().await.judged().said("backup")?;
        backups.push(began.elapsed());
        let began = Instant::now();
        let answer = client.get_object().bucket(BUCKET).key("object").send().await.judged().said("restore")?;
        let got = answer.body.collect().await.said("body")?;
        restores.push(began.elapsed());
        if got.into_bytes() != body {
            return Err("an object reads back wrong".into());
        }
    }
    Ok((median(backups), median(restores)))
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn table(all: &[Series]) {
    println!("  | size | {} |", DOWN.map(|down| format!("backup, {down} down | restore, {down} down")).join(" | "));
    println!("  |---|{}", "---|".repeat(2 * DOWN.len()));
    for (row, (size, ..)) in all[0].iter().enumerate() {
        let cells: Vec<String> =
            all.iter().flat_map(|series| [series[row].1, series[row].2]).map(|time| format!("{:.1} ms", ms(time))).collect();
        println!("  | {} | {} |", shown(*size), cells.join(" | "));
    }
}

fn lines(all: &[Series]) -> Vec<Line> {
    let mut lines = Vec::new();
    for (colour, series) in all.iter().enumerate() {
        for dashed in [false, true] {
            let name = format!("{}, {} down", if dashed { "restore" } else { "backup" }, DOWN[colour]);
            let points = series.iter().map(|(size, backup, restore)| (*size as f64, ms(if dashed { *restore } else { *backup }))).collect();
            lines.push(Line { name, colour, dashed, points });
        }
    }
    lines
}

fn drawn(all: &[Series]) -> String {
    let x = Axis { title: "object size", marks: all[0].iter().map(|(size, ..)| (*size as f64, shown(*size))).collect() };
    let values = || all.iter().flatten().flat_map(|(_, backup, restore)| [ms(*backup), ms(*restore)]);
    let (low, high) = (values().fold(f64::MAX, f64::min).log10().floor() as i32, values().fold(0.0, f64::max).log10().ceil() as i32);
    let mark = |power: i32| {
        let value = 10f64.powi(power);
        (value, if value >= 1_000.0 { format!("{} s", value / 1_000.0) } else { format!("{value} ms") })
    };
    let y = Axis { title: "response time (median)", marks: (low..=high).map(mark).collect() };
    plot("Response time by object size, RS 4+2 on eight nodes", &x, &y, &lines(all))
}

fn judged(all: &[Series]) -> Outcome {
    let (mut worst_r2, mut worst_slope, mut figures) = (1.0f64, 0.0f64, Vec::new());
    for line in lines(all) {
        let fit = least_squares(&line.points);
        let large: Vec<(f64, f64)> = line.points.iter().filter(|(size, _)| *size >= LARGE as f64).map(|(x, y)| (x.ln(), y.ln())).collect();
        let slope = least_squares(&large).slope;
        let per_mib = fit.slope * f64::from(1 << 20);
        println!("  {:<18} {:>7.1} ms + {:.2} ms/MiB, R^2 {:.4}, slope from 4 MiB {:.3}", line.name, fit.constant, per_mib, fit.r2, slope);
        figures.push(format!("{} {per_mib:.1}", line.name));
        (worst_r2, worst_slope) = (worst_r2.min(fit.r2), worst_slope.max(slope));
    }
    let figure = format!("R^2 >= {worst_r2:.3}, slope <= {worst_slope:.2}; ms/MiB: {}", figures.join(", "));
    if worst_r2 >= R2 && worst_slope <= SLOPE { Ok(figure) } else { Err(figure) }
}

struct Fit {
    constant: f64,
    slope: f64,
    r2: f64,
}

fn least_squares(points: &[(f64, f64)]) -> Fit {
    let n = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (mean_x, mean_y) = (mean(|p| p.0), mean(|p| p.1));
    let sum = |of: &dyn Fn(f64, f64) -> f64| points.iter().map(|(x, y)| of(x - mean_x, y - mean_y)).sum::<f64>();
    let (xx, xy, yy) = (sum(&|x, _| x * x), sum(&|x, y| x * y), sum(&|_, y| y * y));
    let slope = xy / xx;
    Fit { constant: mean_y - slope * mean_x, slope, r2: xy * xy / (xx * yy) }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn shown(bytes: usize) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes >> 10),
        0x10_0000..0x4000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}
