//! What `breakwater admin fleet invite` prints and `--join` takes.
//!
//! ```text
//! bwjoin1/<SHA-256 of the CA's certificate, 64 hex digits>/<secret, 64 hex digits>/<host:port>
//! ```
//! Whoever has it can have nodes admitted until it is used or has expired; it is shown once. The gateway keeps its hash alone.

use spine::fleet::admission::is_address;
use spine::id::InviteId;
use spine::wire::admission::SECRET_BYTES;
use std::fmt;
use std::str::FromStr;

const SCHEME: &str = "bwjoin1";
const CONTEXT: &str = "breakwater 2026-11 invitation secret to id";

#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// SHA-256 of the CA's certificate: the gateway that answers is believed by it alone.
    pub fingerprint: [u8; 32],
    pub secret: [u8; SECRET_BYTES],
    /// Where a gateway admits.
    pub address: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("that is no invitation; `breakwater admin fleet invite` prints one, to be given whole")]
pub struct NoToken;

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token(.., {})", self.address)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}/{}/{}/{}", hex::encode(self.fingerprint), hex::encode(self.secret), self.address)
    }
}

impl FromStr for Token {
    type Err = NoToken;

    fn from_str(text: &str) -> Result<Token, NoToken> {
        let parts: Vec<&str> = text.trim().split('/').collect();
        let [SCHEME, fingerprint, secret, address] = parts[..] else { return Err(NoToken) };
        let mut token = Token { fingerprint: [0; 32], secret: [0; SECRET_BYTES], address: address.to_string() };
        hex::decode_to_slice(fingerprint, &mut token.fingerprint).map_err(|_| NoToken)?;
        hex::decode_to_slice(secret, &mut token.secret).map_err(|_| NoToken)?;
        if is_address(address) { Ok(token) } else { Err(NoToken) }
    }
}

/// Which invitation a secret is of. One way: the root group holds this, and nobody can go back to the secret.
pub fn invite_id(secret: &[u8]) -> InviteId {
    InviteId(blake3::derive_key(CONTEXT, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_and_nothing_else_does() {
        let token = Token { fingerprint: [1; 32], secret: [2; 32], address: "gate.example:9002".into() };
        let text = token.to_string();
        assert_eq!(text.parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains("0202"));
        for wrong in ["", "bwjoin1", &text[1..], &text.replace("9002", "0"), &text.replacen("01", "x1", 1), &format!("{text}/x")] {
            assert_eq!(wrong.parse::<Token>(), Err(NoToken), "{wrong}");
        }
    }
}
