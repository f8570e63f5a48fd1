//! How a record lies in a table: one byte of format, then postcard.
//!
//! The byte is what a later format of the same record is told apart by. Not here: keys (`key.rs`).

use crate::table::{Space, TableError, TableRead, TableWrite};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ops::ControlFlow;

/// The only format so far.
const FORMAT: u8 = 1;

/// Bytes of `value` as they lie in a table.
///
/// # Errors
/// [`TableError::Storage`] if it cannot be encoded, which none of our types can cause.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, TableError> {
    let mut out = Vec::with_capacity(256);
    out.push(FORMAT);
    postcard::to_extend(value, out).map_err(|error| TableError::Storage(format!("a record does not encode: {error}")))
}

/// The record in `bytes`, which lay under `key`.
///
/// # Errors
/// [`TableError::Decode`] with the place it lay at.
pub fn decode<T: DeserializeOwned>(space: Space, key: &[u8], bytes: &[u8]) -> Result<T, TableError> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => postcard::from_bytes(rest).map_err(|_| broken(space, key)),
        _ => Err(broken(space, key)),
    }
}

/// The entry at `key` is not what belongs there.
pub fn broken(space: Space, key: &[u8]) -> TableError {
    TableError::Decode { space, key: hex::encode(key) }
}

/// The record at `key`, if there is one.
pub fn load<T: DeserializeOwned>(table: &dyn TableRead, space: Space, key: &[u8]) -> Result<Option<T>, TableError> {
    table.get(space, key)?.map(|bytes| decode(space, key, bytes)).transpose()
}

/// Puts `value` at `key`, over what was there.
pub fn save<T: Serialize>(table: &mut dyn TableWrite, space: Space, key: &[u8], value: &T) -> Result<(), TableError> {
    table.put(space, key, &encode(value)?)
}

/// Visits the entries whose keys start with `prefix`, from the first that is not less than `from`, until `visit` breaks.
pub fn each(
    table: &dyn TableRead,
    space: Space,
    prefix: &[u8],
    from: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>, TableError>,
) -> Result<(), TableError> {
    let mut scan = table.scan(space, from.max(prefix))?;
    while let Some((key, value)) = scan.next()? {
        if !key.starts_with(prefix) || visit(key, value)?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Whether any key starts with `prefix`.
pub fn any(table: &dyn TableRead, space: Space, prefix: &[u8]) -> Result<bool, TableError> {
    let mut scan = table.scan(space, prefix)?;
    Ok(scan.next()?.is_some_and(|(key, _)| key.starts_with(prefix)))
}
