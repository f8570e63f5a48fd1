//! A server to measure: its client, its processes, its data folder.

use super::BenchError;
use crate::client;
use crate::ram::Warmth;
use crate::server::{self, Credential, Server};
use aws_sdk_s3::Client;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// What a measurement needs to know of a server. Ours lives as long as its [`Server`]; a peer was started by someone else.
#[derive(Clone, Debug)]
pub struct Target {
    pub name: String,
    pub endpoint: String,
    pub credential: Credential,
    pub client: Client,
    /// All its processes. Empty: CPU and memory are unknown and shown as 0.
    pub processes: Vec<u32>,
    /// Where its bytes are, if known.
    pub data: Option<PathBuf>,
}

impl Target {
    pub fn of(server: &Server) -> Self {
        Self {
            name: "breakwater".into(),
            endpoint: server.endpoint().into(),
            credential: Credential::root(),
            client: client::of(server),
            processes: vec![server.pid()],
            data: Some(server.data().into()),
        }
    }

    /// `NAME=URL,ACCESS,SECRET[,PID+PID...][,DATA-FOLDER]`. Without PIDs the local process that listens on the URL's port is taken.
    ///
    /// # Errors
    /// [`BenchError::Peer`].
    pub fn peer(text: &str) -> Result<Self, BenchError> {
        let wrong = || BenchError::Peer { text: text.into() };
        let (name, rest) = text.split_once('=').ok_or_else(wrong)?;
        let fields: Vec<&str> = rest.split(',').collect();
        let [url, access, secret, more @ ..] = &fields[..] else { return Err(wrong()) };
        let mut processes = Vec::new();
        let mut data = None;
        for field in more {
            match field.split('+').map(str::parse).collect::<Result<Vec<u32>, _>>() {
                Ok(pids) => processes = pids,
                Err(_) => data = Some(PathBuf::from(field)),
            }
        }
        let port: Option<u16> = url.trim_end_matches('/').rsplit_once(':').and_then(|(_, p)| p.parse().ok());
        if let (true, Some(port)) = (processes.is_empty(), port) {
            processes = listeners(port);
        }
        let credential = Credential { access_key: (*access).into(), secret_key: (*secret).into() };
        let client = client::with(url, &credential);
        Ok(Self { name: name.into(), endpoint: (*url).into(), credential, client, processes, data })
    }

    /// User and system CPU of all its processes so far.
    pub fn cpu(&self) -> Duration {
        // SAFETY: sysconf reads a constant.
        let per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as f64;
        let ticks = |pid: &u32| -> u64 {
            let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let after_name = text.rsplit_once(')').map_or("", |(_, rest)| rest);
            after_name.split_whitespace().skip(11).take(2).filter_map(|f| f.parse::<u64>().ok()).sum()
        };
        Duration::from_secs_f64(self.processes.iter().map(ticks).sum::<u64>() as f64 / per_second)
    }

    /// Sum of the processes' highest resident bytes (`VmHWM`).
    pub fn peak_rss(&self) -> u64 {
        let kib = |pid: &u32| -> u64 {
            let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
            text.lines().find_map(|l| l.strip_prefix("VmHWM:")?.split_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        self.processes.iter().map(kib).sum::<u64>() << 10
    }

    /// Bytes of disk blocks its data folder occupies, where that is known.
    pub fn disk_bytes(&self) -> Option<u64> {
        self.data.as_deref().map(server::allocated)
    }

    /// Memory for `bytes`, if the data is on a RAM disk: see [`Warmth`].
    pub fn warm(&self, bytes: u64) -> Option<Warmth> {
        Warmth::new(self.data.as_deref()?.parent()?, bytes)
    }

    /// A failed request as this target's error.
    pub fn failed(&self, what: &str, why: impl std::fmt::Debug) -> BenchError {
        BenchError::Request { target: self.name.clone(), what: what.into(), why: format!("{why:?}").chars().take(400).collect() }
    }

    /// Makes a bucket; one that is there already will do.
    ///
    /// # Errors
    /// [`BenchError::Request`].
    pub async fn bucket(&self, name: &str) -> Result<(), BenchError> {
        if self.client.head_bucket().bucket(name).send().await.is_ok() {
            return Ok(());
        }
        self.client.create_bucket().bucket(name).send().await.map(drop).map_err(|e| self.failed("CreateBucket", e))
    }
}

/// Local processes with a socket that listens on this TCP port.
fn listeners(port: u16) -> Vec<u32> {
    let wanted = format!(":{port:04X}");
    let mut inodes = Vec::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        let rows = text.lines().skip(1).map(|l| l.split_whitespace().collect::<Vec<_>>());
        let listening = rows.filter(|f| f.len() > 9 && f[1].ends_with(&wanted) && f[3] == "0A");
        inodes.extend(listening.map(|f| format!("socket:[{}]", f[9])));
    }
    let holds = |pid: &u32| {
        let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        files.filter_map(|f| fs::read_link(f.path()).ok()).any(|l| inodes.iter().any(|i| l.as_os_str() == i.as_str()))
    };
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    all.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(holds).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_is_read_from_one_argument() {
        let peer = Target::peer("garage=http://127.0.0.1:3900,GK1,secret,12+13,/srv/garage").unwrap();
        assert_eq!((peer.name.as_str(), peer.endpoint.as_str()), ("garage", "http://127.0.0.1:3900"));
        assert_eq!(peer.processes, [12, 13]);
        assert_eq!(peer.data.unwrap(), PathBuf::from("/srv/garage"));
        assert!(Target::peer("garage=http://127.0.0.1:3900").is_err());
        assert!(Target::peer("http://127.0.0.1:3900,a,b").is_err());
    }

    #[test]
    fn the_process_behind_a_port_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(listeners(port), [std::process::id()]);
    }
}
