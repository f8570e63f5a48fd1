//! What `breakwater admin fleet invite` and `breakwater admin metadata invite` print and `--join` takes.
//!
//! ```text
//! bwjoin1/<SHA-256 of the CA's certificate, 64 hex digits>/<secret, 64 hex digits>/<host:port>     a storage process
//! bwmeta1/...                                                                                     a metadata process
//! ```
//! A secret opens one door alone: the id that the root group knows it by is another one for the other door, so that whoever was let in
//! to hold shards, which nobody trusts, does not get at the metadata with it.
//! Whoever has it can have nodes admitted until it is used or has expired; it is shown once. The gateway keeps its hash alone.

use spine::fleet::admission::is_address;
use spine::id::InviteId;
use spine::wire::admission::SECRET_BYTES;
use std::fmt;
use std::str::FromStr;

/// As what somebody is invited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    StorageNode,
    Metadata,
}

impl Door {
    fn scheme(self) -> &'static str {
        match self {
            Door::StorageNode => "bwjoin1",
            Door::Metadata => "bwmeta1",
        }
    }

    fn context(self) -> &'static str {
        match self {
            Door::StorageNode => "breakwater 2026-11 invitation secret to id",
            Door::Metadata => "breakwater 2026-11 invitation secret of a metadata node to id",
        }
    }
}

#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    pub door: Door,
    /// SHA-256 of the CA's certificate: the gateway that answers is believed by it alone.
    pub fingerprint: [u8; 32],
    pub secret: [u8; SECRET_BYTES],
    /// Where a gateway admits.
    pub address: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "that is no invitation for this; `breakwater admin fleet invite` prints one for storage nodes and `breakwater admin metadata invite` for metadata nodes, to be given whole"
)]
pub struct NoToken;

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(.., {})", self.address)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}/{}", self.door.scheme(), hex::encode(self.fingerprint), hex::encode(self.secret), self.address)
    }
}

impl FromStr for Token {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Token, NoToken> {
        let parts: Vec<&str> = text.trim().split('/').collect();
        let [scheme, fingerprint, secret, address] = parts[..] else { return Err(NoToken) };
        let door = [Door::StorageNode, Door::Metadata].into_iter().find(|door| door.scheme() == scheme).ok_or(NoToken)?;
        let mut token = Token { door, fingerprint: [0; 32], secret: [0; SECRET_BYTES], address: address.to_string() };
        hex::decode_to_slice(fingerprint, &mut token.fingerprint).map_err(|_| NoToken)?;
        hex::decode_to_slice(secret, &mut token.secret).map_err(|_| NoToken)?;
        if is_address(address) { Ok(token) } else { Err(NoToken) }
    }
}

impl Token {
    /// The token in `text`, if it is one for this door.
    pub fn through(door: Door, text: &str) -> Result<Token, NoToken> {
        text.parse::<Token>().ok().filter(|token| token.door == door).ok_or(NoToken)
    }
}

/// Which invitation a secret is of. One way: the root group holds this, and nobody can go back to the secret.
pub fn invite_id(door: Door, secret: &[u8]) -> InviteId {
    InviteId(blake3::derive_key(door.context(), secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_nothing_else_does() {
        let token = Token { door: Door::StorageNode, fingerprint: [1; 32], secret: [2; 32], address: "gate.example:9002".into() };
        let text = token.to_string();
        assert_eq!(text.parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("0202"));
        for wrong in ["", "bwjoin1", &text[1..], &text.replace("9002", "0"), &text.replacen("01", "x1", 1), &format!("{text}/x")] {
            assert_eq!(wrong.parse::<Token>(), Err(NoToken), "{wrong}");
        }
    }

    #[test]
    fn a_secret_for_one_door_is_none_for_the_other() {
        let token = Token { door: Door::Metadata, fingerprint: [1; 32], secret: [2; 32], address: "gate.example:9002".into() };
        let text = token.to_string();
        assert_eq!(Token::through(Door::Metadata, &text), Ok(token));
        assert_eq!(Token::through(Door::StorageNode, &text), Err(NoToken));
        assert_ne!(invite_id(Door::StorageNode, &[2; 32]), invite_id(Door::Metadata, &[2; 32]));
    }
}
