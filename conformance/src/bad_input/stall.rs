//! Clients that stop in the middle: the server must close on them and keep nothing.

use super::{BUCKET, Ground};
use crate::raw::{self, Request, Signer, path_of};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// Opens `each` connections of every kind of stall.
///
/// # Errors
/// The server took no connection.
pub fn open(ground: &Ground, each: usize) -> io::Result<Vec<TcpStream>> {
    let signer = Signer::new(&ground.root);
    let put = Request::new("PUT", &path_of(BUCKET, "stalled")).body(&[7; 200_000]);
    let signed = put.signed_as(&signer, ground.host, "UNSIGNED-PAYLOAD").wire();
    let mut streams = Vec::new();
    for _ in 0..each {
        for bytes in [
            b"".as_slice(),
            b"GET / HT",
            b"PUT /bad/stalled HTTP/1.1\r\nHost: x\r\nContent-Le",
            &signed[..signed.len() - 200_000],
            &signed[..signed.len() - 1],
        ] {
            let mut stream = raw::connect(ground.host)?;
            stream.write_all(bytes)?;
            streams.push(stream);
        }
    }
    Ok(streams)
}

/// Waits until the server closed every one; gives how many it did not close in time.
pub fn still_open(streams: Vec<TcpStream>, limit: Duration) -> usize {
    let began = Instant::now();
    let mut open = 0;
    for mut stream in streams {
        let left = limit.saturating_sub(began.elapsed()).max(Duration::from_millis(10));
        let _ = stream.set_read_timeout(Some(left));
        let mut rest = Vec::new();
        // An answer (408, say) before the close is fine.
        if stream.read_to_end(&mut rest).is_err_and(|e| matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)) {
            open += 1;
        }
    }
    open
}
