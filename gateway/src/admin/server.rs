//! `/admin/*` of the operations listener.
//!
//! ```text
//! GET  tenants                          POST tenants {name}        POST tenants/revoke {name}
//! GET  keys[?tenant=NAME]               POST keys {tenant}         POST keys/revoke {access_key}
//! GET  status      POST collect {sweep}   POST repair   POST fsck {deep}   POST disks/adopt {dir}
//! POST audit {node?, count}             see audit.rs
//! *    export, chunks, collection       see recovery.rs
//! *    fleet/...                        see fleet.rs
//! *    metadata/...                     see metadata.rs
//! ```
//! Invariants: no answer has a secret in it but the one that made it; every request needs the token, compared in constant time.

use super::recovery;
use crate::boot::BootError;
use crate::boot::credentials::{new_tenant, root_command, root_query};
use crate::boot::random_text;
use crate::front::query::Query;
use crate::ops::answer::{failure, json};
use crate::ops::operator::Operator;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json as value};
use spine::wire::chunk::{ChunkAnswer, ChunkQuery, Totals};
use spine::wire::root::{KeyRecord, RootAnswer, RootCommand, RootQuery, TenantRecord};
use spine::wire::{Answer, MetadataError, Query as MetadataQuery};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Largest request.
const REQUEST_BYTES: usize = 64 << 10;
/// How long it may take to arrive.
const REQUEST_TIME: Duration = Duration::from_secs(60);

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("{0}")]
    Wrong(String),
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Failed(String),
}

impl From<BootError> for Refused {
    fn from(error: BootError) -> Self {
        match error {
            BootError::Refused { what } => Refused::Wrong(what),
            other => Refused::Failed(other.to_string()),
        }
    }
}

impl From<MetadataError> for Refused {
    fn from(error: MetadataError) -> Self {
        Refused::Failed(error.to_string())
    }
}

/// Answers one request under `/admin/`.
pub async fn handle(operator: Arc<Operator>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    if !has_token(&operator.token, &request) {
        return failure(StatusCode::UNAUTHORIZED, "the admin token is missing or wrong; it is in the data folder, in admin-token");
    }
    match answer(&operator, request).await {
        Ok(answer) => json(StatusCode::OK, &answer),
        Err(refused) => {
            let status = match refused {
                Refused::Wrong(_) => StatusCode::BAD_REQUEST,
                Refused::NotFound(_) => StatusCode::NOT_FOUND,
                Refused::Failed(_) => StatusCode::SERVICE_UNAVAILABLE,
            };
            failure(status, &refused.to_string())
        }
    }
}

fn has_token(token: &str, request: &Request<Incoming>) -> bool {
    let given = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    given.is_some_and(|given| aws_lc_rs::constant_time::verify_slices_are_equal(given.as_bytes(), token.as_bytes()).is_ok())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForTenant {
    tenant: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForKey {
    access_key: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ForDisk {
    dir: PathBuf,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Collect {
    sweep: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Depth {
    deep: bool,
}

async fn answer(operator: &Operator, request: Request<Incoming>) -> Result<Value, Refused> {
    let method = request.method().clone();
    let path = request.uri().path().trim_start_matches("/admin/").to_string();
    let query = Query::parse(request.uri().query()).map_err(|fault| Refused::Wrong(fault.to_string()))?;
    let body = tokio::time::timeout(REQUEST_TIME, Limited::new(request.into_body(), REQUEST_BYTES).collect()).await;
    let body = body.map_err(|_| Refused::Wrong("the request's body did not come in time".into()))?;
    let body = body.map_err(|error| Refused::Wrong(error.to_string()))?.to_bytes();
    match (method, path.as_str()) {
        (Method::GET, "tenants") => tenants(operator).await,
        (Method::POST, "tenants") => create_tenant(operator, parse::<Named>(&body)?.name).await,
        (Method::POST, "tenants/revoke") => revoke_tenant(operator, parse::<Named>(&body)?.name).await,
        (Method::GET, "keys") => keys(operator, query.get("tenant")).await,
        (Method::POST, "keys") => create_key(operator, parse::<ForTenant>(&body)?.tenant).await,
        (Method::POST, "keys/revoke") => revoke_key(operator, parse::<ForKey>(&body)?.access_key).await,
        (Method::GET, "status") => status(operator).await,
        (Method::POST, "collect") => collect(operator, parse::<Collect>(&body)?.sweep).await,
        (Method::POST, "repair") => {
            let done = operator.path.repair_now().await.map_err(|error| Refused::Failed(error.to_string()))?;
            Ok(value!({ "shards_delivered": done.shards, "shards_waiting": done.waiting }))
        }
        (Method::POST, "audit") => super::audit::answer(operator, &body).await,
        (Method::POST, "export") => recovery::export(operator).await,
        (Method::GET, "chunks") => recovery::chunks(operator, query.get("after")).await,
        (Method::POST, "chunks/get") => recovery::chunk(operator, &body).await,
        (Method::GET, "collection") => recovery::collection(operator).await,
        (Method::POST, "collection") => recovery::set_collection(operator, &body).await,
        (Method::POST, "fsck") => {
            let depth: Depth = if body.is_empty() { Depth::default() } else { parse(&body)? };
            let report = crate::fsck::run(
                operator.path.metadata(),
                &operator.nodes.links(),
                crate::fsck::Scope { deep: depth.deep, at_rest: false },
            )
            .await;
            serde_json::to_value(report.map_err(|error| Refused::Failed(error.to_string()))?)
                .map_err(|error| Refused::Failed(error.to_string()))
        }
        (Method::POST, "disks/adopt") => {
            let dir = parse::<ForDisk>(&body)?.dir;
            let done = (operator.adopt)(dir).await.map_err(Refused::Wrong)?;
            Ok(value!({ "adopted": done }))
        }
        (method, path) if path.starts_with("fleet/") => super::fleet::answer(operator, method, path, query.get("placed"), &body).await,
        (method, path) if path.starts_with("metadata/") => super::metadata::answer(operator, method, path, &body).await,
        _ => Err(Refused::NotFound(format!("there is no admin request {path}"))),
    }
}

pub(super) fn parse<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, Refused> {
    serde_json::from_slice(body).map_err(|error| Refused::Wrong(error.to_string()))
}

async fn all_tenants(operator: &Operator) -> Result<Vec<TenantRecord>, Refused> {
    match root_query(operator.path.metadata(), RootQuery::Tenants).await? {
        RootAnswer::Tenants(tenants) => Ok(tenants),
        _ => Err(Refused::Failed("metadata gave an answer to another question".into())),
    }
}

async fn tenants(operator: &Operator) -> Result<Value, Refused> {
    Ok(all_tenants(operator).await?.iter().map(show_tenant).collect())
}

fn show_tenant(tenant: &TenantRecord) -> Value {
    value!({ "name": tenant.name, "id": tenant.id.to_string(), "created_ms": tenant.created.0, "revoked": tenant.revoked })
}

async fn create_tenant(operator: &Operator, name: String) -> Result<Value, Refused> {
    let holds = (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !holds {
        return Err(Refused::Wrong("a tenant's name has 1 to 64 letters, digits, hyphens, underscores and dots".into()));
    }
    let tenant = new_tenant(&name, operator.path.keys(), crate::core::now())?;
    root_command(operator.path.metadata(), RootCommand::CreateTenant(tenant.clone())).await?;
    Ok(show_tenant(&tenant))
}

async fn revoke_tenant(operator: &Operator, name: String) -> Result<Value, Refused> {
    root_command(operator.path.metadata(), RootCommand::RevokeTenant { name: name.clone() }).await?;
    operator.ring.forget();
    Ok(value!({ "name": name, "revoked": true }))
}

async fn tenant_named(operator: &Operator, name: &str) -> Result<TenantRecord, Refused> {
    match root_query(operator.path.metadata(), RootQuery::TenantByName(name.to_string())).await? {
        RootAnswer::Tenant(Some(tenant)) => Ok(tenant),
        RootAnswer::Tenant(None) => Err(Refused::Wrong(format!("there is no tenant {name}"))),
        _ => Err(Refused::Failed("metadata gave an answer to another question".into())),
    }
}

async fn keys(operator: &Operator, tenant: Option<&str>) -> Result<Value, Refused> {
    let of = match tenant {
        Some(name) => Some(tenant_named(operator, name).await?.id),
        None => None,
    };
    let names: std::collections::HashMap<_, _> = all_tenants(operator).await?.into_iter().map(|tenant| (tenant.id, tenant.name)).collect();
    let RootAnswer::Keys(keys) = root_query(operator.path.metadata(), RootQuery::Keys(of)).await? else {
        return Err(Refused::Failed("metadata gave an answer to another question".into()));
    };
    let show = |key: &KeyRecord| value!({ "access_key": key.access_key, "tenant": names.get(&key.tenant), "created_ms": key.created.0, "revoked": key.revoked });
    Ok(keys.iter().map(show).collect())
}

async fn create_key(operator: &Operator, tenant: String) -> Result<Value, Refused> {
    let record = tenant_named(operator, &tenant).await?;
    if record.id == crate::snapshot::kept::TENANT {
        return Err(Refused::Wrong("copies of metadata are for no S3 client: `breakwater admin metadata fetch` reads them".into()));
    }
    if record.revoked {
        return Err(Refused::Wrong(format!("the tenant {tenant} is revoked")));
    }
    let access_key = format!("BW{}", random_text(18)?.to_ascii_uppercase());
    let secret_key = random_text(40)?;
    let secret = operator.path.keys().wrap_secret(&access_key, secret_key.as_bytes()).map_err(BootError::from)?;
    let record = KeyRecord { access_key: access_key.clone(), tenant: record.id, secret, created: crate::core::now(), revoked: false };
    root_command(operator.path.metadata(), RootCommand::CreateKey(record)).await?;
    Ok(value!({ "tenant": tenant, "access_key": access_key, "secret_key": secret_key }))
}

async fn revoke_key(operator: &Operator, access_key: String) -> Result<Value, Refused> {
    root_command(operator.path.metadata(), RootCommand::RevokeKey { access_key: access_key.clone() }).await?;
    operator.ring.forget();
    Ok(value!({ "access_key": access_key, "revoked": true }))
}

async fn totals(operator: &Operator) -> Result<Totals, Refused> {
    match operator.path.metadata().query(MetadataQuery::Chunk(ChunkQuery::Totals)).await? {
        Answer::Chunk(ChunkAnswer::Totals(totals)) => Ok(totals),
        _ => Err(Refused::Failed("metadata gave an answer to another question".into())),
    }
}

async fn status(operator: &Operator) -> Result<Value, Refused> {
    let totals = totals(operator).await?;
    let disks: Vec<Value> = operator
        .nodes
        .links()
        .iter()
        .zip(&operator.folders)
        .map(|(node, dir)| {
            let status = node.status();
            value!({
                "dir": dir, "node": node.id().to_string(), "machine": node.machine(), "state": format!("{:?}", status.state),
                "capacity_bytes": status.capacity, "free_bytes": status.free, "shards": status.shards,
                "shard_bytes": status.shard_bytes, "trash_bytes": status.trash_bytes,
            })
        })
        .collect();
    let health = crate::ops::health::look(operator).await;
    Ok(value!({
        "version": env!("CARGO_PKG_VERSION"), "health": health, "disks": disks,
        "chunks": totals.chunks, "references": totals.references, "chunks_owing_shards": totals.owed,
        "plain_bytes": totals.plain_bytes, "sealed_bytes": totals.sealed_bytes,
    }))
}

/// One cycle of the collector, with the configured grace; then the disks give back what is dead.
async fn collect(operator: &Operator, sweep: bool) -> Result<Value, Refused> {
    let failed = |error: crate::body::WriteError| Refused::Failed(error.to_string());
    let done = operator.path.collect_now(operator.grace).await.map_err(failed)?;
    let swept = if sweep { operator.path.sweep_now(false).await.map_err(failed)? } else { Vec::new() };
    (operator.compact)().await;
    let swept: Vec<Value> = swept
        .iter()
        .map(|node| value!({ "node": node.node.to_string(), "shards": node.shards, "orphans": node.orphans, "outcome": format!("{:?}", node.outcome) }))
        .collect();
    Ok(value!({
        "intents_aborted": done.aborted, "versions_released": done.released, "chunks_begun": done.begun,
        "chunks_deleted": done.deleted, "chunks_waiting": done.waiting, "swept": swept,
    }))
}
