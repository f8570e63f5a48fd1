//! To be filled.
use crate::table::{TableError, TableRead, TableWrite};
use spine::wire::chunk::{ChunkAnswer, ChunkCommand, ChunkQuery};
use spine::wire::Reply;

pub fn apply(_table: &mut dyn TableWrite, _command: &ChunkCommand) -> Result<Reply, TableError> {
    Ok(Reply::Done)
}

pub fn answer(_table: &dyn TableRead, _query: &ChunkQuery) -> Result<ChunkAnswer, TableError> {
    Err(TableError::Storage("not built yet".into()))
}
