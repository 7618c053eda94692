//! What a command is: its name, arity, flags and keys, and the function that executes it.
//!
//! A family file in `commands/` holds a table of [`Spec`]s and their functions, parse and execute
//! side by side. The node routes by [`Spec::keys`] and then calls [`Spec::run`] with every shard
//! of those keys present in the [`Db`].

use crate::db::Db;
use crate::error::Error;
use crate::parse;
use crate::settings::Settings;
use quorate_base::{Millis, Prng};
use quorate_resp::Reply;
use smallvec::SmallVec;

/// Executes one command: writes exactly one reply, or blocks (see [`Ctx::block`]), or returns the
/// error to reply instead of whatever was written. `args[0]` is the command's name; the arity has
/// been checked.
pub type Run = fn(&mut Ctx<'_>, &[&[u8]]) -> Result<(), Error>;

/// Positions in `args` that are keys.
pub type KeyPositions = SmallVec<[usize; 8]>;

/// One command of the data layer.
#[derive(Clone, Copy)]
pub struct Spec {
    /// Its name in lower case.
    pub name: &'static str,
    /// As in Redis: the exact number of arguments with the name, or minus the least number.
    pub arity: i32,
    /// See [`flag`].
    pub flags: u32,
    /// Where its keys are.
    pub keys: Keys,
    /// What executes it.
    pub run: Run,
}

/// Where the keys of a command are among its arguments.
#[derive(Clone, Copy)]
pub enum Keys {
    /// It has no keys and touches no data.
    None,
    /// From argument `first` to argument `last` (negative: from the end), every `step`th.
    Range {
        /// The first key.
        first: usize,
        /// The last key; -1 is the last argument.
        last: isize,
        /// The distance between keys.
        step: usize,
    },
    /// Argument `at` says how many keys follow it; `fixed` is one more key before, or 0.
    Counted {
        /// Where the number of keys is.
        at: usize,
        /// The position of a destination key, or 0.
        fixed: usize,
    },
    /// The function pushes the positions. It may leave out what it cannot parse: executing the
    /// command then fails on the same argument.
    Custom(fn(&[&[u8]], &mut KeyPositions)),
    /// The same; the command needs the whole keyspace where the function returns false.
    CustomOrAll(fn(&[&[u8]], &mut KeyPositions) -> bool),
    /// The command needs the whole keyspace.
    All,
}

/// The command's only key is its first argument.
pub const FIRST: Keys = Keys::Range { first: 1, last: 1, step: 1 };
/// All arguments are keys.
pub const EVERY: Keys = Keys::Range { first: 1, last: -1, step: 1 };
/// The first two arguments are keys.
pub const FIRST_TWO: Keys = Keys::Range { first: 1, last: 2, step: 1 };

/// Command flags, with Redis' meanings and names (`COMMAND INFO`).
pub mod flag {
    /// May change data.
    pub const WRITE: u32 = 1;
    /// Only reads data.
    pub const READONLY: u32 = 1 << 1;
    /// May take more memory; refused when memory is short.
    pub const DENYOOM: u32 = 1 << 2;
    /// For operators.
    pub const ADMIN: u32 = 1 << 3;
    /// Publish and subscribe.
    pub const PUBSUB: u32 = 1 << 4;
    /// Not from scripts.
    pub const NOSCRIPT: u32 = 1 << 5;
    /// May block the client.
    pub const BLOCKING: u32 = 1 << 6;
    /// Constant or logarithmic time.
    pub const FAST: u32 = 1 << 7;
    /// Allowed while data is being loaded.
    pub const LOADING: u32 = 1 << 8;
    /// Allowed on a replica with stale data.
    pub const STALE: u32 = 1 << 9;
    /// Allowed before authentication.
    pub const NO_AUTH: u32 = 1 << 10;
    /// Not inside MULTI.
    pub const NO_MULTI: u32 = 1 << 11;
    /// Its keys are not at fixed positions.
    pub const MOVABLE_KEYS: u32 = 1 << 12;
    /// May change data, which is not known before it executes; counts as a write.
    pub const MAY_REPLICATE: u32 = 1 << 13;
    /// A script or a function: the node executes it.
    pub const SCRIPT: u32 = 1 << 14;
    /// Its keys may be none.
    pub const NO_MANDATORY_KEYS: u32 = 1 << 15;
    /// Shown to MONITOR by itself.
    pub const SKIP_MONITOR: u32 = 1 << 16;
    /// What may change data.
    pub const WRITES: u32 = WRITE | MAY_REPLICATE;
}

/// What a command executes in.
pub struct Ctx<'a> {
    /// The data.
    pub db: &'a mut Db,
    /// Randomness, seeded by the node.
    pub prng: &'a mut Prng,
    /// Where the reply goes.
    pub reply: Reply<'a>,
    /// Settings that commands look at.
    pub settings: &'a Settings,
    /// The time that everything in this step sees.
    pub now: Millis,
    /// Inside MULTI: nothing may block.
    pub in_transaction: bool,
    /// This is a blocked command that is tried again because one of its keys changed.
    pub retried: bool,
    /// Set by [`Ctx::block`].
    pub blocked: Option<Block>,
}

/// How a command waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// When to give up, milliseconds from now; 0 waits for ever.
    pub timeout_ms: u64,
    /// What to reply then.
    pub on_timeout: OnTimeout,
    /// The arguments to execute when a key changes, where they differ from those received.
    pub rewritten: Option<Vec<Vec<u8>>>,
}

/// The reply of a command that waited in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTimeout {
    /// The null reply.
    Null,
    /// The null reply of commands that return arrays.
    NullArray,
}

impl Ctx<'_> {
    /// Blocks the client until one of the command's keys changes, then executes the command again.
    /// `timeout_ms` 0 waits for ever. Inside a transaction replies at once as if it had timed out.
    pub fn block(
        &mut self,
        timeout_ms: u64,
        on_timeout: OnTimeout,
        rewritten: Option<Vec<Vec<u8>>>,
    ) {
        if self.in_transaction {
            match on_timeout {
                OnTimeout::Null => self.reply.null(),
                OnTimeout::NullArray => self.reply.null_array(),
            }
            return;
        }
        self.blocked = Some(Block { timeout_ms, on_timeout, rewritten });
    }
}

impl Spec {
    /// True if `count` arguments, the name included, are as many as the command takes.
    #[inline]
    pub fn accepts(&self, count: usize) -> bool {
        match usize::try_from(self.arity) {
            Ok(exact) => count == exact,
            Err(_) => count >= self.arity.unsigned_abs() as usize,
        }
    }

    /// Appends the positions of the keys among `args`; false if it needs the whole keyspace.
    pub fn key_positions(&self, args: &[&[u8]], out: &mut KeyPositions) -> bool {
        match self.keys {
            Keys::None => {}
            Keys::All => return false,
            Keys::Custom(find) => find(args, out),
            Keys::CustomOrAll(find) => return find(args, out),
            Keys::Range { first, last, step } => {
                let end = if last < 0 {
                    args.len().saturating_sub(last.unsigned_abs())
                } else {
                    last as usize
                };
                out.extend((first..=end.min(args.len().saturating_sub(1))).step_by(step));
            }
            Keys::Counted { at, fixed } => {
                if fixed > 0 {
                    out.push(fixed);
                }
                let count = args.get(at).and_then(|a| crate::parse::integer(a)).unwrap_or(0);
                let count = usize::try_from(count).unwrap_or(0);
                out.extend((at + 1..args.len()).take(count));
            }
        }
        true
    }

    /// True if all flags in `flags` are set.
    #[inline]
    pub fn is(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }

    /// Refuses a subcommand that does not exist, or has another number of arguments. Executing
    /// the command does the same; a transaction wants to know earlier.
    pub fn check_subcommand(&self, args: &[&[u8]]) -> Result<(), Error> {
        let containers = crate::commands::CONTAINERS;
        match containers.iter().find(|(command, _)| *command == self.name) {
            Some((command, table)) if args.len() > 1 => {
                subcommand(command, table, args).map(|_| ())
            }
            _ => Ok(()),
        }
    }
}

/// Subcommands with their arities, which count the command and the subcommand.
pub(crate) type Subcommands = &'static [(&'static str, i32)];

/// The subcommand that `args` name, as in the table, or Redis' error.
pub(crate) fn subcommand(
    command: &str,
    table: Subcommands,
    args: &[&[u8]],
) -> Result<&'static str, Error> {
    const SHOWN_BYTES_MAX: usize = 128;
    let Some(&(name, arity)) = table.iter().find(|(name, _)| parse::is_word(args[1], name)) else {
        return Err(Error::owned(format!(
            "ERR unknown subcommand '{}'. Try {} HELP.",
            String::from_utf8_lossy(&args[1][..args[1].len().min(SHOWN_BYTES_MAX)]),
            command.to_uppercase()
        )));
    };
    let least = arity.unsigned_abs() as usize;
    if args.len() < least || arity > 0 && args.len() > least {
        return Err(Error::WrongArity(format!("{command}|{name}")));
    }
    Ok(name)
}

/// Every command of the data layer, by family.
pub fn families() -> impl Iterator<Item = (&'static str, &'static Spec)> {
    crate::commands::FAMILIES.iter().flat_map(|(name, specs)| specs.iter().map(move |s| (*name, s)))
}
