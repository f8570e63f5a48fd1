//! One connection, one request, one answer.

use super::{Request, Response};
use crate::server::Credential;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Sends bytes on a new connection and reads one answer.
///
/// # Errors
/// No complete answer within 30 s.
pub fn exchange(host: SocketAddr, wire: &[u8], head_request: bool) -> io::Result<Response> {
    let mut stream = connect(host)?;
    // A server that refuses early may close before it read all; its answer is what counts.
    let sent = stream.write_all(wire);
    match read_response(&mut stream, head_request) {
        Ok(response) => Ok(response),
        Err(e) => sent.and(Err(e)),
    }
}

/// Signs with the defaults, sends, reads.
pub fn send(host: SocketAddr, credential: &Credential, request: Request) -> io::Result<Response> {
    let head = request.method == "HEAD";
    exchange(host, &request.signed(credential, host).wire(), head)
}

pub fn connect(host: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&host, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Reads one answer; 100 Continue is skipped.
pub fn read_response(stream: &mut impl Read, head_request: bool) -> io::Result<Response> {
    let mut bytes = Vec::new();
    loop {
        let response = read_one(stream, &mut bytes, head_request)?;
        if response.status != 100 {
            return Ok(response);
        }
    }
}

fn fill(stream: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let mut buffer = [0u8; 16 << 10];
    let read = stream.read(&mut buffer)?;
    bytes.extend_from_slice(&buffer[..read]);
    Ok(read)
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection ended inside the answer")
}

fn read_one(stream: &mut impl Read, bytes: &mut Vec<u8>, head_request: bool) -> io::Result<Response> {
    let end = loop {
        if let Some(at) = crate::server::find(bytes, b"\r\n\r\n") {
            break at;
        }
        if fill(stream, bytes)? == 0 {
            return Err(cut_off());
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    bytes.drain(..end + 4);
    let mut lines = head.split("\r\n");
    let status = lines
        .next()
        .and_then(|l| l.split_whitespace().nth(1)?.parse().ok())
        .ok_or_else(|| io::Error::other(format!("no status in {head:?}")))?;
    let headers: Vec<(String, String)> =
        lines.filter_map(|l| l.split_once(':')).map(|(n, v)| (n.trim().to_lowercase(), v.trim().to_owned())).collect();
    let mut response = Response { status, headers, body: Vec::new() };
    if head_request || status == 204 || status == 304 || status < 200 {
        return Ok(response);
    }
    if response.header("transfer-encoding").is_some_and(|v| v.contains("chunked")) {
        response.body = read_chunked(stream, bytes)?;
    } else if let Some(length) = response.header("content-length").and_then(|v| v.parse::<usize>().ok()) {
        while bytes.len() < length {
            if fill(stream, bytes)? == 0 {
                return Err(cut_off());
            }
        }
        response.body = bytes.drain(..length).collect();
    } else {
        while fill(stream, bytes)? != 0 {}
        response.body = std::mem::take(bytes);
    }
    Ok(response)
}

fn read_chunked(stream: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let at = loop {
            if let Some(at) = crate::server::find(bytes, b"\r\n") {
                break at;
            }
            if fill(stream, bytes)? == 0 {
                return Err(cut_off());
            }
        };
        let line = String::from_utf8_lossy(&bytes[..at]).into_owned();
        let length = usize::from_str_radix(line.split(';').next().unwrap_or("").trim(), 16)
            .map_err(|e| io::Error::other(format!("{e}: {line:?}")))?;
        bytes.drain(..at + 2);
        while bytes.len() < length + 2 {
            if fill(stream, bytes)? == 0 {
                return Err(cut_off());
            }
        }
        body.extend(bytes.drain(..length));
        bytes.drain(..2);
        if length == 0 {
            return Ok(body);
        }
    }
}
