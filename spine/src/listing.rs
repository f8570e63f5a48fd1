//! One page of a listing, gathered from the subtrees that hold it: which group to ask next, and for what.
//!
//! ```text
//! query -> ask(): the group of this place, this question -> heard(where its range ended, what it said) -> ask() ... -> page
//! ```
//! - A page's token is a key or a common prefix and names no group: it stays good over any split, merge or move.
//! - A group answers for its own range as it is when it answers, and the walk goes on where *that* range ends, whatever the map said: a
//!   split between asking and answering makes one more question and never a shorter page.
//! - A common prefix that was listed is skipped in every group: those that lie wholly inside it are not asked.
//! - A full page asks on for one entry until it knows whether there is more, so that a page is truncated only if something follows.
//!
//! Invariant: a page holds every entry of its span once, in order, or there is an error.
//! Not here: the scan within one group (metadata's `namespace/list.rs`), finding a group's leader, retrying.

pub mod group;

use crate::map::{NamePoint, after_prefix};
use crate::wire::namespace::{ListPage, ListQuery};

/// A group's answer cannot be part of this page.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListingError {
    #[error("a group listed `{entry}`, which is not inside what it was asked for")]
    Astray { entry: String },
    #[error("a group listed more than it was asked for. asked=`{asked}`, listed=`{listed}`")]
    TooMany { asked: usize, listed: usize },
    /// Its range ends at or before the place that it was asked for: it should have refused.
    #[error("a group answered for a place that it does not hold")]
    NotItsOwn,
}

/// A question for the group that holds `place`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    pub place: NamePoint,
    pub query: ListQuery,
}

/// A page in the making.
#[derive(Clone, Debug)]
pub struct Listing {
    query: ListQuery,
    page: ListPage,
    /// Last entry so far, or where the page was to begin.
    after: Option<String>,
    /// What is not yet looked at begins here; `None`: everything was.
    place: Option<NamePoint>,
}

impl Listing {
    pub fn new(query: ListQuery) -> Self {
        let place = (query.max > 0).then(|| start(&query, query.after.as_deref())).flatten();
        let page = ListPage { objects: Vec::new(), prefixes: Vec::new(), next: None };
        let after = query.after.clone();
        Listing { query, page, after, place }
    }

    /// Whom to ask for what; `None`: the page is whole.
    pub fn ask(&self) -> Option<Ask> {
        let place = self.place.clone()?;
        let query = ListQuery { after: self.after.clone(), max: self.missing().max(1), ..self.query.clone() };
        Some(Ask { place, query })
    }

    /// Takes in the answer to [`Self::ask`]. `end`: where the range of the group that answered ended as it answered.
    ///
    /// # Errors
    /// [`ListingError`]: the whole page is to be given up.
    pub fn heard(&mut self, end: Option<&NamePoint>, answer: ListPage) -> Result<(), ListingError> {
        let Some(place) = &self.place else { return Ok(()) };
        if end.is_some_and(|end| end <= place) {
            return Err(ListingError::NotItsOwn);
        }
        let (asked, listed) = (self.missing().max(1), answer.objects.len() + answer.prefixes.len());
        if listed > asked {
            return Err(ListingError::TooMany { asked, listed });
        }
        self.check(&answer, end)?;
        if self.missing() == 0 {
            if listed > 0 || answer.next.is_some() {
                self.page.next.clone_from(&self.after);
                self.place = None;
            } else {
                self.go_on(end);
            }
            return Ok(());
        }
        let last = answer.objects.last().map(|(key, _)| key).max(answer.prefixes.last()).cloned();
        self.after = last.or(self.after.take());
        self.page.objects.extend(answer.objects);
        self.page.prefixes.extend(answer.prefixes);
        match answer.next {
            Some(_) if self.missing() == 0 => {
                self.page.next.clone_from(&self.after);
                self.place = None;
            }
            Some(token) if listed == 0 => return Err(ListingError::Astray { entry: token }),
            // It gave less than was asked for, and has more in this very range.
            Some(_) => self.place = start(&self.query, self.after.as_deref()),
            None => self.go_on(end),
        }
        Ok(())
    }

    /// The page, once [`Self::ask`] has nothing more to ask.
    pub fn page(self) -> ListPage {
        self.page
    }

    fn missing(&self) -> usize {
        self.query.max.saturating_sub(self.page.objects.len() + self.page.prefixes.len())
    }

    /// On to the next range, or past the common prefix listed last if that reaches farther.
    fn go_on(&mut self, end: Option<&NamePoint>) {
        let past = start(&self.query, self.after.as_deref());
        self.place = match (end, past) {
            (Some(end), Some(past)) => Some(end.clone().max(past)).filter(|place| self.inside(place)),
            _ => None,
        };
    }

    fn inside(&self, place: &NamePoint) -> bool {
        place.bucket == self.query.bucket && place.key.starts_with(self.query.prefix.as_bytes())
    }

    /// That all of the answer sorts after what the page has, ascends, and lies in the range asked.
    fn check(&self, answer: &ListPage, end: Option<&NamePoint>) -> Result<(), ListingError> {
        let from = start(&self.query, self.after.as_deref());
        let fits = |entry: &str, common: bool| {
            let at = NamePoint::new(self.query.bucket, entry);
            // A page that begins inside a common prefix lists that prefix, which sorts before its own beginning.
            let late = from.as_ref().is_some_and(|from| *from <= at || common && from.key.starts_with(entry.as_bytes()));
            late && self.inside(&at) && end.is_none_or(|end| at < *end)
        };
        let ascends = |entries: &[&str]| entries.windows(2).find(|pair| pair[0] >= pair[1]).map(|pair| pair[1].to_owned());
        let objects: Vec<&str> = answer.objects.iter().map(|(key, _)| key.as_str()).collect();
        let prefixes: Vec<&str> = answer.prefixes.iter().map(String::as_str).collect();
        let stray_key = objects.iter().find(|key| !fits(key, false));
        let astray = stray_key.or_else(|| prefixes.iter().find(|prefix| !fits(prefix, true))).map(|entry| (*entry).to_owned());
        match astray.or_else(|| ascends(&objects)).or_else(|| ascends(&prefixes)) {
            Some(entry) => Err(ListingError::Astray { entry }),
            None => Ok(()),
        }
    }
}

/// Where a page after `after` begins; `None`: nothing can sort there.
pub fn start(query: &ListQuery, after: Option<&str>) -> Option<NamePoint> {
    let least = NamePoint::new(query.bucket, query.prefix.as_str());
    let Some(after) = after else { return Some(least) };
    let key = if group::is_common_prefix(after, &query.prefix, &query.delimiter) {
        after_prefix(after.as_bytes())?
    } else {
        [after.as_bytes(), &[0]].concat()
    };
    let from = NamePoint { bucket: query.bucket, key }.max(least);
    from.key.starts_with(query.prefix.as_bytes()).then_some(from)
}
