//! What follows `breakwater admin`.

use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Args)]
pub struct AdminArgs {
    /// Data folder of the running server; its address and the admin token are found there [default: ./breakwater-data]
    #[arg(long, value_name = "DIR", global = true)]
    pub data: Option<PathBuf>,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: AdminCommand,
}

#[derive(Debug, Subcommand)]
pub enum AdminCommand {
    /// Owners of buckets and keys; they share nothing, not even dedup
    Tenant {
        #[command(subcommand)]
        command: TenantCommand,
    },
    /// Access keys
    Key {
        #[command(subcommand)]
        command: KeyCommand,
    },
    /// Disks
    Disk {
        #[command(subcommand)]
        command: DiskCommand,
    },
    /// The fleet of a running `breakwater gateway`
    Fleet {
        #[command(subcommand)]
        command: FleetCommand,
    },
    /// Metadata: its ranges, and its nodes where there are several
    Metadata {
        #[command(subcommand)]
        command: MetadataCommand,
    },
    /// Run the collector now: condemn chunks without references, delete what was condemned long enough ago
    Collect {
        /// Also look for shards on the disks that the index does not name
        #[arg(long)]
        sweep: bool,
    },
    /// Have nodes prove that they hold what they took: asks for slices of shards drawn at random; exit code 1 if a node could not show one
    #[command(args_conflicts_with_subcommands = true)]
    Audit {
        #[command(flatten)]
        run: AuditRun,
        #[command(subcommand)]
        command: Option<AuditCommand>,
    },
    /// Write what, with the root key, brings a fleet back whose metadata was lost: tenants, access keys, CA, nodes
    Export {
        /// Where it goes; wrapped by the root key
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Chunks by their names, without the objects that refer to them
    Chunk {
        #[command(subcommand)]
        command: ChunkCommand,
    },
    /// Whether what no object refers to is deleted
    Collection {
        #[command(subcommand)]
        command: CollectionCommand,
    },
    /// Deliver shards that are owed to disks, now
    Repair,
    /// Show disks and totals
    Status,
    /// Check that what is committed can be read; exit code 1 if not
    Fsck {
        /// Read every shard and compare it with its checksum, not only its presence
        #[arg(long)]
        deep: bool,
    },
}

#[derive(Debug, Args)]
pub struct AuditRun {
    /// Only this node: its id, or enough of its first digits
    #[arg(long, value_name = "NODE")]
    pub node: Option<String>,
    /// Slices of each node; 459 find a node that dropped one shard in a hundred with 99 %
    #[arg(long, value_name = "NUMBER", default_value_t = 459, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    pub count: u32,
    /// Where the transcript goes, for `verify`
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check a transcript, without a server or a key; exit code 1 if anything in it does not hold, or a node could not show a slice
    Verify { file: PathBuf },
}

#[derive(Debug, Subcommand)]
pub enum ChunkCommand {
    /// Read one chunk, checked against its name
    Get {
        /// 64 hexadecimal digits
        chunk: String,
        /// Where its bytes go [default: the standard output]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Show names and lengths, a page at a time
    List {
        /// Begin behind this one
        #[arg(long, value_name = "CHUNK")]
        after: Option<String>,
    },
}

#[derive(Debug, Subcommand)]
pub enum CollectionCommand {
    /// Condemn, delete and sweep nothing until released
    Hold,
    /// Collect again: chunks that no object refers to, all that re-indexing restored among them, go after their grace
    Release {
        /// Also while a restore waits for `metadata reconcile`: chunks that it reported as lost then count as stored, and whoever writes the
        /// same data is told that it is there
        #[arg(long)]
        force: bool,
    },
    /// Show which it is
    Status,
}

#[derive(Debug, Subcommand)]
pub enum TenantCommand {
    /// Make a tenant
    Create { name: String },
    /// Show all tenants
    List,
    /// Refuse all requests of a tenant's keys; its data stays
    Revoke { name: String },
}

#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make an access key for a tenant; its secret is shown once, here
    Create { tenant: String },
    /// Show access keys, of one tenant or of all
    List { tenant: Option<String> },
    /// Refuse an access key from now on
    Revoke { access_key: String },
}

#[derive(Debug, Subcommand)]
pub enum DiskCommand {
    /// Give up the lost disk that was in a folder and take what is there now, also an empty one; what the lost one held is made again
    Adopt { dir: PathBuf },
}

#[derive(Debug, Subcommand)]
pub enum FleetCommand {
    /// Make the fleet: its CA, whose key stays in this gateway's data folder
    Init,
    /// Make an invitation for `breakwater storage-node --join`; it is shown once, here
    Invite {
        /// Machines that may join with it
        #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
        uses: u32,
        /// Hours until it expires
        #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=720))]
        hours: u64,
        /// Where nodes reach this gateway's admission listener, if not as it was started with
        #[arg(long, value_name = "HOST:PORT")]
        address: Option<String>,
    },
    /// Admit the nodes of a request file, for machines that cannot reach the admission listener
    Admit {
        /// What `breakwater storage-node --request` wrote
        file: PathBuf,
        /// Where the answer for `breakwater storage-node --admitted` goes
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Life of the certificates, in days [default: as configured]
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(1..=3_650))]
        days: Option<u64>,
    },
    /// After the metadata was lost: make the index of chunks again from what the nodes hold; the collection is held
    Reindex,
    /// Give a node no new shards; it is still read
    Suspend {
        /// The node's id, or enough of its first digits
        node: String,
        /// Why, for whoever looks at the status
        #[arg(long, value_name = "TEXT", default_value = "suspended by an operator")]
        reason: String,
    },
    /// Give a suspended or draining node new shards again
    Resume {
        /// The node's id, or enough of its first digits
        node: String,
    },
    /// Empty a node: it gets no new shards, and those it has are moved elsewhere; the status says when it is drained
    Drain {
        /// The node's id, or enough of its first digits
        node: String,
    },
    /// Level nodes out, so that each is as full as its capacity says
    Rebalance {
        #[command(subcommand)]
        command: RebalanceCommand,
    },
    /// Shut a node out for good; what it still has is made again elsewhere
    Retire {
        /// The node's id, or enough of its first digits
        node: String,
    },
    /// Show the fleet and its nodes
    Status {
        /// Also count the shards that the index places on each node and how many each chunk can still lose, and name chunks that cannot
        /// be read: reads the whole index
        #[arg(long)]
        placed: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum RebalanceCommand {
    /// Begin now, however little nodes are off their shares
    Start,
    /// Move nothing more until it is started, or the gateway is started again
    Stop,
    /// Show how far nodes are off and what has been moved
    Status,
}

#[derive(Debug, Subcommand)]
pub enum MetadataCommand {
    /// Show the metadata nodes and what they bear, the ranges, the hottest directories and the past moves
    ///
    /// Of each node: whether it leads, votes, learns or leaves, whether it answers or why not, which format it understands, how far it is and
    /// how far behind, its load and how many groups it leads, and the end of its certificate if that is less than a week away.
    ///
    /// Of each range of names and chunks: its group, that group's load, who leads it and who has replicas. Of the hottest directories, as a
    /// tree: operations a second on all that is below, and which groups, led by whom, have it. Of splits, merges, moves and shifts: when,
    /// from where to where, how they ended and why they were begun; the last 32, and with --json all that are kept (some 500).
    ///
    /// While no metadata node leads the root group: the nodes that this gateway knows, who of them answers, and what to do.
    Status,
    /// Make an invitation for one `breakwater metadata --join`; it is shown once, here
    #[command(visible_alias = "add")]
    Invite {
        /// Hours until it expires
        #[arg(long, value_name = "HOURS", default_value_t = 24, value_parser = clap::value_parser!(u64).range(1..=720))]
        hours: u64,
        /// Where the node reaches this gateway's admission listener, if not as it was started with
        #[arg(long, value_name = "HOST:PORT")]
        address: Option<String>,
    },
    /// Take a metadata node out for good, dead or alive
    Remove {
        /// The node's id, or enough of its first digits
        node: String,
    },
    /// Show which group has which names and chunks, who leads it, and the moves of ranges
    Map,
    /// Give what sorts from a place on, up to the end of its range, to a new group
    Split {
        /// Bucket, and the first key that goes
        #[arg(long, value_name = "BUCKET/KEY", required_unless_present = "chunk", conflicts_with = "chunk")]
        at: Option<String>,
        /// Of the chunk index: the first digits of the first chunk's name that goes
        #[arg(long, value_name = "DIGITS")]
        chunk: Option<String>,
    },
    /// Give the range after a group's to that group
    Merge {
        /// The group that gets it
        group: u32,
        /// The range of chunks, not of names
        #[arg(long)]
        chunks: bool,
    },
    /// Have a group led by another node
    Move {
        group: u32,
        /// The node's id, or enough of its first digits
        node: String,
    },
    /// Give a move of a range up, as long as the range was not handed over yet
    GiveUp {
        /// Its number, as `map` shows it
        number: u64,
    },
    /// Copy the metadata, sealed under the root key, into a file of the gateway's machine or into the store
    Snapshot {
        /// Where it goes; must not be there yet [default: into the store]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Write a copy that the store has into a file, also where no metadata knows of it: from the chunks that are indexed
    Fetch {
        /// Where it goes; must not be there yet [default: only show the copies that there are, newest first]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Which one: its id, or enough of its first digits [default: the newest that is whole]
        #[arg(long, value_name = "COPY", requires = "out")]
        copy: Option<String>,
    },
    /// Bring metadata back from such a file, into nodes that are empty; --data names a gateway's folder, which need not be served
    Restore {
        file: PathBuf,
        /// Papers that `breakwater metadata` left: where the nodes are now, if the folder does not know
        #[arg(long, value_name = "FILE")]
        metadata: Option<PathBuf>,
    },
    /// Write the fleet's papers, for another gateway (`breakwater gateway --metadata FILE`) or for a metadata node that is to begin anew; they
    /// name the metadata nodes that this gateway knows; --data names a gateway's folder, which need not be served
    Papers {
        /// Where they go; must not be there yet
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// After a restore: compare metadata with what the nodes have; where all that is referred to is seen, the collection is released
    Reconcile,
}
