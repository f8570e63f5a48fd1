//! What a client demands of the current version before its write. Decided here, at the write's place in the log.

use spine::wire::Refusal;
use spine::wire::namespace::{Condition, EtagMatch, VersionHead};

/// Whether `condition` holds of the current version.
///
/// # Errors
/// `NoSuchObject`: If-Match and there is none. `PreconditionFailed`: any other that does not hold.
/// The size and the time of a version that is not there are no demand: deleting nothing succeeds.
pub fn check(condition: &Condition, current: Option<&VersionHead>) -> Result<(), Refusal> {
    if let Some(wanted) = &condition.if_match {
        let current = current.ok_or(Refusal::NoSuchObject)?;
        if !matches(wanted, current) {
            return Err(Refusal::PreconditionFailed);
        }
    }
    let Some(current) = current else { return Ok(()) };
    let unwanted = condition.if_none_match.as_ref().is_some_and(|unwanted| matches(unwanted, current));
    let size = condition.if_size.is_none_or(|size| size == current.size);
    let second = condition.if_modified_second.is_none_or(|second| second == current.modified.0 / 1_000);
    if unwanted || !size || !second { Err(Refusal::PreconditionFailed) } else { Ok(()) }
}

fn matches(tags: &EtagMatch, current: &VersionHead) -> bool {
    match tags {
        EtagMatch::Any => true,
        EtagMatch::OneOf(tags) => {
            let text = current.etag.text();
            tags.contains(&text)
        }
    }
}
