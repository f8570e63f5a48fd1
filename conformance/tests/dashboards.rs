//! Every query of `grafana/` answers with data on a real Prometheus that scraped a loaded server.
//!
//! Needs Debian's `prometheus`. Not here: whether every metric has a panel (`tidy`).

use aws_sdk_s3::Client;
use aws_sdk_s3::primitives::ByteStream;
use conformance::bench::large::{self, Large};
use conformance::bench::target::Target;
use conformance::client;
use conformance::content::{Content, Dice};
use conformance::server::{Server, Settings, repository};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// What Grafana would put for its interval, with a scrape every two seconds.
const INTERVAL: &str = "1m";
/// Until when every query must have answered.
const LIMIT: Duration = Duration::from_secs(150);
/// Queries that may answer NaN: what they measure need not happen in a minute.
const RARE: &[&str] = &[
    "breakwater_metadata_checkpoint_seconds",
    "breakwater_metadata_read_round_readers",
    "breakwater_routing_lookup_seconds",
    "breakwater_metadata_range_freeze_seconds",
];

/// A Prometheus of this test's own, ended with the value.
struct Prometheus {
    child: Child,
    port: u16,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// Scrapes `target` (HOST:PORT) every two seconds, with the rules of `grafana/alerts.yml`.
    fn start(place: &Path, target: &str) -> Self {
        let rules = repository().join("grafana/alerts.yml");
        let config = format!(
            "global: {{scrape_interval: 2s, evaluation_interval: 2s}}\nrule_files: [{rules:?}]\nscrape_configs:\n  - job_name: breakwater\n    static_configs:\n      - targets: [{target:?}]\n"
        );
        let path = place.join("prometheus.yml");
        fs::write(&path, config).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = fs::File::create(place.join("prometheus.log")).unwrap();
        let started = Command::new("prometheus")
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", place.join("tsdb").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let child = started.unwrap_or_else(|e| panic!("prometheus does not start ({e}): install it with `apt-get install prometheus`"));
        Self { child, port }
    }

    /// The `data` of an API call.
    fn api(&self, path: &str) -> io::Result<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        write!(stream, "GET /api/v1/{path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        let text = String::from_utf8_lossy(&answer);
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let value: Value = serde_json::from_str(body).map_err(io::Error::other)?;
        match value["status"].as_str() {
            Some("success") => Ok(value["data"].clone()),
            _ => Err(io::Error::other(format!("{path}: {}", value["error"]))),
        }
    }

    /// What is wrong with a query's answer, if anything is.
    fn complaint(&self, query: &str) -> Option<String> {
        let concrete = query.replace("$__rate_interval", INTERVAL);
        let data = match self.api(&format!("query?query={}", encoded(&concrete))) {
            Ok(data) => data,
            Err(error) => return Some(format!("error: {error}")),
        };
        let samples = data["result"].as_array().map(Vec::as_slice).unwrap_or_default();
        let numbers: Vec<f64> = samples.iter().filter_map(|s| s["value"][1].as_str()?.parse().ok()).collect();
        let rare = RARE.iter().any(|name| query.contains(name));
        match (numbers.is_empty(), numbers.iter().any(|n| n.is_finite()) || rare) {
            (true, _) => Some("no data".into()),
            (false, false) => Some("only NaN".into()),
            (false, true) => None,
        }
    }
}

fn encoded(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// Every expression of the dashboard, by its panel's title.
fn dashboard_queries() -> Vec<(String, String)> {
    let text = fs::read_to_string(repository().join("grafana/breakwater.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    let mut queries = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            queries.push((panel["title"].as_str().unwrap().to_owned(), target["expr"].as_str().unwrap().to_owned()));
        }
    }
    queries
}

/// The recorded series of the rules: the left sides of the alerts.
fn recorded() -> Vec<String> {
    let text = fs::read_to_string(repository().join("grafana/alerts.yml")).unwrap();
    text.lines().filter_map(|l| l.trim().strip_prefix("- record: ")).map(str::to_owned).collect()
}

/// A little of everything that has a panel.
async fn load(client: &Client, target: &Target, round: u64) {
    let bucket = "dashboards";
    let mut dice = Dice::new(round);
    for (i, len) in [100, 5_000, 70_000, 3 << 20].into_iter().enumerate() {
        for content in [Content::dense(dice.roll(), len), Content::text(7, len)] {
            let key = format!("{i}-{round}-{}", content.dense);
            let body = ByteStream::from(content.bytes());
            client.put_object().bucket(bucket).key(&key).body(body).send().await.unwrap();
            let got = client.get_object().bucket(bucket).key(&key).send().await.unwrap().body.collect().await.unwrap();
            assert_eq!(got.into_bytes(), content.bytes());
            if round > 1 {
                client.delete_object().bucket(bucket).key(&key).send().await.unwrap();
            }
        }
    }
    large::put(target, bucket, "large", &Large::new(round, 32 << 20), 2).await.unwrap();
    client.list_objects_v2().bucket(bucket).send().await.unwrap();
    assert!(client.get_object().bucket(bucket).key("nothing").send().await.is_err());
}

#[test]
fn every_query_of_the_dashboard_and_of_the_rules_answers_with_data() {
    // Of what is there only once a copy of metadata was made, there is something soon.
    let config = Some("[metadata]\nsnapshot_seconds = 20\n".into());
    let server = Server::start_with(Settings { config, ..Settings::default() }).unwrap();
    let target = Target::of(&server);
    let client = client::of(&server);
    let scraped = server.ops_endpoint().trim_start_matches("http://").to_owned();
    let prometheus = Prometheus::start(server.place(), &scraped);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(target.bucket("dashboards")).unwrap();

    let mut asked = dashboard_queries();
    assert!(asked.len() > 50, "the dashboard has {} queries", asked.len());
    asked.extend(recorded().into_iter().map(|name| ("alerts.yml".to_owned(), name)));
    let began = Instant::now();
    let mut complaints: BTreeMap<(String, String), String> = BTreeMap::new();
    for round in 0.. {
        runtime.block_on(load(&client, &target, round));
        complaints = asked.iter().filter_map(|q| Some((q.clone(), prometheus.complaint(&q.1)?))).collect();
        if complaints.is_empty() || began.elapsed() > LIMIT {
            break;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    let list: Vec<String> = complaints.iter().map(|((panel, query), what)| format!("{panel}: {what}: {query}")).collect();
    assert!(list.is_empty(), "{} of {} queries after {:?}:\n{}", list.len(), asked.len(), began.elapsed(), list.join("\n"));

    let rules = prometheus.api("rules").unwrap();
    let all: Vec<&Value> = rules["groups"].as_array().unwrap().iter().flat_map(|g| g["rules"].as_array().unwrap()).collect();
    assert!(all.iter().any(|r| r["type"] == "alerting"));
    for rule in &all {
        assert_eq!(rule["health"], "ok", "{} {}", rule["name"], rule["lastError"]);
        assert_ne!(rule["state"], "firing", "{} fires on a healthy server", rule["name"]);
    }
}
