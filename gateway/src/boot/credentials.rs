//! Root credentials: where they come from, and that metadata knows them.
//!
//! The environment wins over the file; the file is made where neither is. Invariants: the secret is kept in the clear only in the
//! 0600 file (never where the environment gave it) and wrapped in metadata; when the environment names another access key than before,
//! the one before is revoked.

use super::{BootError, Home, random_text, read_text, write_whole};
use crate::keys::Keys;
use serde::Deserialize;
use spine::id::{TenantId, UnixMs};
use spine::wire::root::{KeyRecord, RootAnswer, RootCommand, RootQuery, TenantRecord};
use spine::wire::{Answer, Batch, Chain, Command, Metadata, Query, Refusal, Reply};
use std::path::PathBuf;
use std::sync::Arc;

pub const ACCESS_VARIABLE: &str = "BREAKWATER_ROOT_ACCESS_KEY";
pub const SECRET_VARIABLE: &str = "BREAKWATER_ROOT_SECRET_KEY";
/// The tenant that root credentials belong to.
pub const ROOT_TENANT: &str = "root";

/// Where root credentials came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    Environment,
    /// Made just now and kept in this file.
    Made(PathBuf),
    /// Made by an earlier start.
    File(PathBuf),
}

/// An access key and its secret. Not `Debug`: it would print the secret.
pub struct RootCredentials {
    pub access_key: String,
    pub secret_key: String,
    pub origin: Origin,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    access_key: String,
    secret_key: String,
}

impl RootCredentials {
    /// From the environment, else from the file, else made.
    ///
    /// - `variable`: reads the environment.
    pub fn find(home: &Home, variable: impl Fn(&'static str) -> Option<String>) -> Result<RootCredentials, BootError> {
        match (variable(ACCESS_VARIABLE), variable(SECRET_VARIABLE)) {
            (Some(access_key), Some(secret_key)) => {
                check_access_key(&access_key).map_err(|reason| BootError::Environment { variable: ACCESS_VARIABLE, reason })?;
                check_secret_key(&secret_key).map_err(|reason| BootError::Environment { variable: SECRET_VARIABLE, reason })?;
                Ok(RootCredentials { access_key, secret_key, origin: Origin::Environment })
            }
            (None, None) => Self::from_file(home),
            (Some(_), None) => Err(BootError::Environment {
                variable: SECRET_VARIABLE,
                reason: format!("It is not set, and {ACCESS_VARIABLE} is: set both or neither."),
            }),
            (None, Some(_)) => Err(BootError::Environment {
                variable: ACCESS_VARIABLE,
                reason: format!("It is not set, and {SECRET_VARIABLE} is: set both or neither."),
            }),
        }
    }

    fn from_file(home: &Home) -> Result<RootCredentials, BootError> {
        let path = home.dir().join("root-credentials");
        if let Some(text) = read_text(&path)? {
            // Not the parser's own words: they quote the line.
            let kept: Kept = toml::from_str(&text).map_err(|_| BootError::Content {
                path: path.clone(),
                reason: "expected access_key = \"...\" and secret_key = \"...\"".into(),
            })?;
            return Ok(RootCredentials { access_key: kept.access_key, secret_key: kept.secret_key, origin: Origin::File(path) });
        }
        let access_key = format!("BW{}", random_text(18)?.to_ascii_uppercase());
        let secret_key = random_text(40)?;
        write_whole(&path, &format!("access_key = \"{access_key}\"\nsecret_key = \"{secret_key}\""), 0o600)?;
        Ok(RootCredentials { access_key, secret_key, origin: Origin::Made(path) })
    }

    /// Makes metadata know these credentials as the root tenant's. True if that was new to it. Gateways that start at once may each find
    /// that another was faster; then what that one made is there at the next look.
    pub async fn settle(&self, home: &Home, metadata: &Arc<dyn Metadata>, keys: &Keys, now: UnixMs) -> Result<bool, BootError> {
        match self.settle_once(home, metadata, keys, now).await {
            Err(BootError::Refused { .. }) => self.settle_once(home, metadata, keys, now).await,
            settled => settled,
        }
    }

    async fn settle_once(&self, home: &Home, metadata: &Arc<dyn Metadata>, keys: &Keys, now: UnixMs) -> Result<bool, BootError> {
        let tenant = root_tenant(metadata, keys, now).await?;
        let known = match root_query(metadata, RootQuery::Key(self.access_key.clone())).await? {
            RootAnswer::Key(known) => known,
            _ => return Err(refused("a key's look-up")),
        };
        let same = match &known {
            Some(record) if record.tenant != tenant => {
                return Err(BootError::Refused { what: format!("the root access key {} is another tenant's", self.access_key) });
            }
            // A key that was made here and revoked since stays revoked; one that the environment demands comes back.
            Some(record) if record.revoked => self.origin != Origin::Environment,
            Some(record) => keys.unwrap_secret(&self.access_key, &record.secret)? == self.secret_key.as_bytes(),
            None => false,
        };
        if !same {
            let secret = keys.wrap_secret(&self.access_key, self.secret_key.as_bytes())?;
            let record = KeyRecord { access_key: self.access_key.clone(), tenant, secret, created: now, revoked: false };
            let command = if known.is_some() { RootCommand::ReplaceKey(record) } else { RootCommand::CreateKey(record) };
            root_command(metadata, command).await?;
        }
        self.revoke_the_one_before(home, metadata).await?;
        Ok(!same)
    }

    async fn revoke_the_one_before(&self, home: &Home, metadata: &Arc<dyn Metadata>) -> Result<(), BootError> {
        if self.origin != Origin::Environment {
            return Ok(());
        }
        let path = home.dir().join("root-access-key");
        match read_text(&path)? {
            Some(before) if before == self.access_key => return Ok(()),
            Some(before) => match root_command(metadata, RootCommand::RevokeKey { access_key: before }).await {
                Ok(()) => {}
                Err(BootError::Refused { .. }) => {}
                Err(error) => return Err(error),
            },
            None => {}
        }
        write_whole(&path, &self.access_key, 0o600)
    }
}

/// The root tenant, made on the first start.
async fn root_tenant(metadata: &Arc<dyn Metadata>, keys: &Keys, now: UnixMs) -> Result<TenantId, BootError> {
    match root_query(metadata, RootQuery::TenantByName(ROOT_TENANT.into())).await? {
        RootAnswer::Tenant(Some(record)) => Ok(record.id),
        RootAnswer::Tenant(None) => {
            let record = new_tenant(ROOT_TENANT, keys, now)?;
            let id = record.id;
            root_command(metadata, RootCommand::CreateTenant(record)).await?;
            Ok(id)
        }
        _ => Err(refused("a tenant's look-up")),
    }
}

/// A tenant with a random id and a secret of its own.
pub fn new_tenant(name: &str, keys: &Keys, now: UnixMs) -> Result<TenantRecord, BootError> {
    let mut id = [0; 8];
    getrandom::fill(&mut id).map_err(|error| crate::keys::KeyError::Random { reason: error.to_string() })?;
    // Never 0, so that an id left out is no tenant's.
    let id = TenantId(u64::from_le_bytes(id).max(1));
    Ok(TenantRecord { id, name: name.to_string(), secrets: vec![keys.new_tenant_secret(id)?], created: now, revoked: false })
}

/// An access key id as S3 has them: 3 to 128 letters, digits, `-`, `_`, `.`.
pub fn check_access_key(access_key: &str) -> Result<(), String> {
    let holds = (3..=128).contains(&access_key.len()) && access_key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if holds { Ok(()) } else { Err("An access key has 3 to 128 letters, digits, hyphens, underscores and dots.".into()) }
}

fn check_secret_key(secret_key: &str) -> Result<(), String> {
    let holds = (8..=128).contains(&secret_key.len()) && secret_key.bytes().all(|b| b.is_ascii_graphic());
    if holds { Ok(()) } else { Err("A secret key has 8 to 128 printable ASCII characters and no space.".into()) }
}

/// Asks the root group.
pub async fn root_query(metadata: &Arc<dyn Metadata>, query: RootQuery) -> Result<RootAnswer, BootError> {
    match metadata.query(Query::Root(query)).await? {
        Answer::Root(answer) => Ok(answer),
        _ => Err(refused("a question to the root group")),
    }
}

/// Tells the root group.
///
/// # Errors
/// [`BootError::Refused`] with the refusal's words.
pub async fn root_command(metadata: &Arc<dyn Metadata>, command: RootCommand) -> Result<(), BootError> {
    let batch = Batch { chain: Chain::Stop, commands: vec![Command::Root(command)] };
    match metadata.propose(batch).await?.pop() {
        Some(Reply::Done) => Ok(()),
        Some(Reply::Refused(refusal)) => Err(BootError::Refused { what: Refusal::to_string(&refusal) }),
        _ => Err(refused("a command to the root group")),
    }
}

fn refused(what: &str) -> BootError {
    BootError::Refused { what: format!("{what} was answered with something else") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &'static [(&'static str, &'static str)]) -> impl Fn(&'static str) -> Option<String> {
        move |name| pairs.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string())
    }

    #[test]
    fn credentials_are_made_once_and_found_again() {
        let place = tempfile::tempdir().unwrap();
        let home = Home::open(place.path()).unwrap();
        let first = RootCredentials::find(&home, environment(&[])).unwrap();
        let second = RootCredentials::find(&home, environment(&[])).unwrap();
        assert!(matches!(first.origin, Origin::Made(_)));
        assert!(matches!(second.origin, Origin::File(_)));
        assert_eq!((first.access_key, first.secret_key), (second.access_key, second.secret_key));
    }

    #[test]
    fn the_environment_wins_and_is_not_written_down() {
        let place = tempfile::tempdir().unwrap();
        let home = Home::open(place.path()).unwrap();
        let found =
            RootCredentials::find(&home, environment(&[(ACCESS_VARIABLE, "OPERATOR"), (SECRET_VARIABLE, "a-long-secret")])).unwrap();
        assert_eq!(found.access_key, "OPERATOR");
        assert!(!place.path().join("root-credentials").exists());
    }

    #[test]
    fn half_of_the_environment_and_unusable_names_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let home = Home::open(place.path()).unwrap();
        let find = |pairs| RootCredentials::find(&home, environment(pairs)).err().map(|error| error.to_string());
        assert!(find(&[(ACCESS_VARIABLE, "OPERATOR")]).unwrap().contains(SECRET_VARIABLE));
        assert!(find(&[(ACCESS_VARIABLE, "a/b"), (SECRET_VARIABLE, "a-long-secret")]).is_some());
        assert!(find(&[(ACCESS_VARIABLE, "OPERATOR"), (SECRET_VARIABLE, "short")]).is_some());
    }
}
