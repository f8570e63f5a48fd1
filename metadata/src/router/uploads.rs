//! One page of open uploads, gathered from the subtrees that hold them: as [`spine::listing`] does for objects.
//!
//! Invariant: a page holds every upload of its span once, in order, and is truncated exactly if more follow; or there is an error.

use spine::listing::{ListingError, group};
use spine::map::{NamePoint, after_prefix};
use spine::wire::namespace::{UploadsPage, UploadsQuery};

pub struct Uploads {
    /// Its markers are those of the last entry so far.
    query: UploadsQuery,
    page: UploadsPage,
    /// What is not yet looked at begins here; `None`: everything was.
    place: Option<NamePoint>,
}

impl Uploads {
    pub fn new(query: UploadsQuery) -> Self {
        let place = (query.max > 0).then(|| start(&query)).flatten();
        Uploads { query, page: UploadsPage { uploads: Vec::new(), prefixes: Vec::new(), truncated: false }, place }
    }

    fn missing(&self) -> usize {
        self.query.max.saturating_sub(self.page.uploads.len() + self.page.prefixes.len())
    }

    /// Whom to ask for what; `None`: the page is whole.
    pub fn ask(&self) -> Option<(NamePoint, UploadsQuery)> {
        let place = self.place.clone()?;
        Some((place, UploadsQuery { max: self.missing().max(1), ..self.query.clone() }))
    }

    /// Takes in an answer, as `spine::listing::Listing::heard` does.
    ///
    /// # Errors
    /// [`ListingError`]: the whole page is to be given up.
    pub fn heard(&mut self, end: Option<&NamePoint>, answer: UploadsPage) -> Result<(), ListingError> {
        let Some(place) = &self.place else { return Ok(()) };
        if end.is_some_and(|end| end <= place) {
            return Err(ListingError::NotItsOwn);
        }
        let (asked, listed) = (self.missing().max(1), answer.uploads.len() + answer.prefixes.len());
        if listed > asked {
            return Err(ListingError::TooMany { asked, listed });
        }
        if self.missing() == 0 {
            if listed > 0 || answer.truncated {
                (self.page.truncated, self.place) = (true, None);
            } else {
                self.go_on(end);
            }
            return Ok(());
        }
        match (answer.uploads.last(), answer.prefixes.last()) {
            (upload, Some(prefix)) if upload.is_none_or(|upload| upload.key < *prefix) => {
                (self.query.key_marker, self.query.upload_marker) = (prefix.clone(), None);
            }
            (Some(upload), _) => (self.query.key_marker, self.query.upload_marker) = (upload.key.clone(), Some(upload.id)),
            _ => {}
        }
        self.page.uploads.extend(answer.uploads);
        self.page.prefixes.extend(answer.prefixes);
        match answer.truncated {
            true if self.missing() == 0 => (self.page.truncated, self.place) = (true, None),
            true if listed == 0 => return Err(ListingError::Astray { entry: self.query.key_marker.clone() }),
            true => self.place = start(&self.query),
            false => self.go_on(end),
        }
        Ok(())
    }

    /// The page, once [`Self::ask`] has nothing more to ask.
    pub fn page(self) -> UploadsPage {
        self.page
    }

    fn go_on(&mut self, end: Option<&NamePoint>) {
        let inside = |place: &NamePoint| place.bucket == self.query.bucket && place.key.starts_with(self.query.prefix.as_bytes());
        self.place = match (end, start(&self.query)) {
            (Some(end), Some(past)) => Some(end.clone().max(past)).filter(inside),
            _ => None,
        };
    }
}

/// Where what is asked for begins; `None`: nothing can sort there.
fn start(query: &UploadsQuery) -> Option<NamePoint> {
    let least = NamePoint::new(query.bucket, query.prefix.as_str());
    if query.key_marker.is_empty() {
        return Some(least);
    }
    let marker = query.key_marker.as_bytes();
    let key = if group::is_common_prefix(&query.key_marker, &query.prefix, &query.delimiter) {
        after_prefix(marker)?
    } else if query.upload_marker.is_some() {
        marker.to_vec()
    } else {
        [marker, &[0]].concat()
    };
    let from = NamePoint { bucket: query.bucket, key }.max(least);
    from.key.starts_with(query.prefix.as_bytes()).then_some(from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use spine::id::{BucketId, UnixMs, UploadId};
    use spine::listing::group::Group;
    use spine::wire::namespace::{Attributes, UploadRecord};

    fn record(key: &str, id: u8) -> UploadRecord {
        UploadRecord {
            id: UploadId([id; 16]),
            bucket: BucketId(1),
            key: key.into(),
            created: UnixMs(1),
            attributes: Attributes::default(),
            tags: vec![],
            checksum: None,
            initiator: String::new(),
        }
    }

    /// What a group with the range from `start` to `end` answers.
    fn answer(all: &[(String, u8)], query: &UploadsQuery, from: &NamePoint, end: Option<&NamePoint>) -> UploadsPage {
        let mut page = UploadsPage { uploads: vec![], prefixes: vec![], truncated: false };
        let marker = (query.key_marker.as_str(), query.upload_marker.map(|id| id.0[0]));
        let skipped = |key: &str, id: u8| match marker {
            ("", _) => false,
            (marker, _) if group::is_common_prefix(marker, &query.prefix, &query.delimiter) => key <= marker || key.starts_with(marker),
            (marker, Some(after)) => (key, id) <= (marker, after),
            (marker, None) => key <= marker,
        };
        for (key, id) in all {
            let at = NamePoint::new(BucketId(1), key.as_str());
            let own = at >= *from && end.is_none_or(|end| at < *end);
            if !own || !key.starts_with(&query.prefix) || skipped(key, *id) {
                continue;
            }
            let common = match group::of(key, &query.prefix, &query.delimiter) {
                Group::Key => None,
                Group::Prefix(common) => Some(common.to_string()),
            };
            if common.is_some() && page.prefixes.last() == common.as_ref() {
                continue;
            }
            if page.uploads.len() + page.prefixes.len() == query.max {
                page.truncated = true;
                break;
            }
            match common {
                None => page.uploads.push(record(key, *id)),
                Some(common) => page.prefixes.push(common),
            }
        }
        page
    }

    fn key() -> impl Strategy<Value = String> {
        "[ab/]{1,4}"
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn a_page_over_many_groups_is_the_page_of_one(
            uploads in prop::collection::btree_set((key(), 0..4u8), 0..20),
            cuts in prop::collection::btree_set(key(), 0..6),
            (prefix, marker) in ("[ab/]{0,2}", "[ab/]{0,4}"),
            (delimited, marked, max) in (any::<bool>(), prop::option::of(0..4u8), 1..6usize),
        ) {
            let all: Vec<(String, u8)> = uploads.into_iter().collect();
            let query = UploadsQuery {
                bucket: BucketId(1),
                prefix,
                delimiter: if delimited { "/".into() } else { String::new() },
                upload_marker: marked.filter(|_| !marker.is_empty()).map(|id| UploadId([id; 16])),
                key_marker: marker,
                max,
            };
            let first = NamePoint::new(BucketId(0), "");
            let whole = answer(&all, &query, &first, None);
            let mut starts: Vec<NamePoint> = vec![first];
            starts.extend(cuts.iter().map(|cut| NamePoint::new(BucketId(1), cut.as_str())));
            let mut gathering = Uploads::new(query);
            let mut asked = 0;
            while let Some((place, query)) = gathering.ask() {
                let at = starts.partition_point(|start| *start <= place) - 1;
                let end = starts.get(at + 1);
                gathering.heard(end, answer(&all, &query, &starts[at].clone().max(place), end)).unwrap();
                asked += 1;
                prop_assert!(asked < 100);
            }
            prop_assert_eq!(gathering.page(), whole);
        }
    }
}
