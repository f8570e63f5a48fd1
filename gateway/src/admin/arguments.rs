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
    /// Run the collector now: condemn chunks without references, delete what was condemned long enough ago
    Collect {
        /// Also look for shards on the disks that the index does not name
        #[arg(long)]
        sweep: bool,
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
