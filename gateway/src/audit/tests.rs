use super::seen::STRIKES;
use super::transcript::NoTranscript;
use super::*;
use crate::core::Settings;
use crate::damage::{Fault, Report};
use crate::path::fake::{CHUNK, Mood, Rig, noise, quiet, rig, rig_with};
use spine::id::{ChunkId, Gen, ShardIndex, Tag};
use spine::wire::shard::ScrubReport;

async fn stored(rig: Rig, chunks: usize) -> Rig {
    rig.put("k", &noise(chunks * CHUNK as usize, 1)).await.unwrap();
    rig
}

async fn drawn(rig: &Rig, node: usize) -> Vec<(Placed, u32)> {
    let id = rig.nodes[node].id;
    let draws = HashMap::from([(id, Draw::new([7; 32], 100))]);
    survey::run(&rig.path.core, draws, &HashSet::new()).await.unwrap().draws[&id].drawn().collect()
}

#[tokio::test]
async fn honest_nodes_prove_every_slice_and_the_transcript_shows_it_to_anybody() {
    let rig = stored(rig().await, 9).await;
    let transcript = rig.path.audit_now(None, 5).await.unwrap();
    let shown = Transcript::verify(&serde_json::to_vec(&transcript).unwrap()).unwrap();
    assert_eq!(shown.len(), 6);
    assert!(shown.iter().all(|node| (node.placed, node.proven, node.failed, node.open) == (9, 5, 0, 0)), "{shown:?}");
    let one = rig.path.audit_now(Some(rig.nodes[2].id), 100).await.unwrap();
    assert_eq!((one.audits.len(), one.audits[0].slices.len()), (1, 9), "no more than there are");
    assert_eq!(rig.path.audited(rig.nodes[2].id).proven, 14);
}

#[tokio::test]
async fn wrong_and_missing_shards_are_named_counted_and_made_again() {
    let settings = Settings { owe_interval: Duration::from_millis(30), ..quiet() };
    let rig = stored(rig_with(settings, 6).await, 6).await;
    rig.nodes[0].rot();
    rig.nodes[1].clear();
    let transcript = rig.path.audit_now(None, 100).await.unwrap();
    let shown = Transcript::verify(&serde_json::to_vec(&transcript).unwrap()).unwrap();
    let failed = |node: usize| shown.iter().find(|shown| shown.node == rig.nodes[node].id.to_string()).unwrap().failed;
    assert_eq!([failed(0), failed(1), failed(2)], [6, 6, 0]);
    let outcomes = |node: usize| -> Vec<String> {
        let audit = transcript.audits.iter().find(|audit| audit.node == rig.nodes[node].id.to_string()).unwrap();
        audit.slices.iter().map(|slice| slice.outcome.clone()).collect()
    };
    assert_eq!((outcomes(0), outcomes(1)), (vec!["wrong".to_string(); 6], vec!["missing".to_string(); 6]));
    assert!(rig.path.audited(rig.nodes[0].id).strikes >= STRIKES);
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if rig.totals().await.owed == 0 && rig.nodes[1].count() == 6 {
            break;
        }
    }
    let again = rig.path.audit_now(None, 100).await.unwrap();
    let shown = Transcript::verify(&serde_json::to_vec(&again).unwrap()).unwrap();
    assert!(shown.iter().all(|node| node.failed == 0 && node.proven == 6), "{shown:?}");
}

#[tokio::test]
async fn a_shard_that_was_deleted_meanwhile_is_nobodys_failure() {
    let rig = stored(rig().await, 4).await;
    let questions = drawn(&rig, 3).await;
    assert_eq!(questions.len(), 4);
    rig.delete("k").await;
    rig.path.collect_now(Duration::ZERO).await.unwrap();
    rig.path.collect_now(Duration::ZERO).await.unwrap();
    assert_eq!(rig.nodes[3].count(), 0);
    let board = Board::default();
    let node = rig.path.core.nodes.get(rig.nodes[3].id).unwrap();
    let asked = ask(&rig.path.core, &board, &node, questions).await.unwrap();
    assert!(asked.iter().all(|asked| asked.outcome == Outcome::Moved), "{asked:?}");
    assert_eq!(board.of(node.id).strikes, 0);
}

#[tokio::test]
async fn a_shard_whose_deletion_waits_for_another_node_is_nobodys_failure() {
    let rig = stored(rig().await, 4).await;
    let questions = drawn(&rig, 3).await;
    rig.nodes[5].set(Mood::Lost);
    tokio::time::sleep(Duration::from_millis(60)).await;
    rig.delete("k").await;
    rig.path.collect_now(Duration::ZERO).await.unwrap();
    let collected = rig.path.collect_now(Duration::ZERO).await.unwrap();
    assert_eq!((collected.deleted, rig.nodes[3].count()), (0, 0), "trashed here, and the record waits for the node that is away");
    let board = Board::default();
    let node = rig.path.core.nodes.get(rig.nodes[3].id).unwrap();
    let asked = ask(&rig.path.core, &board, &node, questions.clone()).await.unwrap();
    assert!(asked.iter().all(|asked| asked.outcome == Outcome::Moved), "{asked:?}");
    // A read that was on its way when the deletion began.
    let read = questions.iter().map(|(placed, _)| Report { shard: placed.name, node: node.id, finder: Finder::Read(Fault::Missing) });
    strikes::book(&rig.path.core, &read.collect::<Vec<_>>()).await.unwrap();
    assert_eq!((board.of(node.id).strikes, rig.path.core.board.of(node.id).strikes), (0, 0));
}

#[tokio::test]
async fn a_node_that_is_away_is_not_struck_and_one_that_serves_but_never_answers_is() {
    let rig = stored(rig().await, 3).await;
    let board = Board::default();
    for (mood, strikes) in [(Mood::Lost, 0), (Mood::Failing, 1)] {
        rig.nodes[4].set(mood);
        tokio::time::sleep(Duration::from_millis(60)).await;
        for _ in 0..3 {
            let node = rig.path.core.nodes.get(rig.nodes[4].id).unwrap();
            let asked = ask(&rig.path.core, &board, &node, drawn(&rig, 4).await).await.unwrap();
            assert!(asked.iter().all(|asked| asked.outcome == Outcome::Unanswered));
        }
        assert_eq!(board.of(rig.nodes[4].id).strikes, strikes, "{mood:?}");
    }
}

#[tokio::test]
async fn asked_for_all_it_should_have_a_node_names_what_is_gone_and_that_is_made_again() {
    let settings = Settings { owe_interval: Duration::from_millis(30), ..quiet() };
    let rig = stored(rig_with(settings, 6).await, 8).await;
    let gone: Vec<ShardName> = rig.nodes[5].shards.lock().unwrap().keys().take(3).copied().collect();
    rig.nodes[5].shards.lock().unwrap().retain(|name, _| !gone.contains(name));
    rig.nodes[2].set(Mood::Failing);
    let all: HashSet<NodeId> = rig.nodes.iter().map(|node| node.id).collect();
    let surveyed = survey::run(&rig.path.core, HashMap::new(), &all).await.unwrap();
    assert_eq!(surveyed.absent, 3, "who does not answer says nothing");
    rig.nodes[2].set(Mood::Well);
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if rig.totals().await.owed == 0 && rig.nodes[5].count() == 8 {
            break;
        }
    }
    assert_eq!((rig.totals().await.owed, rig.nodes[5].count()), (0, 8));
    assert_eq!(survey::run(&rig.path.core, HashMap::new(), &all).await.unwrap().absent, 0);
}

/// Waits until nothing is owed.
async fn repaired(rig: &Rig) {
    for _ in 0..300 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        if rig.totals().await.owed == 0 {
            return;
        }
    }
    panic!("{:?} chunks owe shards", rig.totals().await.owed);
}

#[tokio::test]
async fn a_node_that_says_which_shards_are_damaged_is_not_struck_for_them_and_one_that_lacks_them_is() {
    let settings = Settings { owe_interval: Duration::from_millis(30), ..quiet() };
    let rig = stored(rig_with(settings, 8).await, 8).await;
    let (spoilt, emptied) = (rig.nodes[1].id, rig.nodes[6].id);
    rig.nodes[1].spoil();
    rig.nodes[6].clear();
    let all: HashSet<NodeId> = rig.nodes.iter().map(|node| node.id).collect();
    let surveyed = survey::run(&rig.path.core, HashMap::new(), &all).await.unwrap();
    assert!(surveyed.absent >= 4, "{}", surveyed.absent);
    assert_eq!((rig.path.audited(spoilt).strikes, rig.path.audited(emptied).strikes), (0, 1));
    repaired(&rig).await;
    assert_eq!(survey::run(&rig.path.core, HashMap::new(), &all).await.unwrap().absent, 0);
    // An audit asks for proof, and has none.
    let board = Board::default();
    let questions = drawn(&rig, 2).await;
    assert!(!questions.is_empty());
    rig.nodes[2].spoil();
    let node = rig.path.core.nodes.get(rig.nodes[2].id).unwrap();
    let asked = ask(&rig.path.core, &board, &node, questions.clone()).await.unwrap();
    assert!(asked.iter().all(|asked| asked.outcome == Outcome::Damaged), "{asked:?}");
    let seen = board.of(node.id);
    assert_eq!((seen.failed, seen.strikes), (questions.len() as u64, questions.len() as u32));
}

#[tokio::test]
async fn reads_alone_strike_a_node_that_sends_wrong_bytes_once_a_shard_and_none_that_says_damaged() {
    let settings = Settings { owe_interval: Duration::from_millis(30), ..quiet() };
    let rig = stored(rig_with(settings, 6).await, 15).await;
    let data = noise(15 * CHUNK as usize, 1);
    rig.nodes[0].rot();
    rig.nodes[1].spoil();
    for _ in 0..40 {
        assert!(rig.get("k", 0..data.len() as u64).await.unwrap() == data);
        if rig.path.audited(rig.nodes[0].id).strikes >= STRIKES {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(rig.path.audited(rig.nodes[0].id).strikes, STRIKES, "three, and no more are kept");
    assert_eq!(rig.path.core.board.struck(), [rig.nodes[0].id]);
    repaired(&rig).await;
    assert_eq!(rig.path.audited(rig.nodes[1].id).strikes, 0);
    assert!((2..6).all(|node| rig.path.audited(rig.nodes[node].id).strikes == 0));
}

#[tokio::test]
async fn a_transcript_that_was_changed_anywhere_does_not_hold() {
    let rig = stored(rig().await, 4).await;
    rig.nodes[0].rot();
    let good = rig.path.audit_now(None, 3).await.unwrap();
    let rotten = good.audits.iter().position(|audit| audit.node == rig.nodes[0].id.to_string()).unwrap();
    let honest = (rotten + 1) % good.audits.len();
    let check = |change: &dyn Fn(&mut Transcript)| {
        let mut changed = good.clone();
        change(&mut changed);
        Transcript::verify(&serde_json::to_vec(&changed).unwrap())
    };
    assert!(check(&|_| {}).is_ok());
    let flip = |text: &mut String| {
        let last = if text.ends_with('0') { "1" } else { "0" };
        text.replace_range(text.len() - 1.., last);
    };
    assert!(check(&|t| flip(&mut t.audits[honest].slices[0].root)).is_err());
    assert!(check(&|t| flip(t.audits[honest].slices[0].proof.as_mut().unwrap())).is_err());
    assert!(check(&|t| t.audits[honest].slices[0].len += 1_024).is_err());
    assert!(check(&|t| t.audits[honest].slices.swap(0, 1)).is_err());
    assert!(check(&|t| drop(t.audits[honest].slices.pop())).is_err(), "one left out");
    assert!(check(&|t| t.audits[honest].slices[0].outcome = "wrong".into()).is_err(), "slandered");
    assert!(check(&|t| t.audits[rotten].slices[0].outcome = "proven".into()).is_err(), "covered up");
    assert!(check(&|t| t.audits[honest].slices[0].outcome = "fine".into()).is_err());
    assert!(check(&|t| t.format.push('1')).is_err());
    // Another nonce or name asks for another slice or gives another place in the order, but not each of them: a shard has few slices.
    let refused =
        |change: &dyn Fn(&mut NodeAudit, u8)| (1..=255).filter(|by| check(&|t| change(&mut t.audits[honest], *by)).is_err()).count();
    let forge = |text: &mut String, by: u8| {
        let byte = u8::from_str_radix(&text[..2], 16).unwrap() ^ by;
        text.replace_range(..2, &format!("{byte:02x}"));
    };
    assert!(refused(&|audit, by| forge(&mut audit.nonce, by)) > 200);
    assert!(refused(&|audit, by| forge(&mut audit.slices[0].chunk, by)) > 128);
    assert!(refused(&|audit, by| audit.slices[1].tag += u64::from(by)) > 128);
    assert!(matches!(Transcript::verify(b"{}"), Err(NoTranscript::Unreadable(_))));
}

#[test]
fn a_scrub_report_is_news_once_and_a_finished_round_is_seen() {
    let name = |n: u8| ShardName { chunk: ChunkId([n; 32]), generation: Gen(1), index: ShardIndex(0), tag: Tag(1) };
    let (board, node) = (Board::default(), NodeId([1; 32]));
    let report = |rounds, damaged: Vec<ShardName>| ScrubReport { rounds, damaged, ..ScrubReport::default() };
    assert_eq!(board.scrubbed(node, report(4, vec![name(1)])), (vec![name(1)], false), "rounds from before this gateway's start are old");
    assert_eq!(board.scrubbed(node, report(4, vec![name(1), name(2)])), (vec![name(2)], false));
    assert_eq!(board.scrubbed(node, report(5, vec![name(1), name(2)])), (Vec::new(), true));
}
