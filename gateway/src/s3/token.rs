//! Continuation tokens: where a listing goes on, in a form that clients cannot take for a key.
//!
//! `base64url( 1 || first 8 bytes of BLAKE3(1 || position) || position )`. It holds no state of the server, so it stays valid
//! for ever; the hash only tells a token from a typo, it keeps no secret.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const FORMAT: u8 = 1;
const CHECK_BYTES: usize = 8;

pub fn encode(position: &str) -> String {
    let mut bytes = vec![FORMAT];
    bytes.extend_from_slice(&check(position));
    bytes.extend_from_slice(position.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// `None` if this server never gave out such a token.
pub fn decode(token: &str) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let [FORMAT, rest @ ..] = bytes.as_slice() else { return None };
    let (sum, position) = rest.split_at_checked(CHECK_BYTES)?;
    let position = std::str::from_utf8(position).ok()?;
    (sum == check(position)).then(|| position.to_owned())
}

fn check(position: &str) -> [u8; CHECK_BYTES] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[FORMAT]);
    hasher.update(position.as_bytes());
    let mut out = [0; CHECK_BYTES];
    hasher.finalize_xof().fill(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_a_token_is_refused() {
        for text in ["", "AQ", "not a token", "AAAAAAAAAAAAAAAAAAA", "a/key"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    #[test]
    fn the_form_is_fixed_because_clients_hold_tokens_across_upgrades() {
        let golden = encode("a/b");
        assert_eq!(URL_SAFE_NO_PAD.decode(&golden).map(|bytes| (bytes[0], bytes[9..].to_vec())), Ok((1, b"a/b".to_vec())));
        assert_eq!(decode(&golden).as_deref(), Some("a/b"));
    }

    proptest! {
        #[test]
        fn a_token_gives_its_position_back(position in ".*") {
            prop_assert_eq!(decode(&encode(&position)), Some(position));
        }

        #[test]
        fn a_token_with_one_changed_letter_is_refused(position in "[a-z/]{1,40}", at in 0usize..20, letter in "[A-Za-z0-9]") {
            let token = encode(&position);
            let at = at % (token.len() - 1);
            let mut changed = token.clone();
            changed.replace_range(at..=at, &letter);
            prop_assume!(changed != token);
            prop_assert_eq!(decode(&changed), None);
        }
    }
}
