//! The root key and what it wraps: tenants' secrets and access keys' secrets.
//!
//! ```text
//! root key (file, 32 bytes) --derive--> wrapping key --AES-256-GCM--> tenant secret, access-key secret (in metadata, wrapped)
//! tenant secret of an epoch --derive--> K_id, K_enc, K_nonce
//! wrapped: | nonce 12 | ciphertext | tag 16 |     AAD: what it is and whose, so that no record can be put in another's place
//! ```
//!
//! Invariants: no key is ever printed, logged or stored unwrapped; a wrapped secret opens only for its owner.
//! Not here: sealing chunks (`seal.rs`), who may use a key (the front end).

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use bytes::Bytes;
use spine::id::{FleetId, KeyEpoch, TenantId};
use spine::wire::root::{TenantRecord, WrappedSecret};
use std::collections::HashMap;
use std::fmt;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

const NONCE: usize = 12;
const WRAP_CONTEXT: &str = "breakwater 2026-11 root key wraps secrets";
const ID_CONTEXT: &str = "breakwater 2026-11 tenant K_id";
const ENC_CONTEXT: &str = "breakwater 2026-11 tenant K_enc";
const NONCE_CONTEXT: &str = "breakwater 2026-11 tenant K_nonce";

const SNAPSHOT_CONTEXT: &str = "breakwater 2026-11 root key seals copies of metadata";

const ESCROW_AAD: &[u8] = b"escrow\0";

/// 32 random bytes that wrap every other secret. Lost: everything is lost. Never logged, never in metadata.
pub struct RootKey([u8; 32]);

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RootKey(..)")
    }
}

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
        random().map(RootKey)
    }

    /// The key in `path` (64 hexadecimal digits), made there with mode 0600 if there is none; the second is true if it was made.
    ///
    /// # Errors
    /// [`KeyError::File`] also where others than the owner may read the file: such a key is not a secret.
    pub fn load_or_create(path: &Path) -> Result<(RootKey, bool), KeyError> {
        let file = |reason: String| KeyError::File { path: path.display().to_string(), reason };
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let mode = std::fs::metadata(path).map_err(|e| file(e.to_string()))?.permissions().mode();
                if mode & 0o077 != 0 {
                    return Err(file(format!("its mode is {:o}, only the owner may have access (chmod 600)", mode & 0o777)));
                }
                let mut key = [0; 32];
                hex::decode_to_slice(text.trim(), &mut key).map_err(|_| file("it does not hold 64 hexadecimal digits".into()))?;
                Ok((RootKey(key), false))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let key = Self::generate()?;
                key.create(path).map_err(|e| file(e.to_string()))?;
                Ok((key, true))
            }
            Err(error) => Err(file(error.to_string())),
        }
    }

    /// The key in 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`KeyError::File`] says `path` for where the text came from.
    pub fn parse(path: &Path, text: &str) -> Result<RootKey, KeyError> {
        let mut key = [0; 32];
        let wrong = |_| KeyError::File { path: path.display().to_string(), reason: "it does not hold 64 hexadecimal digits".into() };
        hex::decode_to_slice(text.trim(), &mut key).map_err(wrong)?;
        Ok(RootKey(key))
    }

    /// The key in clear, for a file that only its owner reads.
    pub(crate) fn reveal(&self) -> String {
        hex::encode(self.0)
    }

    /// Keeps this key in `path`, where there must be none or the same.
    pub fn keep(&self, path: &Path) -> Result<(), KeyError> {
        let file = |reason: String| KeyError::File { path: path.display().to_string(), reason };
        if path.exists() {
            let (known, _) = Self::load_or_create(path)?;
            let same = aws_lc_rs::constant_time::verify_slices_are_equal(&known.0, &self.0).is_ok();
            return if same { Ok(()) } else { Err(file("another root key is there".into())) };
        }
        self.create(path).map_err(|error| file(error.to_string()))
    }

    /// Written beside, synced and then named, so that a crash leaves a whole key or none.
    fn create(&self, path: &Path) -> std::io::Result<()> {
        let beside = path.with_extension("new");
        let mut out = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        out.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        out.write_all(hex::encode(self.0).as_bytes())?;
        out.write_all(b"\n")?;
        out.sync_all()?;
        std::fs::hard_link(&beside, path)?;
        std::fs::remove_file(&beside)?;
        match path.parent().filter(|p| !p.as_os_str().is_empty()) {
            Some(parent) => std::fs::File::open(parent)?.sync_all(),
            None => std::fs::File::open(".")?.sync_all(),
        }
    }
}

/// Keys of one epoch of one tenant.
#[derive(Clone)]
pub struct EpochKeys {
    pub tenant: TenantId,
    pub epoch: KeyEpoch,
    /// Names chunks.
    pub(crate) id: [u8; 32],
    /// Makes chunk keys.
    pub(crate) enc: [u8; 32],
    /// Makes nonces of compressed chunks.
    pub(crate) nonce: [u8; 32],
}

impl fmt::Debug for EpochKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EpochKeys(tenant {}, epoch {})", self.tenant, self.epoch)
    }
}

impl EpochKeys {
    /// From the tenant's secret of that epoch.
    pub(crate) fn derive(tenant: TenantId, epoch: KeyEpoch, secret: &[u8; 32]) -> EpochKeys {
        EpochKeys {
            tenant,
            epoch,
            id: blake3::derive_key(ID_CONTEXT, secret),
            enc: blake3::derive_key(ENC_CONTEXT, secret),
            nonce: blake3::derive_key(NONCE_CONTEXT, secret),
        }
    }
}

/// All epochs of one tenant; the last one seals.
#[derive(Debug)]
pub struct TenantKeys {
    epochs: Vec<Arc<EpochKeys>>,
}

impl TenantKeys {
    /// The keys that seal new chunks.
    pub fn current(&self) -> Option<&Arc<EpochKeys>> {
        self.epochs.last()
    }

    /// The keys that sealed a chunk of `epoch`.
    pub fn epoch(&self, epoch: KeyEpoch) -> Option<&Arc<EpochKeys>> {
        self.epochs.iter().find(|keys| keys.epoch == epoch)
    }
}

/// Wraps, unwraps and derives keys; remembers tenants' derived keys.
pub struct Keys {
    wrapping: Aes256Gcm,
    /// Makes the key of each copy of metadata.
    snapshots: [u8; 32],
    tenants: Mutex<HashMap<TenantId, Arc<TenantKeys>>>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

impl Keys {
    pub fn new(root: RootKey) -> Keys {
        Keys::of(&root)
    }

    /// The same, where the root key is still needed afterwards.
    pub fn of(root: &RootKey) -> Keys {
        let key = blake3::derive_key(WRAP_CONTEXT, &root.0);
        let snapshots = blake3::derive_key(SNAPSHOT_CONTEXT, &root.0);
        Keys { wrapping: Aes256Gcm::new(&key.into()), snapshots, tenants: Mutex::default() }
    }

    /// Wraps the secret access key of `access_key`: nonce, ciphertext, tag.
    pub fn wrap_secret(&self, access_key: &str, secret: &[u8]) -> Result<Bytes, KeyError> {
        self.wrap(&access_key_aad(access_key), access_key, secret)
    }

    /// Opens what [`Keys::wrap_secret`] made for the same access key.
    pub fn unwrap_secret(&self, access_key: &str, wrapped: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.unwrap(&access_key_aad(access_key), access_key, wrapped)
    }

    /// Wraps the key of a fleet's CA.
    pub fn wrap_fleet_key(&self, fleet: FleetId, key: &[u8]) -> Result<Bytes, KeyError> {
        self.wrap(&fleet_aad(fleet), &fleet.to_string(), key)
    }

    /// Opens what [`Keys::wrap_fleet_key`] made for the same fleet.
    pub fn unwrap_fleet_key(&self, fleet: FleetId, wrapped: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.unwrap(&fleet_aad(fleet), &fleet.to_string(), wrapped)
    }

    /// Wraps what an operator keeps (`boot/escrow.rs`).
    pub fn wrap_escrow(&self, plain: &[u8]) -> Result<Bytes, KeyError> {
        self.wrap(ESCROW_AAD, "escrow", plain)
    }

    /// Opens what [`Keys::wrap_escrow`] made.
    pub fn unwrap_escrow(&self, wrapped: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.unwrap(ESCROW_AAD, "escrow", wrapped)
    }

    /// Seals one copy of metadata, and opens it.
    pub(crate) fn snapshot_cipher(&self, id: &[u8; 16]) -> Aes256Gcm {
        Aes256Gcm::new(blake3::keyed_hash(&self.snapshots, id).as_bytes().into())
    }

    /// The secret of the tenant that copies of metadata are kept under, wrapped. It follows from the root key.
    pub(crate) fn snapshot_secret(&self) -> Result<WrappedSecret, KeyError> {
        let (tenant, epoch) = (crate::snapshot::kept::TENANT, KeyEpoch(0));
        Ok(WrappedSecret { epoch, sealed: self.wrap(&tenant_aad(tenant, epoch), &tenant.to_string(), &self.secret_of_snapshots())? })
    }

    /// The keys of the same tenant, whatever metadata knows of it.
    pub(crate) fn of_snapshots(&self) -> Arc<TenantKeys> {
        let keys = EpochKeys::derive(crate::snapshot::kept::TENANT, KeyEpoch(0), &self.secret_of_snapshots());
        Arc::new(TenantKeys { epochs: vec![Arc::new(keys)] })
    }

    fn secret_of_snapshots(&self) -> [u8; 32] {
        *blake3::keyed_hash(&self.snapshots, b"tenant").as_bytes()
    }

    /// A new random secret for `tenant`, epoch 0, wrapped.
    pub fn new_tenant_secret(&self, tenant: TenantId) -> Result<WrappedSecret, KeyError> {
        let epoch = KeyEpoch(0);
        let secret: [u8; 32] = random()?;
        Ok(WrappedSecret { epoch, sealed: self.wrap(&tenant_aad(tenant, epoch), &tenant.to_string(), &secret)? })
    }

    /// The tenant's keys if they were opened before.
    pub fn known(&self, tenant: TenantId) -> Option<Arc<TenantKeys>> {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner).get(&tenant).cloned()
    }

    /// Opens all of a tenant's secrets and remembers them.
    pub fn open(&self, record: &TenantRecord) -> Result<Arc<TenantKeys>, KeyError> {
        let mut epochs = Vec::with_capacity(record.secrets.len());
        for wrapped in &record.secrets {
            let owner = record.id.to_string();
            let secret = self.unwrap(&tenant_aad(record.id, wrapped.epoch), &owner, &wrapped.sealed)?;
            let secret: [u8; 32] = secret.try_into().map_err(|_| KeyError::Unwrap { owner })?;
            epochs.push(Arc::new(EpochKeys::derive(record.id, wrapped.epoch, &secret)));
        }
        let keys = Arc::new(TenantKeys { epochs });
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner).insert(record.id, keys.clone());
        Ok(keys)
    }

    /// Forgets a tenant's keys: after a rotation or a crypto-erase.
    pub fn forget(&self, tenant: TenantId) {
        self.tenants.lock().unwrap_or_else(PoisonError::into_inner).remove(&tenant);
    }

    fn wrap(&self, aad: &[u8], owner: &str, secret: &[u8]) -> Result<Bytes, KeyError> {
        let nonce: [u8; NONCE] = random()?;
        let sealed = self.wrapping.encrypt(&Nonce::from(nonce), Payload { msg: secret, aad });
        let sealed = sealed.map_err(|_| KeyError::Unwrap { owner: owner.to_string() })?;
        Ok([nonce.as_slice(), &sealed].concat().into())
    }

    fn unwrap(&self, aad: &[u8], owner: &str, wrapped: &[u8]) -> Result<Vec<u8>, KeyError> {
        let refused = || KeyError::Unwrap { owner: owner.to_string() };
        let (nonce, sealed) = wrapped.split_first_chunk::<NONCE>().ok_or_else(refused)?;
        self.wrapping.decrypt(&Nonce::from(*nonce), Payload { msg: sealed, aad }).map_err(|_| refused())
    }
}

fn access_key_aad(access_key: &str) -> Vec<u8> {
    [b"access-key\0".as_slice(), access_key.as_bytes()].concat()
}

fn fleet_aad(fleet: FleetId) -> Vec<u8> {
    [b"fleet\0".as_slice(), &fleet.0].concat()
}

fn tenant_aad(tenant: TenantId, epoch: KeyEpoch) -> Vec<u8> {
    [b"tenant\0".as_slice(), &tenant.0.to_be_bytes(), &epoch.0.to_be_bytes()].concat()
}

fn random<const N: usize>() -> Result<[u8; N], KeyError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|e| KeyError::Random { reason: e.to_string() })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use spine::id::UnixMs;

    fn keys() -> Keys {
        Keys::new(RootKey([7; 32]))
    }

    fn tenant(keys: &Keys, id: u64) -> TenantRecord {
        let id = TenantId(id);
        TenantRecord { id, name: "t".into(), secrets: vec![keys.new_tenant_secret(id).unwrap()], created: UnixMs(0), revoked: false }
    }

    #[test]
    fn a_wrapped_secret_opens_for_its_owner_and_nobody_else() {
        let keys = keys();
        let wrapped = keys.wrap_secret("AK1", b"very secret").unwrap();
        assert_eq!(keys.unwrap_secret("AK1", &wrapped).unwrap(), b"very secret");
        assert!(keys.unwrap_secret("AK2", &wrapped).is_err());
        assert!(Keys::new(RootKey([8; 32])).unwrap_secret("AK1", &wrapped).is_err());
        assert!(keys.unwrap_secret("AK1", &wrapped[..11]).is_err());
        let mut flipped = wrapped.to_vec();
        flipped[15] ^= 1;
        assert!(keys.unwrap_secret("AK1", &flipped).is_err());
    }

    #[test]
    fn wrapping_twice_never_gives_the_same_bytes() {
        let keys = keys();
        assert_ne!(keys.wrap_secret("AK", b"x").unwrap(), keys.wrap_secret("AK", b"x").unwrap());
    }

    #[test]
    fn tenants_have_keys_of_their_own_and_a_record_cannot_be_swapped() {
        let keys = keys();
        let (one, mut two) = (tenant(&keys, 1), tenant(&keys, 2));
        let a = keys.open(&one).unwrap();
        let b = keys.open(&two).unwrap();
        assert_ne!(a.current().unwrap().id, b.current().unwrap().id);
        assert_ne!(a.current().unwrap().id, a.current().unwrap().enc);
        assert_ne!(a.current().unwrap().nonce, a.current().unwrap().enc);
        two.secrets = one.secrets.clone();
        assert!(keys.open(&two).is_err());
        assert!(keys.known(TenantId(1)).is_some());
        keys.forget(TenantId(1));
        assert!(keys.known(TenantId(1)).is_none());
    }

    #[test]
    fn the_root_key_file_is_made_once_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.key");
        let (made, new) = RootKey::load_or_create(&path).unwrap();
        assert!(new);
        let (again, new) = RootKey::load_or_create(&path).unwrap();
        assert!(!new);
        assert_eq!(made.0, again.0);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(RootKey::load_or_create(&path).is_err());
        assert!(!format!("{made:?}").contains(&hex::encode(made.0)));
    }
}
