//! A TLS stream read by the mouthful. TLS gives a record of 16 KiB at a time, and HTTP would pass each on by itself: for a shard of a
//! mebibyte 64 hand-overs, and as many wake-ups of who waits for it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Reads all that is there and fits, and waits only if nothing is. Writes pass through.
pub(super) struct Gather<S>(pub S);

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            let had = buf.filled().len();
            let polled = Pin::new(&mut self.0).poll_read(cx, buf);
            let (some, grew) = (buf.filled().len() > before, buf.filled().len() > had);
            match polled {
                Poll::Ready(Ok(())) if grew && buf.remaining() > 0 => {}
                // What ended the stream ends the next read too; what came before it is still good.
                Poll::Ready(Err(_)) | Poll::Pending if some => return Poll::Ready(Ok(())),
                polled => return polled,
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Gives a byte at a time.
    struct Sips(tokio::io::DuplexStream);

    impl AsyncRead for Sips {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let mut one = [0; 1];
            let mut sip = ReadBuf::new(&mut one);
            let polled = Pin::new(&mut self.0).poll_read(cx, &mut sip);
            buf.put_slice(sip.filled());
            polled
        }
    }

    #[tokio::test]
    async fn a_read_takes_what_is_there_then_waits_then_ends() {
        let (near, mut far) = tokio::io::duplex(64);
        let mut gather = Gather(Sips(near));
        far.write_all(b"twelve bytes").await.unwrap();
        let mut buf = [0; 5];
        assert_eq!(gather.read(&mut buf).await.unwrap(), 5);
        let mut buf = [0; 50];
        assert_eq!(gather.read(&mut buf).await.unwrap(), 7);
        assert_eq!(&buf[..7], b"e bytes");
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(20), gather.read(&mut buf)).await;
        assert!(waiting.is_err(), "nothing is there");
        far.write_all(b"more").await.unwrap();
        drop(far);
        assert_eq!(gather.read(&mut buf).await.unwrap(), 4);
        assert_eq!(gather.read(&mut buf).await.unwrap(), 0);
    }
}
