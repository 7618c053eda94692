//! How many bytes of effects a change is going to record, asked before it is made.
//!
//! All effects of a turn are one frame of the journal, whose length is bounded, and what a command
//! has changed it cannot take back. Most commands record about what their arguments hold, which
//! the protocol bounds. Those that record what *keys* hold (a copy, a stored result, the removal of
//! many elements) ask here first, and change nothing if it is too much.

use crate::db::Value;
use crate::entry::{Coll, Entry};
use crate::error::Error;
use crate::settings::Settings;

/// What setting or removing an element records beside name and value, at most: the operation and
/// two lengths.
const ELEMENT_BYTES: usize = 11;

/// What is recorded of a key beside its elements or value, at most: operations, flags, an expiry,
/// a generation, and what the family keeps beside the elements. The key is an argument.
const KEY_BYTES: usize = 128;

impl Settings {
    /// Refuses to record so many bytes for one command.
    pub(crate) fn check_logged(&self, bytes: usize) -> Result<(), Error> {
        if bytes <= self.command_bytes_max {
            return Ok(());
        }
        Err(Error::owned(format!(
            "ERR The command would change {bytes} bytes at once, and {} are possible: nothing was \
             changed, use several smaller commands",
            self.command_bytes_max
        )))
    }

    /// Refuses to remove these elements of `coll` in one command.
    pub(crate) fn check_removed<'a>(
        &self,
        coll: &Coll,
        names: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), Error> {
        // In memory an element takes more than its removal records.
        if coll.bytes() <= self.command_bytes_max {
            return Ok(());
        }
        self.check_logged(names.map(|name| element_bytes(name, b"")).sum())
    }

    /// How many of so small records, an element each, one command may make.
    pub(crate) fn records_max(&self, bytes: usize) -> usize {
        self.command_bytes_max / (bytes + ELEMENT_BYTES)
    }
}

/// What setting an element records, at most.
pub(crate) fn element_bytes(name: &[u8], value: &[u8]) -> usize {
    ELEMENT_BYTES + name.len() + value.len()
}

impl Entry {
    /// What setting another key to the same value records, at most.
    pub(crate) fn logged_bytes(&self) -> usize {
        KEY_BYTES
            + match self.coll() {
                None => self.value().map_or(0, <[u8]>::len),
                Some(coll) => coll.elements().iter().map(|(n, v)| element_bytes(n, v)).sum(),
            }
    }
}

impl Value {
    /// What setting a key to this value records, at most.
    pub(crate) fn logged_bytes(&self) -> usize {
        KEY_BYTES
            + match self {
                Self::String(bytes, _) => bytes.len(),
                Self::Coll { elements, .. } => {
                    elements.iter().map(|(name, value)| element_bytes(name, value)).sum()
                }
            }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::Harness;

    const MEMBER_BYTES: usize = 40;

    /// A harness with small collections that are too large to be recorded at once, each `big*`,
    /// and others half as large.
    fn harness() -> Harness {
        let mut h = Harness::new(16);
        h.settings.command_bytes_max = 4096;
        for (name, count) in [("big", 200), ("half", 50)] {
            for n in 0..count {
                let member = format!("{n:0MEMBER_BYTES$}");
                h.run(&format!("SADD {name}:s {member}"));
                h.run(&format!("ZADD {name}:z {n} {member}"));
                h.run(&format!("HSET {name}:h {member} {n}"));
                h.run(&format!("RPUSH {name}:l {member}"));
                h.run(&format!("GEOADD {name}:g 1 1 {member}"));
                h.run(&format!("XADD {name}:x {}-1 f {member}", n + 1));
                h.run(&format!("APPEND {name}:str {member}"));
            }
        }
        h
    }

    #[test]
    fn what_is_too_much_for_one_command_is_refused_before_anything_changes() {
        let mut h = harness();
        h.check("SET to before", "+OK|");
        for line in [
            "COPY big:s to REPLACE",
            "COPY big:z to REPLACE",
            "COPY big:h to REPLACE",
            "COPY big:l to REPLACE",
            "COPY big:x to REPLACE",
            "COPY big:str to REPLACE",
            "SUNIONSTORE to big:s half:s",
            "SDIFFSTORE to big:s half:s",
            "SINTERSTORE to big:s big:s",
            "ZUNIONSTORE to 2 big:z half:z",
            "ZINTERSTORE to 2 big:z big:z",
            "ZDIFFSTORE to 2 big:z half:z",
            "ZRANGESTORE to big:z 0 -1",
            "GEOSEARCHSTORE to big:g FROMLONLAT 1 1 BYRADIUS 1 km",
            "GEORADIUS big:g 1 1 1 km STORE to",
            "SORT big:l BY nosort STORE to",
            "SORT half:l BY nosort GET # GET # GET # STORE to",
            "SPOP big:s 190",
            "ZREMRANGEBYRANK big:z 0 190",
            "ZREMRANGEBYSCORE big:z 0 190",
            "ZREMRANGEBYLEX big:z - (0000000000000000000000000000000000000190",
            "ZPOPMIN big:z 190",
            "ZMPOP 1 big:z MAX COUNT 190",
            "XTRIM big:x MAXLEN 1",
            "XADD big:x MAXLEN 1 * f v",
        ] {
            let reply = h.run(line);
            assert!(reply.starts_with("-ERR The command would change "), "{line}: {reply}");
            assert!(h.batches.iter().all(Vec::is_empty), "{line}");
        }
        h.check("GET to", "$6|before|");
        h.check("SCARD big:s", ":200|");
        h.check("ZCARD big:z", ":200|");
        h.check("XLEN big:x", ":200|");
    }

    #[test]
    fn what_is_not_too_much_goes_on() {
        let mut h = harness();
        for (line, reply) in [
            ("COPY half:s to REPLACE", ":1|"),
            ("SUNIONSTORE to half:s", ":50|"),
            ("ZREMRANGEBYRANK big:z 0 9", ":10|"),
            ("ZREMRANGEBYRANK big:z 0 -1", ":190|"),
            ("LPOP big:l", "$40|0000000000000000000000000000000000000000|"),
            ("LTRIM big:l 100 -1", "+OK|"),
            ("DEL big:h", ":1|"),
        ] {
            h.check(line, reply);
        }
        let all = h.run("SPOP big:s 300");
        assert!(all.starts_with("*200|"), "{all}");
        h.check("EXISTS big:s big:z", ":0|");
    }

    #[test]
    fn renaming_across_shards_is_a_copy_and_within_one_is_not() {
        let mut h = harness();
        let refused = |reply: &str| reply.starts_with("-ERR The command would change ");
        let (mut copies, mut moves) = (0, 0);
        let mut key = "big:s".to_owned();
        for n in 0..40 {
            let to = format!("to{n}");
            let reply = h.run(&format!("RENAME {key} {to}"));
            if refused(&reply) {
                assert!(refused(&h.run(&format!("RENAMENX {key} {to}"))));
                copies += 1;
                continue;
            }
            assert_eq!(reply, "+OK|");
            (key, moves) = (to, moves + 1);
            h.check(&format!("SCARD {key}"), ":200|");
        }
        assert!(copies > 0 && moves > 0, "{copies} {moves}");
    }

    #[test]
    fn a_group_gets_as_many_entries_as_may_be_recorded() {
        let mut h = harness();
        h.check("XGROUP CREATE big:x g 0", "+OK|");
        h.check("XGROUP CREATE half:x g 0", "+OK|");
        let mut left = 200;
        while left > 0 {
            let reply = h.run("XREADGROUP GROUP g c COUNT 200 STREAMS big:x half:x > >");
            let pending = h.run("XPENDING big:x g");
            let pending: u64 = pending.split(['|', ':']).nth(2).unwrap().parse().unwrap();
            assert!(pending > 200 - left, "{reply}");
            assert!(left < 200 || pending < 200, "it got everything at once");
            left = 200 - pending;
        }
        h.check("XGROUP DELCONSUMER big:x g nobody", ":0|");
        let reply = h.run("XGROUP DESTROY big:x g");
        assert!(reply.starts_with("-ERR The command would change "), "{reply}");
    }
}
