//! What was measured of one server over all runs, its medians, and the tables.

use super::backup::Backup;
use super::figure::{Operations, Transfer, median};
use super::listing::Listing;
use super::small::Small;
use crate::primitives::{Part, Primitives};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Every run's figures of one server.
#[derive(Clone, Debug, Default)]
pub struct Runs {
    pub transfers: BTreeMap<&'static str, Vec<Transfer>>,
    /// By object size.
    pub small: BTreeMap<usize, Vec<Small>>,
    pub listing: Vec<Listing>,
    pub backups: Vec<[Backup; 2]>,
    /// Bytes on disk per byte of the large object.
    pub disk_per_byte: Vec<f64>,
    /// Bytes on disk that the same object again added, per byte.
    pub again_per_byte: Vec<f64>,
    pub peak_rss: Vec<f64>,
}

/// Medians of one server.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub name: String,
    pub transfers: BTreeMap<&'static str, Transfer>,
    pub small: BTreeMap<usize, Small>,
    pub listing: Listing,
    pub backups: [Backup; 2],
    pub disk_per_byte: f64,
    pub again_per_byte: f64,
    pub peak_rss_mib: f64,
}

impl Runs {
    pub fn summary(&self, name: &str) -> Summary {
        let small = |of: &Vec<Small>| Small {
            put: Operations::median(&of.iter().map(|s| s.put).collect::<Vec<_>>()),
            get: Operations::median(&of.iter().map(|s| s.get).collect::<Vec<_>>()),
            delete: Operations::median(&of.iter().map(|s| s.delete).collect::<Vec<_>>()),
            disk_per_byte: median(of.iter().map(|s| s.disk_per_byte).collect()),
        };
        let backup = |which: usize| {
            let pick = |field: fn(&Backup) -> f64| median(self.backups.iter().map(|b| field(&b[which])).collect());
            Backup { wall_s: pick(|b| b.wall_s), cpu_s: pick(|b| b.cpu_s), disk_bytes: pick(|b| b.disk_bytes as f64) as u64 }
        };
        Summary {
            name: name.into(),
            transfers: self.transfers.iter().map(|(what, of)| (*what, Transfer::median(of))).collect(),
            small: self.small.iter().map(|(size, of)| (*size, small(of))).collect(),
            listing: Listing {
                pages: Operations::median(&self.listing.iter().map(|l| l.pages).collect::<Vec<_>>()),
                prefixes_ms: median(self.listing.iter().map(|l| l.prefixes_ms).collect()),
            },
            backups: [backup(0), backup(1)],
            disk_per_byte: median(self.disk_per_byte.clone()),
            again_per_byte: median(self.again_per_byte.clone()),
            peak_rss_mib: median(self.peak_rss.clone()) / f64::from(1 << 20),
        }
    }
}

/// The whole report: one table of all servers, and ours beside its primitives.
pub fn text(summaries: &[Summary], primitives: &Primitives) -> String {
    let mut out = String::new();
    transfers(&mut out, summaries);
    small(&mut out, summaries);
    rest(&mut out, summaries);
    if let Some(ours) = summaries.first() {
        floor(&mut out, ours, primitives);
    }
    out
}

/// One row: its label, and per server a value with its ratio to ours.
fn row(out: &mut String, label: &str, values: &[String]) {
    let _ = write!(out, "{label:<34}");
    for value in values {
        let _ = write!(out, " {value:>26}");
    }
    out.push('\n');
}

fn heading(out: &mut String, title: &str, summaries: &[Summary]) {
    out.push('\n');
    row(out, title, &summaries.iter().map(|s| s.name.clone()).collect::<Vec<_>>());
}

/// `value`, and behind the first server how it compares with it.
fn beside(values: &[f64], form: impl Fn(f64) -> String) -> Vec<String> {
    let first = values.first().copied().unwrap_or(0.0);
    let one = |(i, v): (usize, &f64)| match i {
        0 => form(*v),
        _ if first == 0.0 || *v == 0.0 => form(*v),
        _ => format!("{} ({:.2}x)", form(*v), v / first),
    };
    values.iter().enumerate().map(one).collect()
}

fn transfers(out: &mut String, summaries: &[Summary]) {
    heading(out, "large object, 16 MiB parts", summaries);
    let names: Vec<&str> = summaries.first().map(|s| s.transfers.keys().copied().collect()).unwrap_or_default();
    for what in names {
        let of = |s: &Summary| s.transfers.get(what).copied().unwrap_or_default();
        row(out, &format!("{what}: MB/s"), &beside(&summaries.iter().map(|s| of(s).mb_s).collect::<Vec<_>>(), |v| format!("{v:.0}")));
        let cpu: Vec<f64> = summaries.iter().map(|s| of(s).cpu_s_per_gib).collect();
        row(out, &format!("{what}: CPU s/GiB"), &beside(&cpu, |v| format!("{v:.2}")));
    }
}

fn small(out: &mut String, summaries: &[Summary]) {
    let sizes: Vec<usize> = summaries.first().map(|s| s.small.keys().copied().collect()).unwrap_or_default();
    for size in sizes {
        heading(out, &format!("objects of {} KiB, 16 at once", size >> 10), summaries);
        type Kind = (&'static str, fn(&Small) -> Operations);
        let kinds: [Kind; 3] = [("PUT", |s| s.put), ("GET", |s| s.get), ("DELETE", |s| s.delete)];
        for (kind, pick) in kinds {
            let all: Vec<Operations> = summaries.iter().map(|s| s.small.get(&size).map(pick).unwrap_or_default()).collect();
            row(out, &format!("{kind}/s"), &beside(&all.iter().map(|o| o.per_s).collect::<Vec<_>>(), |v| format!("{v:.0}")));
            let tail: Vec<String> = all.iter().map(|o| format!("{:.1} / {:.1}", o.p50_ms, o.p99_ms)).collect();
            row(out, &format!("{kind} p50 / p99 ms"), &tail);
            row(out, &format!("{kind} CPU ms"), &beside(&all.iter().map(|o| o.cpu_ms_per_op).collect::<Vec<_>>(), |v| format!("{v:.2}")));
        }
        let disk: Vec<String> = summaries.iter().map(|s| format!("{:.2}", s.small.get(&size).map_or(0.0, |x| x.disk_per_byte))).collect();
        row(out, "bytes on disk per byte", &disk);
    }
}

fn rest(out: &mut String, summaries: &[Summary]) {
    heading(out, "listing", summaries);
    let numbers = |pick: fn(&Summary) -> f64| summaries.iter().map(pick).collect::<Vec<f64>>();
    row(out, "pages of 1,000 keys/s", &beside(&numbers(|s| s.listing.pages.per_s), |v| format!("{v:.0}")));
    let tail: Vec<String> = summaries.iter().map(|s| format!("{:.1} / {:.1}", s.listing.pages.p50_ms, s.listing.pages.p99_ms)).collect();
    row(out, "page p50 / p99 ms", &tail);
    row(out, "page CPU ms", &beside(&numbers(|s| s.listing.pages.cpu_ms_per_op), |v| format!("{v:.2}")));
    row(out, "all prefixes ms", &beside(&numbers(|s| s.listing.prefixes_ms), |v| format!("{v:.1}")));
    heading(out, "restic backup of one tree", summaries);
    for (i, which) in ["first", "second"].into_iter().enumerate() {
        let values: Vec<String> = summaries
            .iter()
            .map(|s| {
                format!("{:.1} s, CPU {:.2} s, {:.0} MB", s.backups[i].wall_s, s.backups[i].cpu_s, s.backups[i].disk_bytes as f64 / 1e6)
            })
            .collect();
        row(out, which, &values);
    }
    heading(out, "space", summaries);
    row(out, "disk bytes per byte, large", &summaries.iter().map(|s| format!("{:.3}", s.disk_per_byte)).collect::<Vec<_>>());
    row(out, "the same object again adds", &summaries.iter().map(|s| format!("{:.3}", s.again_per_byte)).collect::<Vec<_>>());
    row(out, "peak RSS MiB", &summaries.iter().map(|s| format!("{:.0}", s.peak_rss_mib)).collect::<Vec<_>>());
}

fn floor(out: &mut String, ours: &Summary, primitives: &Primitives) {
    out.push_str("\nprimitives, CPU ms per GiB (this run, one core)\n");
    let mut sum = |title: &str, parts: &[Part], total: f64, what: &str| {
        let list: Vec<String> = parts.iter().map(|(name, ms)| format!("{name} {ms:.0}")).collect();
        let _ = writeln!(out, "{title}: {} = {total:.0}", list.join(" + "));
        if let Some(t) = ours.transfers.get(what) {
            let _ = writeln!(out, "  {what}: server {:.0}, ratio {:.2}", t.cpu_s_per_gib * 1e3, t.cpu_s_per_gib * 1e3 / total);
        }
    };
    sum("PUT, 1 stream", &primitives.put(1), primitives.put_sum(1), "PUT 1 stream");
    sum("PUT, 4 streams", &primitives.put(4), primitives.put_sum(4), "PUT 4 streams");
    sum("GET", &primitives.get(), primitives.get_sum(), "GET 1 stream");
    sum("GET", &primitives.get(), primitives.get_sum(), "GET 4 streams");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_holds_medians_and_ratios_to_the_first_server() {
        let mut ours = Runs::default();
        ours.transfers.insert("PUT 4 streams", [1.0, 3.0, 2.0].map(|s| Transfer { mb_s: 100.0 * s, cpu_s_per_gib: s }).into());
        let mut peer = Runs::default();
        peer.transfers.insert("PUT 4 streams", vec![Transfer { mb_s: 100.0, cpu_s_per_gib: 5.0 }]);
        let primitives = Primitives {
            receive: 200.0,
            send: 200.0,
            sha256: 600.0,
            md5_1: 1_340.0,
            md5_4: 910.0,
            crc32: 18.0,
            blake3: 125.0,
            roots: 188.0,
            seal: 54.0,
            open: 54.0,
            encode: 38.0,
            append: 250.0,
            read: 60.0,
        };
        let text = text(&[ours.summary("breakwater"), peer.summary("other")], &primitives);
        assert!(text.contains("2.00"), "{text}");
        assert!(text.contains("5.00 (2.50x)"), "{text}");
        assert!(text.contains("= 2383"), "{text}");
        assert!(text.contains("ratio 0.84"), "{text}");
    }
}
