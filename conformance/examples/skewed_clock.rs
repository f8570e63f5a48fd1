//! A clock that is off: loaded before the C library (`LD_PRELOAD`), it moves the wall clock of one process by the seconds in
//! `SKEWED_CLOCK_SECONDS`. Clocks that only measure stay as they are.
//!
//! An example and no part of the library, since it is a shared object of its own. Not here: the tests (`tests/fleet/faults.rs`).

/// Clock read through this instead of the C library's function of the name.
///
/// # Safety
/// As clock_gettime(2): `time` is null or points to a timespec.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: libc::clockid_t, time: *mut libc::timespec) -> libc::c_int {
    // SAFETY: the caller's promise about `time` is the call's.
    let result = unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) };
    if result == 0 && clock == libc::CLOCK_REALTIME && !time.is_null() {
        // SAFETY: not null, and the kernel has just written it.
        unsafe { (*time).tv_sec += skew() };
    }
    -libc::c_int::from(result != 0)
}

/// Without allocating: the allocator may ask for the time.
fn skew() -> libc::time_t {
    // SAFETY: the name ends with NUL; nobody in these processes changes the environment.
    let text = unsafe { libc::getenv(c"SKEWED_CLOCK_SECONDS".as_ptr()) };
    if text.is_null() {
        return 0;
    }
    // SAFETY: what getenv gave ends with NUL.
    unsafe { libc::atoll(text) }
}
