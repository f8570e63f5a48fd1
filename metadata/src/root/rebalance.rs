//! Whether the operator has stopped levelling nodes out. Without a record: no.

use crate::key;
use crate::record::{load, save};
use crate::table::{Space, TableError, TableRead, TableWrite};
use spine::wire::Reply;

pub fn stop(table: &mut dyn TableWrite, stopped: bool) -> Result<Reply, TableError> {
    save(table, Space::Root, key::ROOT_REBALANCE_STOPPED, &stopped)?;
    Ok(Reply::Done)
}

pub fn is_stopped(table: &dyn TableRead) -> Result<bool, TableError> {
    Ok(load(table, Space::Root, key::ROOT_REBALANCE_STOPPED)?.unwrap_or(false))
}
