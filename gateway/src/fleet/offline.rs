//! Admission by files that an operator carries, for nodes that do not reach a gateway's admission listener.
//!
//! ```text
//! storage-node --request FILE    {format, what, made_ms, nonce, place, nodes: [{node, capacity, proof}]}
//! admin fleet admit FILE --out   {format, what, gate, admitted: hexadecimal of the Admitted that a listener would have answered}
//! storage-node --admitted FILE   papers on the disks
//! ```
//! Where a joining node signs the connection, one that asks by file signs the request's own nonce and time: the request is worth
//! something to whoever has the nodes' keys, and to nobody after [`LONGEST`]. The operator's word stands in the place of an invitation,
//! and the operator's hands in the place of TLS: what the answer says of the CA is believed as an invitation is.
//! Neither file is secret. Not here: where papers lie (`serve/storage/papers.rs`).

use super::apply::NodeSigner;
use super::table::Fleet;
use crate::core::now;
use serde::{Deserialize, Serialize};
use spine::fleet::admission::Role;
use spine::id::UnixMs;
use spine::wire::admission::{AdmissionRefusal, Admitted, Applicant, NODES, Place, message};
use spine::wire::peer;
use spine::wire::root::FleetNodeState;
use std::time::Duration;

/// Bytes of the longest request file.
pub const FILE_BYTES: u64 = 48 << 10;
/// Bytes of the longest answer: certificates and a full revocation list, in hexadecimal.
pub const ANSWER_BYTES: u64 = 8 << 20;
/// How old a request may be, and how far ahead a node's clock.
const LONGEST: Duration = Duration::from_secs(30 * 86_400);
const AHEAD: Duration = Duration::from_secs(86_400);

const FORMAT: u32 = 1;
const REQUEST: &str = "breakwater admission request";
const ANSWER: &str = "breakwater admission";
const CONTEXT: &str = "breakwater 2026-11 admission by file";

/// What a node asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    format: u32,
    what: String,
    made_ms: u64,
    /// 32 bytes, hexadecimal.
    nonce: String,
    pub place: Place,
    nodes: Vec<Asking>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asking {
    /// Hexadecimal, as is the proof.
    node: String,
    capacity: u64,
    proof: String,
}

/// What goes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    format: u32,
    what: String,
    /// Where the fleet admits and renews, should the node ever reach it.
    pub gate: String,
    admitted: String,
}

fn binding(nonce: &[u8; 32], made_ms: u64) -> [u8; 32] {
    blake3::derive_key(CONTEXT, &[nonce.as_slice(), &made_ms.to_be_bytes()].concat())
}

fn invalid(what: impl ToString) -> AdmissionRefusal {
    AdmissionRefusal::Invalid { what: what.to_string() }
}

impl Request {
    /// Signed by every node.
    ///
    /// # Errors
    /// Says why, where a key does not sign or there is no randomness.
    pub fn sign<K: NodeSigner>(place: &Place, nodes: &[(K, u64)]) -> Result<Request, String> {
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).map_err(|error| error.to_string())?;
        let made_ms = now().0;
        let bound = binding(&nonce, made_ms);
        let ask = |(key, capacity): &(K, u64)| {
            let proof = hex::encode(key.sign(&message(&bound, key.node(), *capacity, place))?);
            Ok(Asking { node: key.node().to_string(), capacity: *capacity, proof })
        };
        let nodes = nodes.iter().map(ask).collect::<Result<_, String>>()?;
        Ok(Request { format: FORMAT, what: REQUEST.into(), made_ms, nonce: hex::encode(nonce), place: place.clone(), nodes })
    }

    /// Ids of its nodes.
    pub fn nodes(&self) -> Vec<&str> {
        self.nodes.iter().map(|asking| asking.node.as_str()).collect()
    }

    /// What a listener would have been asked, and what was signed with it.
    fn applicants(&self, time: UnixMs) -> Result<(Vec<Applicant>, [u8; 32]), AdmissionRefusal> {
        if self.format != FORMAT || self.what != REQUEST || self.nodes.len() > NODES {
            return Err(invalid("no request of this format"));
        }
        let age = time.0.saturating_sub(self.made_ms);
        if u128::from(age) > LONGEST.as_millis() || u128::from(self.made_ms.saturating_sub(time.0)) > AHEAD.as_millis() {
            return Err(invalid("a request that is more than 30 days old or of a day to come; have the node write another"));
        }
        let mut nonce = [0; 32];
        hex::decode_to_slice(&self.nonce, &mut nonce).map_err(|_| invalid("the nonce"))?;
        let applicant = |asking: &Asking| {
            let mut id = [0; 32];
            hex::decode_to_slice(&asking.node, &mut id).map_err(|_| invalid("a node's id"))?;
            let proof = hex::decode(&asking.proof).map_err(|_| invalid("a node's proof"))?.into();
            Ok(Applicant { node: spine::id::NodeId(id), capacity: asking.capacity, proof })
        };
        Ok((self.nodes.iter().map(applicant).collect::<Result<_, _>>()?, binding(&nonce, self.made_ms)))
    }
}

impl Answer {
    /// What was granted.
    ///
    /// # Errors
    /// Says that it is no such file.
    pub fn admitted(&self) -> Result<Admitted, String> {
        if self.format != FORMAT || self.what != ANSWER {
            return Err("it is no admission of this format".into());
        }
        let bytes = hex::decode(&self.admitted).map_err(|error| error.to_string())?;
        peer::decode(&bytes).map_err(|_| "what it grants does not read".into())
    }
}

impl Fleet {
    /// Admits the nodes of a request that an operator carried here. Nodes that were admitted before get new certificates; machine and
    /// zone become what the request says, as with a new invitation.
    ///
    /// - `life`: of the certificates; `None`: as configured.
    pub async fn admit_request(&self, request: &Request, life: Option<Duration>) -> Result<Answer, AdmissionRefusal> {
        let unavailable = |error: &dyn std::fmt::Display| AdmissionRefusal::Unavailable { reason: error.to_string() };
        let live = self.live().map_err(|error| unavailable(&error))?;
        let time = now();
        let (applicants, bound) = request.applicants(time)?;
        super::admit::check(&live, Role::StorageNode, &request.place, &applicants, &bound)?;
        let known = self.nodes().await.map_err(|error| unavailable(&error))?;
        let retired = |node| known.iter().any(|known| known.id == node && known.state == FleetNodeState::Retired);
        if let Some(applicant) = applicants.iter().find(|applicant| retired(applicant.node)) {
            return Err(AdmissionRefusal::Retired { node: applicant.node });
        }
        let life = life.unwrap_or(self.settings.life);
        let admitted = self.grant(&live, None, &request.place, &applicants, time, life).await?;
        let gate = self.settings.admission_address.clone();
        Ok(Answer { format: FORMAT, what: ANSWER.into(), gate, admitted: hex::encode(peer::encode(&admitted)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage_node::NodeKey;

    fn request() -> Request {
        let key = NodeKey::generate().unwrap();
        let place = Place { machine: "m".into(), zone: "z".into(), address: "a:1".into() };
        Request::sign(&place, &[(key, 7)]).unwrap()
    }

    #[test]
    fn a_request_is_believed_for_thirty_days_and_no_other_nonce_or_time_fits_its_proof() {
        let made = request();
        let time = UnixMs(made.made_ms);
        let (applicants, bound) = made.applicants(time).unwrap();
        let proven = |bound: &[u8; 32]| {
            let said = message(bound, applicants[0].node, 7, &made.place);
            let key = aws_lc_rs::signature::UnparsedPublicKey::new(&aws_lc_rs::signature::ED25519, applicants[0].node.0);
            key.verify(&said, &applicants[0].proof).is_ok()
        };
        assert!(proven(&bound));
        let later = Request { made_ms: made.made_ms + 1, ..made.clone() };
        assert!(!proven(&later.applicants(time).unwrap().1));
        let other = Request { nonce: "00".repeat(32), ..made.clone() };
        assert!(!proven(&other.applicants(time).unwrap().1));
        let after = |days: u64| UnixMs(made.made_ms + days * 86_400_000);
        assert!(made.applicants(after(30)).is_ok());
        assert!(matches!(made.applicants(after(31)), Err(AdmissionRefusal::Invalid { .. })));
        assert!(made.applicants(UnixMs(made.made_ms - 2 * 86_400_000)).is_err());
    }

    #[test]
    fn a_file_of_another_kind_is_no_request_and_no_answer() {
        let made = request();
        let text = serde_json::to_string(&made).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), made);
        assert!(serde_json::from_str::<Answer>(&text).is_err());
        let other = Request { what: ANSWER.into(), ..made.clone() };
        assert!(other.applicants(UnixMs(made.made_ms)).is_err());
        let answer = Answer { format: 1, what: REQUEST.into(), gate: "a:1".into(), admitted: String::new() };
        assert!(answer.admitted().is_err());
    }
}
