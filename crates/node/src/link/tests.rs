use super::*;
use quorate_base::Prng;

const NOW: Millis = 1_000;

fn hello(node: NodeId, nonce: u64) -> Hello {
    Hello { cluster: 7, node, version: LINK_VERSION, nonce }
}

/// Two ends that have not met.
fn strangers(nonces: [u64; 2]) -> [Link; 2] {
    let [a, b] = nonces;
    [Link::new(hello(1, a), Some(2), NOW), Link::new(hello(2, b), None, NOW)]
}

/// Everything the other end makes of `bytes`.
fn take(link: &mut Link, bytes: &[u8]) -> (Vec<LinkEvent>, Result<(), LinkError>) {
    let mut events = Vec::new();
    let result = link.received(NOW, bytes, &mut events);
    (events, result)
}

fn ticked(link: &mut Link, now: Millis) -> Vec<u8> {
    let mut out = Vec::new();
    link.tick(now, &mut out).unwrap();
    out
}

/// Two ends of a link that is up.
fn linked(nonces: [u64; 2]) -> [Link; 2] {
    let [mut a, mut b] = strangers(nonces);
    let (from_a, from_b) = (a.start(NOW), b.start(NOW));
    assert_eq!(take(&mut a, &from_b), (vec![], Ok(())));
    assert_eq!(take(&mut b, &from_a), (vec![], Ok(())));
    let (from_a, from_b) = (ticked(&mut a, NOW), ticked(&mut b, NOW));
    assert_eq!(take(&mut a, &from_b), (vec![LinkEvent::Up(2)], Ok(())));
    assert_eq!(take(&mut b, &from_a), (vec![LinkEvent::Up(1)], Ok(())));
    [a, b]
}

fn some_parcels(random: &mut Prng) -> Vec<Vec<u8>> {
    let mut parcel = || (0..1 + random.below(200)).map(|_| random.below(256) as u8).collect();
    (0..8).map(|_| parcel()).collect()
}

#[test]
fn parcels_arrive_whole_however_the_stream_is_cut() {
    let mut random = Prng::new(1);
    for _ in 0..200 {
        let [mut a, mut b] = strangers([3, 4]);
        let mut stream = a.start(NOW);
        take(&mut a, &b.start(NOW)).1.unwrap();
        stream.extend(ticked(&mut a, NOW));
        let confirmed = {
            // The other end answers a hello only, so that is all it needs to see first.
            take(&mut b, &stream[..HEAD_BYTES + HELLO_BYTES]).1.unwrap();
            ticked(&mut b, NOW)
        };
        assert_eq!(take(&mut a, &confirmed).0, [LinkEvent::Up(2)]);
        stream.drain(..HEAD_BYTES + HELLO_BYTES);
        let parcels = some_parcels(&mut random);
        for parcel in &parcels {
            a.seal_into(NOW, parcel, &mut stream);
        }
        let mut events = Vec::new();
        let mut rest = &stream[..];
        while !rest.is_empty() {
            let (some, more) = rest.split_at((random.below(90) as usize).min(rest.len()));
            b.received(NOW, some, &mut events).unwrap();
            rest = more;
        }
        let mut expected = vec![LinkEvent::Up(1)];
        expected.extend(parcels.into_iter().map(LinkEvent::Parcel));
        assert_eq!(events, expected);
    }
}

/// What the network does to a list of frames.
#[derive(Clone, Copy, Debug)]
enum Harm {
    Flip,
    Truncate,
    Lose,
    Double,
    Swap,
    Replay,
}

#[test]
fn no_harm_makes_a_wrong_parcel() {
    let mut random = Prng::new(2);
    let harms = [Harm::Flip, Harm::Truncate, Harm::Lose, Harm::Double, Harm::Swap, Harm::Replay];
    for round in 0..3_000 {
        let harm = harms[round % harms.len()];
        let [mut a, mut b] = linked([random.next_u64(), random.next_u64()]);
        let parcels = some_parcels(&mut random);
        let mut frames: Vec<_> = parcels.iter().map(|parcel| a.seal(NOW, parcel)).collect();
        let at = random.below(frames.len() as u64 - 1) as usize;
        match harm {
            Harm::Flip => {
                let bit = random.below(frames[at].len() as u64 * 8) as usize;
                frames[at][bit / 8] ^= 1 << (bit % 8);
            }
            Harm::Truncate => {
                let len = random.below(frames[at].len() as u64) as usize;
                frames[at].truncate(len);
            }
            Harm::Lose => drop(frames.remove(at)),
            Harm::Double => frames.insert(at, frames[at].clone()),
            Harm::Swap => frames.swap(at, at + 1),
            // The same parcels in another session.
            Harm::Replay => {
                let [mut earlier, _] = linked([random.next_u64(), random.next_u64()]);
                frames[at] = parcels.iter().map(|p| earlier.seal(NOW, p)).nth(at).expect("as many");
            }
        }
        // What follows shows at last that a frame was cut short.
        frames.extend((0..8).map(|_| a.seal(NOW, b"more")));
        let (events, result) = take(&mut b, &frames.concat());
        let intact = at + usize::from(matches!(harm, Harm::Double));
        let expected: Vec<_> = parcels[..intact].iter().cloned().map(LinkEvent::Parcel).collect();
        assert_eq!(events, expected, "{harm:?} at {at}");
        let error = result.expect_err("the session breaks");
        assert!(!b.is_up());
        assert_eq!(b.received(NOW, &frames[0], &mut Vec::new()), Err(error), "and stays broken");
        assert_eq!(b.tick(NOW, &mut Vec::new()), Err(error));
        match harm {
            Harm::Lose => {
                let found = at as u64 + 3;
                assert_eq!(error, LinkError::Sequence { expected: found - 1, found });
            }
            Harm::Replay => assert_eq!(error, LinkError::Checksum { sequence: at as u64 + 2 }),
            _ => {}
        }
    }
}

#[test]
fn what_one_end_sends_does_not_pass_as_what_the_other_sends() {
    let [mut a, _] = linked([5, 5]);
    let own = a.seal(NOW, b"to node 2");
    let [mut a, _] = linked([5, 5]);
    assert_eq!(take(&mut a, &own), (vec![], Err(LinkError::Checksum { sequence: 2 })));
    // A forger who guesses the head but not the key.
    let [_, mut b] = linked([5, 6]);
    let mut forger = Link::new(hello(1, 0), None, NOW);
    forger.sent = 2;
    let mut forged = Vec::new();
    forger.put_frame(0, b"forged", &mut forged);
    assert_eq!(take(&mut b, &forged), (vec![], Err(LinkError::Checksum { sequence: 2 })));
}

#[test]
fn a_hello_of_an_earlier_session_opens_none() {
    let [mut earlier, _] = strangers([1, 2]);
    let old_hello = earlier.start(NOW);
    let [mut a, mut b] = strangers([3, 4]);
    a.start(NOW);
    take(&mut b, &old_hello).1.unwrap();
    take(&mut a, &b.start(NOW)).1.unwrap();
    let confirmation = ticked(&mut a, NOW);
    assert_eq!(take(&mut b, &confirmation), (vec![], Err(LinkError::Checksum { sequence: 1 })));
}

#[test]
fn strangers_are_turned_away_with_the_reason() {
    let meet = |theirs: Hello, expected| {
        let mut them = Link::new(theirs, None, NOW);
        let mut us = Link::new(hello(1, 9), expected, NOW);
        take(&mut us, &them.start(NOW)).1.unwrap_err()
    };
    let them = hello(2, 3);
    assert_eq!(meet(Hello { cluster: 8, ..them }, None), LinkError::Cluster { ours: 7, theirs: 8 });
    assert_eq!(
        meet(Hello { version: 2, ..them }, None),
        LinkError::Version { ours: LINK_VERSION, theirs: 2 }
    );
    assert_eq!(meet(them, Some(3)), LinkError::Node { expected: Some(3), found: 2 });
    assert_eq!(meet(hello(1, 3), None), LinkError::Node { expected: None, found: 1 });

    let mut us = Link::new(hello(1, 9), None, NOW);
    let http = b"GET / HTTP/1.1\r\nHost: example.org\r\n\r\n";
    assert_eq!(take(&mut us, http), (vec![], Err(LinkError::Malformed)));
    let mut us = Link::new(hello(1, 9), None, NOW);
    let mut long = Vec::new();
    Link::new(them, None, NOW).put_frame(HELLO_KEY, &[0; HELLO_BYTES_MAX + 1], &mut long);
    let bytes = HELLO_BYTES_MAX as u64 + 1;
    assert_eq!(take(&mut us, &long), (vec![], Err(LinkError::TooLong { bytes })));
}

#[test]
fn a_claimed_length_allocates_nothing() {
    let [mut a, mut b] = linked([1, 2]);
    let key = a.peer.unwrap().out_key;
    let mut frame = a.seal(NOW, b"x");
    for bytes in [PARCEL_BYTES_MAX as u32, PARCEL_BYTES_MAX as u32 + 1] {
        frame[4..8].copy_from_slice(&bytes.to_le_bytes());
        let check = hash64(key, &frame[..HEAD_BYTES - 8]).to_le_bytes();
        frame[HEAD_BYTES - 8..HEAD_BYTES].copy_from_slice(&check);
        let (events, result) = take(&mut b, &frame[..HEAD_BYTES]);
        assert!(events.is_empty());
        assert!(b.buffer.capacity() <= HEAD_BYTES);
        if bytes as usize > PARCEL_BYTES_MAX {
            assert!(result.is_err());
        } else {
            assert_eq!(result, Ok(()));
            [_, b] = linked([1, 2]);
        }
    }
}

#[test]
fn an_idle_link_stays_up_by_empty_frames() {
    let [mut a, mut b] = linked([1, 2]);
    let mut frames = 0;
    for now in NOW..NOW + 3 * SILENCE_MS {
        for link in [0, 1] {
            let (from, to) = if link == 0 { (&mut a, &mut b) } else { (&mut b, &mut a) };
            assert!(from.next_deadline() >= now);
            if from.next_deadline() == now {
                let frame = ticked(from, now);
                assert!(!frame.is_empty());
                to.received(now, &frame, &mut Vec::new()).unwrap();
                frames += 1;
            }
        }
    }
    assert_eq!(frames, 2 * (3 * SILENCE_MS / KEEPALIVE_MS - 1));
    // A parcel does as well as an empty frame.
    let now = NOW + 3 * SILENCE_MS;
    a.seal(now, b"parcel");
    assert_eq!(a.next_deadline(), now + KEEPALIVE_MS);
}

#[test]
fn silence_ends_a_session() {
    let [mut a, _] = linked([1, 2]);
    let mut out = Vec::new();
    a.tick(NOW + SILENCE_MS - 1, &mut out).unwrap();
    assert_eq!(a.next_deadline(), NOW + SILENCE_MS);
    let silent = LinkError::Silent { silent_ms: SILENCE_MS };
    assert_eq!(a.tick(NOW + SILENCE_MS, &mut out), Err(silent));
    assert!(!a.is_up());

    // Also one that never came up, though bytes keep coming.
    let [mut a, mut b] = strangers([1, 2]);
    a.start(NOW);
    let hello = b.start(NOW);
    let mut now = NOW;
    for byte in &hello[..HEAD_BYTES] {
        now += 30;
        if a.tick(now, &mut out).is_err() {
            assert_eq!(now, NOW + HANDSHAKE_MS.next_multiple_of(30));
            return;
        }
        a.received(now, &[*byte], &mut Vec::new()).unwrap();
    }
    assert!(a.tick(NOW + HANDSHAKE_MS, &mut out).is_err());
}

#[test]
fn each_end_learns_what_the_other_remembers() {
    let [a, b] = strangers([3, 4]);
    let first = Incarnation { id: 5, replaced_at: 0 };
    let second = Incarnation { id: 6, replaced_at: 100 };
    let (mut a, mut b) = (a.with_incarnation(first), b.with_incarnation(second));
    let (from_a, from_b) = (a.start(NOW), b.start(NOW));
    assert_eq!(a.peer_incarnation(), None);
    take(&mut a, &from_b).1.unwrap();
    take(&mut b, &from_a).1.unwrap();
    // Known before either end is up.
    assert_eq!((a.peer_incarnation(), a.is_up()), (Some(second), false));
    assert_eq!((b.peer_incarnation(), b.is_up()), (Some(first), false));

    let third = Incarnation { id: 7, replaced_at: 200 };
    let wiped = Incarnation { id: 8, replaced_at: 0 };
    assert!(first.may_follow(first) && second.may_follow(first) && third.may_follow(second));
    assert!(!wiped.may_follow(first) && !first.may_follow(second) && !second.may_follow(third));
}
