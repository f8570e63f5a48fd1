//! Figures of the process itself, from `/proc/self`, under the names every Prometheus dashboard knows.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Opts};
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;

/// Reads the figures when they are asked for.
pub struct Process {
    runtime: Handle,
    cpu: Gauge,
    resident: Gauge,
    resident_peak: Gauge,
    virtual_memory: Gauge,
    open_files: Gauge,
    max_files: Gauge,
    threads: Gauge,
    started: Gauge,
    tasks: Gauge,
}

impl Process {
    /// Registers the figures once in the default registry.
    pub fn register(runtime: Handle) {
        let gauge = |name: &str, help: &str| Gauge::with_opts(Opts::new(name, help));
        let made = (|| {
            Ok::<_, prometheus::Error>(Process {
                runtime,
                cpu: gauge("process_cpu_seconds_total", "User and system CPU time")?,
                resident: gauge("process_resident_memory_bytes", "Resident memory")?,
                resident_peak: gauge("process_resident_memory_peak_bytes", "Most resident memory so far")?,
                virtual_memory: gauge("process_virtual_memory_bytes", "Virtual memory")?,
                open_files: gauge("process_open_fds", "Open file descriptors")?,
                max_files: gauge("process_max_fds", "Most file descriptors that may be open")?,
                threads: gauge("process_threads", "Threads")?,
                started: gauge("process_start_time_seconds", "When the process started, since the Unix epoch")?,
                tasks: gauge("breakwater_runtime_tasks", "Asynchronous tasks that have not ended")?,
            })
        })();
        let registered = made.and_then(|process| {
            process.started.set(start_time());
            prometheus::register(Box::new(process))
        });
        if let Err(error) = registered {
            tracing::debug!(%error, "process figures are registered already");
        }
    }

    fn gauges(&self) -> [&Gauge; 9] {
        [
            &self.cpu,
            &self.resident,
            &self.resident_peak,
            &self.virtual_memory,
            &self.open_files,
            &self.max_files,
            &self.threads,
            &self.started,
            &self.tasks,
        ]
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.gauges().into_iter().flat_map(Collector::desc).collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let field = |name: &str| {
            status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse::<f64>().ok()).unwrap_or(0.0)
        };
        self.resident.set(field("VmRSS:") * 1024.0);
        self.resident_peak.set(field("VmHWM:") * 1024.0);
        self.virtual_memory.set(field("VmSize:") * 1024.0);
        self.threads.set(field("Threads:"));
        self.cpu.set(cpu_seconds());
        self.open_files.set(fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1)) as f64);
        self.max_files.set(max_files());
        self.tasks.set(self.runtime.metrics().num_alive_tasks() as f64);
        self.gauges().into_iter().flat_map(Collector::collect).collect()
    }
}

fn cpu_seconds() -> f64 {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: getrusage fills the struct it is given, which is large enough and valid when zeroed.
    let usage = unsafe {
        if libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr()) != 0 {
            return 0.0;
        }
        usage.assume_init()
    };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

fn max_files() -> f64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: getrlimit fills the struct it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return 0.0;
    }
    limit.rlim_cur as f64
}

fn start_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |time| time.as_secs_f64())
}
