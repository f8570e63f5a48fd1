//! A node's name in TLS: `<52 characters>.node.breakwater`, the id in lower-case base32 without padding (hex is too long for a
//! DNS label). It is never looked up in DNS: it tells a process with many disks which of its nodes is meant.

use crate::id::NodeId;
use data_encoding::BASE32_NOPAD;

const SUFFIX: &str = ".node.breakwater";

/// The node's name.
pub fn name_of(node: NodeId) -> String {
    let mut name = BASE32_NOPAD.encode(&node.0).to_ascii_lowercase();
    name.push_str(SUFFIX);
    name
}

/// The node of a name, in upper or lower case as DNS has it. `None`: not one.
pub fn node_of(name: &str) -> Option<NodeId> {
    let split = name.len().checked_sub(SUFFIX.len())?;
    let (label, suffix) = (name.get(..split)?, name.get(split..)?);
    if label.len() != 52 || !suffix.eq_ignore_ascii_case(SUFFIX) {
        return None;
    }
    let id = BASE32_NOPAD.decode(label.to_ascii_uppercase().as_bytes()).ok()?;
    Some(NodeId(id.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_is_a_dns_name_and_reads_back() {
        let node = NodeId([0xff; 32]);
        let name = name_of(node);
        assert_eq!(name, format!("{}q.node.breakwater", "7".repeat(51)));
        assert!(rustls::pki_types::DnsName::try_from(name.as_str()).is_ok());
        assert_eq!(node_of(&name.to_ascii_uppercase()), Some(node));
    }

    #[test]
    fn what_is_no_name_has_no_node() {
        let good = name_of(NodeId([1; 32]));
        let other_last = format!("{}b.node.breakwater", &good[..51]);
        for name in ["", "node.breakwater", &good[1..], &good.replace("node", "gate"), &other_last, &format!("é{}", &good[2..])] {
            assert_eq!(node_of(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn every_node_has_a_name_of_its_own(id: [u8; 32]) {
            prop_assert_eq!(node_of(&name_of(NodeId(id))), Some(NodeId(id)));
        }

        #[test]
        fn any_name_has_no_node_or_prints_the_same(name in "[a-z2-7]{50,54}[.]node[.]breakwater") {
            if let Some(node) = node_of(&name) {
                prop_assert_eq!(name_of(node), name);
            }
        }
    }
}
