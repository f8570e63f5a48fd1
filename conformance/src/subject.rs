//! The operations of `oracle.rs` on a real server, through the AWS SDK.
//!
//! Not here: what the answer should be.

use crate::client::{Failure, Judge};
use crate::content::fingerprint;
use crate::oracle::{Answer, Attributes, Op};
use aws_sdk_s3::Client;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, Delete, EncodingType, MetadataDirective, ObjectIdentifier, Tag, Tagging};
use std::collections::{BTreeMap, HashMap};

/// A bucket of a server, and the uploads begun in it.
pub struct Subject {
    pub client: Client,
    pub bucket: String,
    /// Key and upload id by slot.
    uploads: Vec<(String, String)>,
    /// ETags that parts were answered with.
    parts: HashMap<(usize, i32), String>,
}

fn plain(etag: Option<&str>) -> String {
    etag.unwrap_or("no etag").trim_matches('"').to_owned()
}

fn attributes(content_type: Option<&str>, user: Option<&HashMap<String, String>>) -> Attributes {
    let user: BTreeMap<String, String> = user.map(|m| m.iter().map(|(k, v)| (k.clone(), v.clone())).collect()).unwrap_or_default();
    Attributes { content_type: content_type.map(str::to_owned), user }
}

fn user_map(attributes: &Attributes) -> Option<HashMap<String, String>> {
    (!attributes.user.is_empty()).then(|| attributes.user.clone().into_iter().collect())
}

impl Subject {
    pub fn new(client: Client, bucket: &str) -> Self {
        Subject { client, bucket: bucket.into(), uploads: Vec::new(), parts: HashMap::new() }
    }

    pub async fn apply(&mut self, op: &Op) -> Answer {
        self.perform(op).await.unwrap_or_else(|f| Answer::failed(&f))
    }

    async fn perform(&mut self, op: &Op) -> Result<Answer, Failure> {
        let (client, bucket) = (self.client.clone(), self.bucket.clone());
        match op {
            Op::Put { key, content, attributes, if_none_match, if_match } => {
                let request = client.put_object().bucket(bucket).key(key).body(content.bytes().into());
                let request = request.set_content_type(attributes.content_type.clone()).set_metadata(user_map(attributes));
                let request = request.set_if_none_match(if_none_match.then(|| "*".to_owned())).set_if_match(if_match.clone());
                Ok(Answer::Etag(plain(request.send().await.judged()?.e_tag())))
            }
            Op::Get { key, range, if_match, if_none_match, part } => {
                let request = client.get_object().bucket(bucket).key(key).set_range(range.clone()).set_part_number(*part);
                let request = request.set_if_match(if_match.clone()).set_if_none_match(if_none_match.clone());
                seen(request.send().await.judged()?).await
            }
            Op::Head { key } => {
                let answer = client.head_object().bucket(bucket).key(key).send().await.judged()?;
                Ok(Answer::Object {
                    etag: plain(answer.e_tag()),
                    body: None,
                    length: answer.content_length().unwrap_or(-1) as u64,
                    range: None,
                    attributes: attributes(answer.content_type(), answer.metadata()),
                })
            }
            Op::Delete { key } => client.delete_object().bucket(bucket).key(key).send().await.judged().map(|_| Answer::Done),
            Op::DeleteMany { keys } => {
                let ids = keys.iter().filter_map(|k| ObjectIdentifier::builder().key(k).build().ok()).collect();
                let delete = Delete::builder().set_objects(Some(ids)).build().map_err(|e| Failure::Unknown(e.to_string()))?;
                let answer = client.delete_objects().bucket(bucket).delete(delete).send().await.judged()?;
                let mut names: Vec<String> = answer.deleted().iter().filter_map(|d| d.key().map(str::to_owned)).collect();
                names.sort();
                Ok(Answer::Names(names))
            }
            Op::Copy { from, to, replace } => {
                let source = crate::raw::path_of(&self.bucket, from);
                let mut request = client.copy_object().bucket(bucket).key(to).copy_source(source);
                if let Some(new) = replace {
                    request = request.metadata_directive(MetadataDirective::Replace);
                    request = request.set_content_type(new.content_type.clone()).set_metadata(user_map(new));
                }
                let answer = request.send().await.judged()?;
                Ok(Answer::Etag(plain(answer.copy_object_result().and_then(|r| r.e_tag()))))
            }
            Op::SetTags { key, tags } => {
                let set = tags.iter().filter_map(|(k, v)| Tag::builder().key(k).value(v).build().ok()).collect();
                let tagging = Tagging::builder().set_tag_set(Some(set)).build().map_err(|e| Failure::Unknown(e.to_string()))?;
                client.put_object_tagging().bucket(bucket).key(key).tagging(tagging).send().await.judged().map(|_| Answer::Done)
            }
            Op::GetTags { key } => {
                let answer = client.get_object_tagging().bucket(bucket).key(key).send().await.judged()?;
                let mut tags: Vec<_> = answer.tag_set().iter().map(|t| (t.key().to_owned(), t.value().to_owned())).collect();
                tags.sort();
                Ok(Answer::Tags(tags))
            }
            Op::DeleteTags { key } => client.delete_object_tagging().bucket(bucket).key(key).send().await.judged().map(|_| Answer::Done),
            Op::List { v2, prefix, delimiter, after, page } => {
                let pages = if *v2 {
                    self.list_v2(prefix, delimiter, after, *page).await?
                } else {
                    self.list_v1(prefix, delimiter, after, *page).await?
                };
                Ok(Answer::Listing(pages))
            }
            _ => self.multipart(op).await,
        }
    }

    async fn multipart(&mut self, op: &Op) -> Result<Answer, Failure> {
        let (client, bucket) = (self.client.clone(), self.bucket.clone());
        match op {
            Op::Begin { key, attributes } => {
                let request = client.create_multipart_upload().bucket(bucket).key(key);
                let request = request.set_content_type(attributes.content_type.clone()).set_metadata(user_map(attributes));
                let answer = request.send().await.judged()?;
                self.uploads.push((key.clone(), answer.upload_id().unwrap_or_default().to_owned()));
                Ok(Answer::Done)
            }
            Op::Part { slot, number, content } => {
                let (key, id) = self.uploads[*slot].clone();
                let request = client.upload_part().bucket(bucket).key(key).upload_id(id).part_number(*number);
                let etag = plain(request.body(content.bytes().into()).send().await.judged()?.e_tag());
                self.parts.insert((*slot, *number), etag.clone());
                Ok(Answer::Etag(etag))
            }
            Op::PartCopy { slot, number, from, range } => {
                let (key, id) = self.uploads[*slot].clone();
                let request = client.upload_part_copy().bucket(bucket).key(key).upload_id(id).part_number(*number);
                let request = request.copy_source(crate::raw::path_of(&self.bucket, from));
                let request = request.set_copy_source_range(range.map(|(a, b)| format!("bytes={a}-{b}")));
                let etag = plain(request.send().await.judged()?.copy_part_result().and_then(|r| r.e_tag()));
                self.parts.insert((*slot, *number), etag.clone());
                Ok(Answer::Etag(etag))
            }
            Op::Complete { slot, parts } => {
                let (key, id) = self.uploads[*slot].clone();
                let etag = |n: &i32| self.parts.get(&(*slot, *n)).cloned().unwrap_or_else(|| "0".repeat(32));
                let list = parts.iter().map(|n| CompletedPart::builder().part_number(*n).e_tag(etag(n)).build()).collect();
                let body = CompletedMultipartUpload::builder().set_parts(Some(list)).build();
                let request = client.complete_multipart_upload().bucket(bucket).key(key).upload_id(id).multipart_upload(body);
                Ok(Answer::Etag(plain(request.send().await.judged()?.e_tag())))
            }
            Op::Abort { slot } => {
                let (key, id) = self.uploads[*slot].clone();
                client.abort_multipart_upload().bucket(bucket).key(key).upload_id(id).send().await.judged().map(|_| Answer::Done)
            }
            Op::ListParts { slot } => {
                let (key, id) = self.uploads[*slot].clone();
                let answer = client.list_parts().bucket(bucket).key(key).upload_id(id).send().await.judged()?;
                let part = |p: &aws_sdk_s3::types::Part| (p.part_number().unwrap_or(0), p.size().unwrap_or(-1) as u64, plain(p.e_tag()));
                Ok(Answer::Parts(answer.parts().iter().map(part).collect()))
            }
            Op::ListUploads { prefix } => {
                let answer =
                    client.list_multipart_uploads().bucket(bucket).prefix(prefix).encoding_type(EncodingType::Url).send().await.judged()?;
                let mut names: Vec<String> = answer.uploads().iter().filter_map(|u| u.key().map(decode)).collect();
                names.sort();
                Ok(Answer::Names(names))
            }
            other => Err(Failure::Unknown(format!("not a multipart operation: {other:?}"))),
        }
    }

    async fn list_v2(&self, prefix: &str, delimiter: &str, after: &str, page: i32) -> Result<Vec<(Vec<String>, Vec<String>)>, Failure> {
        let (mut pages, mut token) = (Vec::new(), None);
        loop {
            let request = self.client.list_objects_v2().bucket(&self.bucket).prefix(prefix).delimiter(delimiter).max_keys(page);
            let request = request.start_after(after).encoding_type(EncodingType::Url).set_continuation_token(token);
            let answer = request.send().await.judged()?;
            pages.push(page_of(answer.contents(), answer.common_prefixes()));
            if !answer.is_truncated().unwrap_or(false) {
                return Ok(pages);
            }
            token = Some(answer.next_continuation_token().unwrap_or_default().to_owned());
            if pages.len() > 100_000 {
                return Err(Failure::Unknown("a listing without end".into()));
            }
        }
    }

    async fn list_v1(&self, prefix: &str, delimiter: &str, after: &str, page: i32) -> Result<Vec<(Vec<String>, Vec<String>)>, Failure> {
        let (mut pages, mut marker) = (Vec::new(), after.to_owned());
        loop {
            let request = self.client.list_objects().bucket(&self.bucket).prefix(prefix).delimiter(delimiter).max_keys(page);
            let answer = request.marker(&marker).encoding_type(EncodingType::Url).send().await.judged()?;
            let entries = page_of(answer.contents(), answer.common_prefixes());
            let last = entries.0.last().and_then(|l| l.split('\t').next()).unwrap_or_default().to_owned();
            pages.push(entries);
            if !answer.is_truncated().unwrap_or(false) {
                return Ok(pages);
            }
            // NextMarker is promised only with a delimiter; else the last key is the marker.
            marker = answer.next_marker().map_or(last, decode);
            if pages.len() > 100_000 {
                return Err(Failure::Unknown("a listing without end".into()));
            }
        }
    }
}

fn page_of(objects: &[aws_sdk_s3::types::Object], prefixes: &[aws_sdk_s3::types::CommonPrefix]) -> (Vec<String>, Vec<String>) {
    let line = |o: &aws_sdk_s3::types::Object| {
        format!("{}\t{}\t{}", decode(o.key().unwrap_or_default()), plain(o.e_tag()), o.size().unwrap_or(-1))
    };
    (objects.iter().map(line).collect(), prefixes.iter().map(|p| decode(p.prefix().unwrap_or_default())).collect())
}

/// Undoes `encoding-type=url`, in which a space may be `+`.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten().and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[at], hex) {
            (_, Some(byte)) => {
                out.push(byte);
                at += 3;
                continue;
            }
            (b'+', _) => out.push(b' '),
            (other, _) => out.push(other),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

async fn seen(answer: GetObjectOutput) -> Result<Answer, Failure> {
    let etag = plain(answer.e_tag());
    let length = answer.content_length().unwrap_or(-1) as u64;
    let range = answer.content_range().map(str::to_owned);
    let attributes = attributes(answer.content_type(), answer.metadata());
    let body = answer.body.collect().await.map_err(|e| Failure::Unknown(format!("the body broke off: {e}")))?.into_bytes();
    Ok(Answer::Object { etag, body: Some(fingerprint(&body)), length, range, attributes })
}
