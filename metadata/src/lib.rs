//! Namespace and chunk index: deterministic state machines, applied from a replicated log, on ordered tables.

pub mod table;
