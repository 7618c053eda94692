//! Connections of the cluster families' load: one question after another, to Quorate over RESP
//! or to etcd over gRPC, behind one face.
//!
//! Everything runs on one thread, in a `tokio` runtime of its own. What a failure means is told
//! apart, because writes that may have been executed are counted: see [`Failure`].

use std::future::Future;
use std::io;
use std::net::Ipv4Addr;

use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};

use super::client::{Reply, encode, read_reply};
use super::etcd::EtcdSession;
use crate::Outcome;

/// Most bytes of a reply that are read at once.
const READ_BYTES: usize = 4096;

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// RESP2, to Quorate.
    Resp,
    /// gRPC, to etcd.
    Etcd,
}

/// Why a request was not answered with what it asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was not executed.
    Refused(String),
    /// It may have been executed.
    Unknown(String),
}

impl Failure {
    /// The server's words, or the system's.
    pub(crate) fn text(&self) -> &str {
        match self {
            Failure::Refused(text) | Failure::Unknown(text) => text,
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Failure::Unknown(error.to_string())
    }
}

/// One connection, or a share of one.
pub(crate) enum Session {
    Resp(RespSession),
    Etcd(EtcdSession),
}

impl Session {
    /// Connects to `127.0.0.1:port`.
    pub(crate) async fn connect(protocol: Protocol, port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.set_nodelay(true)?;
        Ok(match protocol {
            Protocol::Resp => Session::Resp(RespSession::new(stream)),
            Protocol::Etcd => Session::Etcd(EtcdSession::new(stream, port).await?),
        })
    }

    /// Another user of the same connection, where the protocol lets several have one.
    pub(crate) fn share(&self) -> Option<Self> {
        match self {
            Session::Resp(_) => None,
            Session::Etcd(session) => Some(Session::Etcd(session.clone())),
        }
    }

    /// Stores a value.
    pub(crate) async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Failure> {
        match self {
            Session::Resp(session) => match session.ask(&[b"SET", key, value]).await? {
                Reply::Simple(ok) if ok == "OK" => Ok(()),
                other => Err(unexpected(&other)),
            },
            Session::Etcd(session) => session.put(key, value).await,
        }
    }

    /// Reads a value, linearizably.
    pub(crate) async fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        match self {
            Session::Resp(session) => match session.ask(&[b"GET", key]).await? {
                Reply::Bulk(value) => Ok(Some(value)),
                Reply::Nil => Ok(None),
                other => Err(unexpected(&other)),
            },
            Session::Etcd(session) => session.get(key).await,
        }
    }

    /// Adds one to a counter: what it is now, or `None` where there are no counters.
    pub(crate) async fn increment(&mut self, key: &[u8]) -> Result<Option<i64>, Failure> {
        match self {
            Session::Resp(session) => match session.ask(&[b"INCR", key]).await? {
                Reply::Integer(value) => Ok(Some(value)),
                other => Err(unexpected(&other)),
            },
            Session::Etcd(_) => Ok(None),
        }
    }
}

fn unexpected(reply: &Reply) -> Failure {
    Failure::Unknown(format!("unexpected reply {reply:?}"))
}

/// A connection to Quorate.
pub(crate) struct RespSession {
    stream: TcpStream,
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl RespSession {
    fn new(stream: TcpStream) -> Self {
        Self { stream, request: Vec::with_capacity(256), reply: Vec::with_capacity(READ_BYTES) }
    }

    async fn ask(&mut self, arguments: &[&[u8]]) -> Result<Reply, Failure> {
        self.request.clear();
        encode(&mut self.request, arguments);
        self.send().await?;
        self.reply.clear();
        loop {
            self.receive().await?;
            match read_reply(&mut self.reply.as_slice()) {
                Ok(Reply::Error(text)) if text.starts_with("UNKNOWN ") => {
                    return Err(Failure::Unknown(text));
                }
                Ok(Reply::Error(text)) => return Err(Failure::Refused(text)),
                Ok(reply) => return Ok(reply),
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    async fn send(&mut self) -> io::Result<()> {
        let mut rest = self.request.as_slice();
        while !rest.is_empty() {
            match self.stream.try_write(rest) {
                Ok(sent) => rest = &rest[sent..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.stream.writable().await?,
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    async fn receive(&mut self) -> io::Result<()> {
        let mut buffer = [0; READ_BYTES];
        loop {
            self.stream.readable().await?;
            match self.stream.try_read(&mut buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.reply.extend_from_slice(&buffer[..count]);
                    return Ok(());
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }
}

/// A runtime for sessions on the calling thread.
pub(crate) fn runtime() -> Outcome<Runtime> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_err(|e| format!("cannot start the load generator's runtime: {e}"))
}

/// Waits for one thing.
pub(crate) fn block_on<T>(work: impl Future<Output = Outcome<T>>) -> Outcome<T> {
    runtime()?.block_on(work)
}
