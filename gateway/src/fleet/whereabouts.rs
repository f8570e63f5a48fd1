//! Which of two addresses a node is sought at: the one that the root group has, or the one that the node has announced since.
//!
//! The root group's is as old as the node's last renewal. Either may be stale, so neither is believed for long without an answer: the
//! handshake says whether what answers is the node.
//! Not here: where announcements come from (the composition brings them).

use crate::remote::Link;
use spine::id::NodeId;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long an address may go without an answer before the other one is tried.
pub const PATIENCE: Duration = Duration::from_secs(6);

/// Where nodes say that they are.
pub trait Whereabouts: Send + Sync {
    /// `host:port` of the node's data plane as it announced last; does not wait.
    fn announced(&self, node: NodeId) -> Option<String>;
}

/// A node's link, and why it leads where it leads.
pub(super) struct Sought {
    pub link: Arc<Link>,
    /// The root group's address when the link was made.
    pub told: String,
    pub since: Instant,
}

/// The address to use next. `told`: the root group's, now. `sought`: the root group's when the present link was made, and the link's;
/// `silent`: it has not answered for [`PATIENCE`].
pub(super) fn choose<'a>(told: &'a str, announced: Option<&'a str>, sought: Option<(&'a str, &'a str)>, silent: bool) -> &'a str {
    match sought {
        // What the root group learned last is tried first.
        None => told,
        Some((told_then, _)) if told_then != told => told,
        Some((_, now)) if !silent => now,
        Some((_, now)) if now == told => announced.unwrap_or(now),
        Some(_) => told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_sought_where_it_answers_and_else_at_either_address_in_turn() {
        assert_eq!(choose("root", Some("new"), None, false), "root");
        assert_eq!(choose("root", Some("new"), Some(("root", "root")), false), "root");
        assert_eq!(choose("root", Some("new"), Some(("root", "root")), true), "new");
        assert_eq!(choose("root", Some("new"), Some(("root", "new")), false), "new");
        assert_eq!(choose("root", Some("new"), Some(("root", "new")), true), "root");
        assert_eq!(choose("root", None, Some(("root", "root")), true), "root");
    }

    #[test]
    fn what_the_root_group_learns_is_tried_at_once() {
        assert_eq!(choose("renewed", Some("old"), Some(("root", "old")), false), "renewed");
    }
}
