//! A blocking RESP2 client: enough to ask a server a question, load it and poll it.
//!
//! Replies understood: those of RESP2; no pushes.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use crate::Outcome;

/// Longest wait for one reply. A server that loads its data may leave a client waiting.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// Writes in flight on one connection of the loader.
const LOAD_BATCH: u64 = 512;
/// Connections of the loader.
const LOAD_CONNECTIONS: u64 = 4;
/// Bytes of a loaded value.
pub(crate) const VALUE_BYTES: usize = 64;

/// One reply of a server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Vec<u8>),
    Array(Vec<Reply>),
    Nil,
}

/// One connection to a server on this machine.
pub(crate) struct Client {
    reader: BufReader<TcpStream>,
}

impl Client {
    /// Connects to `127.0.0.1:port`.
    pub(crate) fn connect(port: u16) -> io::Result<Self> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Self { reader: BufReader::with_capacity(64 * 1024, stream) })
    }

    /// Sends one command and waits for its reply.
    pub(crate) fn ask(&mut self, arguments: &[&str]) -> io::Result<Reply> {
        let mut request = Vec::with_capacity(128);
        let arguments: Vec<&[u8]> = arguments.iter().map(|a| a.as_bytes()).collect();
        encode(&mut request, &arguments);
        self.send(&request)?;
        read_reply(&mut self.reader)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }
}

/// The name of the loaded key number `index`: redis-benchmark's own naming.
pub(crate) fn key(index: u64) -> String {
    format!("key:{index:012}")
}

/// The value of the loaded key number `index`: 64 letters that no compressor shrinks much, so
/// that a server which compresses snapshots gains nothing from the test data.
pub(crate) fn value(index: u64) -> [u8; VALUE_BYTES] {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = [0; VALUE_BYTES];
    for (chunk_index, chunk) in out.chunks_mut(8).enumerate() {
        let mut bits = mix(index.wrapping_mul(8).wrapping_add(chunk_index as u64));
        for byte in chunk {
            *byte = ALPHABET[(bits & 63) as usize];
            bits >>= 6;
        }
    }
    out
}

/// Stores keys `0..count` with [`value`]s over a few pipelined connections.
///
/// Fails on the first reply that is not `+OK`.
pub(crate) fn load(port: u16, count: u64) -> Outcome<()> {
    let share = count.div_ceil(LOAD_CONNECTIONS);
    let loaders: Vec<_> = (0..LOAD_CONNECTIONS)
        .map(|part| {
            let (from, to) = ((part * share).min(count), ((part + 1) * share).min(count));
            thread::spawn(move || load_range(port, from, to))
        })
        .collect();
    for loader in loaders {
        let outcome = loader.join().map_err(|_| "the loader panicked".to_owned())?;
        outcome.map_err(|e| format!("loading {count} keys: {e}"))?;
    }
    Ok(())
}

fn load_range(port: u16, from: u64, to: u64) -> io::Result<()> {
    let mut client = Client::connect(port)?;
    let mut batch = Vec::with_capacity(LOAD_BATCH as usize * 128);
    let mut next = from;
    while next < to {
        let end = (next + LOAD_BATCH).min(to);
        batch.clear();
        for index in next..end {
            encode(&mut batch, &[b"SET", key(index).as_bytes(), &value(index)]);
        }
        client.send(&batch)?;
        for _ in next..end {
            match read_reply(&mut client.reader)? {
                Reply::Simple(ok) if ok == "OK" => {}
                other => return Err(io::Error::other(format!("SET answered {other:?}"))),
            }
        }
        next = end;
    }
    Ok(())
}

/// The value of `field` in an INFO reply, e.g. `loading` in `loading:0`.
pub(crate) fn info_field<'a>(info: &'a str, field: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).map(str::trim)
}

/// Appends a command as it goes over the wire.
pub(crate) fn encode(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    // Writing into a vector does not fail.
    let _ = write!(out, "*{}\r\n", arguments.len());
    for argument in arguments {
        let _ = write!(out, "${}\r\n", argument.len());
        out.extend_from_slice(argument);
        out.extend_from_slice(b"\r\n");
    }
}

/// Reads one reply; `UnexpectedEof` if the reader ends before it does.
pub(crate) fn read_reply(reader: &mut impl BufRead) -> io::Result<Reply> {
    let malformed = |line: &str| io::Error::new(io::ErrorKind::InvalidData, line.to_owned());
    let mut line = String::new();
    reader.read_line(&mut line)?;
    if !line.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let line = line.trim_end();
    let Some((kind, rest)) = line.split_at_checked(1) else { return Err(malformed(line)) };
    match kind {
        "+" => Ok(Reply::Simple(rest.to_owned())),
        "-" => Ok(Reply::Error(rest.to_owned())),
        ":" => rest.parse().map(Reply::Integer).map_err(|_| malformed(line)),
        "$" if rest == "-1" => Ok(Reply::Nil),
        "$" => {
            let length: usize = rest.parse().map_err(|_| malformed(line))?;
            let mut body = vec![0; length + 2];
            reader.read_exact(&mut body)?;
            body.truncate(length);
            Ok(Reply::Bulk(body))
        }
        "*" => {
            let count: usize = rest.parse().map_err(|_| malformed(line))?;
            (0..count).map(|_| read_reply(reader)).collect::<io::Result<_>>().map(Reply::Array)
        }
        _ => Err(malformed(line)),
    }
}

/// The finaliser of SplitMix64: a bijection that scatters neighbouring numbers.
pub(crate) fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> io::Result<Reply> {
        read_reply(&mut io::Cursor::new(bytes))
    }

    #[test]
    fn replies_of_every_kind() {
        assert_eq!(parse(b"+OK\r\n").unwrap(), Reply::Simple("OK".into()));
        assert_eq!(parse(b"-LOADING x\r\n").unwrap(), Reply::Error("LOADING x".into()));
        assert_eq!(parse(b":-7\r\n").unwrap(), Reply::Integer(-7));
        assert_eq!(parse(b"$3\r\na\r\n\r\n").unwrap(), Reply::Bulk(b"a\r\n".to_vec()));
        assert_eq!(parse(b"$-1\r\n").unwrap(), Reply::Nil);
        let list = Reply::Array(vec![Reply::Integer(1), Reply::Nil]);
        assert_eq!(parse(b"*2\r\n:1\r\n$-1\r\n").unwrap(), list);
        assert!(parse(b"").is_err());
        assert!(parse(b"+OK\r").is_err());
        assert!(parse(b"\r\n").is_err());
        assert!(parse(b"$9\r\nshort\r\n").is_err());
        assert!(parse(b"*1\r\n").is_err());
    }

    #[test]
    fn a_command_on_the_wire() {
        let mut out = Vec::new();
        encode(&mut out, &[b"GET", b"k"]);
        assert_eq!(out, b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n");
    }

    #[test]
    fn keys_and_values_are_redis_benchmarks_size_and_differ() {
        assert_eq!(key(42), "key:000000000042");
        assert_ne!(value(1), value(2));
        assert!(value(7).iter().all(u8::is_ascii_graphic));
    }

    #[test]
    fn info_fields() {
        let info = "# Persistence\r\nloading:0\r\nloading_total_bytes:9\r\n";
        assert_eq!(info_field(info, "loading"), Some("0"));
        assert_eq!(info_field(info, "missing"), None);
    }
}
