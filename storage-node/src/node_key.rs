//! The key of a disk in a fleet: `node-key`, beside `node.json`.
//!
//! Ed25519, PKCS#8 in PEM, 0600. The public half is the node's identity, the private half never leaves the folder.
//! Invariants: a key is made before the identity that names it, so that a crash between the two leaves a key to go on with;
//! a key that others than its owner may read is refused.

use crate::identity::write_whole;
use crate::settings::OpenError;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use spine::id::NodeId;
use std::fmt::{self, Write};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const FILE: &str = "node-key";
const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";
/// Characters of one line in PEM.
const LINE: usize = 64;

/// An Ed25519 key and the node that it is.
#[derive(Clone)]
pub struct NodeKey {
    node: NodeId,
    pkcs8: Vec<u8>,
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({})", self.node)
    }
}

impl NodeKey {
    /// A new key, on no disk.
    ///
    /// # Errors
    /// Says why, where the system has no randomness.
    pub fn generate() -> Result<NodeKey, String> {
        let pair = Ed25519KeyPair::generate().map_err(|_| "no randomness".to_string())?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| "the new key does not encode".to_string())?;
        Self::from_pkcs8(pkcs8.as_ref())
    }

    /// The key in `pkcs8`, DER.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<NodeKey, String> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|error| error.to_string())?;
        let node = pair.public_key().as_ref().try_into().map_err(|_| "its public key is not 32 bytes".to_string())?;
        Ok(NodeKey { node: NodeId(node), pkcs8: pkcs8.to_vec() })
    }

    /// The key in PEM: one block.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn from_pem(text: &str) -> Result<NodeKey, String> {
        let body = text.trim().strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END)).ok_or("not a private key in PEM form")?;
        let body: String = body.split_whitespace().collect();
        Self::from_pkcs8(&STANDARD.decode(body).map_err(|error| error.to_string())?)
    }

    /// The node that this key is.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// PKCS#8, DER: what TLS takes.
    pub fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// PKCS#8, PEM.
    pub fn to_pem(&self) -> String {
        let mut out = format!("{BEGIN}\n");
        let body = STANDARD.encode(&self.pkcs8);
        for line in body.as_bytes().chunks(LINE) {
            // Writing into a string does not fail.
            let _ = writeln!(out, "{}", String::from_utf8_lossy(line));
        }
        out + END + "\n"
    }

    /// Signature over `message`, 64 bytes.
    ///
    /// # Errors
    /// Says why; the key was good when it was read.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        let pair = Ed25519KeyPair::from_pkcs8(&self.pkcs8).map_err(|error| error.to_string())?;
        Ok(pair.sign(message).as_ref().to_vec())
    }

    /// The key in `dir`; `None` if there is none.
    pub fn load(dir: &Path) -> Result<Option<NodeKey>, OpenError> {
        let bad = |reason: String| OpenError::BadKey { dir: dir.to_path_buf(), reason };
        let path = dir.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(bad(error.to_string())),
        };
        let mode = fs::metadata(&path).map_err(|error| bad(error.to_string()))?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(bad(format!("its mode is {:o}, only the owner may have access (chmod 600)", mode & 0o777)));
        }
        Self::from_pem(&text).map(Some).map_err(bad)
    }

    /// The key of the node `node`, whose disk is in `dir`.
    ///
    /// # Errors
    /// [`OpenError::NoKey`], and [`OpenError::BadKey`] also if it is another node's.
    pub fn of(dir: &Path, node: NodeId) -> Result<NodeKey, OpenError> {
        match Self::load(dir)? {
            None => Err(OpenError::NoKey { dir: dir.to_path_buf(), node }),
            Some(key) if key.node != node => {
                Err(OpenError::BadKey { dir: dir.to_path_buf(), reason: format!("it is node {}, and the disk is node {node}", key.node) })
            }
            Some(key) => Ok(key),
        }
    }

    /// The key in `dir`, made there if there is none.
    pub fn load_or_make(dir: &Path) -> Result<NodeKey, OpenError> {
        if let Some(key) = Self::load(dir)? {
            return Ok(key);
        }
        let key = Self::generate().map_err(|reason| OpenError::BadKey { dir: dir.to_path_buf(), reason })?;
        write_whole(dir, FILE, key.to_pem().as_bytes(), 0o600).map_err(OpenError::io("write node-key"))?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_made_once_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        assert!(NodeKey::load(dir.path()).unwrap().is_none());
        let made = NodeKey::load_or_make(dir.path()).unwrap();
        assert_eq!(NodeKey::load_or_make(dir.path()).unwrap().node(), made.node());
        let path = dir.path().join(FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(NodeKey::load(dir.path()), Err(OpenError::BadKey { .. })));
    }

    #[test]
    fn a_key_signs_as_the_node_it_is() {
        let key = NodeKey::generate().unwrap();
        let again = NodeKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(again.node(), key.node());
        let signature = again.sign(b"message").unwrap();
        let public = aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, key.node().0);
        public.verify(b"message", &signature).unwrap();
        assert!(public.verify(b"another", &signature).is_err());
        assert!(NodeKey::from_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----").is_err());
    }

    #[test]
    fn another_nodes_key_and_no_key_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(NodeKey::of(dir.path(), NodeId([1; 32])), Err(OpenError::NoKey { .. })));
        NodeKey::load_or_make(dir.path()).unwrap();
        assert!(matches!(NodeKey::of(dir.path(), NodeId([1; 32])), Err(OpenError::BadKey { .. })));
    }
}
