//! Who is asking: access keys looked up in metadata, remembered for a moment.
//!
//! Invariants: a revoked key or tenant is refused at once in the process that revoked it, and within [`REMEMBERED`] elsewhere;
//! a key that cannot be looked up is a transient fault, never a refusal; secrets are never logged.

use crate::front::observe::Notes;
use crate::keys::{KeyError, Keys};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Result, s3_error};
use spine::id::TenantId;
use spine::wire::root::{KeyRecord, RootAnswer, RootQuery};
use spine::wire::{Answer, Metadata, MetadataError, Query};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a looked-up key is believed without asking again.
pub const REMEMBERED: Duration = Duration::from_secs(5);
/// Keys remembered at a time; the table is emptied when it is full.
const REMEMBERED_KEYS: usize = 4_096;
/// Longest access key id that is worth a look-up.
const ACCESS_KEY_BYTES: usize = 128;

/// Who sent a request whose signature holds. The operations find it in the request's extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    pub access_key: String,
    pub tenant: TenantId,
}

/// A key that may be used, with its secret.
#[derive(Clone)]
struct Known {
    tenant: TenantId,
    secret: SecretKey,
    looked_up: Instant,
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// Unknown or revoked, or its tenant is. To the client these are the same.
    #[error("no such access key, or it is revoked")]
    Refused,
    #[error("{0}")]
    Metadata(#[from] MetadataError),
    /// The stored secret does not open: another root key, or damage.
    #[error("{0}")]
    Key(#[from] KeyError),
    #[error("metadata gave an answer to another question")]
    WrongAnswer,
}

/// Looks access keys up.
pub struct KeyRing {
    metadata: Arc<dyn Metadata>,
    keys: Arc<Keys>,
    known: Mutex<Remembered>,
}

#[derive(Default)]
struct Remembered {
    keys: HashMap<String, Known>,
    /// Counts [`KeyRing::forget`]: what was looked up before one is not remembered after it.
    forgotten: u64,
}

impl KeyRing {
    pub fn new(metadata: Arc<dyn Metadata>, keys: Arc<Keys>) -> Arc<KeyRing> {
        Arc::new(KeyRing { metadata, keys, known: Mutex::default() })
    }

    /// Forgets what is remembered: after a revocation in this process.
    pub fn forget(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.keys.clear();
        known.forgotten += 1;
    }

    /// Who the holder of `access_key` is, its signature having held.
    ///
    /// # Errors
    /// As S3 words them: the key is unknown or revoked, or cannot be looked up.
    pub async fn caller(&self, access_key: &str) -> S3Result<Caller> {
        let known = self.find(access_key).await.map_err(refusal)?;
        Ok(Caller { access_key: access_key.to_string(), tenant: known.tenant })
    }

    async fn find(&self, access_key: &str) -> Result<Known, LookupError> {
        let forgotten = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            match known.keys.get(access_key) {
                Some(key) if key.looked_up.elapsed() < REMEMBERED => return Ok(key.clone()),
                _ => known.forgotten,
            }
        };
        if access_key.is_empty() || access_key.len() > ACCESS_KEY_BYTES {
            return Err(LookupError::Refused);
        }
        let looked_up = Instant::now();
        let record = self.key(access_key).await?.filter(|record| !record.revoked).ok_or(LookupError::Refused)?;
        if self.tenant_revoked(record.tenant).await? {
            return Err(LookupError::Refused);
        }
        let secret = self.keys.unwrap_secret(access_key, &record.secret)?;
        let secret = String::from_utf8(secret).map_err(|_| KeyError::Unwrap { owner: access_key.to_string() })?;
        let known = Known { tenant: record.tenant, secret: SecretKey::from(secret), looked_up };
        let mut all = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if all.keys.len() >= REMEMBERED_KEYS {
            all.keys.clear();
        }
        if all.forgotten == forgotten {
            all.keys.insert(access_key.to_string(), known.clone());
        }
        Ok(known)
    }

    async fn key(&self, access_key: &str) -> Result<Option<KeyRecord>, LookupError> {
        match self.metadata.query(Query::Root(RootQuery::Key(access_key.to_string()))).await? {
            Answer::Root(RootAnswer::Key(record)) => Ok(record),
            _ => Err(LookupError::WrongAnswer),
        }
    }

    async fn tenant_revoked(&self, tenant: TenantId) -> Result<bool, LookupError> {
        match self.metadata.query(Query::Root(RootQuery::Tenant(tenant))).await? {
            Answer::Root(RootAnswer::Tenant(record)) => Ok(record.is_none_or(|record| record.revoked)),
            _ => Err(LookupError::WrongAnswer),
        }
    }
}

/// What s3s asks about keys.
pub struct Authenticator(pub Arc<KeyRing>);

#[async_trait::async_trait]
impl S3Auth for Authenticator {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        self.0.find(access_key).await.map(|known| known.secret).map_err(refusal)
    }
}

/// What s3s asks before it runs an operation. Notes the operation's name for the metrics.
pub struct Gate(pub Arc<KeyRing>);

#[async_trait::async_trait]
impl S3Access for Gate {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let Some(access_key) = cx.credentials().map(|credentials| credentials.access_key.clone()) else {
            return Err(s3_error!(AccessDenied, "Access Denied"));
        };
        let operation = cx.s3_op().name().to_string();
        let bucket = cx.s3_path().get_bucket_name().map(str::to_string);
        if let Some(notes) = cx.extensions_mut().get::<Arc<Notes>>() {
            notes.resolved(operation, bucket);
        }
        let caller = self.0.caller(&access_key).await?;
        cx.extensions_mut().insert(caller);
        Ok(())
    }
}

fn refusal(error: LookupError) -> s3s::S3Error {
    match error {
        LookupError::Refused => s3_error!(InvalidAccessKeyId, "The AWS Access Key Id you provided does not exist in our records."),
        LookupError::Metadata(_) => s3_error!(ServiceUnavailable, "Access keys cannot be looked up at the moment. Please try again."),
        LookupError::Key(_) | LookupError::WrongAnswer => {
            tracing::error!(%error, "an access key cannot be used");
            s3_error!(InternalError, "The access key cannot be used.")
        }
    }
}
