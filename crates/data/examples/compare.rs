//! Runs commands from standard input, one a line, against a Redis server and the data layer, and
//! prints every difference: `cargo run -p quorate-data --example compare -- PORT < script`.
//! Words may be quoted as in redis-cli: "a\x00b" 'c d'. A line `hello 3` switches to RESP3,
//! `~` before a command compares its reply's lines in any order.

use quorate_data::testing::Harness;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

fn main() {
    let port = std::env::args().nth(1).expect("usage: compare PORT < script");
    let stream = TcpStream::connect(format!("127.0.0.1:{port}")).expect("no server there");
    let mut server = Server { reader: BufReader::new(stream.try_clone().expect("cloned")), stream };
    let mut ours = Harness::new(16);
    ours.now = std::time::SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_millis() as u64;
    server.call(&[b"FLUSHALL".to_vec()]);
    let (mut lines, mut bad) = (0, 0);
    for line in std::io::stdin().lines() {
        let mut args = split(&line.expect("readable"));
        if args.is_empty() {
            continue;
        }
        let sorted = args[0] == b"~";
        if sorted {
            args.remove(0);
        }
        if args[0].eq_ignore_ascii_case(b"hello") {
            ours.proto = quorate_resp::Proto::Resp3;
            server.call(&args);
            continue;
        }
        let want = server.call(&args);
        let slices: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let got = ours.run_args(&slices);
        lines += 1;
        let same = if sorted { lines_of(&want) == lines_of(&got) } else { want == got };
        if !same {
            bad += 1;
            println!(
                "{}",
                args.iter().map(|a| a.escape_ascii().to_string()).collect::<Vec<_>>().join(" ")
            );
            println!("   redis: {}\n   ours:  {}", want.escape_ascii(), got.escape_ascii());
        }
    }
    println!("{lines} commands, {bad} differences");
}

fn lines_of(reply: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = reply.split(|&b| b == b'\n').collect();
    lines.sort_unstable();
    lines
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
        self.stream.write_all(&out).expect("written");
        let mut reply = Vec::new();
        self.read(&mut reply);
        reply
    }

    fn read(&mut self, out: &mut Vec<u8>) {
        let from = out.len();
        self.reader.read_until(b'\n', out).expect("a reply");
        let kind = out[from];
        let number =
            || String::from_utf8_lossy(&out[from + 1..]).trim().parse::<i64>().unwrap_or(0);
        match kind {
            b'$' | b'=' if number() >= 0 => {
                let mut body = vec![0; number() as usize + 2];
                self.reader.read_exact(&mut body).expect("a body");
                out.extend_from_slice(&body);
            }
            b'*' | b'~' | b'>' => (0..number()).for_each(|_| self.read(out)),
            b'%' => (0..number() * 2).for_each(|_| self.read(out)),
            _ => {}
        }
    }
}

fn split(line: &str) -> Vec<Vec<u8>> {
    let mut args = Vec::new();
    let mut bytes = line.bytes().peekable();
    while let Some(&b) = bytes.peek() {
        match b {
            b' ' => {
                bytes.next();
            }
            b'"' | b'\'' => {
                bytes.next();
                let mut arg = Vec::new();
                while let Some(c) = bytes.next() {
                    match c {
                        _ if c == b => break,
                        b'\\' if b == b'"' => match bytes.next() {
                            Some(b'x') => {
                                let hex: String =
                                    (0..2).filter_map(|_| bytes.next()).map(char::from).collect();
                                arg.push(u8::from_str_radix(&hex, 16).expect("two hex digits"));
                            }
                            Some(b'n') => arg.push(b'\n'),
                            Some(b'r') => arg.push(b'\r'),
                            Some(b't') => arg.push(b'\t'),
                            Some(other) => arg.push(other),
                            None => {}
                        },
                        _ => arg.push(c),
                    }
                }
                args.push(arg);
            }
            b'#' if args.is_empty() => return args,
            _ => {
                let mut arg = Vec::new();
                while let Some(&c) = bytes.peek() {
                    if c == b' ' {
                        break;
                    }
                    arg.push(c);
                    bytes.next();
                }
                args.push(arg);
            }
        }
    }
    args
}
