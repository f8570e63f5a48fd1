//! Hits on a range of chunks, by equal parts of it. Chunk ids are hashes, so that parts are alike unless one chunk is asked for by all.

use super::HALF_LIFE_MS;
use super::sample::high;
use crate::balance::{Cut, even};
use spine::id::UnixMs;
use spine::wire::range::ChunkSpan;

/// Equal parts of a range.
const PARTS: u8 = 16;

/// A sum of hits that forgets.
#[derive(Clone, Copy, Debug)]
pub struct Faded {
    sum: f64,
    at: UnixMs,
}

impl Faded {
    pub fn new(now: UnixMs) -> Self {
        Faded { sum: 0.0, at: now }
    }

    pub fn add(&mut self, hits: f64, now: UnixMs) {
        self.sum = self.sum(now) + hits;
        self.at = self.at.max(now);
    }

    pub fn sum(&self, now: UnixMs) -> f64 {
        self.sum * (-(now.0.saturating_sub(self.at.0) as f64) / HALF_LIFE_MS as f64).exp2()
    }
}

#[derive(Clone, Debug)]
pub struct Bins {
    span: ChunkSpan,
    /// Where each part begins, and the first eight bytes of that.
    cuts: Vec<(Cut, u64)>,
    hits: Vec<Faded>,
}

impl Bins {
    pub fn new(span: ChunkSpan, now: UnixMs) -> Self {
        let start = |cut: &Cut| match cut {
            Cut::Chunks(at) => high(at),
            Cut::Names(_) => 0,
        };
        let with_start = |cut: Cut| {
            let start = start(&cut);
            (cut, start)
        };
        let cuts: Vec<(Cut, u64)> = even(span.start, span.end, PARTS).into_iter().map(|slice| with_start(slice.from)).collect();
        let hits = vec![Faded::new(now); cuts.len()];
        Bins { span, cuts, hits }
    }

    pub fn span(&self) -> &ChunkSpan {
        &self.span
    }

    /// Counts hits on a chunk of these first eight bytes; one outside of the range counts for the part next to it.
    pub fn hit(&mut self, high: u64, hits: f64, now: UnixMs) {
        let at = self.cuts.partition_point(|(_, start)| *start <= high).saturating_sub(1);
        if let Some(part) = self.hits.get_mut(at) {
            part.add(hits, now);
        }
    }

    pub fn total(&self, now: UnixMs) -> f64 {
        self.hits.iter().map(|part| part.sum(now)).sum()
    }

    /// Each part with its hits, in order.
    pub fn parts(&self, now: UnixMs) -> impl Iterator<Item = (&Cut, f64)> {
        self.cuts.iter().map(|(cut, _)| cut).zip(self.hits.iter().map(move |part| part.sum(now)))
    }

    /// The same hits over another range, as far as that has them.
    pub fn over(&self, span: ChunkSpan, now: UnixMs) -> Bins {
        let mut out = Bins::new(span, now);
        let end = span.end.as_ref().map(high);
        for ((_, start), hits) in self.cuts.iter().zip(&self.hits) {
            if *start >= high(&span.start) && end.is_none_or(|end| *start < end) {
                out.hit(*start, hits.sum(now), now);
            }
        }
        out
    }
}
