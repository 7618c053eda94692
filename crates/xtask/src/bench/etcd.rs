//! The little of etcd's gRPC that the load needs: `KV/Put`, `KV/Range`, `Maintenance/Status`.
//!
//! A call is an HTTP/2 request whose body is one message, framed as
//!
//! ```text
//! ┌──────────────┬───────────────┬────────────────────┐
//! │ 0 (no zip) 1 │ length 4, big │ protobuf message … │
//! └──────────────┴───────────────┴────────────────────┘
//! ```
//!
//! Messages are encoded by hand, with the field numbers of etcd's `rpc.proto` and `kv.proto`.

use std::io;
use std::rc::Rc;

use bytes::Bytes;
use h2::client::{self, SendRequest};
use http::{HeaderMap, Request};
use tokio::net::TcpStream;

use super::session::Failure;

/// Bytes that the server may send on a connection before it waits for us.
const WINDOW_BYTES: u32 = 4 << 20;
/// The length of a message's frame.
const PREFIX: usize = 5;

/// A share of one connection. Shares are used side by side, each a stream at a time.
#[derive(Clone)]
pub(crate) struct EtcdSession {
    sender: SendRequest<Bytes>,
    heads: Rc<Heads>,
}

/// The head of each call, made once for a connection.
struct Heads {
    put: Request<()>,
    range: Request<()>,
    status: Request<()>,
}

/// What a member says of itself.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) member: u64,
    /// The leading member's id, 0 if none is known.
    pub(crate) leader: u64,
    pub(crate) raft_index: u64,
    pub(crate) applied_index: u64,
}

impl EtcdSession {
    /// Greets the server; a task of the current runtime serves the connection from here on.
    pub(crate) async fn new(stream: TcpStream, port: u16) -> io::Result<Self> {
        let mut settings = client::Builder::new();
        settings.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
        let (sender, connection) = settings.handshake(stream).await.map_err(io::Error::other)?;
        tokio::spawn(async move {
            // The end of the connection is seen by whoever waits for an answer.
            let _ = connection.await;
        });
        let call = |method: &str| {
            Request::post(format!("http://127.0.0.1:{port}/etcdserverpb.{method}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(())
                .map_err(io::Error::other)
        };
        let (put, range) = (call("KV/Put")?, call("KV/Range")?);
        let heads = Heads { put, range, status: call("Maintenance/Status")? };
        Ok(Self { sender, heads: Rc::new(heads) })
    }

    /// Stores a value: `PutRequest { key = 1, value = 2 }`.
    pub(crate) async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        let message = message(&[(1, key), (2, value)]);
        self.call(self.heads.put.clone(), message).await.map(|_| ())
    }

    /// Reads a value, linearizably: `RangeRequest { key = 1 }` →
    /// `RangeResponse { kvs = 2: KeyValue { value = 5 } }`.
    pub(crate) async fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let answer = self.call(self.heads.range.clone(), message(&[(1, key)])).await?;
        let Some(pair) = bytes_field(&answer, 2) else { return Ok(None) };
        Ok(Some(bytes_field(pair, 5).unwrap_or_default().to_vec()))
    }

    /// `StatusResponse { header = 1: { member_id = 2 }, leader = 4, raft_index = 5,
    /// raft_applied_index = 7 }`.
    pub(crate) async fn status(&mut self) -> Result<Status, Failure> {
        let answer = self.call(self.heads.status.clone(), message(&[])).await?;
        let number = |message, field| number_field(message, field).unwrap_or(0);
        Ok(Status {
            member: number(bytes_field(&answer, 1).unwrap_or_default(), 2),
            leader: number(&answer, 4),
            raft_index: number(&answer, 5),
            applied_index: number(&answer, 7),
        })
    }

    async fn call(&mut self, request: Request<()>, message: Bytes) -> Result<Vec<u8>, Failure> {
        let failed = |e: h2::Error| Failure::Unknown(e.to_string());
        std::future::poll_fn(|context| self.sender.poll_ready(context)).await.map_err(failed)?;
        let (response, mut stream) = self.sender.send_request(request, false).map_err(failed)?;
        stream.send_data(message, true).map_err(failed)?;
        let (head, mut body) = response.await.map_err(failed)?.into_parts();
        let mut answer = Vec::new();
        while let Some(chunk) = body.data().await {
            let chunk = chunk.map_err(failed)?;
            // Fails only for a stream that is over.
            let _ = body.flow_control().release_capacity(chunk.len());
            answer.extend_from_slice(&chunk);
        }
        let trailers = body.trailers().await.map_err(failed)?.unwrap_or(head.headers);
        check(&trailers)?;
        if answer.len() < PREFIX {
            return Err(Failure::Unknown("an answer without a message".into()));
        }
        answer.drain(..PREFIX);
        Ok(answer)
    }
}

/// Whether the call succeeded, by the trailers of gRPC. A failed one may have been proposed.
fn check(trailers: &HeaderMap) -> Result<(), Failure> {
    let text = |name| trailers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    match text("grpc-status") {
        Some(status) if status == "0" => Ok(()),
        status => {
            let words = text("grpc-message").unwrap_or_default();
            Err(Failure::Unknown(format!("gRPC status {}: {words}", status.unwrap_or_default())))
        }
    }
}

/// A framed message of length-delimited fields.
fn message(fields: &[(u8, &[u8])]) -> Bytes {
    let mut out = Vec::with_capacity(128);
    out.resize(PREFIX, 0);
    for (number, bytes) in fields {
        out.push(number << 3 | 2);
        varint(&mut out, bytes.len());
        out.extend_from_slice(bytes);
    }
    let length = (out.len() - PREFIX) as u32;
    out[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    out.into()
}

fn varint(out: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The first field of this number; `None` if there is none, or the message is no such.
fn field(message: &[u8], wanted: u64) -> Option<Field<'_>> {
    let mut rest = message;
    while !rest.is_empty() {
        let key = read_varint(&mut rest)?;
        let value = match key & 7 {
            0 => Field::Number(read_varint(&mut rest)?),
            1 => Field::Bytes(take(&mut rest, 8)?),
            2 => {
                let length = usize::try_from(read_varint(&mut rest)?).ok()?;
                Field::Bytes(take(&mut rest, length)?)
            }
            5 => Field::Bytes(take(&mut rest, 4)?),
            _ => return None,
        };
        if key >> 3 == wanted {
            return Some(value);
        }
    }
    None
}

fn bytes_field(message: &[u8], wanted: u64) -> Option<&[u8]> {
    match field(message, wanted)? {
        Field::Bytes(bytes) => Some(bytes),
        Field::Number(_) => None,
    }
}

fn number_field(message: &[u8], wanted: u64) -> Option<u64> {
    match field(message, wanted)? {
        Field::Number(number) => Some(number),
        Field::Bytes(_) => None,
    }
}

fn read_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'a>(rest: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(count)?;
    *rest = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_on_the_wire() {
        assert_eq!(&message(&[(1, b"k"), (2, b"vv")])[..], b"\0\0\0\0\x07\x0a\x01k\x12\x02vv");
        let long = message(&[(1, &[7; 200])]);
        assert_eq!(&long[..8], b"\0\0\0\0\xcb\x0a\xc8\x01");
        assert_eq!(long.len(), 8 + 200);
    }

    #[test]
    fn fields_of_an_answer() {
        // header = 1 { member_id = 2: 300 }, a fixed64 9, leader = 4: 5
        let answer = b"\x0a\x03\x10\xac\x02\x49\x01\x02\x03\x04\x05\x06\x07\x08\x20\x05";
        assert_eq!(number_field(bytes_field(answer, 1).unwrap(), 2), Some(300));
        assert_eq!(number_field(answer, 4), Some(5));
        assert_eq!(number_field(answer, 6), None);
        assert_eq!(bytes_field(b"\x12\x09short", 2), None);
    }

    #[test]
    fn failures_are_in_the_trailers() {
        let mut trailers = HeaderMap::new();
        assert!(check(&trailers).is_err());
        trailers.insert("grpc-status", "0".parse().unwrap());
        assert!(check(&trailers).is_ok());
        trailers.insert("grpc-status", "14".parse().unwrap());
        trailers.insert("grpc-message", "etcdserver: no leader".parse().unwrap());
        let failure = check(&trailers).unwrap_err();
        assert_eq!(failure.text(), "gRPC status 14: etcdserver: no leader");
    }
}
