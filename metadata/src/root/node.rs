//! Storage nodes this deployment has used.

use crate::key;
use crate::record::{decode, each, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::wire::Reply;
use spine::wire::root::NodeRecord;
use std::ops::ControlFlow;

pub fn note(table: &mut dyn TableWrite, record: &NodeRecord) -> Result<Reply, TableError> {
    let at = key::node(record.id);
    if table.get(Space::Root, &at)?.is_none() {
        save(table, Space::Root, &at, record)?;
    }
    Ok(Reply::Done)
}

/// All of them, by id.
pub fn all(table: &dyn TableRead) -> Result<Vec<NodeRecord>, TableError> {
    let mut out = Vec::new();
    each(table, Space::Root, &[key::ROOT_NODE], &[], |key, value| {
        out.push(decode(Space::Root, key, value)?);
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(out)
}
