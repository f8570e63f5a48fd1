//! The binary `breakwater`. Its parts are in the library, so that tests reach them.

use std::process::ExitCode;

/// glibc gives large bodies' memory back to the kernel and takes it again for every one of them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// mimalloc's option of this number says after how many milliseconds free memory goes back to the system (ten times as many for
/// large pieces). Its binding for Rust has no name for it.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
const PURGE_DELAY_DEFAULT: std::ffi::c_long = 10;
const PURGE_DELAY_OURS: std::ffi::c_long = 5_000;

fn main() -> ExitCode {
    small_pages();
    keep_memory();
    few_switches();
    gateway::cli::main()
}

/// Buffers of a mebibyte come and go. With huge pages the kernel clears two of them for each, which was 13 % of all CPU and
/// doubled the memory of a process under load.
fn small_pages() {
    // SAFETY: sets a flag of this process; a kernel that does not know it answers with an error and changes nothing.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// The buffers of one chunk are those of the next one: giving them back in between cost 10 % of the CPU of a PUT and 20 % of a GET.
/// What is kept is bounded by what was in use at once, which the budgets bound.
fn keep_memory() {
    // SAFETY: reads and sets one number of the allocator, before there is a second thread. Any other value than the default says
    // that the option has another number by now, or that the user has set it by the environment: both are left alone.
    unsafe {
        if libmimalloc_sys::mi_option_get(PURGE_DELAY) == PURGE_DELAY_DEFAULT {
            libmimalloc_sys::mi_option_set(PURGE_DELAY, PURGE_DELAY_OURS);
        }
    }
}

/// A chunk passes through a dozen threads. Under the default policy each one that wakes up drives another from its core: three times
/// the context switches, and on two cores 5 % of the CPU of a PUT; requests of 4 KiB are served no slower without.
fn few_switches() {
    // SAFETY: all-zero bytes are a valid sched_param, and the call sets the policy of this thread, which those it starts inherit.
    // A system that refuses leaves the default.
    unsafe {
        let parameter: libc::sched_param = std::mem::zeroed();
        libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameter);
    }
}
