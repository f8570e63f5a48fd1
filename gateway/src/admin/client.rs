//! `breakwater admin`: asks the running server, prints what it says.

use super::arguments::{
    AdminArgs, AdminCommand, AuditCommand, ChunkCommand, CollectionCommand, DiskCommand, FleetCommand, KeyCommand, MetadataCommand,
    RebalanceCommand, TenantCommand,
};
use crate::boot::{admin_token_file, ops_address_file};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

/// The collector and fsck may take long; nothing else does.
const ANSWER_TIME: Duration = Duration::from_secs(24 * 3600);

/// Why the server could not be asked, or what it refused.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("no server's files are in the data folder. path=`{path}`, reason=`{reason}`. Name the running server's folder with --data.")]
    NoServer { path: PathBuf, reason: String },
    #[error("the server does not answer. address=`{address}`, reason=`{reason}`. Is it running?")]
    Silent { address: String, reason: String },
    #[error("{0}")]
    Refused(String),
}

/// Runs one admin command. 0: done; 1: not, or what was checked is not clean.
pub fn run(arguments: AdminArgs) -> ExitCode {
    if let AdminCommand::Audit { command: Some(AuditCommand::Verify { file }), .. } = &arguments.command {
        return audited(super::audit::verify(file, arguments.json));
    }
    let data = arguments.data.clone().unwrap_or_else(|| PathBuf::from("./breakwater-data"));
    // What is done here and not by a server.
    if let AdminCommand::Metadata { command } = &arguments.command {
        match command {
            MetadataCommand::Restore { file, metadata } => return crate::serve::restore::run(&data, file, metadata.as_deref()),
            MetadataCommand::Papers { out } => return crate::serve::papers::run(&data, out),
            _ => {}
        }
    }
    let (method, path, body) = match request(&arguments.command) {
        Ok(request) => request,
        Err(error) => return failed(&error),
    };
    let answer = match ask(&data, method, &path, body.as_ref()) {
        Ok(answer) => answer,
        Err(error) => return failed(&error),
    };
    if let AdminCommand::Audit { run, .. } = &arguments.command {
        return audited(super::audit::keep(run, &answer, arguments.json));
    }
    if let Some(told) = super::recovery::keep(&arguments.command, &answer).or_else(|| super::admission::keep(&arguments.command, &answer)) {
        return kept(told);
    }
    let text = if arguments.json { answer.to_string() } else { show(&arguments.command, &answer) };
    // Whoever reads this may have stopped reading (`| head`): that is no failure of what was done.
    let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
    match (&arguments.command, answer.get("clean").and_then(Value::as_bool)) {
        (AdminCommand::Fsck { .. }, Some(false)) => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

/// 0: what the answer carried is where it was to go.
fn kept(told: Result<String, String>) -> ExitCode {
    match told {
        Ok(text) => {
            let _ = if text.is_empty() { Ok(()) } else { writeln!(std::io::stdout(), "{text}") };
            ExitCode::SUCCESS
        }
        Err(error) => failed(&AskError::Refused(error)),
    }
}

fn failed(error: &AskError) -> ExitCode {
    eprintln!("breakwater: {error}");
    ExitCode::FAILURE
}

/// 0: every slice was proven or is open; 1: not, or the transcript does not hold.
fn audited(told: super::audit::Told) -> ExitCode {
    match told {
        Ok((text, clean)) => {
            let _ = writeln!(std::io::stdout(), "{}", text.trim_end());
            if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => failed(&AskError::Refused(error)),
    }
}

type Request = (&'static str, String, Option<Value>);

fn request(command: &AdminCommand) -> Result<Request, AskError> {
    let post = |path: &str, body: Value| ("POST", path.to_string(), Some(body));
    let get = |path: &str| ("GET", path.to_string(), None);
    Ok(match command {
        AdminCommand::Tenant { command: TenantCommand::Create { name } } => post("tenants", json!({ "name": name })),
        AdminCommand::Tenant { command: TenantCommand::List } => get("tenants"),
        AdminCommand::Tenant { command: TenantCommand::Revoke { name } } => post("tenants/revoke", json!({ "name": name })),
        AdminCommand::Key { command: KeyCommand::Create { tenant } } => post("keys", json!({ "tenant": tenant })),
        AdminCommand::Key { command: KeyCommand::List { tenant: None } } => get("keys"),
        AdminCommand::Key { command: KeyCommand::List { tenant: Some(tenant) } } => get(&format!("keys?tenant={}", percent(tenant))),
        AdminCommand::Key { command: KeyCommand::Revoke { access_key } } => post("keys/revoke", json!({ "access_key": access_key })),
        AdminCommand::Disk { command: DiskCommand::Adopt { dir } } => post("disks/adopt", json!({ "dir": absolute(dir)? })),
        AdminCommand::Fleet { command: FleetCommand::Admit { file, days, .. } } => {
            let request = super::admission::read(file).map_err(AskError::Refused)?;
            post("fleet/admit", json!({ "request": request, "days": days }))
        }
        AdminCommand::Fleet { command } => fleet_request(command),
        AdminCommand::Export { .. } => post("export", json!({})),
        AdminCommand::Chunk { command: ChunkCommand::Get { chunk, .. } } => post("chunks/get", json!({ "chunk": chunk })),
        AdminCommand::Chunk { command: ChunkCommand::List { after: None } } => get("chunks"),
        AdminCommand::Chunk { command: ChunkCommand::List { after: Some(after) } } => get(&format!("chunks?after={}", percent(after))),
        AdminCommand::Collection { command: CollectionCommand::Status } => get("collection"),
        AdminCommand::Collection { command: CollectionCommand::Hold } => post("collection", json!({ "held": true })),
        AdminCommand::Collection { command: CollectionCommand::Release { force } } => {
            post("collection", json!({ "held": false, "force": force }))
        }
        AdminCommand::Metadata { command } => metadata_request(command)?,
        AdminCommand::Collect { sweep } => post("collect", json!({ "sweep": sweep })),
        AdminCommand::Audit { run, command: None } => post("audit", json!({ "node": run.node, "count": run.count })),
        AdminCommand::Audit { command: Some(AuditCommand::Verify { file }), .. } => {
            return Err(AskError::Refused(format!("{} is checked here, not by a server", file.display())));
        }
        AdminCommand::Repair => post("repair", json!({})),
        AdminCommand::Status => get("status"),
        AdminCommand::Fsck { deep } => post("fsck", json!({ "deep": deep })),
    })
}

fn fleet_request(command: &FleetCommand) -> Request {
    let post = |path: &str, body: Value| ("POST", format!("fleet/{path}"), Some(body));
    match command {
        FleetCommand::Init => post("init", json!({})),
        FleetCommand::Invite { uses, hours, address } => post("invite", json!({ "uses": uses, "hours": hours, "address": address })),
        FleetCommand::Reindex => post("reindex", json!({})),
        // Its request has a file's content in it: `request`.
        FleetCommand::Admit { days, .. } => post("admit", json!({ "days": days })),
        FleetCommand::Suspend { node, reason } => post("suspend", json!({ "node": node, "reason": reason })),
        FleetCommand::Resume { node } => post("resume", json!({ "node": node })),
        FleetCommand::Drain { node } => post("drain", json!({ "node": node })),
        FleetCommand::Rebalance { command: RebalanceCommand::Status } => ("GET", "fleet/rebalance".to_string(), None),
        FleetCommand::Rebalance { command } => post("rebalance", json!({ "starts": *command == RebalanceCommand::Start })),
        FleetCommand::Retire { node } => post("retire", json!({ "node": node })),
        FleetCommand::Status { placed } => ("GET", format!("fleet/status?placed={placed}"), None),
    }
}

fn metadata_request(command: &MetadataCommand) -> Result<Request, AskError> {
    let post = |path: &str, body: Value| ("POST", format!("metadata/{path}"), Some(body));
    Ok(match command {
        MetadataCommand::Status => ("GET", "metadata/status".to_string(), None),
        MetadataCommand::Invite { hours, address } => post("invite", json!({ "hours": hours, "address": address })),
        MetadataCommand::Remove { node } => post("remove", json!({ "node": node })),
        MetadataCommand::Map => ("GET", "metadata/map".to_string(), None),
        MetadataCommand::Split { at, chunk } => post("split", json!({ "at": at, "chunk": chunk })),
        MetadataCommand::Merge { group, chunks } => post("merge", json!({ "group": group, "chunks": chunks })),
        MetadataCommand::Move { group, node } => post("move", json!({ "group": group, "node": node })),
        MetadataCommand::GiveUp { number } => post("give-up", json!({ "move": number })),
        MetadataCommand::Snapshot { out: None } => post("snapshot", json!({})),
        MetadataCommand::Snapshot { out: Some(out) } => post("snapshot", json!({ "out": absolute(out)? })),
        MetadataCommand::Fetch { out: None, .. } => post("fetch", json!({})),
        MetadataCommand::Fetch { out: Some(out), copy } => post("fetch", json!({ "out": absolute(out)?, "copy": copy })),
        MetadataCommand::Reconcile => post("reconcile", json!({})),
        MetadataCommand::Restore { file, .. } | MetadataCommand::Papers { out: file } => {
            return Err(AskError::Refused(format!("{} is no server's to read or write", file.display())));
        }
    })
}

fn absolute(path: &Path) -> Result<PathBuf, AskError> {
    std::path::absolute(path).map_err(|error| AskError::Refused(error.to_string()))
}

fn percent(text: &str) -> String {
    text.bytes().map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

fn ask(data: &Path, method: &str, path: &str, body: Option<&Value>) -> Result<Value, AskError> {
    let token = read(admin_token_file(data))?;
    let address = read(ops_address_file(data))?;
    let silent = |reason: String| AskError::Silent { address: address.clone(), reason };
    let socket: SocketAddr = reachable(address.parse().map_err(|error| silent(format!("{error}")))?);
    let mut stream = TcpStream::connect_timeout(&socket, Duration::from_secs(5)).map_err(|error| silent(error.to_string()))?;
    stream.set_read_timeout(Some(ANSWER_TIME)).map_err(|error| silent(error.to_string()))?;
    let body = body.map(Value::to_string).unwrap_or_default();
    let head = format!(
        "{method} /admin/{path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let mut answer = Vec::new();
    stream.write_all(format!("{head}{body}").as_bytes()).map_err(|error| silent(error.to_string()))?;
    stream.read_to_end(&mut answer).map_err(|error| silent(error.to_string()))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| silent("it closed the connection".into()))?;
    let value: Value = serde_json::from_str(body).map_err(|error| silent(format!("its answer is not JSON: {error}")))?;
    match (head.split_whitespace().nth(1), value.get("error").and_then(Value::as_str)) {
        (Some("200"), _) => Ok(value),
        (_, Some(error)) => Err(AskError::Refused(error.to_string())),
        _ => Err(AskError::Refused(body.to_string())),
    }
}

/// An address that listens everywhere is reached at home.
fn reachable(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => SocketAddr::from(([127, 0, 0, 1], v4.port())),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, v6.port())),
        other => other,
    }
}

fn read(path: PathBuf) -> Result<String, AskError> {
    std::fs::read_to_string(&path)
        .map(|text| text.trim().to_string())
        .map_err(|error| AskError::NoServer { path, reason: error.to_string() })
}

fn show(command: &AdminCommand, answer: &Value) -> String {
    let text = |value: &Value, field: &str| match &value[field] {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let revoked = |value: &Value| if value["revoked"] == true { "revoked" } else { "" };
    match command {
        AdminCommand::Tenant { command: TenantCommand::Create { .. } } => {
            format!("tenant {} (id {})", text(answer, "name"), text(answer, "id"))
        }
        AdminCommand::Tenant { command: TenantCommand::List } => {
            lines(answer, |tenant| format!("{:<32} {:>20} {}", text(tenant, "name"), text(tenant, "id"), revoked(tenant)))
        }
        AdminCommand::Tenant { command: TenantCommand::Revoke { .. } } => format!("tenant {} is revoked", text(answer, "name")),
        AdminCommand::Key { command: KeyCommand::Create { .. } } => {
            format!("access key  {}\nsecret key  {}   (shown this once)", text(answer, "access_key"), text(answer, "secret_key"))
        }
        AdminCommand::Key { command: KeyCommand::List { .. } } => {
            lines(answer, |key| format!("{:<32} {:<32} {}", text(key, "access_key"), text(key, "tenant"), revoked(key)))
        }
        AdminCommand::Key { command: KeyCommand::Revoke { .. } } => format!("access key {} is revoked", text(answer, "access_key")),
        AdminCommand::Disk { .. } => text(answer, "adopted"),
        AdminCommand::Fleet { command } => show_fleet(command, answer),
        AdminCommand::Chunk { .. } | AdminCommand::Collection { .. } => super::recovery::show(command, answer),
        AdminCommand::Metadata { command } => show_metadata(command, answer),
        AdminCommand::Audit { .. }
        | AdminCommand::Export { .. }
        | AdminCommand::Collect { .. }
        | AdminCommand::Repair
        | AdminCommand::Status
        | AdminCommand::Fsck { .. } => serde_json::to_string_pretty(answer).unwrap_or_default(),
    }
}

fn show_metadata(command: &MetadataCommand, answer: &Value) -> String {
    let text = |value: &Value, field: &str| value[field].as_str().map_or_else(|| value[field].to_string(), str::to_string);
    match command {
        MetadataCommand::Invite { hours, .. } => {
            format!("{}\n(for one metadata node, within {hours} hours; shown this once)", text(answer, "token"))
        }
        MetadataCommand::Remove { .. } => format!("metadata node {} is removed", text(answer, "node")),
        MetadataCommand::Map => super::map_text::text(answer),
        MetadataCommand::Split { .. } | MetadataCommand::Merge { .. } => {
            format!("move {} is begun; `breakwater admin metadata map` shows how far it is", text(answer, "move"))
        }
        MetadataCommand::Move { .. } => format!("group {} is led by {}", text(answer, "group"), text(answer, "leader")),
        MetadataCommand::GiveUp { .. } => format!("move {} is to be given up, if there still is a way back", text(answer, "move")),
        MetadataCommand::Fetch { out: None, .. } => super::recovery::show_copies(answer),
        MetadataCommand::Snapshot { .. } | MetadataCommand::Fetch { .. } => {
            let to = answer["out"].as_str().map_or_else(|| "the store".to_string(), str::to_string);
            format!("{} rows, {} bytes are in {to}, as of {} ms", answer["rows"], answer["bytes"], answer["made_ms"])
        }
        MetadataCommand::Reconcile => super::recovery::show_reconciled(answer),
        MetadataCommand::Status | MetadataCommand::Restore { .. } | MetadataCommand::Papers { .. } => {
            super::cluster_text::text(answer, crate::core::now().0)
        }
    }
}

fn show_fleet(command: &FleetCommand, answer: &Value) -> String {
    let text = |value: &Value, field: &str| value[field].as_str().map_or_else(|| value[field].to_string(), str::to_string);
    match command {
        FleetCommand::Init => format!(
            "fleet {}\nCA's certificate, SHA-256: {}\nIts key is in {}. Keep a copy of it and of the root key: without them no node is ever admitted or renewed.",
            text(answer, "fleet"),
            text(answer, "fingerprint"),
            text(answer, "key_file"),
        ),
        FleetCommand::Invite { uses, hours, .. } => {
            format!("{}\n(for {uses} machines, within {hours} hours; shown this once)", text(answer, "token"))
        }
        FleetCommand::Reindex => super::recovery::show_reindexed(answer),
        FleetCommand::Admit { .. } => format!("nodes admitted: {}", answer["nodes"]),
        FleetCommand::Rebalance { .. } => super::status::rebalance_text(answer),
        FleetCommand::Drain { .. } | FleetCommand::Suspend { .. } | FleetCommand::Resume { .. } | FleetCommand::Retire { .. } => {
            format!("node {} is {}", text(answer, "node"), text(answer, "state"))
        }
        FleetCommand::Status { .. } => super::status::text(answer),
    }
}

fn lines(answer: &Value, line: impl Fn(&Value) -> String) -> String {
    answer.as_array().map_or_else(String::new, |all| all.iter().map(|one| line(one).trim_end().to_string()).collect::<Vec<_>>().join("\n"))
}
