//! What an operator may choose: a TOML file, and what the command line says over it.
//!
//! `config/default.toml` is the documentation of every field (unit, range, default, what it costs) and the source of the defaults;
//! `breakwater config print-default` prints it. Invariants: an unknown field is refused by name; a value out of its range is refused
//! with the range; defaults written there and here are the same (a test compares them).

use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The documented defaults.
pub const DEFAULT: &str = include_str!("config/default.toml");

/// Why a configuration cannot be used. Exit code 2.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the configuration file cannot be read. path=`{path}`, reason=`{reason}`")]
    Read { path: String, reason: String },
    /// Not TOML, an unknown field or a value of another type; `reason` names the line and the field.
    #[error("the configuration file is wrong. path=`{path}`\n{reason}")]
    Parse { path: String, reason: String },
    #[error("a setting is out of range. field=`{field}`, value=`{value}`, allowed=`{allowed}`")]
    Range { field: &'static str, value: String, allowed: String },
    #[error("settings contradict each other. {what}")]
    Contradiction { what: String },
}

/// Everything, checked.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// S3's address; port 0 lets the kernel choose.
    pub listen: SocketAddr,
    /// Operations' address.
    pub ops_listen: SocketAddr,
    /// Folder of keys, metadata and, by default, disks.
    pub data: PathBuf,
    /// One folder a disk; empty: as many as there are shards, in the data folder.
    pub disks: Vec<PathBuf>,
    /// Region of signatures.
    pub region: String,
    /// Base domain of virtual-host style; empty: path style only.
    pub domain: String,
    /// Whether Signature Version 2 is taken.
    pub allow_signature_v2: bool,
    /// Seconds running requests may take to finish, 0 to 3,600.
    pub shutdown_seconds: u64,
    pub tls: Tls,
    pub coding: Coding,
    pub collector: Collector,
    pub repair: Repair,
    pub rebalance: Rebalance,
    pub limits: Limits,
    pub fleet: Fleet,
    pub metadata: Metadata,
}

/// A gateway's fleet; `serve` has none.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Fleet {
    /// Where nodes ask to be admitted; port 0 lets the kernel choose.
    pub admission_listen: SocketAddr,
    /// `host:port` that nodes reach it by; empty: as it is listened on.
    pub admission_address: String,
    /// Life of a certificate, seconds.
    pub certificate_seconds: u64,
    /// Slices that each node proves a day; 0: none.
    pub audits_per_day: u32,
}

/// PEM files; both empty: plain HTTP.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Reed-Solomon of new chunks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Coding {
    /// 1 to 16.
    #[serde(alias = "k")]
    pub data_shards: u8,
    /// 1 to 16.
    #[serde(alias = "m")]
    pub parity_shards: u8,
}

/// When space comes back. Seconds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Collector {
    pub interval_seconds: u64,
    pub grace_seconds: u64,
    pub trash_seconds: u64,
    /// How long deletion waits for a node that does not answer.
    pub patience_seconds: u64,
    /// Between two sweeps for orphans.
    pub sweep_seconds: u64,
}

/// When what is lost is made again. Seconds.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Repair {
    pub interval_seconds: u64,
    /// How long chunks with few shards left wait for a node that is away.
    pub urgent_seconds: u64,
    /// How long a node may be away before what it held is made again elsewhere.
    pub away_seconds: u64,
}

/// How nodes are levelled out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rebalance {
    /// Whether it begins by itself.
    pub automatic: bool,
    /// Bytes of shards moved a second, at most.
    pub bytes_per_second: u64,
    /// Between two comparisons of the nodes. Seconds.
    pub look_seconds: u64,
    /// How far a node may be from its share before it begins; it ends at half of that.
    pub begin_percent: u32,
}

/// Copies of metadata in the store itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metadata {
    /// Between two copies; 0: none is made.
    pub snapshot_seconds: u64,
    /// The newest that stay.
    pub snapshots_kept: usize,
}

/// Bounds on what clients can make the process hold.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    pub connections: usize,
    pub header_seconds: u64,
    pub body_idle_seconds: u64,
    pub drain_bytes: u64,
    pub signed_chunk_bytes: u64,
    pub write_memory_bytes: usize,
    pub read_memory_bytes: usize,
    pub compute_threads: usize,
    pub window: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            listen: SocketAddr::from(([127, 0, 0, 1], 9000)),
            ops_listen: SocketAddr::from(([127, 0, 0, 1], 9001)),
            data: PathBuf::from("./breakwater-data"),
            disks: Vec::new(),
            region: "us-east-1".to_string(),
            domain: String::new(),
            allow_signature_v2: true,
            shutdown_seconds: 30,
            tls: Tls::default(),
            coding: Coding::default(),
            collector: Collector::default(),
            repair: Repair::default(),
            rebalance: Rebalance::default(),
            limits: Limits::default(),
            fleet: Fleet::default(),
            metadata: Metadata::default(),
        }
    }
}

impl Default for Fleet {
    fn default() -> Self {
        Fleet {
            admission_listen: SocketAddr::from(([127, 0, 0, 1], 9002)),
            admission_address: String::new(),
            certificate_seconds: 2_592_000,
            audits_per_day: 100,
        }
    }
}

impl Default for Metadata {
    fn default() -> Self {
        Metadata { snapshot_seconds: 86_400, snapshots_kept: 3 }
    }
}

impl Default for Coding {
    fn default() -> Self {
        Coding { data_shards: 4, parity_shards: 2 }
    }
}

impl Default for Collector {
    fn default() -> Self {
        Collector { interval_seconds: 60, grace_seconds: 86_400, trash_seconds: 604_800, patience_seconds: 3_600, sweep_seconds: 86_400 }
    }
}

impl Default for Repair {
    fn default() -> Self {
        Repair { interval_seconds: 15, urgent_seconds: 30, away_seconds: 14_400 }
    }
}

impl Default for Rebalance {
    fn default() -> Self {
        Rebalance { automatic: true, bytes_per_second: 16 << 20, look_seconds: 600, begin_percent: 5 }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections: 1_024,
            header_seconds: 60,
            body_idle_seconds: 60,
            drain_bytes: 64 << 20,
            signed_chunk_bytes: 8 << 20,
            write_memory_bytes: 192 << 20,
            read_memory_bytes: 96 << 20,
            compute_threads: 0,
            window: 4,
        }
    }
}

/// What the command line says over the file.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    pub listen: Option<SocketAddr>,
    pub ops_listen: Option<SocketAddr>,
    pub data: Option<PathBuf>,
    pub disks: Vec<PathBuf>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub admission_listen: Option<SocketAddr>,
    pub admission_address: Option<String>,
}

impl Config {
    /// Reads `file`, if there is one, lays `over` on it and checks the whole.
    pub fn load(file: Option<&Path>, over: Overrides) -> Result<Config, ConfigError> {
        let mut config = match file {
            None => Config::default(),
            Some(path) => {
                let shown = path.display().to_string();
                let text =
                    std::fs::read_to_string(path).map_err(|error| ConfigError::Read { path: shown.clone(), reason: error.to_string() })?;
                toml::from_str(&text).map_err(|error| ConfigError::Parse { path: shown, reason: error.to_string() })?
            }
        };
        config.listen = over.listen.unwrap_or(config.listen);
        config.ops_listen = over.ops_listen.unwrap_or(config.ops_listen);
        config.data = over.data.unwrap_or(config.data);
        if !over.disks.is_empty() {
            config.disks = over.disks;
        }
        config.tls.cert = over.tls_cert.unwrap_or(config.tls.cert);
        config.tls.key = over.tls_key.unwrap_or(config.tls.key);
        config.fleet.admission_listen = over.admission_listen.unwrap_or(config.fleet.admission_listen);
        config.fleet.admission_address = over.admission_address.unwrap_or(config.fleet.admission_address);
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let (coding, collector, limits) = (&self.coding, &self.collector, &self.limits);
        range("coding.data_shards", coding.data_shards.into(), 1, 16)?;
        range("coding.parity_shards", coding.parity_shards.into(), 1, 16)?;
        range("shutdown_seconds", self.shutdown_seconds, 0, 3_600)?;
        range("collector.interval_seconds", collector.interval_seconds, 1, 86_400)?;
        range("collector.grace_seconds", collector.grace_seconds, 1, 31_536_000)?;
        range("collector.trash_seconds", collector.trash_seconds, 0, 31_536_000)?;
        range("collector.patience_seconds", collector.patience_seconds, 1, 31_536_000)?;
        range("collector.sweep_seconds", collector.sweep_seconds, 1, 31_536_000)?;
        range("repair.interval_seconds", self.repair.interval_seconds, 1, 86_400)?;
        range("repair.urgent_seconds", self.repair.urgent_seconds, 0, 86_400)?;
        range("rebalance.bytes_per_second", self.rebalance.bytes_per_second, 64 << 10, 1 << 40)?;
        range("rebalance.look_seconds", self.rebalance.look_seconds, 1, 86_400)?;
        range("rebalance.begin_percent", self.rebalance.begin_percent.into(), 2, 50)?;
        range("repair.away_seconds", self.repair.away_seconds, 1, 31_536_000)?;
        range("limits.connections", limits.connections as u64, 1, 100_000)?;
        range("limits.header_seconds", limits.header_seconds, 1, 3_600)?;
        range("limits.body_idle_seconds", limits.body_idle_seconds, 1, 3_600)?;
        range("limits.drain_bytes", limits.drain_bytes, 0, 1 << 30)?;
        range("limits.signed_chunk_bytes", limits.signed_chunk_bytes, 64 << 10, 16 << 20)?;
        range("limits.write_memory_bytes", limits.write_memory_bytes as u64, 32 << 20, 1 << 40)?;
        range("limits.read_memory_bytes", limits.read_memory_bytes as u64, 32 << 20, 1 << 40)?;
        range("limits.compute_threads", limits.compute_threads as u64, 0, 1_024)?;
        range("limits.window", limits.window as u64, 1, 64)?;
        range("fleet.certificate_seconds", self.fleet.certificate_seconds, 5, 31_536_000)?;
        range("fleet.audits_per_day", self.fleet.audits_per_day.into(), 0, 86_400)?;
        range("metadata.snapshot_seconds", self.metadata.snapshot_seconds, 0, 31_536_000)?;
        range("metadata.snapshots_kept", self.metadata.snapshots_kept as u64, 1, 1_000)?;
        self.check_names()?;
        self.check_disks()
    }

    fn check_names(&self) -> Result<(), ConfigError> {
        let region_holds = !self.region.is_empty()
            && self.region.len() <= 32
            && self.region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !region_holds {
            return Err(ConfigError::Range {
                field: "region",
                value: self.region.clone(),
                allowed: "1 to 32 lower-case letters, digits and hyphens".into(),
            });
        }
        let domain_holds = self.domain.len() <= 253 && self.domain.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:".contains(&b));
        if !domain_holds {
            return Err(ConfigError::Range { field: "domain", value: self.domain.clone(), allowed: "a domain name".into() });
        }
        let address = &self.fleet.admission_address;
        if !address.is_empty() && !spine::fleet::admission::is_address(address) {
            let allowed = "host:port".into();
            return Err(ConfigError::Range { field: "fleet.admission_address", value: address.clone(), allowed });
        }
        if self.tls.cert.as_os_str().is_empty() != self.tls.key.as_os_str().is_empty() {
            return Err(ConfigError::Contradiction { what: "tls.cert and tls.key go together: give both or neither".into() });
        }
        Ok(())
    }

    fn check_disks(&self) -> Result<(), ConfigError> {
        if !self.disks.is_empty() && self.disks.len() < self.shards() {
            let what = format!(
                "coding.data_shards + coding.parity_shards is {} and there are {} disks: name at least as many disks, or fewer shards",
                self.shards(),
                self.disks.len()
            );
            return Err(ConfigError::Contradiction { what });
        }
        let mut sorted: Vec<&PathBuf> = self.disks.iter().collect();
        sorted.sort();
        match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(ConfigError::Contradiction { what: format!("the disk {} is named twice", pair[0].display()) }),
            None => Ok(()),
        }
    }

    /// Shards of a chunk.
    pub fn shards(&self) -> usize {
        usize::from(self.coding.data_shards) + usize::from(self.coding.parity_shards)
    }

    /// The disks' folders, in order.
    pub fn disk_folders(&self) -> Vec<PathBuf> {
        if self.disks.is_empty() {
            return (0..self.shards()).map(|number| self.data.join(format!("disk-{number}"))).collect();
        }
        self.disks.clone()
    }

    /// The certificate and its key, where TLS is wanted.
    pub fn tls_files(&self) -> Option<(&Path, &Path)> {
        (!self.tls.cert.as_os_str().is_empty()).then_some((self.tls.cert.as_path(), self.tls.key.as_path()))
    }

    /// Threads for computing.
    pub fn compute_threads(&self) -> usize {
        match self.limits.compute_threads {
            0 => std::thread::available_parallelism().map_or(2, |cores| cores.get()),
            threads => threads,
        }
    }

    pub fn shutdown(&self) -> Duration {
        Duration::from_secs(self.shutdown_seconds)
    }
}

fn range(field: &'static str, value: u64, low: u64, high: u64) -> Result<(), ConfigError> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(ConfigError::Range { field, value: value.to_string(), allowed: format!("{low} to {high}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::load(Some(file.path()), Overrides::default())
    }

    #[test]
    fn the_documented_defaults_are_the_defaults_and_leave_none_out() {
        assert_eq!(load(DEFAULT).unwrap(), Config::default());
        let documented: toml::Table = toml::from_str(DEFAULT).unwrap();
        assert_eq!(documented.len(), 16, "a field of Config is not in default.toml");
        let of = |name: &str| documented[name].as_table().unwrap().len();
        assert_eq!((of("tls"), of("coding"), of("collector"), of("repair"), of("limits"), of("fleet")), (2, 2, 5, 3, 9, 4));
        assert_eq!((of("rebalance"), of("metadata")), (4, 2));
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        for text in ["lisen = \"127.0.0.1:1\"", "[limits]\nconnection = 5", "[other]\na = 1"] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains("unknown field"), "{error}");
        }
        let error = load("[limits]\nconnection = 5").unwrap_err().to_string();
        assert!(error.contains("connection") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn values_out_of_range_are_refused_with_the_range() {
        let error = load("[coding]\ndata_shards = 0").unwrap_err().to_string();
        assert_eq!(error, "a setting is out of range. field=`coding.data_shards`, value=`0`, allowed=`1 to 16`");
        assert!(load("region = \"US East\"").is_err());
        assert!(load("shutdown_seconds = 3601").is_err());
        assert!(load("listen = \"nowhere\"").is_err());
    }

    #[test]
    fn too_few_disks_half_of_tls_and_a_disk_twice_are_refused() {
        assert!(matches!(load("disks = [\"/a\", \"/b\"]"), Err(ConfigError::Contradiction { .. })));
        assert!(matches!(load("[tls]\ncert = \"/c\""), Err(ConfigError::Contradiction { .. })));
        assert!(matches!(load("disks = [\"/a\", \"/b\", \"/c\", \"/d\", \"/e\", \"/a\"]"), Err(ConfigError::Contradiction { .. })));
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "data = \"/from/file\"\n[coding]\nk = 2\nm = 1").unwrap();
        let over = Overrides { data: Some("/from/line".into()), ..Overrides::default() };
        let config = Config::load(Some(file.path()), over).unwrap();
        assert_eq!(config.data, PathBuf::from("/from/line"));
        assert_eq!(config.disk_folders(), vec![PathBuf::from("/from/line/disk-0"), "/from/line/disk-1".into(), "/from/line/disk-2".into()]);
    }
}
