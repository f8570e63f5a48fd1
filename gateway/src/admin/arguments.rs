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
    /// The metadata cluster of a running `breakwater gateway --metadata`
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
    /// Have nodes prove that they hold what they took
    Audit {
        #[command(subcommand)]
        command: AuditCommand,
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

#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Ask for slices of shards drawn at random; exit code 1 if a node could not show one
    Run {
        /// Only this node: its id, or enough of its first digits
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        /// Slices of each node; 459 find a node that dropped one shard in a hundred with 99 %
        #[arg(long, value_name = "NUMBER", default_value_t = 459, value_parser = clap::value_parser!(u32).range(1..=2_000))]
        count: u32,
        /// Where the transcript goes, for `verify`
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Check a transcript, without a server or a key; exit code 1 if anything in it does not hold, or a node could not show a slice
    Verify { file: PathBuf },
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
    /// Give a node no new shards; it is still read
    Suspend {
        /// The node's id, or enough of its first digits
        node: String,
        /// Why, for whoever looks at the status
        #[arg(long, value_name = "TEXT", default_value = "suspended by an operator")]
        reason: String,
    },
    /// Give a suspended node new shards again
    Resume {
        /// The node's id, or enough of its first digits
        node: String,
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

#[derive(Debug, Subcommand)]
pub enum MetadataCommand {
    /// Show the metadata nodes: who leads, who votes, how far each is
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
    /// Not there yet: copy the metadata into a file
    Snapshot,
    /// Not there yet: bring metadata back from such a file
    Restore,
}
