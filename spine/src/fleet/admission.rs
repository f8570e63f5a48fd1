//! What a certificate grants, as the text of its one SAN URI.
//!
//! ```text
//! breakwater:1/<fleet, 32 hex digits>/<role>/<machine>/<zone>/<capacity, bytes>/<host:port>
//! breakwater:1/00..00/storage-node/rack1-a/east/4000787030016/10.0.0.7:7400
//! breakwater:1/00..00/gateway/front-1/east/0/-
//! breakwater:1/00..00/metadata/meta-1/east/0/10.0.0.9:7500
//! ```
//! Invariant: a text has one meaning and a meaning one text: what parses prints as it was. No character needs escaping.

use crate::id::FleetId;
use crate::limit::{ADDRESS_CHARS, LABEL_CHARS};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

const SCHEME: &str = "breakwater:1";
/// In place of an address where there is none.
const NO_ADDRESS: &str = "-";

/// What a peer may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Role {
    /// Holds shards of one disk.
    StorageNode,
    /// Stores and reads shards on all nodes.
    Gateway,
    /// Holds a replica of the metadata; has no business with shards.
    Metadata,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::StorageNode => "storage-node",
            Role::Gateway => "gateway",
            Role::Metadata => "metadata",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the fleet's CA says of a peer. The key it says it of is the certificate's.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Admission {
    pub fleet: FleetId,
    pub role: Role,
    /// Failure domain: no two shards of a chunk share one. 1 to 64 of `A-Z a-z 0-9 . _ -`.
    pub machine: String,
    /// Larger failure domain, of the same form.
    pub zone: String,
    /// Bytes of shards the node may hold; 0 for all but a storage node.
    pub capacity: u64,
    /// `host:port` of what it serves; IPv6 in brackets. `None` for a gateway only.
    pub address: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    #[error("not an admission of this version")]
    Form,
    #[error("the fleet is not 32 lower-case hex digits")]
    Fleet,
    #[error("no such role")]
    Role,
    #[error("the {what} is not 1 to {LABEL_CHARS} of A-Z a-z 0-9 . _ -")]
    Label { what: &'static str },
    #[error("the capacity does not fit the role")]
    Capacity,
    #[error("the address is not host:port, or does not fit the role")]
    Address,
}

impl Admission {
    /// # Errors
    /// The first field that is out of its bounds.
    pub fn check(&self) -> Result<(), AdmissionError> {
        label("machine", &self.machine)?;
        label("zone", &self.zone)?;
        let stores = self.role == Role::StorageNode;
        let serves = self.role != Role::Gateway;
        if stores != (self.capacity > 0) {
            return Err(AdmissionError::Capacity);
        }
        match &self.address {
            Some(address) if serves && is_address(address) => Ok(()),
            None if !serves => Ok(()),
            _ => Err(AdmissionError::Address),
        }
    }

    /// The URI.
    ///
    /// # Errors
    /// As [`Self::check`]: what would not parse is not printed.
    pub fn to_uri(&self) -> Result<String, AdmissionError> {
        self.check()?;
        let Admission { fleet, role, machine, zone, capacity, address } = self;
        let address = address.as_deref().unwrap_or(NO_ADDRESS);
        Ok(format!("{SCHEME}/{fleet}/{role}/{machine}/{zone}/{capacity}/{address}"))
    }
}

impl FromStr for Admission {
    type Err = AdmissionError;

    fn from_str(text: &str) -> Result<Self, AdmissionError> {
        if text.len() > SCHEME.len() + 32 + 12 + 2 * LABEL_CHARS + 20 + ADDRESS_CHARS + 6 {
            return Err(AdmissionError::Form);
        }
        let parts: Vec<&str> = text.split('/').collect();
        let [SCHEME, fleet, role, machine, zone, capacity, address] = parts[..] else { return Err(AdmissionError::Form) };
        let role =
            [Role::StorageNode, Role::Gateway, Role::Metadata].into_iter().find(|r| r.as_str() == role).ok_or(AdmissionError::Role)?;
        let admission = Admission {
            fleet: FleetId::parse_hex(fleet).ok_or(AdmissionError::Fleet)?,
            role,
            machine: machine.to_string(),
            zone: zone.to_string(),
            capacity: capacity.parse().map_err(|_| AdmissionError::Capacity)?,
            address: (address != NO_ADDRESS).then(|| address.to_string()),
        };
        // Upper-case hex, a plus sign or leading zeros: another text of the same meaning.
        if admission.to_uri()? == text { Ok(admission) } else { Err(AdmissionError::Form) }
    }
}

fn label(what: &'static str, text: &str) -> Result<(), AdmissionError> {
    let fits = (1..=LABEL_CHARS).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if fits { Ok(()) } else { Err(AdmissionError::Label { what }) }
}

/// Whether `text` is `host:port`: a DNS name, an IPv4 address, or an IPv6 address in brackets, and a port from 1 on.
pub fn is_address(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let port_fits = port.len() <= 5 && !port.starts_with('0') && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let host_fits = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(v6) => v6.parse::<core::net::Ipv6Addr>().is_ok(),
        None => (1..=253).contains(&host.len()) && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b)),
    };
    text.len() <= ADDRESS_CHARS && port_fits && host_fits
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn node() -> Admission {
        Admission {
            fleet: FleetId([7; 16]),
            role: Role::StorageNode,
            machine: "rack1-a".to_string(),
            zone: "east".to_string(),
            capacity: 4 << 40,
            address: Some("10.0.0.7:7400".to_string()),
        }
    }

    #[test]
    fn an_admission_prints_as_drawn_and_parses_back() {
        let text = node().to_uri().unwrap();
        assert_eq!(text, "breakwater:1/07070707070707070707070707070707/storage-node/rack1-a/east/4398046511104/10.0.0.7:7400");
        assert_eq!(text.parse(), Ok(node()));
        let gateway = Admission { role: Role::Gateway, capacity: 0, address: None, ..node() };
        assert_eq!(gateway.to_uri().unwrap().parse(), Ok(gateway));
    }

    #[test]
    fn a_second_text_of_the_same_meaning_is_refused() {
        let text = node().to_uri().unwrap();
        for (from, to) in
            [("/4398", "/04398"), ("/4398", "/+4398"), ("east/", "east//"), ("breakwater:1", "breakwater:2"), (":7400", ":07400")]
        {
            assert!(text.replace(from, to).parse::<Admission>().is_err(), "{from} -> {to}");
        }
        let upper = text.replace("0707", "0A0A");
        assert_eq!(upper.parse::<Admission>(), Err(AdmissionError::Form));
        assert!(format!("{text}/").parse::<Admission>().is_err());
    }

    #[test]
    fn what_is_out_of_bounds_is_named() {
        let long = "x".repeat(LABEL_CHARS + 1);
        assert_eq!(Admission { machine: long, ..node() }.check(), Err(AdmissionError::Label { what: "machine" }));
        assert_eq!(Admission { zone: "a/b".to_string(), ..node() }.check(), Err(AdmissionError::Label { what: "zone" }));
        assert_eq!(Admission { zone: String::new(), ..node() }.check(), Err(AdmissionError::Label { what: "zone" }));
        assert_eq!(Admission { capacity: 0, ..node() }.check(), Err(AdmissionError::Capacity));
        assert_eq!(Admission { address: None, ..node() }.check(), Err(AdmissionError::Address));
        for address in ["host", ":1", "host:0", "host:65536", "ho st:1", "::1:7400", "[::1:7400", "host:", "a\n:1"] {
            assert_eq!(Admission { address: Some(address.to_string()), ..node() }.check(), Err(AdmissionError::Address), "{address}");
        }
        assert_eq!(Admission { address: Some("[::1]:7400".to_string()), ..node() }.check(), Ok(()));
        assert_eq!(Admission { role: Role::Gateway, ..node() }.check(), Err(AdmissionError::Capacity));
    }

    proptest! {
        #[test]
        fn any_text_parses_to_what_prints_the_same_or_not_at_all(text in "(breakwater:1/[0-9a-f]{32}/(gateway|storage-node))?[ -~]{0,80}") {
            if let Ok(admission) = text.parse::<Admission>() {
                prop_assert_eq!(admission.to_uri().unwrap(), text);
            }
        }

        #[test]
        fn every_valid_admission_survives_its_text(
            fleet: [u8; 16], machine in "[A-Za-z0-9._-]{1,64}", zone in "[A-Za-z0-9._-]{1,64}", capacity in 1u64.., port in 1u16..,
        ) {
            let admission = Admission {
                fleet: FleetId(fleet), role: Role::StorageNode, machine, zone, capacity, address: Some(format!("node.example:{port}")),
            };
            prop_assert_eq!(admission.to_uri().unwrap().parse(), Ok(admission));
        }
    }
}
