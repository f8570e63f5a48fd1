//! To be filled.
use crate::table::{TableError, TableRead, TableWrite};
use spine::wire::namespace::{NamespaceAnswer, NamespaceCommand, NamespaceQuery};
use spine::wire::Reply;

pub fn apply(_table: &mut dyn TableWrite, _command: &NamespaceCommand, _seq: spine::id::Seq) -> Result<Reply, TableError> {
    Ok(Reply::Done)
}

pub fn answer(_table: &dyn TableRead, _query: &NamespaceQuery) -> Result<NamespaceAnswer, TableError> {
    Err(TableError::Storage("not built yet".into()))
}
