//! The handshake of a routing connection: Noise proves a key, a certificate of the fleet says that the key belongs.
//!
//! ```text
//! dials    Noise -> Hello ->          <- Hello, judged -> connection
//! listens  Noise          <- Hello, judged -> Hello ->    connection
//! ```
//! Invariant: a connection exists only to a peer that showed a certificate of this fleet, in its days, not revoked, for the very key that
//! Noise proved; all else (the multiplexer, Kademlia's messages, the routing table) begins behind it. Whoever dials and has none hears
//! nothing but a public key: the listener says its own hello last.

use crate::clock;
use crate::membership::{Membership, Stranger};
use futures::future::BoxFuture;
use futures::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::core::UpgradeInfo;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade};
use libp2p::identity::Keypair;
use libp2p::{PeerId, noise};
use spine::wire::routing::HELLO_BYTES;
use std::sync::Arc;

/// Noise, then the hellos.
#[derive(Clone)]
pub struct Handshake {
    noise: noise::Config,
    membership: Arc<Membership>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    #[error("Noise failed: {0}")]
    Noise(#[from] noise::Error),
    #[error("the connection broke: {0}")]
    Broken(#[from] std::io::Error),
    #[error("the peer is not let in: {0}")]
    Stranger(#[from] Stranger),
}

impl Handshake {
    pub fn new(key: &Keypair, membership: Arc<Membership>) -> Result<Handshake, noise::Error> {
        Ok(Handshake { noise: noise::Config::new(key)?, membership })
    }
}

impl UpgradeInfo for Handshake {
    type Info = &'static str;
    type InfoIter = std::iter::Once<&'static str>;

    fn protocol_info(&self) -> Self::InfoIter {
        std::iter::once("/breakwater/noise/1")
    }
}

impl<T> InboundConnectionUpgrade<T> for Handshake
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, noise::Output<T>);
    type Error = HandshakeError;
    type Future = BoxFuture<'static, Result<Self::Output, HandshakeError>>;

    fn upgrade_inbound(self, socket: T, info: &'static str) -> Self::Future {
        Box::pin(async move {
            let (peer, mut socket) = self.noise.upgrade_inbound(socket, info).await?;
            let hello = receive(&mut socket).await?;
            self.membership.admit(peer, &hello, clock::now()).inspect_err(crate::metric::refused)?;
            send(&mut socket, &self.membership.hello()).await?;
            Ok((peer, socket))
        })
    }
}

impl<T> OutboundConnectionUpgrade<T> for Handshake
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Output = (PeerId, noise::Output<T>);
    type Error = HandshakeError;
    type Future = BoxFuture<'static, Result<Self::Output, HandshakeError>>;

    fn upgrade_outbound(self, socket: T, info: &'static str) -> Self::Future {
        Box::pin(async move {
            let (peer, mut socket) = self.noise.upgrade_outbound(socket, info).await?;
            send(&mut socket, &self.membership.hello()).await?;
            let hello = receive(&mut socket).await?;
            self.membership.admit(peer, &hello, clock::now()).inspect_err(crate::metric::refused)?;
            Ok((peer, socket))
        })
    }
}

async fn send<T: AsyncWrite + Unpin>(socket: &mut T, hello: &[u8]) -> std::io::Result<()> {
    let length = u16::try_from(hello.len()).map_err(std::io::Error::other)?;
    socket.write_all(&length.to_be_bytes()).await?;
    socket.write_all(hello).await?;
    socket.flush().await
}

/// A hello's bytes, at most [`HELLO_BYTES`]: a longer one is not read.
async fn receive<T: AsyncRead + Unpin>(socket: &mut T) -> Result<Vec<u8>, HandshakeError> {
    let mut length = [0; 2];
    socket.read_exact(&mut length).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > HELLO_BYTES {
        return Err(Stranger::Hello.into());
    }
    let mut hello = vec![0; length];
    socket.read_exact(&mut hello).await?;
    Ok(hello)
}
