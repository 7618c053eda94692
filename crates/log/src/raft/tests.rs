//! One voter: its life scripted, and restarted from every prefix of what it wrote.
//! Three voters: in `world`, under faults, over many seeds.

mod scenarios;
mod world;

use super::restore::{State, decode_state, encode_state};
use super::*;
use crate::{Body, Entry, Record};
use std::sync::Arc;

const SHARD: ShardId = 3;

fn alone(restored: Restored) -> RaftLog {
    RaftLog::new(SHARD, 1, &[1], restored, 9).unwrap()
}

fn take(log: &mut RaftLog) -> Outputs {
    let mut out = Outputs::default();
    log.take(&mut out);
    out
}

/// What a journal makes of records.
fn replay(records: &[Record], applied: Index, applied_term: Term) -> Restored {
    let mut restored = Restored { applied, applied_term, ..Restored::default() };
    for record in records {
        match &record.body {
            Body::State(state) => restored.state = Some(state.clone()),
            Body::Entry(entry) => {
                restored.entries.retain(|old| old.index < entry.index);
                restored.entries.push(entry.clone());
            }
        }
    }
    restored
}

fn entries(records: &[Record]) -> Vec<(Index, Vec<u8>)> {
    let entry = |record: &Record| match &record.body {
        Body::Entry(entry) => Some((entry.index, entry.payload.to_vec())),
        Body::State(_) => None,
    };
    records.iter().filter_map(entry).collect()
}

#[test]
fn a_single_voter_leads_at_once_and_commits_what_is_durable() {
    let mut log = alone(Restored::default());
    assert!(log.accepts() && log.is_leader());
    assert_eq!((log.term(), log.leader(), log.next_deadline()), (1, Some(1), None));
    assert_eq!(log.next_index(), 2);
    assert_eq!(log.propose(b"a".to_vec()), Ok(2));
    assert_eq!(log.propose(b"b".to_vec()), Ok(3));

    let first = take(&mut log);
    assert_eq!(first.gained_leadership, Some(Leadership { term: 1, start: 1 }));
    assert!(matches!(first.persist[0].body, Body::State(_)));
    assert_eq!(entries(&first.persist), [(1, vec![]), (2, b"a".to_vec()), (3, b"b".to_vec())]);
    assert_eq!(first.commit, 0);

    log.propose(b"c".to_vec()).unwrap();
    let second = take(&mut log);
    assert_eq!(entries(&second.persist), [(4, b"c".to_vec())]);
    assert_eq!((second.persist.len(), second.commit), (1, 0));

    log.persisted(first.seq);
    assert_eq!((log.commit(), take(&mut log).commit), (3, 3));
    log.persisted(second.seq);
    let out = take(&mut log);
    assert_eq!(out.commit, 4);
    assert!(out.committed.is_empty() && out.persist.is_empty() && out.send_now.is_empty());

    log.applied(4);
    log.compact(3);
    assert_eq!((log.raft.store().first(), log.last_index()), (4, 4));
    log.compact(4);
    assert_eq!((log.raft.store().bytes(), log.next_index()), (0, 5));
    assert_eq!((log.term_at(3), log.term_at(4), log.term_at(5)), (None, Some(1), None));
}

#[test]
fn a_single_voter_comes_back_from_every_prefix() {
    let mut journal = Vec::new();
    let mut log = alone(Restored::default());
    for round in 0..6u8 {
        for n in 0..round {
            log.propose(vec![round, n]).unwrap();
        }
        let out = take(&mut log);
        journal.extend(out.persist);
        log.persisted(out.seq);
        let commit = take(&mut log).commit;
        log.applied(commit);
        log.compact(commit / 2);
    }
    for kept in 0..=journal.len() {
        let all = entries(&journal[..kept]);
        for applied in 0..=all.len() as u64 {
            let mut log = alone(replay(&journal[..kept], applied, u64::from(applied > 0)));
            let out = take(&mut log);
            let got: Vec<_> = out.committed.iter().map(|e| (e.index, e.payload.to_vec())).collect();
            assert_eq!(got, all[applied as usize..], "{kept} records kept, {applied} applied");
            assert_eq!(out.commit, all.len() as u64);
            assert_eq!(log.accepts(), got.is_empty());
            log.applied(out.commit);
            let index = log.propose(b"new".to_vec()).unwrap();
            assert_eq!(index, all.len() as u64 + 2);
            let seq = take(&mut log).seq;
            log.persisted(seq);
            assert_eq!(take(&mut log).commit, index);
        }
    }
}

#[test]
fn each_life_has_a_term_of_its_own() {
    let mut log = alone(Restored::default());
    let mut journal = take(&mut log).persist;
    for life in 2..5 {
        log = alone(replay(&journal, 0, 0));
        assert_eq!(log.term(), life);
        journal.extend(take(&mut log).persist);
    }
}

#[test]
fn a_single_voter_answers_reads_at_once() {
    let mut log = alone(Restored::default());
    log.read(0, 7);
    log.read(0, 8);
    assert_eq!(take(&mut log).readable, [7, 8]);
    assert!(take(&mut log).readable.is_empty());
}

#[test]
fn damage_on_disk_is_reported() {
    let entry = |index, term| Entry { term, index, payload: Arc::default() };
    let start = |voters: &[NodeId], restored| RaftLog::new(SHARD, 1, voters, restored, 9).err();
    let entries = vec![entry(1, 1), entry(3, 1)];
    assert_eq!(
        start(&[1], Restored { entries, ..Restored::default() }),
        Some(RestoreError::Gap { expected: 2, found: 3 })
    );
    let entries = vec![entry(1, 2), entry(2, 1)];
    assert_eq!(
        start(&[1], Restored { entries, ..Restored::default() }),
        Some(RestoreError::Gap { expected: 2, found: 2 })
    );
    let entries = vec![entry(1, 2)];
    assert_eq!(
        start(&[1, 2, 3], Restored { entries: entries.clone(), ..Restored::default() }),
        Some(RestoreError::NoState)
    );
    let old = encode_state(&State { term: 1, ..State::default() }, &Conf::of_voters(&[1]));
    for state in [vec![], vec![3, 5, 0, 0], vec![1, 5, 0], vec![1, 1, 0, 0], old] {
        let restored =
            Restored { state: Some(state), entries: entries.clone(), ..Restored::default() };
        assert_eq!(start(&[1], restored), Some(RestoreError::State));
    }
    let restored = Restored { entries, applied: 1, applied_term: 1, ..Restored::default() };
    assert_eq!(start(&[1], restored), Some(RestoreError::AnotherLog(1)));
    assert_eq!(start(&[2, 3], Restored::default()), Some(RestoreError::NotAVoter(1)));
}

#[test]
fn nonsense_from_a_peer_is_counted_and_dropped() {
    let mut log = RaftLog::new(SHARD, 1, &[1, 2, 3], Restored::default(), 9).unwrap();
    log.tick(0);
    log.step(0, 2, &[]);
    log.step(0, 1, &[7, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    log.step(0, 2, &[32, 1]);
    let beyond = [7, 0, 1, 0, 0, 9, 0, 0, 0, 0, 0];
    log.step(0, 2, &beyond);
    assert_eq!(log.rejected_messages(), 4);
    let mut prng = Prng::new(1);
    for _ in 0..20_000 {
        let len = prng.below(24);
        let mut bytes: Vec<u8> = (0..len).map(|_| prng.below(5) as u8).collect();
        if let Some(kind) = bytes.first_mut() {
            *kind = prng.below(13) as u8;
        }
        // Only the decoder: raft trusts well-formed peers, and these would not be.
        if let Some(incoming) = wire::decode(2, 1, &bytes) {
            assert!(incoming.message.entries.len() <= bytes.len());
        }
    }
}

#[test]
fn messages_survive_the_wire() {
    let mut store = Store::new(4, 1);
    store.push(2, Arc::new(b"five".to_vec()));
    store.push(3, Arc::new(vec![6; 300]));
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    (message.from, message.to, message.term) = (1, 2, 3);
    (message.index, message.log_term, message.commit) = (4, 1, 5);
    message.set_entries(vec![slip(5, 2), slip(6, 3)].into());
    let bytes = wire::encode(&message, 4, &store).unwrap();
    let got = wire::decode(1, 2, &bytes).unwrap();
    assert_eq!((&got.message, got.floor), (&message, 4));
    assert_eq!(got.payloads[0], (2, Arc::new(b"five".to_vec())));
    assert_eq!(got.payloads[1].1.len(), 300);
    for cut in 0..bytes.len() {
        assert!(wire::decode(1, 2, &bytes[..cut]).is_none(), "cut at {cut}");
    }
    // An append whose position is not the one before its entries.
    (message.index, message.log_term) = (6, 3);
    assert_eq!(wire::encode(&message, 4, &store).unwrap(), bytes);
    message.set_entries(vec![slip(5, 1)].into());
    assert_eq!(wire::encode(&message, 4, &store), None);
}

/// An append of a leader of `term`, with entries after `index`, which is of `log_term`.
fn append(term: Term, (index, log_term): (Index, Term), terms: &[Term], commit: Index) -> Vec<u8> {
    let mut store = Store::new(index, log_term);
    let mut slips = Vec::new();
    for term in terms {
        store.push(*term, Arc::new(vec![*term as u8]));
        slips.push(slip(store.last(), *term));
    }
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgAppend);
    (message.term, message.index, message.log_term) = (term, index, log_term);
    message.commit = commit;
    message.set_entries(slips.into());
    wire::encode(&message, 0, &store).unwrap()
}

#[test]
fn an_entry_that_came_went_and_came_again_is_durable_only_by_its_last_write() {
    let mut log = RaftLog::new(SHARD, 1, &[1, 2, 3], Restored::default(), 9).unwrap();
    log.step(0, 2, &append(1, (0, 0), &[1, 1, 1], 0));
    let first = take(&mut log);
    log.step(0, 3, &append(2, (1, 1), &[2], 0));
    let second = take(&mut log);
    log.step(0, 2, &append(3, (1, 1), &[1, 1, 3], 4));
    let third = take(&mut log);
    assert_eq!((first.seq, second.seq, third.seq), (1, 2, 3));
    assert_eq!(first.send_durable.len() + second.send_durable.len() + third.send_durable.len(), 3);
    for (seq, commit) in [(1, 0), (2, 0), (3, 4)] {
        log.persisted(seq);
        let out = take(&mut log);
        assert_eq!((out.commit, out.committed.len() as u64), (commit, commit), "after {seq}");
    }
    let records: Vec<Record> =
        [first, second, third].into_iter().flat_map(|out| out.persist).collect();
    let restored = replay(&records, 0, 0);
    assert_eq!(restored.entries.iter().map(|e| e.term).collect::<Vec<_>>(), [1, 1, 1, 3]);
    let again = RaftLog::new(SHARD, 1, &[1, 2, 3], restored, 9).unwrap();
    assert_eq!((again.term(), again.last_index()), (3, 4));
}

#[test]
fn a_heartbeat_answer_does_not_wait_for_a_sync_but_an_acknowledgement_does() {
    let mut log = RaftLog::new(SHARD, 1, &[1, 2, 3], Restored::default(), 9).unwrap();
    log.step(0, 2, &append(1, (0, 0), &[1], 0));
    let out = take(&mut log);
    assert_eq!((out.send_now.len(), out.send_durable.len(), out.seq), (0, 1, 1));
    log.persisted(out.seq);
    log.step(0, 2, &append(1, (1, 1), &[1], 0));
    log.step(0, 2, &[7, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0]);
    let out = take(&mut log);
    assert_eq!((out.send_now.len(), out.send_durable.len(), out.seq), (1, 1, 2));
    assert_eq!(out.commit, 1);
}

#[test]
fn an_empty_snapshot_takes_a_replica_back_to_the_beginning() {
    let state = encode_state(
        &State { term: 1, knows_members: true, ..State::default() },
        &Conf::of_voters(&[1, 2, 3]),
    );
    let entry = |index| Entry { term: 1, index, payload: Arc::new(vec![1]) };
    // Its table had the first fifteen; those before the twelfth left memory and journal.
    let entries = (11..=20).map(entry).collect();
    let restored =
        Restored { state: Some(state), entries, applied: 15, applied_term: 1, lost: false };
    let mut log = RaftLog::new(SHARD, 1, &[1, 2, 3], restored, 9).unwrap();
    log.begin_install();
    let out = take(&mut log);
    log.persisted(out.seq);
    log.install(0, 0);
    let out = take(&mut log);
    assert_eq!((log.last_index(), out.commit, out.committed.len()), (0, 0, 0));
    assert!(log.is_lost(), "it held more than that");
}
