//! The command line.

use crate::admin::arguments::AdminArgs;
use crate::config::{Config, ConfigError, DEFAULT, Overrides};
use clap::{Args, Parser, Subcommand};
use spine::id::NodeId;
use spine::wire::format::{Format, NEWEST};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// An S3 endpoint for backups: deduplicated, encrypted, erasure-coded over disks that nobody has to trust.
#[derive(Debug, Parser)]
#[command(name = "breakwater", version, max_term_width = 110)]
#[command(
    after_help = "Without a command, breakwater serves: S3 on 127.0.0.1:9000, operations on 127.0.0.1:9001, data in ./breakwater-data.\nRoot credentials come from BREAKWATER_ROOT_ACCESS_KEY and BREAKWATER_ROOT_SECRET_KEY, or are made on the first start.\nWhat is logged: RUST_LOG, for example RUST_LOG=warn,breakwater::access=info for a line per request."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    place: Place,
}

/// Where things are. The same options for serving and for checking what was served.
#[derive(Clone, Debug, Default, Args)]
pub struct Place {
    /// Folder of keys, metadata and disks [default: ./breakwater-data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Folder of one disk; repeat for each, in a fixed order [default: disk-0 to disk-5 in the data folder]
    #[arg(long = "disk", value_name = "DIR")]
    disks: Vec<PathBuf>,
    /// Address of the S3 service [default: 127.0.0.1:9000]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Address of /metrics, /health and /admin [default: 127.0.0.1:9001]
    #[arg(long, value_name = "ADDRESS")]
    ops_listen: Option<SocketAddr>,
    /// Configuration file; options on the command line win over it. See `breakwater config print-default`
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Certificate chain for HTTPS, PEM
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl Place {
    fn load(self) -> Result<Config, ConfigError> {
        self.load_over(None, None)
    }

    fn load_over(self, admission_listen: Option<SocketAddr>, admission_address: Option<String>) -> Result<Config, ConfigError> {
        let over = Overrides {
            listen: self.listen,
            ops_listen: self.ops_listen,
            data: self.data,
            disks: self.disks,
            tls_cert: self.tls_cert,
            tls_key: self.tls_key,
            admission_listen,
            admission_address,
        };
        Config::load(self.config.as_deref(), over)
    }

    /// What was given on the second level wins over the first: `breakwater --data A serve --data B` serves B.
    fn or(self, outer: Place) -> Place {
        Place {
            data: self.data.or(outer.data),
            disks: if self.disks.is_empty() { outer.disks } else { self.disks },
            listen: self.listen.or(outer.listen),
            ops_listen: self.ops_listen.or(outer.ops_listen),
            config: self.config.or(outer.config),
            tls_cert: self.tls_cert.or(outer.tls_cert),
            tls_key: self.tls_key.or(outer.tls_key),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve S3 and operations from this process (the default)
    Serve(Place),
    /// Serve S3 and operations over the storage nodes of a fleet, with metadata here and no disks of its own
    Gateway(GatewayArgs),
    /// Serve the disks of this machine to the gateways of a fleet
    StorageNode(StorageArgs),
    /// Keep metadata together with other such processes, for gateways that keep none
    Metadata(MetadataArgs),
    /// Manage a running server: tenants, access keys, disks, collector, fleet
    Admin(AdminArgs),
    /// Check the data folder of a stopped server; exit code 0 means clean, 1 damage
    Fsck(FsckArgs),
    /// About the configuration file
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

#[derive(Debug, Args)]
#[command(mut_arg("disks", |disks| disks.hide(true)))]
struct GatewayArgs {
    #[command(flatten)]
    place: Place,
    /// Address that storage nodes ask to be admitted at [default: 127.0.0.1:9002]
    #[arg(long, value_name = "ADDRESS")]
    admission_listen: Option<SocketAddr>,
    /// The same as nodes reach it, for invitations [default: as it is listened on]
    #[arg(long, value_name = "HOST:PORT")]
    admission_address: Option<String>,
    /// Metadata is kept by other processes: the gateway-papers that `breakwater metadata --init` left; needed once, for an empty data folder.
    /// Those name the first metadata node alone: where it is gone or elsewhere, `breakwater admin metadata papers --out FILE --data
    /// ANOTHER-GATEWAY` writes papers that name all there are now
    #[arg(long, value_name = "FILE")]
    metadata: Option<PathBuf>,
    /// Router of a storage process, to find nodes that have moved; repeat for several [default: none, nodes are where they last said]
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port)]
    bootstrap: Vec<String>,
    /// What `breakwater admin export` wrote, where the metadata was lost: tenants, access keys and the fleet are taken from it, and
    /// nothing is collected until `breakwater admin collection release`
    #[arg(long, value_name = "FILE")]
    recover: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct MetadataArgs {
    /// Folder of this node's key, papers and replica
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Address of the metadata plane
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7500")]
    listen: SocketAddr,
    /// The same as gateways and other metadata nodes reach it [default: as it is listened on]
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port)]
    advertise: Option<String>,
    /// Address of /metrics and /health
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7501")]
    ops_listen: SocketAddr,
    /// How many nodes keep each range of names or chunks, all where there are fewer; all nodes keep the root. The same at every node. An odd
    /// number: an even one bears the loss of no more nodes than the one below it. 3: less is written where there are more than three nodes,
    /// and the loss of one is borne, not of two
    #[arg(long, value_name = "NODES", default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=15))]
    replicas: u8,
    /// Found a new cluster: make its CA and the root key, and leave both for the gateways in DIR/gateway-papers
    #[arg(long, conflicts_with = "join")]
    init: bool,
    /// Begin anew after every node lost its replica: this node's key and papers are there, its replica is gone. It is empty, and nobody is
    /// served, until `breakwater admin metadata restore`
    #[arg(long, conflicts_with_all = ["join", "init"])]
    found_again: bool,
    /// A gateway's papers (`breakwater admin metadata papers`). Alone: make this node, whose certificate ended while nobody could renew it, a new
    /// one; its replica stays. With --found-again: the node's key and papers are gone as well, and the folder is empty
    #[arg(long, value_name = "FILE", conflicts_with_all = ["join", "init"])]
    papers: Option<PathBuf>,
    /// With --found-again: this metadata node is lost for good and runs nowhere, so it need not say that it has nothing; repeat for each
    #[arg(long, value_name = "NODE", value_parser = node, requires = "found_again")]
    gone: Vec<NodeId>,
    /// With --init: begin with the metadata, the root key and the CA of a stopped gateway that keeps its metadata itself; it serves no more
    /// then, and an empty folder with --metadata takes its place
    #[arg(long, value_name = "DIR", requires = "init")]
    from: Option<PathBuf>,
    /// Invitation of `breakwater admin metadata invite`; needed once
    #[arg(long, value_name = "TOKEN")]
    join: Option<String>,
    /// Leave groups where they are: nothing is split, moved or merged by itself while this node leads the root group. Give it to all
    /// nodes; an operator can still split, move and merge
    #[arg(long)]
    no_balance: bool,
    /// Keep to this format of groups: to the others this node is as one of a version that understands no newer one. For tests of upgrades
    #[arg(long, hide = true, value_name = "FORMAT", default_value_t = NEWEST.0, value_parser = clap::value_parser!(u8).range(1..=i64::from(NEWEST.0)))]
    format: u8,
}

#[derive(Debug, Args)]
struct StorageArgs {
    /// Folder of one disk, a node of its own; repeat for each
    #[arg(long = "disk", value_name = "DIR", required = true)]
    disks: Vec<PathBuf>,
    /// Address of the data plane
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7400")]
    listen: SocketAddr,
    /// The same as gateways reach it [default: as it is listened on]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// This machine's name: no two shards of a chunk are on one machine
    #[arg(long, value_name = "NAME")]
    machine: String,
    /// The zone it is in: a rack, a room, a site
    #[arg(long, value_name = "NAME")]
    zone: String,
    /// Address of /metrics and /health
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7401")]
    ops_listen: SocketAddr,
    /// Invitation of `breakwater admin fleet invite`; needed once, for disks that are new
    #[arg(long, value_name = "TOKEN")]
    join: Option<String>,
    /// Write a request to be admitted and end: for machines that reach no gateway. An operator carries it to `breakwater admin fleet admit`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["join", "admitted"])]
    request: Option<PathBuf>,
    /// What `breakwater admin fleet admit` answered to such a request
    #[arg(long, value_name = "FILE")]
    admitted: Option<PathBuf>,
    /// Bytes that each disk may hold [default: what its file system has]
    #[arg(long, value_name = "BYTES")]
    capacity: Option<u64>,
    /// In how many seconds everything on the disks is read and checked, again and again
    #[arg(long, value_name = "SECONDS", default_value_t = 2_592_000, value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    scrub_round: u64,
    /// Address of the routing layer, by which gateways find nodes that have moved [default: takes no part in it]
    #[arg(long, value_name = "ADDRESS")]
    routing_listen: Option<SocketAddr>,
    /// Router of another storage process to begin with; repeat for several
    #[arg(long, value_name = "HOST:PORT", value_parser = host_port, requires = "routing_listen")]
    bootstrap: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print a configuration file with every field, its documentation and its default
    PrintDefault,
}

#[derive(Debug, Args)]
struct FsckArgs {
    #[command(flatten)]
    place: Place,
    /// Read every shard and compare it with its checksum, not only its presence
    #[arg(long)]
    deep: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the program. 0: done; 1: it failed; 2: asked wrongly.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.command {
        None => serve(cli.place),
        Some(Command::Serve(place)) => serve(place.or(cli.place)),
        Some(Command::Gateway(arguments)) => gateway(arguments, cli.place),
        Some(Command::StorageNode(arguments)) => crate::serve::storage::run(arguments.into()),
        Some(Command::Metadata(arguments)) => metadata(arguments, cli.place),
        Some(Command::Admin(mut arguments)) => {
            arguments.data = arguments.data.or(cli.place.data);
            crate::admin::client::run(arguments)
        }
        Some(Command::Fsck(arguments)) => match arguments.place.or(cli.place).load() {
            Ok(config) => crate::serve::fsck(config, arguments.deep, arguments.json),
            Err(error) => wrong(&error),
        },
        Some(Command::Config { command: ConfigCommand::PrintDefault }) => {
            print!("{DEFAULT}");
            ExitCode::SUCCESS
        }
    }
}

fn serve(place: Place) -> ExitCode {
    match place.load() {
        Ok(config) => crate::serve::run(config),
        Err(error) => wrong(&error),
    }
}

fn gateway(arguments: GatewayArgs, outer: Place) -> ExitCode {
    match arguments.place.or(outer).load_over(arguments.admission_listen, arguments.admission_address) {
        Ok(config) if !config.disks.is_empty() => {
            wrong(&ConfigError::Contradiction { what: "a gateway has no disks of its own: storage nodes have them".into() })
        }
        Ok(config) => {
            let beginning =
                crate::serve::Beginning { bootstrap: arguments.bootstrap, recover: arguments.recover, papers: arguments.metadata };
            crate::serve::run_gateway(config, beginning)
        }
        Err(error) => wrong(&error),
    }
}

fn metadata(arguments: MetadataArgs, outer: Place) -> ExitCode {
    use crate::serve::metadata::{First, Settings, run};
    let Some(data) = arguments.data.or(outer.data) else {
        return wrong(&ConfigError::Contradiction { what: "a metadata node needs a folder of its own: give it with --data".into() });
    };
    let begin = match (arguments.join, arguments.from, arguments.papers) {
        (Some(token), ..) => First::Join(token),
        (None, Some(from), _) => First::Take(from),
        (None, None, _) if arguments.init => First::Init,
        (None, None, papers) if arguments.found_again => First::Again { papers, gone: arguments.gone },
        (None, None, Some(papers)) => First::Certify(papers),
        (None, None, None) => First::Nothing,
    };
    let MetadataArgs { listen, advertise, ops_listen, replicas, no_balance, format, .. } = arguments;
    let (replicas, balance, newest) = (replicas.into(), !no_balance, Format(format));
    run(Settings { data, listen, advertise, ops_listen, replicas, begin, balance, newest })
}

impl From<StorageArgs> for crate::serve::storage::Settings {
    fn from(arguments: StorageArgs) -> Self {
        crate::serve::storage::Settings {
            disks: arguments.disks,
            listen: arguments.listen,
            advertise: arguments.advertise,
            machine: arguments.machine,
            zone: arguments.zone,
            ops_listen: arguments.ops_listen,
            join: arguments.join,
            request: arguments.request,
            admitted: arguments.admitted,
            capacity: arguments.capacity,
            routing_listen: arguments.routing_listen,
            bootstrap: arguments.bootstrap,
            scrub_round: std::time::Duration::from_secs(arguments.scrub_round),
        }
    }
}

fn host_port(text: &str) -> Result<String, String> {
    if spine::fleet::admission::is_address(text) { Ok(text.to_string()) } else { Err("not HOST:PORT".to_string()) }
}

fn node(text: &str) -> Result<NodeId, String> {
    // As it stands in the error that asks for it, with or without the address.
    let id = text.split_once('@').map_or(text, |(id, _)| id);
    NodeId::parse_hex(id).ok_or_else(|| "not a node's id of 64 hexadecimal digits".to_string())
}

fn wrong(error: &ConfigError) -> ExitCode {
    eprintln!("breakwater: {error}\nSee `breakwater config print-default` for every field and its range.");
    ExitCode::from(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn serving_options_work_with_and_without_the_command() {
        for line in [
            vec!["breakwater", "--data", "/d"],
            vec!["breakwater", "serve", "--data", "/d"],
            vec!["breakwater", "--data", "/x", "serve", "--data", "/d"],
        ] {
            let cli = Cli::try_parse_from(line).unwrap();
            let place = match cli.command {
                Some(Command::Serve(place)) => place.or(cli.place),
                _ => cli.place,
            };
            assert_eq!(place.data, Some(PathBuf::from("/d")));
        }
    }

    #[test]
    fn a_certificate_needs_its_key() {
        assert!(Cli::try_parse_from(["breakwater", "--tls-cert", "/c"]).is_err());
    }
}
