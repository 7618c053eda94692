//! A Redis process, the oracle for replies.

use super::{Client, PATIENCE, eventually, free_address};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A free port may be taken by another process before Redis has it.
const START_ATTEMPTS_MAX: usize = 10;

/// A running Redis; it is killed when this is dropped.
pub(crate) struct Redis {
    child: Child,
    pub(crate) address: SocketAddr,
    _dir: TempDir,
}

impl Redis {
    /// Starts Redis and waits until it answers; `None` if it is not installed.
    /// `QUORATE_REDIS_SERVER` names another binary than `redis-server`, such as a newer release.
    pub(crate) fn start() -> Option<Self> {
        let binary = std::env::var_os("QUORATE_REDIS_SERVER");
        let binary = binary.unwrap_or_else(|| "redis-server".into());
        for _ in 0..START_ATTEMPTS_MAX {
            let address = free_address();
            let dir = TempDir::new().expect("a temporary directory");
            let child = Command::new(&binary)
                .args(["--port", &address.port().to_string(), "--bind", "127.0.0.1"])
                .args(["--save", "", "--appendonly", "no", "--dir"])
                .arg(dir.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .ok()?;
            let mut redis = Self { child, address, _dir: dir };
            let ready = eventually("Redis answers PING", || {
                if redis.child.try_wait().expect("a child of ours").is_some() {
                    return Some(false);
                }
                let mut client = Client::connect(redis.address, PATIENCE).ok()?;
                (client.try_call(&["PING"]).ok()?.bytes() == b"PONG").then_some(true)
            });
            if ready {
                return Some(redis);
            }
        }
        panic!("Redis did not start");
    }

    /// A new connection.
    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address, PATIENCE).expect("Redis accepts connections")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
