//! Writers, readers and movers that are killed at any step, on three groups and, beside them, on one that nothing ever moves in.

use super::*;
use crate::record::decode;
use crate::sample::{inline, manifest, piece, pieces, version};
use spine::id::{BucketId, UnixMs, UploadId, VersionId, WriterId};
use spine::listing::Listing;
use spine::map::NamePoint;
use spine::wire::namespace::*;
use std::collections::{BTreeMap, BTreeSet};

const KEYS: [&str; 8] = ["a", "a/b", "a/c", "b", "c/d/e", "c/d/f", "d", "e"];

struct Names {
    world: World,
    /// The same commands, where group 0 has everything.
    flat: World,
    versions: u64,
    open: Vec<(VersionId, BucketId, String)>,
    uploads: Vec<(UploadId, BucketId, String)>,
    last: BTreeMap<(BucketId, String), Seq>,
    applied: u64,
}

impl Names {
    fn new() -> Self {
        Names {
            world: World::new(3),
            flat: World::new(1),
            versions: 0,
            open: Vec::new(),
            uploads: Vec::new(),
            last: BTreeMap::new(),
            applied: 0,
        }
    }

    fn fresh(&mut self) -> VersionId {
        self.versions += 1;
        version(self.versions)
    }

    /// Applies the command where it belongs and in the flat world; both must say the same.
    fn run(&mut self, command: NamespaceCommand) -> Option<Reply> {
        let command = Command::Namespace(command);
        let (_, reply) = self.world.send_owner(&command)?;
        self.applied += 1;
        let flat = self.flat.send(0, command.clone());
        assert_eq!(without_place(&reply), without_place(&flat), "{command:?}");
        if let (
            Reply::Committed { seq, .. },
            Command::Namespace(NamespaceCommand::Commit { bucket, key, .. } | NamespaceCommand::CompleteUpload { bucket, key, .. }),
        ) = (&reply, &command)
        {
            let before = self.last.insert((*bucket, key.clone()), *seq);
            assert!(before.is_none_or(|before| before < *seq), "the order of versions went back: {before:?} {seq:?}");
        }
        Some(reply)
    }

    fn write(&mut self, dice: &mut Dice) {
        let (bucket, key) = (BucketId(1 + dice.below(2)), KEYS[dice.below(8) as usize].to_owned());
        let condition = Condition::default();
        match dice.below(12) {
            0 | 1 => {
                let new = inline(self.fresh(), 1, dice.below(100));
                self.run(NamespaceCommand::Commit { bucket, key, new, condition });
            }
            2 | 3 => {
                let version = self.fresh();
                let command =
                    NamespaceCommand::OpenIntent { version, bucket, key: key.clone(), writer: WriterId([1; 16]), opened: UnixMs(1) };
                if self.run(command) == Some(Reply::Done) {
                    self.open.push((version, bucket, key));
                }
            }
            4 | 5 if !self.open.is_empty() => {
                let (version, bucket, key) = self.open[dice.below(self.open.len() as u64) as usize].clone();
                let new = pieces(version, 1, &[dice.below(9) as u8]);
                if self.run(NamespaceCommand::Commit { bucket, key, new, condition }).is_some() {
                    self.open.retain(|open| open.0 != version);
                }
            }
            6 if !self.open.is_empty() => {
                let (version, bucket, key) = self.open[dice.below(self.open.len() as u64) as usize].clone();
                let command = match dice.below(2) {
                    0 => NamespaceCommand::RenewIntent { version, bucket, key, now: UnixMs(dice.below(50)) },
                    _ => NamespaceCommand::AbortIntent { version, bucket, key },
                };
                self.run(command);
            }
            7 => drop(self.run(NamespaceCommand::Delete { bucket, key, condition })),
            8 => {
                let tags = vec![(format!("t{}", dice.below(9)), String::new())];
                self.run(NamespaceCommand::SetTags { bucket, key, tags });
            }
            9 => self.create_upload(bucket, key),
            10 if !self.uploads.is_empty() => self.put_part(dice),
            11 if !self.uploads.is_empty() => self.end_upload(dice),
            _ => self.release(dice),
        }
    }

    fn create_upload(&mut self, bucket: BucketId, key: String) {
        let id = UploadId(self.fresh().0);
        let record = UploadRecord {
            id,
            bucket,
            key: key.clone(),
            created: UnixMs(1),
            attributes: Attributes::default(),
            tags: vec![],
            checksum: None,
            initiator: String::new(),
        };
        if self.run(NamespaceCommand::CreateUpload(Box::new(record))) == Some(Reply::Done) {
            self.uploads.push((id, bucket, key));
        }
    }

    fn put_part(&mut self, dice: &mut Dice) {
        let (upload, bucket, key) = self.uploads[dice.below(self.uploads.len() as u64) as usize].clone();
        let version = self.fresh();
        let opened = NamespaceCommand::OpenIntent { version, bucket, key: key.clone(), writer: WriterId([1; 16]), opened: UnixMs(1) };
        if self.run(opened) != Some(Reply::Done) {
            return;
        }
        let number = 1 + dice.below(3) as u32;
        let part = PartRecord { number, version, size: 1_000, md5: [0; 16], checksum: None, modified: UnixMs(1), body: piece(version) };
        let put =
            NamespaceCommand::PutPart { upload, bucket, key: key.clone(), part: Box::new(part), manifest: Some(manifest(&[number as u8])) };
        if self.run(put).is_none() {
            self.open.push((version, bucket, key));
        }
    }

    fn end_upload(&mut self, dice: &mut Dice) {
        let (upload, bucket, key) = self.uploads[dice.below(self.uploads.len() as u64) as usize].clone();
        if dice.one_in(3) {
            self.run(NamespaceCommand::AbortUpload { upload, bucket, key });
            return;
        }
        let query = NamespaceQuery::Parts { upload, bucket, key: key.clone(), after: 0, max: 99 };
        let Some(Answer::Namespace(NamespaceAnswer::Parts { parts, .. })) = self.world.of_owner(&Query::Namespace(query)) else { return };
        let body = Body::Pieces(parts.iter().map(|part| Piece { version: part.version, size: part.size }).collect());
        let mut new = inline(self.fresh(), 1, 1_000 * parts.len() as u64);
        new.body.body = body;
        let parts = parts.iter().map(|part| (part.number, part.version)).collect();
        self.run(NamespaceCommand::CompleteUpload { upload, bucket, key, parts, new, condition: Condition::default() });
    }

    /// A collector's turn at one group.
    fn release(&mut self, dice: &mut Dice) {
        let group = dice.below(3) as usize;
        let entries = outbox(&self.world, group);
        let versions: BTreeSet<VersionId> = entries.iter().map(|entry| entry.version).collect();
        assert_eq!(self.world.send(group, Command::Namespace(NamespaceCommand::OutboxDone { entries })), Reply::Done);
        let flat = outbox(&self.flat, 0).into_iter().filter(|entry| versions.contains(&entry.version)).collect();
        self.flat.send(0, Command::Namespace(NamespaceCommand::OutboxDone { entries: flat }));
    }

    fn read(&self, dice: &mut Dice) {
        let (bucket, key) = (BucketId(1 + dice.below(2)), KEYS[dice.below(8) as usize].to_owned());
        let query = Query::Namespace(NamespaceQuery::Open { bucket, key: key.clone() });
        let Some(found) = self.world.of_owner(&query) else { return };
        let (Answer::Namespace(NamespaceAnswer::Open(found)), Answer::Namespace(NamespaceAnswer::Open(flat))) =
            (found, self.flat.ask(0, &query).unwrap())
        else {
            panic!()
        };
        assert_eq!(
            found.as_ref().map(|(head, body)| (head.id, &head.tags, body)),
            flat.as_ref().map(|(head, body)| (head.id, &head.tags, body))
        );
        if let Some((_, VersionBody { body: Body::Pieces(pieces), .. })) = found {
            let versions = pieces.iter().map(|piece| piece.version).collect();
            let query = Query::Namespace(NamespaceQuery::Manifests { bucket, key, versions });
            let found = self.world.of_owner(&query);
            let Some(Answer::Namespace(NamespaceAnswer::Manifests(manifests))) = &found else { panic!("{found:?}") };
            assert!(manifests.iter().all(Option::is_some), "a current version without its manifest");
        }
    }

    /// A page over all groups is the flat one's, unless part of it is nobody's at the moment.
    fn list(&self, dice: &mut Dice) {
        let query = ListQuery {
            bucket: BucketId(1 + dice.below(2)),
            prefix: ["", "a", "c/"][dice.below(3) as usize].into(),
            delimiter: ["", "/"][dice.below(2) as usize].into(),
            after: None,
            max: 1 + dice.below(9) as usize,
        };
        let mut listing = Listing::new(query.clone());
        while let Some(ask) = listing.ask() {
            let question = Query::Namespace(NamespaceQuery::List { query: ask.query, place: Some(ask.place) });
            let Some(Answer::Namespace(NamespaceAnswer::List { page, end })) = self.world.of_owner(&question) else { return };
            listing.heard(end.as_ref(), page).unwrap();
        }
        let flat = self.flat.ask(0, &Query::Namespace(NamespaceQuery::List { query, place: None }));
        let Ok(Answer::Namespace(NamespaceAnswer::List { page: flat, .. })) = flat else { panic!() };
        let page = listing.page();
        let ids = |page: &ListPage| page.objects.iter().map(|(key, head)| (key.clone(), head.id)).collect::<Vec<_>>();
        assert_eq!((ids(&page), page.prefixes, page.next), (ids(&flat), flat.prefixes, flat.next));
    }

    /// Row for row: the groups together have what the flat one has.
    fn compare(&self) {
        for space in [Space::Objects, Space::Bodies, Space::Manifests, Space::Uploads, Space::Parts, Space::Intents] {
            let mut all = BTreeMap::new();
            for table in &self.world.tables {
                for (at, value) in table.entries(space).filter(|(at, _)| space != Space::Intents || at[0] == 0) {
                    assert!(all.insert(at.to_vec(), timeless(space, at, value)).is_none(), "{space:?}: a row in two groups");
                }
            }
            let flat = self.flat.tables[0].entries(space).filter(|(at, _)| space != Space::Intents || at[0] == 0);
            let flat: BTreeMap<Vec<u8>, Vec<u8>> = flat.map(|(at, value)| (at.to_vec(), timeless(space, at, value))).collect();
            assert_eq!(all, flat, "{space:?}");
        }
        let versions = |world: &World, groups: usize| {
            let mut all: Vec<VersionId> = (0..groups).flat_map(|group| outbox(world, group)).map(|entry| entry.version).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(versions(&self.world, 3), versions(&self.flat, 1), "what is to be dropped");
    }
}

fn outbox(world: &World, group: usize) -> Vec<OutboxEntry> {
    match world.ask(group, &Query::Namespace(NamespaceQuery::Outbox { max: usize::MAX })).unwrap() {
        Answer::Namespace(NamespaceAnswer::Outbox(entries)) => entries,
        other => panic!("{other:?}"),
    }
}

/// A head without its place in the order of versions, which each log gives.
fn timeless(space: Space, at: &[u8], value: &[u8]) -> Vec<u8> {
    if space != Space::Objects {
        return value.to_vec();
    }
    let head: VersionHead = decode(space, at, value).unwrap();
    crate::record::encode(&VersionHead { seq: Seq(0), ..head }).unwrap()
}

fn without_place(reply: &Reply) -> Reply {
    match reply {
        Reply::Committed { modified, .. } => Reply::Committed { seq: Seq(0), modified: *modified },
        Reply::Deleted { was: Some(was) } => Reply::Deleted { was: Some(Box::new(VersionHead { seq: Seq(0), ..(**was).clone() })) },
        other => other.clone(),
    }
}

fn run(seed: u64) -> Names {
    let mut dice = Dice::new(seed);
    let mut names = Names::new();
    for _ in 0..250 {
        match dice.below(16) {
            0..=5 => names.write(&mut dice),
            6..=11 => names.world.step(&mut dice),
            12 if dice.one_in(3) => names.world.kill(&mut dice),
            13 => names.read(&mut dice),
            14 => names.list(&mut dice),
            15 if dice.one_in(2) => names.world.late(&mut dice),
            _ => {
                let point = NamePoint::new(BucketId(1 + dice.below(2)), KEYS[dice.below(8) as usize]);
                names.world.begin(&mut dice, point, |ranges| ranges.names.owned.clone(), Range::Names);
            }
        }
    }
    names.world.settle(&mut dice);
    names.compare();
    for _ in 0..20 {
        names.list(&mut dice);
        names.read(&mut dice);
    }
    names
}

#[test]
fn under_thousands_of_seeds_no_name_is_lost_doubled_or_put_back_whatever_moves() {
    let (mut applied, mut finished, mut given_up) = (0, 0, 0);
    for seed in 1..=3_000 {
        println!("seed {seed}");
        let names = run(seed);
        applied += names.applied;
        finished += names.world.finished;
        given_up += names.world.given_up;
    }
    // A simulation in which nothing happens proves nothing.
    assert!(applied > 150_000 && finished > 3_000 && given_up > 300, "applied {applied}, finished {finished}, given up {given_up}");
}
