//! HTTP/1.1 by hand, so that a test can send what no client would.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub struct Connection {
    pub stream: TcpStream,
    address: SocketAddr,
    left: Vec<u8>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// S3's code of an error.
    pub fn code(&self) -> String {
        self.text()
            .split_once("<Code>")
            .and_then(|(_, rest)| rest.split_once("</Code>"))
            .map_or(String::new(), |(code, _)| code.to_string())
    }

    /// Status and code together.
    pub fn said(&self) -> (u16, String) {
        (self.status, self.code())
    }
}

impl Connection {
    pub fn open(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        Connection { stream, address, left: Vec::new() }
    }

    /// Head and body; Host and Content-Length are added where they are missing and nothing says otherwise.
    pub fn send(&mut self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) {
        self.head(method, target, headers, Some(body.len()));
        // A server that answers early may have closed.
        let _ = self.stream.write_all(body);
    }

    pub fn head(&mut self, method: &str, target: &str, headers: &[(&str, &str)], length: Option<usize>) {
        let has = |name: &str| headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        let mut head = format!("{method} {target} HTTP/1.1\r\n");
        if !has("host") {
            head.push_str(&format!("host: {}\r\n", self.address));
        }
        if let Some(length) = length.filter(|_| !has("content-length") && !has("transfer-encoding")) {
            head.push_str(&format!("content-length: {length}\r\n"));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.stream.write_all(head.as_bytes()).unwrap();
    }

    /// The next answer.
    pub fn read(&mut self, method: &str) -> Answer {
        self.try_read(method).expect("the connection was closed without an answer")
    }

    pub fn try_read(&mut self, method: &str) -> Option<Answer> {
        loop {
            let head = self.until(b"\r\n\r\n")?;
            let head = String::from_utf8_lossy(&head).into_owned();
            let mut lines = head.split("\r\n");
            let status: u16 = lines.next()?.split(' ').nth(1)?.parse().ok()?;
            let headers: Vec<(String, String)> = lines
                .filter_map(|line| line.split_once(':'))
                .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_string()))
                .collect();
            if status == 100 {
                continue;
            }
            let length = |name: &str| headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
            let body = match length("content-length") {
                _ if method == "HEAD" || status == 204 || status == 304 => Vec::new(),
                Some(length) => self.exactly(length.parse().ok()?)?,
                None if length("transfer-encoding").is_some() => self.chunked()?,
                None => Vec::new(),
            };
            return Some(Answer { status, headers, body });
        }
    }

    /// True once the server has closed; waits at most `limit`.
    pub fn is_closed_within(&mut self, limit: Duration) -> bool {
        self.stream.set_read_timeout(Some(limit)).unwrap();
        let mut byte = [0; 4_096];
        loop {
            match self.stream.read(&mut byte) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }

    fn more(&mut self) -> Option<()> {
        let mut buffer = [0; 65_536];
        match self.stream.read(&mut buffer) {
            Ok(0) | Err(_) => None,
            Ok(count) => {
                self.left.extend_from_slice(&buffer[..count]);
                Some(())
            }
        }
    }

    fn until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.left.windows(mark.len()).position(|window| window == mark) {
                let rest = self.left.split_off(at + mark.len());
                return Some(std::mem::replace(&mut self.left, rest));
            }
            self.more()?;
        }
    }

    fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.left.len() < count {
            self.more()?;
        }
        let rest = self.left.split_off(count);
        Some(std::mem::replace(&mut self.left, rest))
    }

    fn chunked(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.until(b"\r\n")?;
            let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16).ok()?;
            let mut chunk = self.exactly(size + 2)?;
            chunk.truncate(size);
            if size == 0 {
                return Some(body);
            }
            body.append(&mut chunk);
        }
    }
}
