//! Cuts a body into chunks.
//!
//! Every byte is copied once, from the connection's pieces into the chunk's buffer, unless one piece is a chunk by itself.
//! The body's stream is polled only when there is memory for what it gives: that is the back-pressure.
//! Invariants: every chunk but the last has exactly the chunk size; after the last, the stream was seen to end, so that a
//! signature or a checksum behind the bytes has been judged; the length is the declared one, if one was declared.
//! Not here: hashing and everything after it.

use crate::body::{BodyRequest, BodyStream, WriteError};
use crate::budget::{Budget, Share};
use crate::metric::{BYTES_IN, Stage};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use std::sync::Arc;

/// A piece of plaintext with the memory it occupies.
#[derive(Clone)]
pub struct Chunk {
    pub data: Bytes,
    /// The body ends with it, for all that is known now.
    pub last: bool,
    /// Given back when the last holder is through.
    pub memory: Arc<Share>,
}

/// A body being cut.
pub struct Cutter {
    body: BodyStream,
    /// Received and not yet in a chunk.
    rest: Bytes,
    chunk_bytes: usize,
    declared: Option<u64>,
    max: u64,
    received: u64,
    ended: bool,
    budget: Arc<Budget>,
    /// Memory that a chunk needs per plaintext byte, in percent: its shards come to it.
    percent: usize,
}

impl Cutter {
    /// `percent`: memory per 100 plaintext bytes, over the whole pipeline.
    pub fn new(request: &BodyRequest, body: BodyStream, budget: Arc<Budget>, percent: usize) -> Cutter {
        Cutter {
            body,
            rest: Bytes::new(),
            chunk_bytes: request.chunk_bytes as usize,
            declared: request.declared_len,
            max: request.max_len,
            received: 0,
            ended: false,
            budget,
            percent,
        }
    }

    /// Bytes received so far; after the last chunk, the body's length.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The next chunk; `None` after the last.
    pub async fn next(&mut self) -> Result<Option<Chunk>, WriteError> {
        // A waiting request holds one piece of the connection's and no memory of the budget's.
        if self.rest.is_empty() && !self.receive().await? {
            return Ok(None);
        }
        let before = self.received - self.rest.len() as u64;
        let left = self.declared.map(|declared| usize::try_from(declared.saturating_sub(before)).unwrap_or(usize::MAX));
        let expected = left.unwrap_or(usize::MAX).clamp(1, self.chunk_bytes);
        let need = expected.saturating_mul(self.percent) / 100;
        let memory = Arc::new(Stage::Admit.time_async(self.budget.take(need)).await);
        let data = Stage::Receive.time_async(self.fill(expected)).await?;
        // Short of a whole chunk only where the body ends; a whole one is the last if the declared length says so.
        let last = data.len() < self.chunk_bytes || self.declared == Some(self.received - self.rest.len() as u64);
        if last && !self.ended {
            // Nothing can follow: anything but the end is an error, and so is what the end says about the whole.
            self.receive().await?;
        }
        Ok(Some(Chunk { data, last, memory }))
    }

    /// `expected` bytes, or what there is up to a whole chunk where the body's length was not known.
    async fn fill(&mut self, expected: usize) -> Result<Bytes, WriteError> {
        if self.rest.len() >= self.chunk_bytes {
            return Ok(self.rest.split_to(self.chunk_bytes));
        }
        if self.rest.len() == expected {
            // The whole body, or all that is left of it, in one piece.
            let data = std::mem::take(&mut self.rest);
            return if self.receive().await? { self.fill_from(data, expected).await } else { Ok(data) };
        }
        self.fill_from(Bytes::new(), expected).await
    }

    async fn fill_from(&mut self, begun: Bytes, expected: usize) -> Result<Bytes, WriteError> {
        let mut buffer = BytesMut::with_capacity(expected);
        buffer.extend_from_slice(&begun);
        while buffer.len() < self.chunk_bytes && (!self.rest.is_empty() || self.receive().await?) {
            let piece = self.rest.split_to(self.rest.len().min(self.chunk_bytes - buffer.len()));
            buffer.extend_from_slice(&piece);
        }
        Ok(buffer.freeze())
    }

    /// Puts the next piece that is not empty into `rest`; false at the end of the body.
    async fn receive(&mut self) -> Result<bool, WriteError> {
        while self.rest.is_empty() && !self.ended {
            match self.body.next().await {
                Some(piece) => {
                    self.rest = piece.map_err(WriteError::Body)?;
                    self.received += self.rest.len() as u64;
                    BYTES_IN.inc_by(self.rest.len() as u64);
                    self.check_not_over()?;
                }
                None => {
                    self.ended = true;
                    if let Some(declared) = self.declared.filter(|declared| *declared != self.received) {
                        return Err(WriteError::Short { declared, got: self.received });
                    }
                }
            }
        }
        Ok(!self.rest.is_empty())
    }

    fn check_not_over(&self) -> Result<(), WriteError> {
        if self.received > self.max {
            return Err(WriteError::TooLarge { max: self.max });
        }
        match self.declared {
            Some(declared) if self.received > declared => Err(WriteError::Short { declared, got: self.received }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
