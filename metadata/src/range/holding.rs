//! What each order does to what a group has of one kind. Pure.

use spine::map::Point;
use spine::wire::range::{Holding, Span};

/// What a group begins with.
pub fn at_start<P: Point>(everything: bool) -> Holding<P> {
    let owned = everything.then(|| Span { start: P::first(), end: None });
    Holding { owned, outgoing: None, leaving: None, incoming: None, settling: None, served: 0, released: 0, past: 0 }
}
