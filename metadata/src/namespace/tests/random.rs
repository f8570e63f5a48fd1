//! Random writes against a map of current versions that knows conditions.

use super::*;
use crate::sample::{inline, pieces, version};
use proptest::prelude::*;
use spine::id::{UnixMs, WriterId};
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
enum Step {
    Open(u64),
    Abort(u64),
    Commit { key: u8, inline: bool, version: u64, modified: u64, condition: Demand },
    Delete { key: u8, condition: Demand },
    Tags(u8),
    OutboxDone(usize),
}

#[derive(Clone, Debug)]
struct Demand {
    if_match: Option<Option<u64>>,
    if_none_match: Option<Option<u64>>,
    if_size: Option<u64>,
    if_second: Option<u64>,
}

fn demand() -> impl Strategy<Value = Demand> {
    let tag = || prop::option::weighted(0.2, prop::option::weighted(0.6, 0..20u64));
    let small = |to| prop::option::weighted(0.1, 0..to);
    (tag(), tag(), small(20u64), small(3u64)).prop_map(|(if_match, if_none_match, if_size, if_second)| Demand {
        if_match,
        if_none_match,
        if_size,
        if_second,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..20u64).prop_map(Step::Open),
        1 => (0..20u64).prop_map(Step::Abort),
        8 => (0..3u8, any::<bool>(), 0..20u64, 0..3_000u64, demand())
            .prop_map(|(key, inline, version, modified, condition)| Step::Commit { key, inline, version, modified, condition }),
        3 => (0..3u8, demand()).prop_map(|(key, condition)| Step::Delete { key, condition }),
        1 => (0..3u8).prop_map(Step::Tags),
        1 => (0..4usize).prop_map(Step::OutboxDone),
    ]
}

/// Version n is n bytes long and has an MD5 of n, so that its entity tag tells it.
fn condition(demand: &Demand) -> Condition {
    let tags = |tag: &Option<u64>| match tag {
        None => EtagMatch::Any,
        Some(n) => EtagMatch::OneOf(vec!["W/\"x\"".into(), hex::encode([*n as u8; 16])]),
    };
    Condition {
        if_match: demand.if_match.as_ref().map(tags),
        if_none_match: demand.if_none_match.as_ref().map(tags),
        if_size: demand.if_size,
        if_modified_second: demand.if_second,
    }
}

fn verdict(demand: &Demand, current: Option<(u64, u64)>) -> Option<Refusal> {
    let Some((n, modified)) = current else { return demand.if_match.as_ref().map(|_| Refusal::NoSuchObject) };
    let is = |tag: &Option<u64>| tag.is_none_or(|tag| tag == n);
    let fine = demand.if_match.as_ref().is_none_or(is)
        && !demand.if_none_match.as_ref().is_some_and(is)
        && demand.if_size.is_none_or(|size| size == n)
        && demand.if_second.is_none_or(|second| second == modified / 1_000);
    (!fine).then_some(Refusal::PreconditionFailed)
}

#[derive(Clone, Copy, PartialEq)]
enum Life {
    Open,
    Visible,
    Over,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn random_writes_agree_with_a_plain_map(steps in prop::collection::vec(step(), 1..80)) {
        let (mut table, mut twin) = (table(), table());
        let mut current: BTreeMap<u8, (u64, u64)> = BTreeMap::new();
        let mut lives: BTreeMap<u64, Life> = BTreeMap::new();
        for (seq, step) in (1..).zip(steps) {
            let name = |key: u8| key.to_string();
            let command = match &step {
                Step::Open(n) => NamespaceCommand::OpenIntent { version: version(*n), bucket: BUCKET, key: "k".into(), writer: WriterId([0; 16]), opened: UnixMs(1) },
                Step::Abort(n) => NamespaceCommand::AbortIntent { version: version(*n), bucket: BUCKET, key: "k".into() },
                Step::Commit { key, inline: small, version: n, modified, condition: demand } => {
                    let mut new = if *small { inline(version(*n), *modified, *n) } else { pieces(version(*n), *modified, &[1]) };
                    new.head.size = *n;
                    new.head.etag.md5 = [*n as u8; 16];
                    NamespaceCommand::Commit { bucket: BUCKET, key: name(*key), new, condition: condition(demand) }
                }
                Step::Delete { key, condition: demand } => NamespaceCommand::Delete { bucket: BUCKET, key: name(*key), condition: condition(demand) },
                Step::Tags(key) => NamespaceCommand::SetTags { bucket: BUCKET, key: name(*key), tags: vec![] },
                Step::OutboxDone(n) => NamespaceCommand::OutboxDone { entries: outbox(&table).into_iter().take(*n).collect() },
            };
            // A version is committed to one key only; the map does not say what else would mean.
            if let Step::Commit { key, version: n, .. } = &step && current.iter().any(|(other, (m, _))| m == n && other != key) {
                continue;
            }
            let reply = run_at(&mut table, command.clone(), seq);
            prop_assert_eq!(&apply(&mut twin, GROUP, &command, Seq(seq)).unwrap(), &reply);
            prop_assert_eq!(&table, &twin, "the same commands make the same bytes");
            match step {
                Step::Open(n) => match lives.get(&n) {
                    None => {
                        lives.insert(n, Life::Open);
                        prop_assert_eq!(reply, Reply::Done);
                    }
                    Some(Life::Open) => prop_assert_eq!(reply, Reply::Done),
                    // An inline version that is visible had no intent; opening one for it is not refused, and harmless.
                    Some(Life::Visible) => {}
                    Some(Life::Over) => prop_assert_eq!(reply, refused(Refusal::IntentClosed)),
                },
                Step::Abort(n) => {
                    if lives.get(&n) == Some(&Life::Open) {
                        lives.insert(n, Life::Over);
                    }
                }
                Step::Commit { key, inline, version: n, modified, condition } => {
                    let before = current.get(&key).copied();
                    if let Some((m, modified)) = before && m == n {
                        let Reply::Committed { modified: found, .. } = reply else { panic!("{reply:?}") };
                        prop_assert_eq!(found.0, modified);
                        continue;
                    }
                    let life = lives.get(&n).copied();
                    let guarded = if inline { matches!(life, None | Some(Life::Open)) } else { life == Some(Life::Open) };
                    let refusal = if guarded { verdict(&condition, before) } else { Some(Refusal::IntentClosed) };
                    if let Some(refusal) = refusal {
                        prop_assert_eq!(reply, refused(refusal));
                        continue;
                    }
                    let modified = modified.max(before.map_or(0, |before| before.1));
                    prop_assert_eq!(reply, Reply::Committed { seq: Seq(seq), modified: UnixMs(modified) });
                    before.map(|before| lives.insert(before.0, Life::Over));
                    current.insert(key, (n, modified));
                    lives.insert(n, Life::Visible);
                }
                Step::Delete { key, condition } => {
                    let before = current.get(&key).copied();
                    match (verdict(&condition, before), before) {
                        (Some(refusal), _) => prop_assert_eq!(reply, refused(refusal)),
                        (None, None) => prop_assert_eq!(reply, Reply::Deleted { was: None }),
                        (None, Some((n, _))) => {
                            let Reply::Deleted { was: Some(was) } = reply else { panic!("{reply:?}") };
                            prop_assert_eq!(was.id, version(n));
                            current.remove(&key);
                            lives.insert(n, Life::Over);
                        }
                    }
                }
                Step::Tags(key) => prop_assert_eq!(reply == Reply::Done, current.contains_key(&key)),
                Step::OutboxDone(_) => {}
            }
            for key in 0..3 {
                let found = head_of(&table, &name(key)).map(|head| (head.size, head.modified.0));
                prop_assert_eq!(found, current.get(&key).copied());
            }
        }
    }
}
