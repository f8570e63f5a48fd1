//! Transactions and cursors: the table as readers and the writer see it.

use super::{Table, check, error};
use crate::table::{Entry, Scan, Space, TableError, TableRead, TableWrite};
use lmdb_sys as ffi;
use std::marker::PhantomData;
use std::sync::{Arc, MutexGuard};
use std::{ptr, slice};

/// A transaction handle that somebody has to end.
pub(super) struct Raw(pub(super) *mut ffi::MDB_txn);

// SAFETY: the environment is opened with NOTLS: a read transaction may move between threads. Write transactions are only
// held by `WriteTable`, which is not Send.
unsafe impl Send for Raw {}

impl Raw {
    pub(super) fn begin(env: *mut ffi::MDB_env, flags: u32) -> Result<Self, TableError> {
        let mut txn = ptr::null_mut();
        // SAFETY: the caller's environment is open.
        check("begin", unsafe { ffi::mdb_txn_begin(env, ptr::null_mut(), flags, &mut txn) })?;
        Ok(Self(txn))
    }

    pub(super) fn renew(self) -> Result<Self, TableError> {
        // SAFETY: a read transaction that was reset.
        match check("renew", unsafe { ffi::mdb_txn_renew(self.0) }) {
            Ok(()) => Ok(self),
            Err(e) => {
                self.abort();
                Err(e)
            }
        }
    }

    pub(super) fn reset(&self) {
        // SAFETY: a live read transaction without cursors.
        unsafe { ffi::mdb_txn_reset(self.0) }
    }

    pub(super) fn abort(self) {
        // SAFETY: live or reset; consumed here.
        unsafe { ffi::mdb_txn_abort(self.0) }
    }

    pub(super) fn commit(self) -> Result<(), TableError> {
        // SAFETY: live; LMDB frees it, whatever the outcome.
        check("commit", unsafe { ffi::mdb_txn_commit(self.0) })
    }

    fn get(&self, database: ffi::MDB_dbi, key: &[u8]) -> Result<Option<&[u8]>, TableError> {
        if key.is_empty() {
            return Ok(None);
        }
        let mut key = value_of(key);
        let mut data = ffi::MDB_val { mv_size: 0, mv_data: ptr::null_mut() };
        // SAFETY: a live transaction and its database; LMDB does not write through the key.
        match unsafe { ffi::mdb_get(self.0, database, &mut key, &mut data) } {
            // SAFETY: the bytes stay until the transaction ends or, in a writer, until its next change, which needs `&mut`.
            ffi::MDB_SUCCESS => Ok(Some(unsafe { bytes_of(data) })),
            ffi::MDB_NOTFOUND => Ok(None),
            code => Err(error("get", code)),
        }
    }

    fn scan<'a>(&'a self, database: ffi::MDB_dbi, from: &[u8]) -> Result<Cursor<'a>, TableError> {
        let mut cursor = ptr::null_mut();
        // SAFETY: a live transaction and its database.
        check("cursor", unsafe { ffi::mdb_cursor_open(self.0, database, &mut cursor) })?;
        Ok(Cursor { cursor, to: Some(from.to_vec()), txn: PhantomData })
    }
}

/// One moment of the table. Short-lived: while it is open, pages that later commits free cannot be used again.
pub struct ReadTable {
    table: Arc<Table>,
    raw: Option<Raw>,
}

impl ReadTable {
    pub(super) fn new(table: Arc<Table>, raw: Raw) -> Self {
        Self { table, raw: Some(raw) }
    }

    /// The commit it sees.
    pub fn txn(&self) -> u64 {
        // SAFETY: live until drop.
        self.raw.as_ref().map_or(0, |raw| unsafe { ffi::mdb_txn_id(raw.0) } as u64)
    }

    fn raw(&self) -> Result<&Raw, TableError> {
        self.raw.as_ref().ok_or_else(|| TableError::Storage("the read transaction is over".into()))
    }

    /// Pages that the free list names.
    pub(super) fn free_pages(&self) -> Result<u64, TableError> {
        /// LMDB keeps its free list in database 0: transaction -> count and page numbers, as words.
        const FREE_LIST: ffi::MDB_dbi = 0;
        let mut pages = 0;
        let mut cursor = self.raw()?.scan(FREE_LIST, &[])?;
        while let Some((_, value)) = cursor.next()? {
            if let Some(count) = value.first_chunk::<8>() {
                pages += u64::from_ne_bytes(*count);
            }
        }
        Ok(pages)
    }
}

impl Drop for ReadTable {
    fn drop(&mut self) {
        if let Some(raw) = self.raw.take() {
            self.table.put_back(raw);
        }
    }
}

impl TableRead for ReadTable {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<&[u8]>, TableError> {
        self.raw()?.get(self.table.database(space), key)
    }

    fn scan<'a>(&'a self, space: Space, from: &[u8]) -> Result<Box<dyn Scan + 'a>, TableError> {
        Ok(Box::new(self.raw()?.scan(self.table.database(space), from)?))
    }
}

/// The one write transaction.
pub struct WriteTable<'a> {
    table: &'a Table,
    raw: Option<Raw>,
    /// Also keeps the transaction on its thread, as LMDB wants.
    _turn: MutexGuard<'a, ()>,
}

impl<'a> WriteTable<'a> {
    pub(super) fn new(table: &'a Table, raw: Raw, turn: MutexGuard<'a, ()>) -> Self {
        Self { table, raw: Some(raw), _turn: turn }
    }

    /// Makes the changes visible to readers that begin after this. Durable only with the next checkpoint.
    pub fn commit(mut self) -> Result<(), TableError> {
        self.raw.take().map_or(Ok(()), Raw::commit)
    }

    fn raw(&self) -> Result<&Raw, TableError> {
        self.raw.as_ref().ok_or_else(|| TableError::Storage("the write transaction is over".into()))
    }
}

impl Drop for WriteTable<'_> {
    fn drop(&mut self) {
        if let Some(raw) = self.raw.take() {
            raw.abort();
        }
    }
}

impl TableRead for WriteTable<'_> {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<&[u8]>, TableError> {
        self.raw()?.get(self.table.database(space), key)
    }

    fn scan<'a>(&'a self, space: Space, from: &[u8]) -> Result<Box<dyn Scan + 'a>, TableError> {
        Ok(Box::new(self.raw()?.scan(self.table.database(space), from)?))
    }
}

impl TableWrite for WriteTable<'_> {
    fn put(&mut self, space: Space, key: &[u8], value: &[u8]) -> Result<(), TableError> {
        let (mut key, mut data) = (value_of(key), value_of(value));
        // SAFETY: the live write transaction; LMDB copies both and writes through neither.
        check("put", unsafe { ffi::mdb_put(self.raw()?.0, self.table.database(space), &mut key, &mut data, 0) })
    }

    fn delete(&mut self, space: Space, key: &[u8]) -> Result<bool, TableError> {
        if key.is_empty() {
            return Ok(false);
        }
        let mut key = value_of(key);
        // SAFETY: the live write transaction.
        match unsafe { ffi::mdb_del(self.raw()?.0, self.table.database(space), &mut key, ptr::null_mut()) } {
            ffi::MDB_SUCCESS => Ok(true),
            ffi::MDB_NOTFOUND => Ok(false),
            code => Err(error("delete", code)),
        }
    }
}

struct Cursor<'a> {
    cursor: *mut ffi::MDB_cursor,
    /// Where `next` goes first, if it is not simply the following entry.
    to: Option<Vec<u8>>,
    txn: PhantomData<&'a Raw>,
}

impl Drop for Cursor<'_> {
    fn drop(&mut self) {
        // SAFETY: its transaction outlives it.
        unsafe { ffi::mdb_cursor_close(self.cursor) }
    }
}

impl Scan for Cursor<'_> {
    fn next(&mut self) -> Result<Option<Entry<'_>>, TableError> {
        let to = self.to.take();
        let (mut key, step) = match &to {
            Some(to) if to.is_empty() => (value_of(&[]), ffi::MDB_FIRST),
            Some(to) => (value_of(to), ffi::MDB_SET_RANGE),
            None => (value_of(&[]), ffi::MDB_NEXT),
        };
        let mut data = ffi::MDB_val { mv_size: 0, mv_data: ptr::null_mut() };
        // SAFETY: a live cursor; `to` lives through the call.
        match unsafe { ffi::mdb_cursor_get(self.cursor, &mut key, &mut data, step) } {
            // SAFETY: the bytes stay until the transaction changes or ends; both need it back from this borrow.
            ffi::MDB_SUCCESS => Ok(Some(unsafe { (bytes_of(key), bytes_of(data)) })),
            ffi::MDB_NOTFOUND => {
                // A cursor past the end stays there: LMDB's own would begin again when it never had a place.
                self.to = to;
                Ok(None)
            }
            code => Err(error("scan", code)),
        }
    }

    fn seek(&mut self, to: &[u8]) -> Result<(), TableError> {
        self.to = Some(to.to_vec());
        Ok(())
    }
}

fn value_of(bytes: &[u8]) -> ffi::MDB_val {
    ffi::MDB_val { mv_size: bytes.len(), mv_data: bytes.as_ptr().cast_mut().cast() }
}

/// # Safety
/// `value` was filled by LMDB and its bytes outlive `'a`.
unsafe fn bytes_of<'a>(value: ffi::MDB_val) -> &'a [u8] {
    if value.mv_size == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { slice::from_raw_parts(value.mv_data.cast(), value.mv_size) }
}
