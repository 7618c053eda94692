//! What simulated clients send and check.

use quorate_base::Prng;
use quorate_data::testing::Dump;
use std::fmt;

/// A workload: makes the clients' requests and checks their replies.
pub trait Load {
    /// How many clients it plays.
    fn clients(&self) -> usize;

    /// The next request, or pipeline of them, of a client whose earlier ones are answered, in
    /// RESP; `None` while the client thinks.
    fn next(&mut self, client: usize, now_us: u64, prng: &mut Prng) -> Option<Vec<u8>>;

    /// Bytes of replies reached a client, cut anywhere.
    fn reply(&mut self, client: usize, now_us: u64, bytes: &[u8]);

    /// A client's connection broke: what it had not been answered may or may not have happened.
    fn disconnected(&mut self, client: usize, now_us: u64);

    /// All is over: the checks that need the whole history.
    fn finish(&mut self, view: &FinalView<'_>) -> Result<(), Violation>;
}

/// What the cluster holds in the end.
#[derive(Clone, Copy, Debug)]
pub struct FinalView<'a> {
    /// By shard; the same on every node.
    pub shards: &'a [Dump],
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which one, and how.
    pub what: String,
    /// Keys concerned.
    pub keys: Vec<Vec<u8>>,
    /// The client that saw it.
    pub client: Option<usize>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        for key in &self.keys {
            write!(f, "; key {:?}", String::from_utf8_lossy(key))?;
        }
        self.client.map_or(Ok(()), |client| write!(f, "; client {client}"))
    }
}

impl std::error::Error for Violation {}
