//! From names to chunks: every piece of every version has its manifest, and every chunk in it is durable and referred to.

use super::{FsckError, Report};
use spine::id::{BucketId, ChunkId, VersionId};
use spine::limit;
use spine::wire::chunk::{ChunkAnswer, ChunkQuery, ChunkState};
use spine::wire::namespace::{Body, ListQuery, NamespaceAnswer, NamespaceQuery, UploadRecord, UploadsQuery};
use spine::wire::root::{RootAnswer, RootQuery};
use spine::wire::{Answer, Metadata, Query};
use std::collections::HashSet;
use std::sync::Arc;

/// Chunks asked about at a time.
const CHUNKS: usize = 512;
/// References of one chunk that are compared; a chunk with more is taken to have the one looked for.
const REFERENCES: usize = 4_096;

/// Versions that may hold references: committed ones, parts, open intents, and those whose release is queued.
#[derive(Debug, Default)]
pub struct Holders(HashSet<VersionId>);

impl Holders {
    pub fn contains(&self, version: VersionId) -> bool {
        self.0.contains(&version)
    }
}

struct Walk<'a> {
    metadata: &'a Arc<dyn Metadata>,
    report: &'a mut Report,
    holders: Holders,
}

pub async fn check(metadata: &Arc<dyn Metadata>, report: &mut Report) -> Result<Holders, FsckError> {
    let mut walk = Walk { metadata, report, holders: Holders::default() };
    // Before the names: a version that is committed meanwhile is an intent now.
    walk.intents().await?;
    walk.outbox().await?;
    let RootAnswer::Tenants(tenants) = walk.root(RootQuery::Tenants).await? else { return Err(FsckError::WrongAnswer) };
    for tenant in tenants {
        walk.report.tenants += 1;
        let RootAnswer::Buckets(buckets) = walk.root(RootQuery::Buckets(tenant.id)).await? else { return Err(FsckError::WrongAnswer) };
        for bucket in buckets {
            walk.report.buckets += 1;
            walk.objects(bucket.id, &bucket.name).await?;
            walk.uploads(bucket.id, &bucket.name).await?;
        }
    }
    walk.intents().await?;
    Ok(walk.holders)
}

impl Walk<'_> {
    async fn root(&self, query: RootQuery) -> Result<RootAnswer, FsckError> {
        match self.metadata.query(Query::Root(query)).await? {
            Answer::Root(answer) => Ok(answer),
            _ => Err(FsckError::WrongAnswer),
        }
    }

    async fn ask(&self, query: NamespaceQuery) -> Result<NamespaceAnswer, FsckError> {
        match self.metadata.query(Query::Namespace(query)).await? {
            Answer::Namespace(answer) => Ok(answer),
            _ => Err(FsckError::WrongAnswer),
        }
    }

    async fn intents(&mut self) -> Result<(), FsckError> {
        let mut after = None;
        self.report.open_intents = 0;
        loop {
            let NamespaceAnswer::Intents(page) = self.ask(NamespaceQuery::Intents { after, max: limit::PAGE }).await? else {
                return Err(FsckError::WrongAnswer);
            };
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.version);
            self.report.open_intents += page.len() as u64;
            self.holders.0.extend(page.iter().map(|open| open.version));
        }
    }

    async fn outbox(&mut self) -> Result<(), FsckError> {
        // One page: what is behind it is rare, and then only weakens the check of references that nobody holds.
        let NamespaceAnswer::Outbox(entries) = self.ask(NamespaceQuery::Outbox { max: 100 * limit::PAGE }).await? else {
            return Err(FsckError::WrongAnswer);
        };
        self.holders.0.extend(entries.iter().map(|entry| entry.version));
        Ok(())
    }

    async fn objects(&mut self, bucket: BucketId, name: &str) -> Result<(), FsckError> {
        let mut after = None;
        loop {
            let list = ListQuery { bucket, prefix: String::new(), delimiter: String::new(), after, max: limit::PAGE };
            let list = NamespaceQuery::List { query: list, place: None };
            let NamespaceAnswer::List { page, .. } = self.ask(list).await? else { return Err(FsckError::WrongAnswer) };
            for (key, head) in &page.objects {
                self.report.objects += 1;
                let first = self.object(bucket, key, head.id).await?;
                // Overwritten or deleted while it was looked at: look again.
                let findings = if first.is_empty() { first } else { self.object(bucket, key, head.id).await? };
                for finding in findings {
                    self.report.find(format!("{name}/{key}: {finding}"));
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(());
            }
        }
    }

    /// What is wrong with an object, if it still is `version`.
    async fn object(&mut self, bucket: BucketId, key: &str, version: VersionId) -> Result<Vec<String>, FsckError> {
        let NamespaceAnswer::Open(open) = self.ask(NamespaceQuery::Open { bucket, key: key.to_string() }).await? else {
            return Err(FsckError::WrongAnswer);
        };
        match open {
            Some((head, body)) if head.id == version => self.body((bucket, key), &body.body, head.size).await,
            _ => Ok(Vec::new()),
        }
    }

    async fn uploads(&mut self, bucket: BucketId, name: &str) -> Result<(), FsckError> {
        let mut marker: (String, Option<_>) = Default::default();
        loop {
            let query = UploadsQuery {
                bucket,
                prefix: String::new(),
                delimiter: String::new(),
                key_marker: marker.0,
                upload_marker: marker.1,
                max: limit::PAGE,
            };
            let NamespaceAnswer::Uploads { page, .. } = self.ask(NamespaceQuery::Uploads { query, place: None }).await? else {
                return Err(FsckError::WrongAnswer);
            };
            for upload in &page.uploads {
                self.parts(upload, name).await?;
            }
            match page.uploads.last() {
                Some(last) if page.truncated => marker = (last.key.clone(), Some(last.id)),
                _ => return Ok(()),
            }
        }
    }

    async fn parts(&mut self, upload: &UploadRecord, name: &str) -> Result<(), FsckError> {
        let mut after = 0;
        loop {
            let query =
                NamespaceQuery::Parts { upload: upload.id, bucket: upload.bucket, key: upload.key.clone(), after, max: limit::PAGE };
            let NamespaceAnswer::Parts { parts, truncated } = self.ask(query).await? else { return Err(FsckError::WrongAnswer) };
            for part in &parts {
                self.report.parts_of_open_uploads += 1;
                let findings = self.body((upload.bucket, &upload.key), &part.body, part.size).await?;
                let still = NamespaceQuery::Upload { bucket: upload.bucket, key: upload.key.clone(), upload: upload.id };
                let is_open = findings.is_empty() || matches!(self.ask(still).await?, NamespaceAnswer::Upload(Some(_)));
                for finding in findings.into_iter().filter(|_| is_open) {
                    self.report.find(format!("{name}/{} part {}: {finding}", upload.key, part.number));
                }
                after = part.number;
            }
            if !truncated {
                return Ok(());
            }
        }
    }

    async fn body(&mut self, (bucket, key): (BucketId, &str), body: &Body, size: u64) -> Result<Vec<String>, FsckError> {
        let pieces = match body {
            Body::Inline { len, .. } if u64::from(*len) == size => return Ok(Vec::new()),
            Body::Inline { len, .. } => return Ok(vec![format!("its record has {len} bytes and says {size}")]),
            Body::Pieces(pieces) => pieces,
        };
        let mut findings = Vec::new();
        let sum: u64 = pieces.iter().map(|piece| piece.size).sum();
        if sum != size {
            findings.push(format!("its pieces have {sum} bytes and it says {size}"));
        }
        for piece in pieces {
            self.holders.0.insert(piece.version);
            let query = NamespaceQuery::Manifests { bucket, key: key.to_owned(), versions: vec![piece.version] };
            let NamespaceAnswer::Manifests(manifests) = self.ask(query).await? else {
                return Err(FsckError::WrongAnswer);
            };
            match manifests.into_iter().next().flatten() {
                None => findings.push(format!("the manifest of {} is missing", piece.version)),
                Some(manifest) => {
                    let sum: u64 = manifest.chunks.iter().map(|chunk| u64::from(chunk.len)).sum();
                    if sum != piece.size {
                        findings.push(format!("the chunks of {} have {sum} bytes and it says {}", piece.version, piece.size));
                    }
                    let ids: Vec<ChunkId> = manifest.chunks.iter().map(|chunk| chunk.id).collect();
                    self.chunks(piece.version, &ids, &mut findings).await?;
                }
            }
        }
        Ok(findings)
    }

    async fn chunks(&self, version: VersionId, ids: &[ChunkId], findings: &mut Vec<String>) -> Result<(), FsckError> {
        for ids in ids.chunks(CHUNKS) {
            let ChunkAnswer::Records(records) = self.chunk(ChunkQuery::Records(ids.to_vec())).await? else {
                return Err(FsckError::WrongAnswer);
            };
            for (id, record) in ids.iter().zip(records) {
                match record {
                    None => findings.push(format!("the chunk {id} is not in the index")),
                    Some(record) if record.state != ChunkState::Live => findings.push(format!("the chunk {id} is {:?}", record.state)),
                    Some(record) if record.placement.is_none() => findings.push(format!("the chunk {id} is not durable")),
                    Some(_) => {}
                }
                let ChunkAnswer::References(references) = self.chunk(ChunkQuery::References { chunk: *id, max: REFERENCES }).await? else {
                    return Err(FsckError::WrongAnswer);
                };
                if references.len() < REFERENCES && !references.contains(&version) {
                    findings.push(format!("the chunk {id} does not know that {version} refers to it"));
                }
            }
        }
        Ok(())
    }

    async fn chunk(&self, query: ChunkQuery) -> Result<ChunkAnswer, FsckError> {
        match self.metadata.query(Query::Chunk(query)).await? {
            Answer::Chunk(answer) => Ok(answer),
            _ => Err(FsckError::WrongAnswer),
        }
    }
}
