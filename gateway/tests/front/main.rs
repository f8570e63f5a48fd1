//! The front as a client meets it: the real binary, raw requests, one test for each weakness that is closed in front of s3s.

mod admin;
mod claims;
mod connections;
mod operations;
mod payloads;
mod process;
mod resources;
mod server;
mod signer;
mod wire;
