//! Requests that are wrong, each with the answer it must get: the table of s3.md, and as many again of our own.
//!
//! After every case the bucket must hold exactly what it held, and the server must answer the next request.
//! `tests/bad_input.rs` runs every case; `cargo prove main-job 12` also watches what stays behind in the process.
//! Not here: clients that stop in the middle and say nothing (`stall.rs` has those).

pub mod auth;
pub mod body;
pub mod names;
pub mod parts;
pub mod stall;
pub mod xml;

use crate::client::{self, Judge};
use crate::raw::{self, Request, Response};
use crate::server::{Credential, Server};
use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr};

/// What the cases find on the server.
#[derive(Clone, Debug)]
pub struct Ground {
    pub host: SocketAddr,
    pub root: Credential,
    /// A key of another tenant.
    pub stranger: Credential,
    /// `http://127.0.0.1:PORT`.
    pub endpoint: String,
    /// An open upload of `bad/upload` with parts 1, 2 and 3 of 1 KiB.
    pub upload: String,
    /// ETag of each of those parts, without quotation marks.
    pub etag: String,
}

/// A wrong request and its answer.
pub struct Case {
    pub name: &'static str,
    /// Bytes to send.
    pub wire: Vec<u8>,
    /// Close our side after the last byte.
    pub half_close: bool,
    pub head: bool,
    /// Any of these is right: status and S3 code, `*` for any code.
    pub expect: Vec<(u16, &'static str)>,
}

impl Case {
    pub fn new(name: &'static str, request: Request, expect: &[(u16, &'static str)]) -> Case {
        let head = request.method == "HEAD";
        Case { name, wire: request.wire(), half_close: false, head, expect: expect.to_vec() }
    }

    pub fn bytes(name: &'static str, wire: Vec<u8>, expect: &[(u16, &'static str)]) -> Case {
        Case { name, wire, half_close: false, head: false, expect: expect.to_vec() }
    }

    pub fn half_closed(mut self) -> Case {
        self.half_close = true;
        self
    }
}

/// Bucket that the cases aim at.
pub const BUCKET: &str = "bad";
/// The object that is there.
pub const OBJECT: &str = "exists";

impl Ground {
    /// Makes the bucket, the object and the upload.
    pub async fn prepare(server: &Server) -> Result<Ground, String> {
        let client = client::of(server);
        let said = |f: client::Failure| f.to_string();
        client.create_bucket().bucket(BUCKET).send().await.judged().map_err(said)?;
        client.put_object().bucket(BUCKET).key(OBJECT).body(vec![b'x'; 100].into()).send().await.judged().map_err(said)?;
        let begun = client.create_multipart_upload().bucket(BUCKET).key("upload").send().await.judged().map_err(said)?;
        let upload = begun.upload_id().unwrap_or_default().to_owned();
        for number in 1..=3 {
            let part = client.upload_part().bucket(BUCKET).key("upload").upload_id(&upload).part_number(number);
            part.body(vec![b'p'; 1024].into()).send().await.judged().map_err(said)?;
        }
        let stranger = server.new_tenant("stranger").map_err(|e| e.to_string())?;
        let etag = hex::encode(raw::md5(&[b'p'; 1024]));
        Ok(Ground { host: server.address(), root: Credential::root(), stranger, endpoint: server.endpoint().to_owned(), upload, etag })
    }

    /// Signed by root with the defaults.
    pub fn sign(&self, request: Request) -> Request {
        request.signed(&self.root, self.host)
    }

    /// Every case.
    pub fn cases(&self) -> Vec<Case> {
        let mut all = auth::cases(self);
        all.extend(body::cases(self));
        all.extend(names::cases(self));
        all.extend(parts::cases(self));
        all.extend(xml::cases(self));
        all
    }

    /// What the bucket holds, in words.
    pub async fn holds(&self) -> Result<String, String> {
        let said = |f: client::Failure| f.to_string();
        // A client of its own: the server may close a connection that was idle.
        let client = client::with(&self.endpoint, &self.root);
        let listed = client.list_objects_v2().bucket(BUCKET).send().await.judged().map_err(said)?;
        let objects: Vec<String> =
            listed.contents().iter().map(|o| format!("{:?} {:?} {:?}", o.key(), o.e_tag(), o.last_modified())).collect();
        let parts = client.list_parts().bucket(BUCKET).key("upload").upload_id(&self.upload).send().await.judged().map_err(said)?;
        let parts: Vec<String> = parts.parts().iter().map(|p| format!("{:?} {:?}", p.part_number(), p.e_tag())).collect();
        let uploads = client.list_multipart_uploads().bucket(BUCKET).send().await.judged().map_err(said)?;
        let buckets = client.list_buckets().send().await.judged().map_err(said)?;
        let buckets: Vec<&str> = buckets.buckets().iter().filter_map(|b| b.name()).collect();
        Ok(format!("{objects:?} {parts:?} {} uploads {buckets:?}", uploads.uploads().len()))
    }

    /// Sends a case and judges its answer.
    ///
    /// # Errors
    /// What was answered instead.
    pub fn judge(&self, case: &Case) -> Result<(), String> {
        let answer = self.exchange(case).map_err(|e| format!("{}: no answer: {e}, expected {:?}", case.name, case.expect))?;
        let code = answer.code();
        let right = case.expect.iter().any(|(status, expected)| *status == answer.status && (*expected == "*" || *expected == code));
        if right {
            return Ok(());
        }
        let text: String = answer.text().chars().take(200).collect();
        Err(format!("{}: answered {} {code}, expected {:?} ({text})", case.name, answer.status, case.expect))
    }

    fn exchange(&self, case: &Case) -> io::Result<Response> {
        let mut stream = raw::connect(self.host)?;
        let sent = stream.write_all(&case.wire);
        if case.half_close {
            stream.shutdown(Shutdown::Write)?;
        }
        raw::read_response(&mut stream, case.head).or_else(|e| sent.and(Err(e)))
    }
}
