//! The promises of Breakwater and how they are checked.
//!
//! - `SEMANTICS.md`: one paragraph a promise; `tests/promises.rs` holds a test of every paragraph's name.
//! - [`server`] starts the real binary, kills it, starts it again; [`client`] makes AWS SDK clients of it; [`raw`] speaks
//!   HTTP to it byte by byte and signs by itself, so that wrong requests can be made.
//! - [`fleet`] starts a gateway and storage processes that join it; [`hosts`] gives each of them a host of its own.
//! - [`cluster`] starts metadata processes and gateways over them; [`history`] drives clients at once and notes what they saw, [`linear`]
//!   judges whether that can have happened in one order; [`clock`] gives processes wall clocks that jump.
//! - [`content`] makes bodies out of numbers; [`ledger`] knows what each key may hold after operations that were never
//!   answered; [`workload`] drives mixed writes and keeps such a ledger; [`oracle`] is S3 in memory and
//!   [`subject`] the same operations on a server.
//! - [`bad_input`]: requests that are wrong, with the answers they must get.
//! - [`files`] walks and searches folders; [`ram`] makes a RAM disk; [`rot`] spoils shards on a disk; [`loop_disk`] is a small one of a test's own.
//! - [`tools`] finds restic, rclone, s3cmd, the AWS CLI and Python.
//! - `src/bin/prove` shows each row of the "what must be seen" table at full size; `src/bin/bench-s3` measures.
//! - [`balance`]: metadata's balancer over simulated servers, directories and load.
//! - [`kademlia`]: lookups, tables and churn of the routing layer as a calculation.
//! - [`liar`]: a node of a real fleet that lies.
//! - [`plane`]: a fleet's CA, nodes in memory and the data plane between them, in one process.
//! - [`plain_raft`]: openraft over the product's log with nothing around it, to hold the product against.
//! - [`plot`]: a plot as SVG.
//! - [`records`]: keys written through the gateways' router, without S3; [`paced`]: so many such operations a second, mostly on one prefix.
//! - [`process`]: what a running process takes; [`operations`]: what it says of itself.
//! - [`bench`] holds the measurements, [`primitives`] what the same work costs at least; [`build`] builds the server for both.
//!
//! Invariants:
//! - A server started here is ended here, by its process id, also when a test panics.
//! - Only loopback addresses are used, and only ports that the kernel gave; or addresses of hosts in network namespaces of the test's own.
//! - Every random choice follows from a seed, and the seed is printed.

pub mod bad_input;
pub mod balance;
pub mod bench;
pub mod build;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod content;
pub mod files;
pub mod fleet;
pub mod history;
pub mod hosts;
pub mod kademlia;
pub mod ledger;
pub mod liar;
pub mod linear;
pub mod loop_disk;
pub mod model;
pub mod operations;
pub mod oracle;
pub mod paced;
pub mod persistent;
pub mod plain_raft;
pub mod plane;
pub mod plot;
pub mod primitives;
pub mod process;
pub mod program;
pub mod ram;
pub mod raw;
pub mod records;
pub mod restic;
pub mod rot;
pub mod server;
pub mod subject;
pub mod tools;
pub mod workload;
