//! The ordered tables on LMDB. The one module that knows LMDB, so that another store could take its place.
//!
//! One environment, one named database per [`Space`]. The map is opened once, huge and sparse, and never resized: a resize
//! under a live reader crashes. Commits do not sync (NOSYNC): the log is the truth, `checkpoint.rs` makes the table durable.
//! Invariants: at most one write transaction (a mutex, and LMDB's own lock); a read transaction sees one moment and never
//! crosses an await; every transaction ends before the environment closes.
//! Not here: what is durable when (`checkpoint.rs`), what a key means (the state machines).

mod copy;
mod txn;

pub use txn::{ReadTable, WriteTable};

use crate::table::{Space, TableError};
use lmdb_sys as ffi;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Shortest bound on a key's length that the machines' keys fit in: an S3 key and what stands before and after it.
pub const KEY_BYTES: usize = 1_100;
/// Read transactions at once: queries are bounded far below this.
const READERS: u32 = 1_024;
/// Idle read transactions kept for reuse. Renewing one takes no lock; beginning one does.
const IDLE_READERS: usize = 64;
/// A map smaller than this is not worth serving from.
const MAP_MIN_BYTES: u64 = 64 << 20;

/// Bytes of the page header before the meta record, and offsets of the fields this module reads, on 64-bit machines.
const META_MAGIC_AT: usize = 16;
const META_LAST_PAGE_AT: usize = 136;
const META_TXN_AT: usize = 144;
const META_END: usize = 152;
const META_MAGIC: u32 = 0xBEEF_C0DE;

/// The page that names a table's roots, as LMDB wrote it for one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaPage(Vec<u8>);

impl MetaPage {
    /// `None` unless the bytes are a meta page.
    pub fn parse(page: Vec<u8>) -> Option<Self> {
        let magic = page.get(META_MAGIC_AT..META_MAGIC_AT + 4)?;
        (page.len() >= META_END && magic == META_MAGIC.to_ne_bytes()).then_some(Self(page))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The transaction that committed it.
    pub fn txn(&self) -> u64 {
        self.word(META_TXN_AT)
    }

    /// Highest page number the transaction uses.
    pub fn last_page(&self) -> u64 {
        self.word(META_LAST_PAGE_AT)
    }

    /// The same page as it stands in `slot`, 0 or 1: a page's first word is its own number.
    pub fn in_slot(&self, slot: u64) -> Vec<u8> {
        let mut page = self.0.clone();
        page[..8].copy_from_slice(&slot.to_ne_bytes());
        page
    }

    fn word(&self, at: usize) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.0[at..at + 8]);
        u64::from_ne_bytes(word)
    }
}

/// How much of the map is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Up to the last page ever used, free pages among them included.
    pub high_bytes: u64,
    pub map_bytes: u64,
}

/// An open table.
pub struct Table {
    env: *mut ffi::MDB_env,
    databases: [ffi::MDB_dbi; Space::ALL.len()],
    page_bytes: u64,
    map_bytes: u64,
    /// For reading meta pages: LMDB has no call for it.
    data: File,
    idle: Mutex<Vec<txn::Raw>>,
    writing: Mutex<()>,
    /// Another table has taken its place: it is only read to the end.
    retired: AtomicBool,
}

// SAFETY: LMDB environments are made for use from many threads; with NOTLS a read transaction belongs to its handle and not
// to a thread; the write transaction stays with the thread that holds `writing`.
unsafe impl Send for Table {}
unsafe impl Sync for Table {}

impl Table {
    /// Opens or creates the table in `dir` (which exists) with a map of `map_bytes`, or of less where the address space refuses that.
    ///
    /// # Errors
    /// The disk; bytes that are no table; a build of LMDB with too short a bound on keys.
    pub fn open(dir: &Path, map_bytes: u64) -> Result<Arc<Self>, TableError> {
        let mut map_bytes = map_bytes.max(MAP_MIN_BYTES) & !0xF_FFFF;
        let env = loop {
            match open_env(dir, map_bytes) {
                Ok(env) => break env,
                Err(libc::ENOMEM | libc::EFBIG | libc::EOVERFLOW) if map_bytes > MAP_MIN_BYTES => map_bytes = (map_bytes / 2) & !0xF_FFFF,
                Err(code) => return Err(error("open", code)),
            }
        };
        // From here on, dropping the table closes the environment.
        let data = File::open(dir.join(DATA_FILE)).map_err(|e| TableError::Storage(format!("open of {DATA_FILE}: {e}")));
        let data = data.inspect_err(|_| unsafe { ffi::mdb_env_close(env) })?;
        let mut table = Self {
            env,
            databases: [0; Space::ALL.len()],
            page_bytes: 0,
            map_bytes,
            data,
            idle: Mutex::default(),
            writing: Mutex::default(),
            retired: AtomicBool::new(false),
        };
        // SAFETY: the environment is open.
        let longest = unsafe { ffi::mdb_env_get_maxkeysize(env) };
        if usize::try_from(longest).unwrap_or(0) < KEY_BYTES {
            return Err(TableError::Storage(format!(
                "this build's LMDB takes keys of {longest} bytes, {KEY_BYTES} are needed: build inside the repository, so that \
                 CFLAGS=-DMDB_MAXKEYSIZE=0 of .cargo/config.toml is honoured"
            )));
        }
        table.open_databases()?;
        // SAFETY: plain out parameter.
        let mut stat = unsafe { std::mem::zeroed::<ffi::MDB_stat>() };
        // SAFETY: the environment is open.
        check("stat", unsafe { ffi::mdb_env_stat(env, &mut stat) })?;
        table.page_bytes = u64::from(stat.ms_psize);
        Ok(Arc::new(table))
    }

    /// Opens the database of every space; creates what is missing in one transaction, writes nothing if none is.
    fn open_databases(&mut self) -> Result<(), TableError> {
        for flags in [ffi::MDB_RDONLY, 0] {
            let txn = txn::Raw::begin(self.env, flags)?;
            match self.open_in(&txn, if flags == 0 { ffi::MDB_CREATE } else { 0 }) {
                // Committing, also a reader, is what keeps the handles.
                Ok(true) => return txn.commit(),
                Ok(false) => txn.abort(),
                Err(e) => {
                    txn.abort();
                    return Err(e);
                }
            }
        }
        Err(TableError::Storage("databases are missing after they were created".into()))
    }

    /// Whether every database was there.
    fn open_in(&mut self, txn: &txn::Raw, create: u32) -> Result<bool, TableError> {
        for (space, database) in Space::ALL.iter().zip(&mut self.databases) {
            let name = CString::new(format!("{space:?}")).map_err(|e| TableError::Storage(e.to_string()))?;
            // SAFETY: a live transaction, alone: the table is not shared yet.
            match unsafe { ffi::mdb_dbi_open(txn.0, name.as_ptr(), create, database) } {
                ffi::MDB_NOTFOUND => return Ok(false),
                code => check("open of a database", code)?,
            }
        }
        Ok(true)
    }

    /// One moment of the table: the latest commit's.
    pub fn read(self: &Arc<Self>) -> Result<ReadTable, TableError> {
        let idle = lock(&self.idle).pop();
        let raw = match idle {
            Some(raw) => raw.renew()?,
            None => txn::Raw::begin(self.env, ffi::MDB_RDONLY)?,
        };
        Ok(ReadTable::new(self.clone(), raw))
    }

    /// The write transaction; waits for the one before it. Dropped uncommitted, it changed nothing.
    pub fn write(&self) -> Result<WriteTable<'_>, TableError> {
        let turn = lock(&self.writing);
        if self.retired.load(Ordering::Acquire) {
            return Err(TableError::Storage("another table has taken this one's place".into()));
        }
        let raw = txn::Raw::begin(self.env, 0)?;
        Ok(WriteTable::new(self, raw, turn))
    }

    /// Refuses every write from now on.
    pub fn retire(&self) {
        let _turn = lock(&self.writing);
        self.retired.store(true, Ordering::Release);
    }

    /// The latest commit, its pages kept from reuse for as long as the reader lives, and the meta page that names them.
    pub fn pin(self: &Arc<Self>) -> Result<(ReadTable, MetaPage), TableError> {
        // No commit can come between the reader and the meta page.
        let _turn = lock(&self.writing);
        let raw = txn::Raw::begin(self.env, ffi::MDB_RDONLY)?;
        let reader = ReadTable::new(self.clone(), raw);
        let latest = (0..2).filter_map(|slot| self.meta(slot).ok()).find(|meta| meta.txn() == reader.txn());
        let meta = latest.ok_or_else(|| TableError::Storage(format!("no meta page names transaction {}", reader.txn())))?;
        Ok((reader, meta))
    }

    fn meta(&self, slot: u64) -> Result<MetaPage, TableError> {
        let mut page = vec![0; usize::try_from(self.page_bytes).unwrap_or(4_096)];
        self.data.read_exact_at(&mut page, slot * self.page_bytes).map_err(|e| TableError::Storage(format!("read of a meta page: {e}")))?;
        MetaPage::parse(page).ok_or_else(|| TableError::Storage(format!("meta page {slot} is damaged")))
    }

    /// Returns when every page of every commit so far is on disk. After an error nothing is known: what failed may have been dropped.
    pub fn sync(&self) -> Result<(), TableError> {
        // SAFETY: the environment is open.
        check("sync", unsafe { ffi::mdb_env_sync(self.env, 1) })
    }

    pub fn usage(&self) -> Usage {
        // SAFETY: plain out parameter, open environment.
        let info = unsafe {
            let mut info = std::mem::zeroed::<ffi::MDB_envinfo>();
            ffi::mdb_env_info(self.env, &mut info);
            info
        };
        Usage { high_bytes: (info.me_last_pgno as u64 + 1) * self.page_bytes, map_bytes: self.map_bytes }
    }

    /// Bytes of pages below the high mark that commits may use again. Walks the free list: milliseconds when it is long.
    pub fn free_bytes(self: &Arc<Self>) -> Result<u64, TableError> {
        Ok(self.read()?.free_pages()? * self.page_bytes)
    }

    fn database(&self, space: Space) -> ffi::MDB_dbi {
        self.databases[space as usize]
    }

    fn put_back(&self, raw: txn::Raw) {
        raw.reset();
        let mut idle = lock(&self.idle);
        if idle.len() < IDLE_READERS {
            idle.push(raw);
        } else {
            drop(idle);
            raw.abort();
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        for raw in lock(&self.idle).drain(..) {
            raw.abort();
        }
        // SAFETY: every reader holds the table, so that none is left; the write transaction borrows it.
        unsafe { ffi::mdb_env_close(self.env) }
    }
}

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("map_bytes", &self.map_bytes).finish_non_exhaustive()
    }
}

/// The file whose first two pages are the meta pages.
pub const DATA_FILE: &str = "data.mdb";
/// LMDB's reader table; without meaning once no process has it open.
pub const LOCK_FILE: &str = "lock.mdb";

fn open_env(dir: &Path, map_bytes: u64) -> Result<*mut ffi::MDB_env, i32> {
    let path = CString::new(dir.as_os_str().as_bytes()).map_err(|_| libc::EINVAL)?;
    let map_bytes = usize::try_from(map_bytes).map_err(|_| libc::ENOMEM)?;
    let flags = ffi::MDB_NOSYNC | ffi::MDB_NOTLS | ffi::MDB_NORDAHEAD | ffi::MDB_NOMEMINIT;
    let mut env = ptr::null_mut();
    // SAFETY: the calls in the order LMDB asks for; on any failure the handle is closed and not used again.
    unsafe {
        match ffi::mdb_env_create(&mut env) {
            ffi::MDB_SUCCESS => {}
            code => return Err(code),
        }
        let mut code = ffi::mdb_env_set_maxreaders(env, READERS);
        if code == ffi::MDB_SUCCESS {
            code = ffi::mdb_env_set_maxdbs(env, Space::ALL.len() as ffi::MDB_dbi);
        }
        if code == ffi::MDB_SUCCESS {
            code = ffi::mdb_env_set_mapsize(env, map_bytes);
        }
        if code == ffi::MDB_SUCCESS {
            code = ffi::mdb_env_open(env, path.as_ptr(), flags, 0o600);
        }
        if code != ffi::MDB_SUCCESS {
            ffi::mdb_env_close(env);
            return Err(code);
        }
    }
    Ok(env)
}

fn check(what: &str, code: i32) -> Result<(), TableError> {
    if code == ffi::MDB_SUCCESS { Ok(()) } else { Err(error(what, code)) }
}

fn error(what: &str, code: i32) -> TableError {
    // SAFETY: LMDB answers every code with a string that lives for ever.
    let text = unsafe { CStr::from_ptr(ffi::mdb_strerror(code)) };
    TableError::Storage(format!("LMDB {what}: {}", text.to_string_lossy()))
}

/// What these locks guard is whole at every moment, also after a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
