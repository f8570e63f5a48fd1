//! Addresses: `host:port` as announcements have it, `/ip4/../tcp/..` as libp2p does.

use libp2p::Multiaddr;
use libp2p::multiaddr::Protocol;
use std::net::{IpAddr, SocketAddr};

/// As libp2p writes it.
pub fn multiaddr(address: SocketAddr) -> Multiaddr {
    let mut out = Multiaddr::empty();
    out.push(match address.ip() {
        IpAddr::V4(ip) => Protocol::Ip4(ip),
        IpAddr::V6(ip) => Protocol::Ip6(ip),
    });
    out.push(Protocol::Tcp(address.port()));
    out
}

/// Of an address libp2p listens on.
pub fn socket(address: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) => Some(SocketAddr::new(ip, port)),
        _ => None,
    }
}

/// What `host:port` stands for now; names are asked for as the system does. Empty: nothing.
pub async fn resolve(address: &str) -> Vec<Multiaddr> {
    match tokio::net::lookup_host(address).await {
        Ok(found) => found.map(multiaddr).collect(),
        Err(error) => {
            tracing::debug!(address, %error, "a routing address does not resolve");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_goes_to_libp2p_and_back() {
        for text in ["10.1.2.3:7402", "[::1]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(socket(&multiaddr(address)), Some(address));
            assert_eq!(resolve(text).await, [multiaddr(address)]);
        }
        assert!(resolve("nobody.invalid:1").await.is_empty());
        assert_eq!(socket(&"/dns4/a/tcp/1".parse().unwrap()), None);
    }
}
