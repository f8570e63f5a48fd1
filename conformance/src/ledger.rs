//! What every key may hold, after operations of which some were acknowledged and some were never answered.
//!
//! An acknowledged operation leaves exactly one possibility. One that got no answer, or a 5xx, leaves its outcome beside
//! what was possible before. Reading back must find one of the possibilities, and then only that one is left: what was seen
//! once must stay.
//! Invariant: a key has one writer at a time, so that "before" and "after" have a meaning without clocks.

use crate::content::{Content, fingerprint};
use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;

/// What an object was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// One content for a PUT, one per part of a multipart upload.
    pub parts: Vec<Content>,
    pub multipart: bool,
}

impl Written {
    pub fn put(content: Content) -> Self {
        Written { parts: vec![content], multipart: false }
    }

    pub fn bytes(&self) -> Bytes {
        if let [only] = self.parts.as_slice() {
            return only.bytes();
        }
        let mut all = BytesMut::new();
        for part in &self.parts {
            all.extend_from_slice(&part.bytes());
        }
        all.freeze()
    }

    pub fn len(&self) -> usize {
        self.parts.iter().map(|p| p.len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A key's possibilities; `None` among them is "no such object".
type Possible = Vec<Option<Written>>;

/// The possibilities of all keys of one bucket, and what contradicted them.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    keys: BTreeMap<String, Possible>,
    /// Every contradiction found, in words. Empty is the promise.
    pub violations: Vec<String>,
    pub acknowledged: u64,
    pub unanswered: u64,
}

impl Ledger {
    /// An operation was acknowledged: this is what the key holds now.
    pub fn acknowledge(&mut self, key: &str, now: Option<Written>) {
        self.acknowledged += 1;
        self.keys.insert(key.to_owned(), vec![now]);
    }

    /// An operation got no answer: this is what the key may hold now.
    pub fn doubt(&mut self, key: &str, perhaps: Option<Written>) {
        self.unanswered += 1;
        let possible = self.keys.entry(key.to_owned()).or_insert_with(|| vec![None]);
        if !possible.contains(&perhaps) {
            possible.push(perhaps);
        }
    }

    /// A key was read (`None`: 404). Records a violation if that was impossible, else leaves only what was seen.
    pub fn observe(&mut self, key: &str, seen: Option<&Bytes>) {
        let possible = self.keys.entry(key.to_owned()).or_insert_with(|| vec![None]);
        let matching = possible.iter().find(|p| match (p, seen) {
            (None, None) => true,
            (Some(written), Some(bytes)) => written.len() == bytes.len() && written.bytes() == **bytes,
            _ => false,
        });
        match matching.cloned() {
            Some(only) => *possible = vec![only],
            None => {
                let found = seen.map_or("nothing".to_owned(), |b| fingerprint(b));
                let expected: Vec<String> =
                    possible.iter().map(|p| p.as_ref().map_or("nothing".to_owned(), |w| fingerprint(&w.bytes()))).collect();
                self.violations.push(format!("{key}: read {found}, possible was {}", expected.join(" or ")));
            }
        }
    }

    /// Records a contradiction that is not about one key's bytes.
    pub fn violate(&mut self, what: String) {
        self.violations.push(what);
    }

    /// Judges a complete listing: every key that must be there is, and none that must not.
    pub fn observe_listing(&mut self, listed: &BTreeMap<String, u64>) {
        let mut found = Vec::new();
        for (key, possible) in &self.keys {
            match listed.get(key) {
                None if !possible.contains(&None) => found.push(format!("{key}: missing from the listing")),
                Some(size) if !possible.iter().flatten().any(|w| w.len() as u64 == *size) => {
                    found.push(format!("{key}: listed with {size} bytes, which it can't have"));
                }
                _ => {}
            }
        }
        found.extend(listed.keys().filter(|k| !self.keys.contains_key(*k)).map(|k| format!("{k}: listed, but never written")));
        self.violations.extend(found);
    }

    /// The only thing the key can hold; `None` where that is in doubt or nothing.
    pub fn certain(&self, key: &str) -> Option<&Written> {
        match self.keys.get(key).map(Vec::as_slice) {
            Some([Some(only)]) => Some(only),
            _ => None,
        }
    }

    pub fn keys(&self) -> Vec<String> {
        self.keys.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some(seed: u64) -> Option<Written> {
        Some(Written::put(Content::dense(seed, 10)))
    }

    #[test]
    fn an_acknowledged_write_that_reads_back_as_nothing_is_a_violation() {
        let mut ledger = Ledger::default();
        ledger.acknowledge("k", some(1));
        ledger.observe("k", None);
        assert_eq!(ledger.violations.len(), 1);
    }

    #[test]
    fn an_unanswered_write_may_be_there_or_not_but_must_then_stay_so() {
        let mut ledger = Ledger::default();
        ledger.acknowledge("k", some(1));
        ledger.doubt("k", some(2));
        ledger.observe("k", Some(&Content::dense(2, 10).bytes()));
        assert!(ledger.violations.is_empty());
        ledger.observe("k", Some(&Content::dense(1, 10).bytes()));
        assert_eq!(ledger.violations.len(), 1);
    }

    #[test]
    fn a_deleted_object_that_is_listed_is_a_violation() {
        let mut ledger = Ledger::default();
        ledger.acknowledge("k", some(1));
        ledger.acknowledge("k", None);
        ledger.observe_listing(&BTreeMap::from([("k".to_owned(), 10)]));
        assert_eq!(ledger.violations.len(), 1);
    }
}
