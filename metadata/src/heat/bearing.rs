//! One group as this process bears it, since it last began or ceased to lead it.

use super::bins::{Bins, Faded};
use super::sample::Of;
use super::{Counts, HALF_LIFE_MS, Owned, Seen};
use crate::balance::{Cut, Meter, Popularity};
use spine::id::UnixMs;
use spine::limit::{CUTS, HOTTEST};
use spine::wire::cluster::{HeatSlice, HotDirectory};
use spine::wire::range::NameSpan;

/// A slice has at most one part in so many of all heat, unless it is one directory's own keys; [`Popularity::slices`] makes at most twice
/// as many slices and one.
const SLICES: usize = (CUTS - 2) / 2;
/// Hits that are as good as none: then nothing is remembered of where they were.
const NOTHING: f64 = 0.01;

pub struct Bearing {
    pub leads: bool,
    pub term: u64,
    /// At the last look.
    pub counts: Counts,
    pub meter: Meter,
    /// `None`: not looked at yet, or it does not lead.
    owned: Option<Owned>,
    limit: usize,
    tree: Option<Popularity>,
    bins: Option<Bins>,
    /// Hits on nothing that can be moved.
    rest: Faded,
}

impl Bearing {
    /// - `limit`: directories that its tree may remember.
    pub fn new(seen: &Seen, limit: usize, now: UnixMs) -> Self {
        Bearing {
            leads: seen.leads,
            term: seen.term,
            counts: seen.counts,
            meter: Meter::new(HALF_LIFE_MS, now),
            owned: None,
            limit,
            tree: None,
            bins: None,
            rest: Faded::new(now),
        }
    }

    /// Whether it is known what the group owns.
    pub fn is_known(&self) -> bool {
        self.owned.is_some()
    }

    pub fn hit(&mut self, of: &Of, hits: f64, now: UnixMs) {
        let limit = self.limit;
        match of {
            Of::Name(bucket, directory) => {
                let tree = self.tree.get_or_insert_with(|| Popularity::new(HALF_LIFE_MS, limit, now));
                tree.hit(*bucket, directory, hits, now);
            }
            Of::Chunk(high) => match &mut self.bins {
                Some(bins) => bins.hit(*high, hits, now),
                None => self.rest.add(hits, now),
            },
            Of::Rest => self.rest.add(hits, now),
        }
    }

    /// Takes note of what the group owns now. What was given away takes its heat and its share of the load with it.
    pub fn owns(&mut self, owned: Owned, now: UnixMs) {
        if self.owned.as_ref() == Some(&owned) {
            return;
        }
        let before = self.heat(now);
        match (&mut self.tree, &owned.names) {
            (Some(tree), Some(names)) => names.end.iter().for_each(|end| drop(tree.split(end, now))),
            (tree, _) => *tree = None,
        }
        self.bins = owned.chunks.map(|span| match &self.bins {
            Some(bins) if *bins.span() == span => bins.clone(),
            Some(bins) => bins.over(span, now),
            None => Bins::new(span, now),
        });
        if self.owned.is_some() && before > NOTHING {
            self.meter = self.meter.part(self.heat(now) / before);
        }
        self.owned = Some(owned);
    }

    /// Lets go of a tree that has gone cold.
    pub fn forget(&mut self, now: UnixMs) {
        if self.tree.as_ref().is_some_and(|tree| tree.total(now) < NOTHING) {
            self.tree = None;
        }
    }

    /// Where the group could be cut, and what lies between: the names, or the chunks where those are hit more.
    pub fn slices(&self, now: UnixMs) -> Vec<HeatSlice> {
        let Some(Owned { names, chunks }) = &self.owned else { return Vec::new() };
        let of_names = names.as_ref().map(|span| self.name_slices(span, now)).unwrap_or_default();
        let of_chunks = if chunks.is_some() { self.chunk_slices(now) } else { Vec::new() };
        let sum = |slices: &[(Cut, f64)]| slices.iter().map(|(_, heat)| heat).sum::<f64>();
        let (names_heat, chunks_heat) = (sum(&of_names), sum(&of_chunks));
        let (mut slices, stays) = if chunks_heat > names_heat { (of_chunks, names_heat) } else { (of_names, chunks_heat) };
        let stays = stays + self.rest.sum(now);
        if stays > NOTHING
            && let Some((start, _)) = slices.first().cloned()
        {
            slices.insert(0, (start, stays));
        }
        let seconds = self.meter.seconds(now).max(f64::MIN_POSITIVE);
        slices.into_iter().take(CUTS).map(|(from, heat)| HeatSlice { from, heat: milli(heat / seconds) }).collect()
    }

    pub fn hottest(&self, now: UnixMs) -> Vec<HotDirectory> {
        let seconds = self.meter.seconds(now).max(f64::MIN_POSITIVE);
        let hottest = self.tree.iter().flat_map(|tree| tree.hottest(HOTTEST, now));
        hottest
            .map(|hot| HotDirectory { bucket: hot.bucket, directory: hot.directory.into(), heat: milli(hot.heat.heat / seconds) })
            .collect()
    }

    fn heat(&self, now: UnixMs) -> f64 {
        self.tree.as_ref().map_or(0.0, |tree| tree.total(now)) + self.bins.as_ref().map_or(0.0, |bins| bins.total(now)) + self.rest.sum(now)
    }

    fn name_slices(&self, span: &NameSpan, now: UnixMs) -> Vec<(Cut, f64)> {
        let Some(tree) = &self.tree else { return vec![(Cut::Names(span.start.clone()), 0.0)] };
        let mut out: Vec<(Cut, f64)> = Vec::new();
        for slice in tree.slices(&span.start, SLICES, now) {
            // A directory that was hit while the group gave it away: it is not the group's to cut.
            let outside = matches!(&slice.from, Cut::Names(at) if !span.holds(at));
            match out.last_mut() {
                Some(last) if outside => last.1 += slice.heat,
                _ => out.push((slice.from, slice.heat)),
            }
        }
        out
    }

    fn chunk_slices(&self, now: UnixMs) -> Vec<(Cut, f64)> {
        self.bins.iter().flat_map(|bins| bins.parts(now)).map(|(cut, heat)| (cut.clone(), heat)).collect()
    }
}

fn milli(heat: f64) -> u64 {
    (heat.max(0.0) * 1e3).round() as u64
}
