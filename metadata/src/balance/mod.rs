//! Which server bears what, and what to move so that all bear alike.
//!
//! - `load.rs`: work as operations, bytes and CPU; rates that forget
//! - `popularity.rs`: the weight tree: how hot each directory is
//! - `slice.rs`: where a group may be split
//! - `cluster.rs`: loads and placement, as the balancer sees them; what one step does to them
//! - `candidates.rs`: the best step of each kind for one server
//! - `decide.rs`: a round: who is relieved, by what, and what has to wait
//! - `merge.rs`: cold neighbours become one again
//!
//! The paper's dynamic subtree partitioning: popularity says where to cut, loads say when. Leadership moves first (nothing is copied), a
//! split that gives one half away next (its rows are copied into a group of the same servers), replicas last.
//!
//! Invariants:
//! - Nothing here reads a clock, draws a number or does I/O: the same loads and times give the same moves.
//! - A step is taken only if it leaves the busier of the two servers clearly less busy ([`Rules::gain`], [`Rules::worth`]) than the donor
//!   was, so that steps under a steady load come to an end and none undoes another.
//! - What changed servers stays for [`Rules::dwell_ms`]; a server takes part in one move at a time.
//!
//! Not here: who runs it and carries its steps out (`balancing/`, where the root is led, every 10 s), where replicas may not be together.

mod candidates;
mod cluster;
mod decide;
mod load;
mod merge;
mod popularity;
mod slice;
#[cfg(test)]
mod tests;

pub use cluster::{Busy, Cluster, Step, Subtree};
pub use decide::{Balancer, Move, Purpose, Rules, Why};
pub use load::{Load, Meter};
pub use popularity::{Heat, Hot, Popularity};
pub use slice::{Cut, Slice, even};
