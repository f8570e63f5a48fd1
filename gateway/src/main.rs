//! The binary `breakwater`. Its parts are in the library, so that tests reach them.

use std::process::ExitCode;

/// glibc gives large bodies' memory back to the kernel and takes it again for every one of them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    gateway::cli::main()
}
