//! The binary `breakwater`. Its parts are in the library, so that tests reach them.

use std::process::ExitCode;

/// glibc gives large bodies' memory back to the kernel and takes it again for every one of them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    small_pages();
    gateway::cli::main()
}

/// Buffers of a mebibyte come and go. With huge pages the kernel clears two of them for each, which was 13 % of all CPU and
/// doubled the memory of a process under load.
fn small_pages() {
    // SAFETY: sets a flag of this process; a kernel that does not know it answers with an error and changes nothing.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}
