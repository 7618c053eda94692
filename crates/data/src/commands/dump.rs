//! DUMP and RESTORE: a value as a string of bytes that Redis understands, and back.
//!
//! ```text
//! type u8 │ value as in an RDB file │ RDB version u16 LE │ CRC-64 of all before, u64 LE
//! ```
//!
//! RESTORE takes what DUMP of any Redis from 2.6 to 7.2 gives, and what newer servers and Valkey
//! give where the type is not new; so tools that move keys with DUMP and RESTORE, and Redis' own
//! MIGRATE, move data here. DUMP writes what Redis 7.0 and later read, so the way back is open as
//! well: all that gets lost is when a stream's consumers were last active, which 7.0 does not know.
//!
//! A payload may come from anybody. It is checked in full before anything changes.

use crate::command::{Ctx, FIRST, Spec, flag};
use crate::error::Error;
use crate::keyspace::seconds;
use crate::parse;
use crc64::crc64;

mod crc64;
mod listpack;
mod lzf;
mod packed;
mod rdb_read;
mod rdb_write;
mod stream;
mod ziplist;

const GROW: u32 = flag::WRITE | flag::DENYOOM;

/// The family's commands.
pub(crate) const COMMANDS: &[Spec] = &[
    Spec { name: "dump", arity: 2, flags: flag::READONLY, keys: FIRST, run: dump },
    Spec { name: "restore", arity: -4, flags: GROW, keys: FIRST, run: restore },
    Spec { name: "restore-asking", arity: -4, flags: GROW, keys: FIRST, run: restore },
];

/// The type bytes of RDB files; others belong to modules and newer servers.
mod kind {
    pub(super) const STRING: u8 = 0;
    pub(super) const LIST: u8 = 1;
    pub(super) const SET: u8 = 2;
    pub(super) const ZSET: u8 = 3;
    pub(super) const HASH: u8 = 4;
    pub(super) const ZSET_2: u8 = 5;
    pub(super) const HASH_ZIPMAP: u8 = 9;
    pub(super) const LIST_ZIPLIST: u8 = 10;
    pub(super) const SET_INTSET: u8 = 11;
    pub(super) const ZSET_ZIPLIST: u8 = 12;
    pub(super) const HASH_ZIPLIST: u8 = 13;
    pub(super) const LIST_QUICKLIST: u8 = 14;
    pub(super) const STREAM_LISTPACKS: u8 = 15;
    pub(super) const HASH_LISTPACK: u8 = 16;
    pub(super) const ZSET_LISTPACK: u8 = 17;
    pub(super) const LIST_QUICKLIST_2: u8 = 18;
    pub(super) const STREAM_LISTPACKS_2: u8 = 19;
    pub(super) const SET_LISTPACK: u8 = 20;
    pub(super) const STREAM_LISTPACKS_3: u8 = 21;
}

/// The RDB version of Redis 7.0.
const VERSION: u16 = 10;
const FOOTER_BYTES: usize = 10;

/// True if the types that [`kind`] lists mean in this RDB version what they mean in Redis 7.2:
/// Redis up to 7.2 writes 11 and less, 7.4 and 8.0 write 12, and Valkey 9 writes 80.
fn is_readable(version: u16) -> bool {
    version <= 12 || version == 80
}

/// DUMP key
fn dump(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let Some(entry) = ctx.db.entry(args[1])? else {
        ctx.reply.null();
        return Ok(());
    };
    let mut payload = Vec::new();
    rdb_write::write(&mut payload, entry);
    seal(&mut payload);
    ctx.reply.bulk(&payload);
    Ok(())
}

/// Appends the version and the checksum.
fn seal(payload: &mut Vec<u8>) {
    payload.extend_from_slice(&VERSION.to_le_bytes());
    let crc = crc64(payload);
    payload.extend_from_slice(&crc.to_le_bytes());
}

/// The value's bytes, if the version can be read and the checksum is right.
fn unseal(payload: &[u8]) -> Option<&[u8]> {
    let (body, footer) = payload.split_at_checked(payload.len().checked_sub(FOOTER_BYTES)?)?;
    let (version, crc) = footer.split_first_chunk::<2>()?;
    let sealed = crc64(&payload[..body.len() + version.len()]).to_le_bytes();
    (is_readable(u16::from_le_bytes(*version)) && sealed == crc).then_some(body)
}

/// RESTORE key ttl payload [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]
fn restore(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    const BUSY: Error = Error::text("BUSYKEY Target key name already exists.");
    const TTL: Error = Error::text("ERR Invalid TTL value, must be >= 0");
    const CHECKSUM: Error = Error::text("ERR DUMP payload version or checksum are wrong");
    const FORMAT: Error = Error::text("ERR Bad data format");
    let options = Options::parse(&args[4..])?;
    let key = args[1];
    if !options.replace && ctx.db.exists(key)? {
        return Err(BUSY);
    }
    let ttl = u64::try_from(parse::int(args[2])?).map_err(|_| TTL)?;
    let body = unseal(args[3]).ok_or(CHECKSUM)?;
    let value = rdb_read::read(body, ctx.settings).ok_or(FORMAT)?;
    let base = if options.absolute { 0 } else { ctx.now };
    let expiry = (ttl > 0).then(|| ttl.saturating_add(base).min(i64::MAX as u64));
    if expiry.is_some_and(|at| at <= ctx.now) {
        ctx.db.delete(key)?;
    } else {
        ctx.settings.check_logged(value.logged_bytes())?;
        ctx.db.put_value(key, &value, expiry)?;
        if let Some(idle) = options.idle_seconds {
            ctx.db.set_accessed(key, seconds(ctx.now).wrapping_sub(idle));
        }
    }
    ctx.reply.ok();
    Ok(())
}

#[derive(Default)]
struct Options {
    replace: bool,
    /// The TTL is a time, not a duration.
    absolute: bool,
    idle_seconds: Option<u32>,
}

impl Options {
    fn parse(mut args: &[&[u8]]) -> Result<Self, Error> {
        const IDLE: Error = Error::text("ERR Invalid IDLETIME value, must be >= 0");
        const FREQUENCY: Error = Error::text("ERR Invalid FREQ value, must be >= 0 and <= 255");
        let mut options = Self::default();
        let mut has_frequency = false;
        loop {
            args = match args {
                [] => return Ok(options),
                [word, rest @ ..] if parse::is_word(word, "REPLACE") => {
                    options.replace = true;
                    rest
                }
                [word, rest @ ..] if parse::is_word(word, "ABSTTL") => {
                    options.absolute = true;
                    rest
                }
                [word, idle, rest @ ..] if parse::is_word(word, "IDLETIME") && !has_frequency => {
                    let idle = u64::try_from(parse::int(idle)?).map_err(|_| IDLE)?;
                    options.idle_seconds = Some(u32::try_from(idle).unwrap_or(u32::MAX));
                    rest
                }
                // No eviction policy counts uses, so a frequency says nothing here.
                [word, frequency, rest @ ..]
                    if parse::is_word(word, "FREQ") && options.idle_seconds.is_none() =>
                {
                    if !(0..=255).contains(&parse::int(frequency)?) {
                        return Err(FREQUENCY);
                    }
                    has_frequency = true;
                    rest
                }
                _ => return Err(Error::Syntax),
            };
        }
    }
}

#[cfg(test)]
mod tests;
