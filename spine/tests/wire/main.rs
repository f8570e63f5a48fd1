//! Every message survives the wire, and its bytes never change.
//!
//! `golden.txt` holds one line a message variant: its name and the hexadecimal postcard of a fixed value. A line is never edited:
//! a deployment's log and its shards are written in these bytes. A new variant is a new line at the end of its type, which the
//! failing test prints.

mod generate;

use generate::{Generator, Seen, Source};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use spine::audit::{Answered, Question};
use spine::fleet::admission::Admission;
use spine::fleet::announcement::{Announcement, SignedAnnouncement};
use spine::fleet::revocation::{Revocations, SignedRevocations};
use spine::wire::admission::{AdmissionRefusal, Admitted, Enlisted, JoinRequest, RenewRequest};
use spine::wire::chunk::{ChunkAnswer, ChunkCommand, ChunkQuery, ChunkRecord, ChunkState, ReserveOutcome};
use spine::wire::cluster::{
    Append, Appended, Appends, Ask, Beaten, Beats, Change, Changed, ClusterError, ClusterStatus, Cut, Endpoint, GroupCall, GroupDone,
    GroupOrder, Loads, MemberChange, Propose, Proposed, RequestVote, SnapshotPart, SnapshotTaken, Understood, Voted,
};
use spine::wire::copy::{CopyPart, CopyQuery, CopyStep, RestoreCommand};
use spine::wire::namespace::{Body, ChecksumAlgorithm, ChecksumKind, Codec, NamespaceAnswer, NamespaceCommand, NamespaceQuery};
use spine::wire::peer::{Listing, PeerStatus, Slice};
use spine::wire::range::{BucketStep, Range, RangeAnswer, RangeCommand, RangeKind, RangeQuery};
use spine::wire::root::{FleetNodeState, RootAnswer, RootCommand, RootQuery, ShiftKind, Versioning};
use spine::wire::routing::Hello;
use spine::wire::shard::{Held, NodeError, NodeState, NodeStatus, ScrubReport, ShardHeader};
use spine::wire::{Answer, Batch, Chain, Command, MetadataError, Query, Refusal, Reply};
use std::fmt::Debug;

const GOLDEN: &str = include_str!("golden.txt");

fn make<T: DeserializeOwned>(mut source: Source) -> (T, Seen) {
    let mut seen = Seen::default();
    let value = T::deserialize(Generator { source: &mut source, seen: &mut seen }).unwrap();
    (value, seen)
}

/// Encodes, decodes, compares; nothing may be left over.
fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) -> Vec<u8> {
    let bytes = postcard::to_stdvec(value).unwrap();
    let (back, rest) = postcard::take_from_bytes::<T>(&bytes).unwrap();
    assert_eq!(&back, value);
    assert!(rest.is_empty());
    bytes
}

/// A cut-off message is an error, and neither a panic nor another message that claims all the bytes.
fn cut_off<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let bytes = round_trip(value);
    for len in 0..bytes.len() {
        assert!(postcard::from_bytes::<T>(&bytes[..len]).is_err(), "{len} of {} bytes decode", bytes.len());
    }
}

/// `name hex` of every variant of `T`.
fn lines<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str) -> Vec<String> {
    let line = |variant: u32| {
        let (value, seen) = make::<T>(Source::Fixed { variant, next: 0, enums: 0 });
        let label = seen.variants.get(variant as usize).map_or(String::new(), |v| format!("::{v}"));
        (format!("{name}{label} {}", hex::encode(round_trip(&value))), seen.variants.len())
    };
    let (first, variants) = line(0);
    std::iter::once(first).chain((1..variants as u32).map(|v| line(v).0)).collect()
}

macro_rules! messages {
    ($($message:ident),* $(,)?) => {
        /// All lines that `golden.txt` should have.
        fn all_lines() -> Vec<String> {
            [$(lines::<$message>(stringify!($message))),*].concat()
        }

        fn round_trip_all(seed: u64) {
            $(round_trip(&make::<$message>(Source::Random(seed)).0);)*
        }

        fn cut_off_all(seed: u64) {
            $(cut_off(&make::<$message>(Source::Random(seed)).0);)*
        }

        /// Decodes one golden line by its type's name and encodes it again.
        fn recode(name: &str, bytes: &[u8]) -> Vec<u8> {
            match name {
                $(stringify!($message) => round_trip(&postcard::from_bytes::<$message>(bytes).unwrap()),)*
                other => panic!("golden.txt names an unknown type {other}"),
            }
        }
    };
}

// A struct that has an enum first (Batch) counts as that enum's variants.
messages! {
    Batch, Chain, Command, Refusal, Reply, Query, Answer, MetadataError, ChunkCommand, ChunkQuery, ChunkAnswer, ChunkRecord, ChunkState,
    ReserveOutcome, NamespaceCommand, NamespaceQuery, NamespaceAnswer, Body, Codec, ChecksumAlgorithm, ChecksumKind, RootCommand,
    RootQuery, RootAnswer, Versioning, ShardHeader, NodeState, NodeStatus, NodeError, FleetNodeState, JoinRequest, RenewRequest, Admitted,
    AdmissionRefusal,
    Slice, Listing, PeerStatus, Revocations, SignedRevocations, Admission, Question, Answered, ScrubReport,
    Announcement, SignedAnnouncement, Hello, Held,
    Propose, Proposed, Ask, Append, Appended, RequestVote, Voted, SnapshotPart, SnapshotTaken, Change, MemberChange, Changed, ClusterStatus,
    ClusterError, Endpoint, Enlisted, Range, RangeKind, BucketStep, RangeCommand, RangeQuery, RangeAnswer, GroupCall, GroupOrder, GroupDone, Beats, Beaten,
    Appends, Cut, Loads, ShiftKind,
    CopyQuery, CopyStep, CopyPart, RestoreCommand,
    Understood,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn every_message_comes_back_as_it_was_sent(seed in 1u64..) {
        round_trip_all(seed);
    }

    #[test]
    fn bytes_of_nobody_are_an_error_or_a_message_but_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = postcard::from_bytes::<Batch>(&bytes);
        let _ = postcard::from_bytes::<Answer>(&bytes);
        let _ = postcard::from_bytes::<ShardHeader>(&bytes);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_message_cut_off_anywhere_is_an_error(seed in 1u64..) {
        cut_off_all(seed);
    }
}

#[test]
fn every_variant_has_its_golden_bytes_and_they_have_not_changed() {
    let golden: Vec<&str> = GOLDEN.lines().collect();
    let now = all_lines();
    if golden != now {
        let missing: Vec<&String> = now.iter().filter(|l| !golden.contains(&l.as_str())).collect();
        let gone: Vec<&&str> = golden.iter().filter(|l| !now.iter().any(|n| n == *l)).collect();
        panic!("golden.txt differs. new or changed:\n{missing:#?}\nin the file only:\n{gone:#?}");
    }
}

#[test]
fn golden_bytes_decode_to_what_encodes_to_them() {
    for line in GOLDEN.lines() {
        let (label, bytes) = line.split_once(' ').unwrap();
        let bytes = hex::decode(bytes).unwrap();
        assert_eq!(recode(label.split("::").next().unwrap(), &bytes), bytes, "{label}");
    }
}
