//! To be filled.
use crate::table::{TableError, TableRead, TableWrite};
use spine::wire::root::{RootAnswer, RootCommand, RootQuery};
use spine::wire::Reply;

pub fn apply(_table: &mut dyn TableWrite, _command: &RootCommand) -> Result<Reply, TableError> {
    Ok(Reply::Done)
}

pub fn answer(_table: &dyn TableRead, _query: &RootQuery) -> Result<RootAnswer, TableError> {
    Err(TableError::Storage("not built yet".into()))
}
