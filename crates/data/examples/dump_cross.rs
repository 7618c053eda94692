//! Moves random values between a Redis server and the data layer with DUMP and RESTORE, both ways,
//! and prints where contents differ: `cargo run -p quorate-data --example dump_cross -- PORT
//! [SEED [ROUNDS [one-way]]]`. The server's thresholds change as it goes, so that every encoding
//! occurs. `one-way` only restores here, for servers older than 7.0.

use quorate_base::Prng;
use quorate_data::testing::Harness;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

const KEY: &[u8] = b"k";
const BACK: &[u8] = b"back";

type Words = Vec<Vec<u8>>;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let port = args.get(1).expect("usage: dump_cross PORT [SEED [ROUNDS [one-way]]]");
    let number = |at: usize, or: u64| args.get(at).map_or(or, |n| n.parse().expect("a number"));
    let (seed, rounds, one_way) = (number(2, 1), number(3, 1000), args.len() > 4);
    let stream = TcpStream::connect(format!("127.0.0.1:{port}")).expect("no server there");
    let mut server = Server { reader: BufReader::new(stream.try_clone().expect("cloned")), stream };
    let mut prng = Prng::new(seed);
    let mut seen = std::collections::BTreeMap::new();
    let mut bad = 0;
    for round in 0..rounds {
        let mut ours = Harness::new(1);
        ours.now =
            std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as u64;
        for setting in thresholds(&mut prng) {
            server.call(&setting);
        }
        server.call(&words("FLUSHALL"));
        let kind = prng.below(6);
        for command in build(kind, &mut prng) {
            let reply = server.call(&command);
            assert_ne!(reply[0], b'-', "{}", reply.escape_ascii());
        }
        let payload = bulk(&server.call(&[b"DUMP".to_vec(), KEY.to_vec()]));
        let encoding = bulk(&server.call(&words("OBJECT ENCODING k")));
        let name = format!("type {:2} {}", payload[0], String::from_utf8_lossy(&encoding));
        *seen.entry(name).or_insert(0) += 1;
        let mut check = |what: &str, want: &[u8], got: &[u8]| {
            if want != got {
                bad += 1;
                println!(
                    "round {round}, {what}:\n   {}\n   {}",
                    want.escape_ascii(),
                    got.escape_ascii()
                );
            }
        };
        check("restored here", b"+OK\r\n", &ours.run_args(&[b"RESTORE", KEY, b"0", &payload]));
        let again = bulk(&ours.run_args(&[b"DUMP", KEY]));
        for question in questions(kind, KEY) {
            let slices: Vec<&[u8]> = question.iter().map(Vec::as_slice).collect();
            let want = comparable(&question, &server.call(&question));
            check("content here", &want, &comparable(&question, &ours.run_args(&slices)));
        }
        if one_way {
            continue;
        }
        let restore = [b"RESTORE".to_vec(), BACK.to_vec(), b"0".to_vec(), again];
        check("restored there", b"+OK\r\n", &server.call(&restore));
        let pairs = questions(kind, KEY).into_iter().zip(questions(kind, BACK));
        for (question, there) in
            pairs.chain([(words("XINFO STREAM k FULL"), words("XINFO STREAM back FULL"))])
        {
            let want = comparable(&question, &server.call(&question));
            check("content there", &want, &comparable(&question, &server.call(&there)));
        }
    }
    println!("{rounds} values, {bad} differences");
    seen.iter().for_each(|(name, count)| println!("  {name}: {count}"));
}

fn words(line: &str) -> Words {
    line.split(' ').map(|word| word.as_bytes().to_vec()).collect()
}

fn thresholds(prng: &mut Prng) -> Vec<Words> {
    // The names that Redis 6 has and later ones still take.
    const CHOICES: &[(&str, &[&str])] = &[
        ("list-max-ziplist-size", &["-2", "-1", "3", "100"]),
        ("list-compress-depth", &["0", "1"]),
        ("hash-max-ziplist-entries", &["512", "0"]),
        ("zset-max-ziplist-entries", &["128", "0"]),
        ("set-max-intset-entries", &["512", "0"]),
        ("set-max-listpack-entries", &["128", "0"]),
        ("stream-node-max-entries", &["100", "3"]),
    ];
    let mut pick = |(name, values): &(&str, &[&str])| {
        words(&format!("CONFIG SET {name} {}", values[prng.below(values.len() as u64) as usize]))
    };
    let mut commands: Vec<Words> = CHOICES.iter().map(&mut pick).collect();
    // Makes large elements nodes of their own, where the server has `enable-debug-command yes`.
    let threshold = ["0", "1000b"][prng.below(2) as usize];
    commands.push(words(&format!("DEBUG QUICKLIST-PACKED-THRESHOLD {threshold}")));
    commands
}

fn string(prng: &mut Prng) -> Vec<u8> {
    let len = 1 + prng.below(20) as usize;
    match prng.below(12) {
        0..4 => (0..len % 4).map(|_| b'a' + prng.below(4) as u8).collect(),
        4..8 => ((prng.next_u64() as i64) >> prng.below(64)).to_string().into_bytes(),
        8 => (0..len * 5).map(|_| prng.next_u64() as u8).collect(),
        9 => (0..len * 30).map(|_| b'a' + prng.below(2) as u8).collect(),
        10 => b"compressible ".repeat(len),
        _ if prng.below(10) == 0 => vec![b'x'; 5000 + prng.below(20_000) as usize],
        _ => b"1".repeat(len),
    }
}

fn build(kind: u64, prng: &mut Prng) -> Vec<Words> {
    let most = [3, 30, 300][prng.below(3) as usize];
    let count = 1 + prng.below(most) as usize;
    let numbers = prng.below(2) == 0;
    let mut words = |head: &str, each: &mut dyn FnMut(&mut Prng) -> Words| {
        let mut command = words(head);
        (0..count).for_each(|_| command.extend(each(prng)));
        vec![command]
    };
    match kind {
        0 => words("SET k", &mut |prng| vec![string(prng)])
            .into_iter()
            .map(|c| c[..3].to_vec())
            .collect(),
        1 => words("RPUSH k", &mut |prng| vec![string(prng)]),
        2 if numbers => words("SADD k", &mut |prng| {
            vec![((prng.next_u64() as i64) >> prng.below(64)).to_string().into_bytes()]
        }),
        2 => words("SADD k", &mut |prng| vec![string(prng)]),
        3 => words("HSET k", &mut |prng| vec![string(prng), string(prng)]),
        // Scores that every version prints alike.
        4 => words("ZADD k", &mut |prng| {
            let score = match prng.below(20) {
                0 => "inf".into(),
                1 => "-inf".into(),
                _ => (((prng.next_u64() as i64) >> (prng.below(48) + 16)) as f64 / 8.0).to_string(),
            };
            vec![score.into_bytes(), string(prng)]
        }),
        _ => stream(count, prng),
    }
}

fn stream(count: usize, prng: &mut Prng) -> Vec<Words> {
    let mut commands = vec![words("XGROUP CREATE k g 0 MKSTREAM"), words("XGROUP CREATE k h $")];
    let width = 1 + prng.below(3);
    let mut ms = 1;
    for n in 1..=count {
        ms += prng.below(3);
        let id = format!("{ms}-{n}");
        let mut add = words(&format!("XADD k {id}"));
        if prng.below(4) == 0 {
            (0..2 * (1 + prng.below(3))).for_each(|_| add.push(string(prng)));
        } else {
            (0..width).for_each(|f| add.extend([format!("field{f}").into_bytes(), string(prng)]));
        }
        commands.push(add);
        let line = match prng.below(16) {
            0 => format!("XDEL k {id}"),
            1 => "XREADGROUP GROUP g c1 COUNT 2 STREAMS k >".into(),
            2 => "XREADGROUP GROUP g c2 COUNT 3 STREAMS k >".into(),
            3 => "XREADGROUP GROUP h c1 COUNT 9 STREAMS k >".into(),
            4 => "XTRIM k MAXLEN 20".into(),
            5 => format!("XACK k g {id}"),
            6 => format!("XCLAIM k g idle 0 {id}"),
            _ => continue,
        };
        commands.push(words(&line));
    }
    commands
}

fn questions(kind: u64, key: &[u8]) -> Vec<Words> {
    let lines: &[&str] = match kind {
        0 => &["GET k"],
        1 => &["LRANGE k 0 -1"],
        2 => &["SMEMBERS k"],
        3 => &["HGETALL k"],
        4 => &["ZRANGE k 0 -1 WITHSCORES"],
        _ => &["XRANGE k - +", "XPENDING k g", "XPENDING k h", "XLEN k"],
    };
    let replace = |line: &&str| {
        let mut words = words(line);
        words[1] = key.to_vec();
        words
    };
    lines.iter().map(replace).collect()
}

/// The parts of a reply that do not depend on the order of sets and on how a stream is cut.
fn comparable(question: &Words, reply: &[u8]) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = reply.split(|&b| b == b'\n').collect();
    match question[0].as_slice() {
        b"SMEMBERS" | b"HGETALL" => lines.sort_unstable(),
        b"XINFO" if lines.len() > 12 => {
            lines.drain(4..10);
            // When a consumer was active is not dumped for Redis 7.0.
            let mut after_active = false;
            lines.retain(|line| {
                let keep = !after_active;
                after_active = line.starts_with(b"active-time");
                keep
            });
        }
        _ => {}
    }
    lines.join(&b'\n')
}

fn bulk(reply: &[u8]) -> Vec<u8> {
    assert_eq!(reply[0], b'$', "{}", reply.escape_ascii());
    let from = reply.iter().position(|&b| b == b'\n').expect("a bulk string") + 1;
    reply[from..reply.len() - 2].to_vec()
}

struct Server {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

impl Server {
    fn call(&mut self, args: &[Vec<u8>]) -> Vec<u8> {
        let mut out = format!("*{}\r\n", args.len()).into_bytes();
        for arg in args {
            out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            out.extend_from_slice(arg);
            out.extend_from_slice(b"\r\n");
        }
        self.stream.write_all(&out).expect("the server reads");
        let mut reply = Vec::new();
        self.read(&mut reply);
        reply
    }

    fn read(&mut self, reply: &mut Vec<u8>) {
        let from = reply.len();
        self.reader.read_until(b'\n', reply).expect("the server answers");
        let head = reply[from];
        let text = String::from_utf8_lossy(&reply[from + 1..]).trim().to_string();
        let count: i64 = text.parse().unwrap_or(-1);
        match head {
            b'$' if count >= 0 => {
                let from = reply.len();
                reply.resize(from + count as usize + 2, 0);
                self.reader.read_exact(&mut reply[from..]).expect("the server answers");
            }
            b'*' => (0..count).for_each(|_| self.read(reply)),
            _ => {}
        }
    }
}
