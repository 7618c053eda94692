//! Finding keys that have expired but lie only in the table, where no index tells of them.

use crate::disk::{RECORD, decode_expiry, split_key};
use crate::keyspace::{EXPIRE_BYTES_MAX, Keyspace};
use crate::table::TableError;

impl Keyspace {
    /// Looks at about `limit` pairs of the table, going round it from call to call, and removes
    /// the keys among them that have expired and are not in memory. Returns how many.
    pub fn sweep(&mut self, limit: usize) -> Result<usize, TableError> {
        if self.resident || self.cleared {
            return Ok(0);
        }
        let now = self.recorder.now();
        let mut from = std::mem::take(&mut self.sweep_from);
        let mut expired: Vec<(u64, Vec<u8>)> = Vec::new();
        let mut seen = 0;
        loop {
            let mut next = Vec::new();
            self.table.scan(&from, None, &mut |key, value| {
                seen += 1;
                if seen > limit {
                    next = key.to_vec();
                    return false;
                }
                match split_key(key) {
                    Some((place, RECORD, name)) => {
                        if decode_expiry(value).is_some_and(|at| at <= now) {
                            expired.push((place, name.to_vec()));
                        }
                        true
                    }
                    // The elements of a collection say nothing of its expiry.
                    Some((place, _, _)) => {
                        next = (place + 1).to_be_bytes().to_vec();
                        false
                    }
                    None => false,
                }
            })?;
            from = next;
            if from.is_empty() || seen > limit {
                break;
            }
        }
        self.sweep_from = from;
        let mut removed = 0;
        for (place, key) in expired {
            // The next time round it finds the others.
            if self.batch().len() >= EXPIRE_BYTES_MAX {
                break;
            }
            // What is in memory is newer, and the index of expiries knows it.
            if self.index.get(place, &key).is_none() {
                self.load_record(place, &key)?;
                self.purge(place, &key);
                removed += 1;
            }
        }
        Ok(removed)
    }
}
