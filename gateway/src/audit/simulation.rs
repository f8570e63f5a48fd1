//! A fleet's days under the rules of `seen.rs` and `sentence.rs`, thousands of seeds: a hundred questions a day and node, a survey, scrubs,
//! reads, an operator who resumes, a gateway that restarts and forgets.
//!
//! Invariants: never more suspended than chunks may lose shards; an honest node never is, however its disk rots within a share of what
//! it holds; a liar is struck within a number of questions that its rate bounds; the same seed makes the same days.

use super::board::Board;
use super::seen::{FADE, STRIKES};
use super::sentence::{Sentence, is_by_audit, sentence, suspended};
use super::{Asked, Outcome};
use bytes::Bytes;
use spine::audit::{NoProof, Placed};
use spine::id::{ChunkId, Gen, NodeId, ShardIndex, ShardRoot, Tag, UnixMs};
use spine::wire::chunk::ShardName;
use spine::wire::root::{FleetNodeRecord, FleetNodeState};

const SEEDS: u64 = 2_000;
const DAYS: u64 = 40;
const A_DAY: u64 = 100;

/// xorshift64*.
struct Dice(u64);

impl Dice {
    fn of(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % n
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Honest,
    /// Honest, on a disk that spoils so many shards a day; it names them.
    Rotting(u64),
    /// Of a thousand shards it lacks so many, and says so or makes up proofs.
    Lies(u64),
    /// Of a thousand questions it answers so many with "damaged", of shards that are not.
    Feigns(u64),
    /// Answers no audit, and serves.
    Silent,
}

struct Player {
    kind: Kind,
    placed: u64,
    /// Questions since it was last forgiven or forgotten.
    asked: u64,
    /// The next shard that it names as damaged.
    next: u64,
}

fn shard(node: u8, number: u64) -> ShardName {
    let mut chunk = [node; 32];
    chunk[..8].copy_from_slice(&number.to_be_bytes());
    ShardName { chunk: ChunkId(chunk), generation: Gen(1), index: ShardIndex(0), tag: Tag(1) }
}

fn asked(name: ShardName, outcome: Outcome) -> Asked {
    Asked { placed: Placed { name, root: ShardRoot([0; 32]), len: 1_024 }, slice: 0, outcome }
}

fn record(node: u8) -> FleetNodeRecord {
    FleetNodeRecord {
        id: NodeId([node; 32]),
        machine: node.to_string(),
        zone: String::new(),
        capacity: 1,
        address: String::new(),
        serial: Bytes::new(),
        not_after: UnixMs(0),
        state: FleetNodeState::Active,
        admitted: UnixMs(0),
        changed: UnixMs(0),
    }
}

fn answer(player: &mut Player, node: u8, dice: &mut Dice) -> Asked {
    let name = shard(node, dice.below(player.placed));
    match player.kind {
        Kind::Lies(permille) if dice.below(1_000) < permille => {
            let lie = if dice.below(2) == 0 { Outcome::Missing } else { Outcome::Wrong(Bytes::new(), NoProof::Root) };
            asked(name, lie)
        }
        Kind::Feigns(permille) if dice.below(1_000) < permille => asked(name, Outcome::Damaged),
        Kind::Silent => asked(name, Outcome::Unanswered),
        _ => asked(name, Outcome::Proven(Bytes::new())),
    }
}

/// Questions within which such a node is struck, but for a chance of less than one in 10^9.
fn bound(kind: Kind) -> u64 {
    match kind {
        // Thirty failures would be expected by then, and three do.
        Kind::Lies(permille) | Kind::Feigns(permille) => 30_000 / permille,
        Kind::Silent => 1_000,
        Kind::Honest | Kind::Rotting(_) => u64::MAX,
    }
}

fn kinds(dice: &mut Dice) -> Kind {
    match dice.below(9) {
        0..=2 => Kind::Honest,
        3 | 4 => Kind::Rotting(1 + dice.below(2)),
        5 => Kind::Lies([10, 20, 50, 200, 1_000][dice.below(5) as usize]),
        6 => Kind::Lies(10 + dice.below(100)),
        7 => Kind::Feigns([500, 1_000][dice.below(2) as usize]),
        _ => Kind::Silent,
    }
}

/// One fleet's days; who was suspended on which, and how often somebody more could not be.
fn days(seed: u64) -> (Vec<(u64, u8)>, u64) {
    let mut dice = Dice::of(seed);
    let most = 1 + dice.below(4) as usize;
    let count = 6 + dice.below(4) as u8;
    let mut board = Board::default();
    let mut fleet: Vec<FleetNodeRecord> = (0..count).map(record).collect();
    let mut players: Vec<Player> =
        (0..count).map(|_| Player { kind: kinds(&mut dice), placed: 1_000 + dice.below(40_000), asked: 0, next: 0 }).collect();
    let (mut out, mut spared) = (Vec::new(), 0);
    for day in 0..DAYS {
        for (node, player) in players.iter_mut().enumerate() {
            let (id, number) = (fleet[node].id, node as u8);
            if fleet[node].state != FleetNodeState::Active {
                continue;
            }
            board.placed(id, player.placed);
            for _ in 0..A_DAY / 10 {
                let group: Vec<Asked> = (0..10).map(|_| answer(player, number, &mut dice)).collect();
                board.book(id, &group, true, UnixMs(day));
                player.asked += 10;
            }
            if let Kind::Rotting(shards) = player.kind {
                for _ in 0..shards {
                    // By the scrub's report, by a read, and by a survey: all the same shard.
                    board.admitted(id, shard(number, player.next));
                    board.admitted(id, shard(number, player.next));
                    player.next += 1;
                }
            }
            let kind = player.kind;
            let struck = board.of(id).strikes >= STRIKES;
            assert!(struck || player.asked < bound(kind), "seed {seed}, day {day}: {kind:?} of {} is not struck", player.placed);
            assert!(!struck || !matches!(kind, Kind::Honest | Kind::Rotting(_)), "seed {seed}, day {day}: {kind:?} is struck");
        }
        for node in board.struck() {
            let at = usize::from(node.0[0]);
            match sentence(&fleet, node, most) {
                Sentence::Suspend => {
                    fleet[at].state = suspended();
                    out.push((day, node.0[0]));
                }
                Sentence::TooMany(now) => {
                    assert!(now >= most, "seed {seed}");
                    spared += 1;
                }
                Sentence::Out => panic!("seed {seed}: who is out was asked"),
            }
            board.forgive(node);
            players[at].asked = 0;
        }
        let suspended = fleet.iter().filter(|known| is_by_audit(&known.state)).count();
        assert!(suspended <= most, "seed {seed}: {suspended} are suspended, and {most} may be");
        if dice.below(10) == 0 {
            let at = dice.below(count.into()) as usize;
            fleet[at].state = FleetNodeState::Active;
        }
        if dice.below(30) == 0 {
            board = Board::default();
            players.iter_mut().for_each(|player| player.asked = 0);
        }
    }
    (out, spared)
}

#[test]
fn liars_are_struck_within_their_bound_honest_nodes_never_and_no_more_suspended_than_may_be() {
    assert_eq!(days(1), days(1), "the same seed makes the same days");
    let (mut suspensions, mut spared) = (0, 0);
    for seed in 1..=SEEDS {
        let (out, more) = days(seed);
        suspensions += out.len();
        spared += more;
    }
    assert!(suspensions as u64 > SEEDS && spared > SEEDS / 10, "{suspensions} suspensions, {spared} spared: nothing was tried");
}

#[test]
fn a_strike_is_taken_back_as_often_as_one_in_a_hundred_would_be_found() {
    assert_eq!(spine::audit::slices_for(1, 100, 990_000), FADE);
    let (board, node) = (Board::default(), NodeId([1; 32]));
    let prove = |count: u32| {
        let group: Vec<Asked> = (0..count).map(|n| asked(shard(1, n.into()), Outcome::Proven(Bytes::new()))).collect();
        board.book(node, &group, true, UnixMs(1));
    };
    let miss = || board.book(node, &[asked(shard(1, 7), Outcome::Missing)], true, UnixMs(1));
    miss();
    miss();
    prove(FADE - 1);
    assert_eq!(board.of(node).strikes, 2);
    miss();
    assert_eq!(board.struck(), [node], "what was proven before a failure does not help");
    prove(FADE - 1);
    assert_eq!(board.of(node).strikes, 3);
    prove(1);
    assert_eq!(board.of(node).strikes, 2);
    prove(3 * FADE);
    assert_eq!((board.of(node).strikes, board.of(node).failed), (0, 3), "what has been is counted all the same");
}

#[test]
fn a_shard_that_a_read_finds_wrong_is_one_strike_and_of_another_shard_another() {
    let (board, node) = (Board::default(), NodeId([1; 32]));
    assert!(board.misread(node, shard(1, 0)));
    assert!(!board.misread(node, shard(1, 0)), "read again it is the same failure");
    assert_eq!(board.of(node).strikes, 1);
    assert!(board.misread(node, shard(1, 1)) && board.misread(node, shard(1, 2)));
    assert!(!board.misread(node, shard(1, 3)), "three do, and no more are kept");
    assert_eq!((board.struck(), board.of(node).strikes), (vec![node], STRIKES));
    board.forgive(node);
    assert_eq!((board.struck(), board.of(node).failed), (Vec::new(), 3));
    assert!(board.misread(node, shard(1, 0)), "suspended once, it begins anew");
}

#[test]
fn damage_that_a_node_names_itself_is_no_strike_within_a_share_of_what_it_holds() {
    for (placed, quota) in [(0, 16), (4_000, 16), (25_600, 100), (10_000_000, 1_024)] {
        let (board, node) = (Board::default(), NodeId([1; 32]));
        board.placed(node, placed);
        for number in 0..quota - 1 {
            assert!(!board.admitted(node, shard(1, number)) && !board.admitted(node, shard(1, number)), "{placed}: {number}");
        }
        assert_eq!((board.of(node).strikes, board.of(node).failed), (0, 0), "{placed}");
        assert!(board.admitted(node, shard(1, quota - 1)), "{placed}: {quota} of them are as much as a failure");
        for number in 0..2 * quota {
            board.admitted(node, shard(1, 1_000_000 + number));
        }
        assert_eq!(board.struck(), [node], "who names that many is of no use");
    }
    let (board, node) = (Board::default(), NodeId([1; 32]));
    board.book(node, &[asked(shard(1, 0), Outcome::Damaged)], true, UnixMs(1));
    assert_eq!((board.of(node).strikes, board.of(node).failed), (1, 1), "an audit asks for proof");
}

#[test]
fn a_survey_in_which_a_node_lacks_shards_is_one_strike() {
    let (board, node) = (Board::default(), NodeId([1; 32]));
    for strikes in 1..=STRIKES {
        assert!(board.struck().is_empty());
        board.lacked(node);
        assert_eq!(board.of(node).strikes, strikes);
    }
    assert_eq!(board.struck(), [node]);
}

#[test]
fn of_gets_that_nobody_waits_for_one_a_moment_and_node_is_seen_to_its_end() {
    let (board, node, other) = (Board::default(), NodeId([1; 32]), NodeId([2; 32]));
    let followed = (0..60_000).filter(|ms| board.follows(node, UnixMs(*ms))).count();
    assert_eq!((followed, board.follows(other, UnixMs(59_999))), (6, true));
}

#[test]
fn gets_that_break_off_for_half_a_minute_are_a_strike_unless_one_goes_well() {
    let (board, node, other) = (Board::default(), NodeId([1; 32]), NodeId([2; 32]));
    let at = |seconds: u64| UnixMs(1_000_000 + seconds * 1_000);
    assert!(!board.broke_off(node, at(0)));
    assert!((0..50).all(|_| !board.broke_off(node, at(9))), "a moment is one");
    assert!(!board.broke_off(node, at(10)));
    board.went_well(other);
    assert!(board.broke_off(node, at(20)), "three moments in a row");
    assert_eq!(board.of(node).strikes, 1);
    assert!(!board.broke_off(node, at(30)) && !board.broke_off(node, at(40)));
    board.went_well(node);
    assert!(!board.broke_off(node, at(50)) && !board.broke_off(node, at(60)), "one that goes well begins the count anew");
    assert!(board.broke_off(node, at(70)));
    board.went_well(node);
    board.went_well(node);
    assert!(!board.broke_off(node, at(80)), "the count of nodes that break off is right after several ends");
    assert_eq!(board.of(node).strikes, 2);
}
