//! Shapes of load: which directories there are, and how many operations a second each has.

use crate::content::Dice;
use spine::id::{BucketId, UnixMs};
use spine::map::NamePoint;

/// A load over directories.
pub trait Shape {
    /// The directories, ascending; their keys end with `/`.
    fn places(&mut self, dice: &mut Dice) -> Vec<NamePoint>;

    /// Operations a second of each, from `now` on; `None`: as before. The first call has to say.
    fn rates(&mut self, now: UnixMs, dice: &mut Dice) -> Option<Vec<f64>>;
}

/// Directories `BB/DD/` in bucket 1, `inner` of them in each of `outer`.
pub fn grid(outer: usize, inner: usize) -> Vec<NamePoint> {
    let place = |at: usize| NamePoint::new(BucketId(1), format!("{:04}/{:04}/", at / inner, at % inner));
    (0..outer * inner).map(place).collect()
}

/// Rates that one function of the round's number and the directory gives, changed every `every` rounds.
pub struct Plan {
    pub places: Vec<NamePoint>,
    pub every: u64,
    pub rate: Box<dyn Fn(u64, usize) -> f64>,
    pub round: u64,
}

impl Plan {
    /// `rate(turn, directory)`, a turn being `every` rounds.
    pub fn new(places: Vec<NamePoint>, every: u64, rate: impl Fn(u64, usize) -> f64 + 'static) -> Box<Self> {
        Box::new(Plan { places, every, rate: Box::new(rate), round: 0 })
    }
}

impl Shape for Plan {
    fn places(&mut self, _: &mut Dice) -> Vec<NamePoint> {
        self.places.clone()
    }

    fn rates(&mut self, _: UnixMs, _: &mut Dice) -> Option<Vec<f64>> {
        let (turn, rest) = (self.round / self.every, self.round % self.every);
        self.round += 1;
        (rest == 0).then(|| (0..self.places.len()).map(|at| (self.rate)(turn, at)).collect())
    }
}

/// A tenant's bucket: when it is backed up, and how much it does at other times.
#[derive(Clone, Debug)]
struct Tenant {
    /// Operations a second outside of its window.
    base: f64,
    /// Its window, in milliseconds of the day.
    from: u64,
    to: u64,
    active: bool,
}

/// A day of backups: each tenant has a window in which it does ten times as much, most of them at night in one of four time zones; and
/// every twenty minutes somebody restores for ten.
pub struct Day {
    tenants: usize,
    directories: usize,
    /// Operations a second of all tenants outside of their windows.
    base: f64,
    weights: Vec<f64>,
    state: Vec<Tenant>,
    restoring: Option<(usize, u64)>,
    shifts: u64,
    shared: std::rc::Rc<std::cell::Cell<u64>>,
}

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const WINDOW: f64 = 10.0;
const RESTORE: f64 = 10.0;

impl Day {
    /// `tenants` buckets of `directories` each. Also where the number of shifts can be read: windows and restores that began or ended.
    pub fn new(tenants: usize, directories: usize, base: f64) -> (Box<Self>, std::rc::Rc<std::cell::Cell<u64>>) {
        let shared = std::rc::Rc::new(std::cell::Cell::new(0));
        let weights = falling(directories);
        let (state, restoring) = (Vec::new(), None);
        (Box::new(Day { tenants, directories, base, weights, state, restoring, shifts: 0, shared: shared.clone() }), shared)
    }

    fn turn(&mut self, time: u64, dice: &mut Dice) -> bool {
        let mut changed = 0;
        for tenant in &mut self.state {
            let active = (time + DAY_MS - tenant.from) % DAY_MS < tenant.to - tenant.from;
            changed += u64::from(active != tenant.active);
            tenant.active = active;
        }
        let over = self.restoring.is_some_and(|(_, until)| until <= time);
        let begins = time % (HOUR_MS / 3) < super::ROUND_MS;
        if over || begins {
            changed += 1;
            self.restoring = begins.then(|| (dice.below(self.tenants), time + HOUR_MS / 6));
        }
        self.shifts += changed;
        self.shared.set(self.shifts);
        changed > 0
    }
}

impl Shape for Day {
    fn places(&mut self, dice: &mut Dice) -> Vec<NamePoint> {
        let mut weights = falling(self.tenants);
        for at in (1..weights.len()).rev() {
            weights.swap(at, dice.below(at + 1));
        }
        self.state = weights
            .into_iter()
            .map(|weight| {
                let zone = dice.below(4) as u64 * 6 * HOUR_MS;
                let from = (zone + dice.below(5 * HOUR_MS as usize) as u64) % DAY_MS;
                let lasts = HOUR_MS + dice.below(2 * HOUR_MS as usize) as u64;
                Tenant { base: self.base * weight, from, to: from + lasts, active: false }
            })
            .collect();
        let wide = self.directories.isqrt().max(1);
        let place = |tenant: usize, at: usize| NamePoint::new(BucketId(tenant as u64 + 1), format!("{:03}/{:03}/", at / wide, at % wide));
        (0..self.tenants).flat_map(|tenant| (0..self.directories).map(move |at| place(tenant, at))).collect()
    }

    fn rates(&mut self, now: UnixMs, dice: &mut Dice) -> Option<Vec<f64>> {
        let time = now.0 % DAY_MS;
        let first = self.shifts == 0;
        if !self.turn(time, dice) && !first {
            return None;
        }
        let mut rates = Vec::with_capacity(self.tenants * self.directories);
        for (at, tenant) in self.state.iter().enumerate() {
            let restores = self.restoring.is_some_and(|(of, _)| of == at);
            let rate = tenant.base * if tenant.active { WINDOW } else { 1.0 } * if restores { RESTORE } else { 1.0 };
            // The hottest directory is another one in every bucket.
            rates.extend((0..self.directories).map(|directory| rate * self.weights[(directory + at * 37) % self.directories]));
        }
        Some(rates)
    }
}

/// Shares of a whole that fall with the square root of their rank.
fn falling(count: usize) -> Vec<f64> {
    let weights: Vec<f64> = (1..=count).map(|rank| 1.0 / (rank as f64).sqrt()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}
