//! Every cap, with its reason. What is bounded elsewhere is bounded by one of these.

/// S3: a key has at most 1,024 bytes of UTF-8.
pub const KEY_BYTES: usize = 1_024;
/// S3: user metadata, names and values together, has at most 2 KiB.
pub const USER_METADATA_BYTES: usize = 2_048;
/// S3: at most ten tags an object, keys of 128 and values of 256 characters.
pub const TAGS: usize = 10;
/// S3: characters in a tag's key.
pub const TAG_KEY_CHARS: usize = 128;
/// S3: characters in a tag's value.
pub const TAG_VALUE_CHARS: usize = 256;
/// S3: largest body of one PutObject or UploadPart, 5 GiB.
pub const PUT_BYTES: u64 = 5 << 30;
/// S3: largest object, 5 TiB.
pub const OBJECT_BYTES: u64 = 5 << 40;
/// S3: smallest part other than the last, 5 MiB.
pub const PART_MIN_BYTES: u64 = 5 << 20;
/// S3: part numbers run from 1 to this.
pub const PARTS: u32 = 10_000;
/// S3: most entries of one listing page, and keys of one DeleteObjects.
pub const PAGE: usize = 1_000;
/// S3: most buckets an owner has; AWS allows 10,000 since 2024.
pub const BUCKETS_PER_TENANT: usize = 10_000;

/// Smallest chunk a bucket may choose: below, index records outgrow what dedup saves.
pub const CHUNK_MIN_BYTES: u32 = 256 << 10;
/// Largest chunk a bucket may choose: above, a range read fetches too much.
pub const CHUNK_MAX_BYTES: u32 = 8 << 20;
/// Chunk size of a bucket that asks for none.
pub const CHUNK_DEFAULT_BYTES: u32 = 1 << 20;
/// Bodies up to this live sealed inside the version's record: one log round, no shards.
pub const INLINE_BYTES: usize = 8 << 10;

/// Reed-Solomon over GF(2^8) has at most 255 shards; 32 keeps a stripe's placement record near 2 KiB.
pub const SHARDS: usize = 32;
/// A sealed chunk is at most a largest chunk and its authentication tag.
pub const SEALED_MAX_BYTES: usize = CHUNK_MAX_BYTES as usize + 16;

/// Commands in one proposal: an apply of this many stays near 10 ms.
pub const BATCH_COMMANDS: usize = 1_024;
/// Bytes in one log entry; a manifest of 20,480 chunks (5 GiB at 256 KiB) needs 0.8 MiB.
pub const LOG_ENTRY_BYTES: usize = 8 << 20;
/// References that one Unref removes in one apply; the rest waits for the next.
pub const UNREF_STEP: usize = 1_024;
/// Ended versions that a state machine remembers, so that a message overtaken by fewer than this finds the door shut; about 6 MiB of table.
pub const ENDED_KEPT: u64 = 65_536;

/// Nodes of one fleet, retired ones included; a full revocation list stays near 2 MiB.
pub const FLEET_NODES: usize = 65_536;
/// Characters of a machine's or a zone's name: a metric label, a file name, a line of a table.
pub const LABEL_CHARS: usize = 64;
/// Characters of a data address: a DNS name has at most 253, and `:65535`.
pub const ADDRESS_CHARS: usize = 259;
/// Bytes of one certificate that is looked at; ours have some 500.
pub const CERTIFICATE_BYTES: usize = 4 << 10;
/// Questions of one audit call: the node reads a whole shard for each.
pub const AUDIT_QUESTIONS: usize = 64;
/// Shard names in one call of the data plane, asked or answered: some 450 KiB.
pub const CALL_NAMES: usize = 8_192;
/// Shard headers in one answer of the data plane: some 260 KiB, and as many small reads of the node's disk.
pub const CALL_HEADERS: usize = 2_048;
/// Members of one metadata group, learners included: each further one costs the leader a copy of every entry.
pub const MEMBERS: usize = 16;
/// Metadata groups that one process hosts: each further one costs it memory, files, address space, and a share of its signs of life.
pub const GROUPS: usize = 512;
/// Proposals with an id that a group remembers with their replies, so that one sent again is not applied again.
pub const REQUESTS_KEPT: u64 = 65_536;
/// Bytes of such replies in the table; beyond, fewer are remembered.
pub const REQUESTS_BYTES: u64 = 64 << 20;
/// Rows in one page of a range that moves, and rows deleted in one step: as long as other commands wait behind it, some 10 ms.
pub const MOVE_ROWS: usize = 1_024;
/// Bytes in one page of a range that moves, unless its first row alone is longer.
pub const MOVE_PAGE_BYTES: usize = 2 << 20;
/// Ranges of the map of names and chunks together: 16 MiB where every range began at a longest key, near 1 MiB in truth.
pub const MAP_RANGES: usize = 16_384;
/// Moves of ranges under way at a time: each copies rows beside what its groups serve.
pub const MOVES: usize = 16;
/// Moves that are over and still told of.
pub const MOVES_KEPT: usize = 256;
/// Places where a process says that one group may be cut: finer ones make evener halves, and longer answers.
pub const CUTS: usize = 64;
/// Bytes of the points in all such places of a process together: what is beyond is left out, coldest groups first.
pub const CUTS_BYTES: usize = 1 << 20;
/// Directories that a process names as a group's hottest.
pub const HOTTEST: usize = 8;
/// Leaderships and replicas on their way from one server to another at a time, and those that were and are still told of.
pub const SHIFTS: usize = 32;
pub const SHIFTS_KEPT: usize = 256;
/// Bytes of the reason that a move carries.
pub const REASON_BYTES: usize = 256;
/// Groups that were ever made: each leaves a record in the root.
pub const GROUPS_EVER: usize = 65_536;
/// Generations and tags of shards that are found on nodes and believed are below this: re-indexing goes on above them, and as many numbers
/// again are left, whatever nodes claim.
pub const FOUND_NUMBERS: u64 = 1 << 63;
