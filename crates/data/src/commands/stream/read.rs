//! XREAD and XREADGROUP.

use super::id::Id;
use super::progress::Progress;
use super::store::{Consumer, Editor, Group, PENDING_BYTES, View, reply_entry};
use crate::command::{Ctx, KeyPositions, OnTimeout};
use crate::error::Error;
use crate::parse;
use quorate_resp::{Proto, Reply};

/// What was asked for.
struct Request<'a> {
    block_ms: Option<u64>,
    /// The most entries of each stream.
    count: usize,
    no_ack: bool,
    group: Option<(&'a [u8], &'a [u8])>,
    keys: &'a [&'a [u8]],
    ids: &'a [&'a [u8]],
}

/// Where to read a stream from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Start {
    /// After an id; with a group, in the consumer's own history.
    After(Id),
    /// What the group has not delivered yet.
    New,
}

/// The key positions of both commands.
pub(super) fn keys(args: &[&[u8]], out: &mut KeyPositions) {
    let mut at = 1;
    while let Some(word) = args.get(at) {
        if parse::is_word(word, "STREAMS") {
            let rest = args.len() - at - 1;
            if rest.is_multiple_of(2) {
                out.extend(at + 1..at + 1 + rest / 2);
            }
            return;
        }
        at += match word {
            _ if parse::is_word(word, "GROUP") => 3,
            _ if parse::is_word(word, "NOACK") => 1,
            _ if parse::is_word(word, "BLOCK") || parse::is_word(word, "COUNT") => 2,
            _ => return,
        };
    }
}

/// XREAD [COUNT count] [BLOCK ms] STREAMS key … id …
pub(super) fn xread(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    const NEW: Error = Error::text(
        "ERR The > ID can be specified only when calling XREADGROUP using the GROUP <group> \
         <consumer> option.",
    );
    let request = parse_request(args, "xread", false)?;
    let mut starts = Vec::with_capacity(request.keys.len());
    for (key, id) in request.keys.iter().zip(request.ids) {
        let stream = match View::open(ctx.db, key) {
            // While blocked, a key that has got another type counts as absent.
            Err(Error::WrongType) if ctx.retried => None,
            stream => stream?,
        };
        starts.push(match *id {
            b"$" => stream.map_or(Id::MIN, |stream| stream.header().last),
            b">" => return Err(NEW),
            id => Id::parse(id)?,
        });
    }
    let mut served = Served::new(ctx.reply.proto());
    for (key, start) in request.keys.iter().zip(&starts) {
        let stream = match View::open(ctx.db, key) {
            Err(Error::WrongType) if ctx.retried => None,
            stream => stream?,
        };
        let (Some(stream), Some(from)) = (stream, start.next()) else { continue };
        let entries = || stream.entries(from, Id::MAX).take(request.count);
        let len = entries().count();
        if len > 0 {
            let mut reply = served.start(key);
            reply.array(len);
            entries().for_each(|(id, value)| reply_entry(&mut reply, id, value));
        }
    }
    if !served.finish(&mut ctx.reply) {
        let rewritten = request.ids.contains(&b"$".as_slice()).then(|| {
            let ids = request.ids.iter().zip(&starts).map(|(arg, id)| match *arg {
                b"$" => id.to_string().into_bytes(),
                arg => arg.to_vec(),
            });
            let before = args.len() - request.ids.len();
            args[..before].iter().map(|arg| arg.to_vec()).chain(ids).collect()
        });
        wait(ctx, request.block_ms, rewritten);
    }
    Ok(())
}

/// XREADGROUP GROUP group consumer [COUNT count] [BLOCK ms] [NOACK] STREAMS key … id …
pub(super) fn xreadgroup(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    const END: Error = Error::text(
        "ERR The $ ID is meaningless in the context of XREADGROUP: you want to read the history \
         of this consumer by specifying a proper ID, or use the > ID to get new messages. The $ \
         ID would just return an empty result set.",
    );
    const MISSING: Error = Error::text("ERR Missing GROUP option for XREADGROUP");
    let request = parse_request(args, "xreadgroup", true)?;
    let (group_name, consumer_name) = request.group.ok_or(MISSING)?;
    let mut starts = Vec::with_capacity(request.keys.len());
    for (key, id) in request.keys.iter().zip(request.ids) {
        let stream = View::open(ctx.db, key)?;
        if stream.and_then(|stream| stream.group(group_name)).is_none() {
            return Err(no_group(key, group_name));
        }
        starts.push(match *id {
            b"$" => return Err(END),
            b">" => Start::New,
            id => match Id::parse(id)? {
                // Nothing comes after it; Redis takes it for `>`.
                Id::MAX => Start::New,
                id => Start::After(id),
            },
        });
    }
    // Each is asked for the rest later, as with a smaller COUNT.
    let count = (ctx.settings.records_max(PENDING_BYTES) / request.keys.len()).max(1);
    let count = request.count.min(count);
    let mut served = Served::new(ctx.reply.proto());
    for (key, &start) in request.keys.iter().zip(&starts) {
        let mut stream = Editor::open_quietly(ctx.db, key)?;
        let group = stream.view().group(group_name).expect("the group was seen above");
        let waits = start == Start::New && stream.view().last().is_none_or(|id| id <= group.last);
        if waits && ctx.retried {
            // Noting the time would be a change that wakes whoever waits for one.
            continue;
        }
        let delivers = !waits && start == Start::New && !request.no_ack;
        let consumer = stream.note_consumer(&group, consumer_name, ctx.now, delivers)?;
        if !waits {
            let mut reader = Reader { stream, group, consumer, count, now: ctx.now };
            let reply = served.start(key);
            match start {
                Start::After(id) => reader.history(reply, id),
                Start::New => reader.new_entries(reply, group_name, delivers),
            }
            stream = reader.stream;
        }
        stream.close();
    }
    if !served.finish(&mut ctx.reply) {
        wait(ctx, request.block_ms, None);
    }
    Ok(())
}

fn wait(ctx: &mut Ctx<'_>, block_ms: Option<u64>, rewritten: Option<Vec<Vec<u8>>>) {
    match block_ms {
        Some(ms) => ctx.block(ms, OnTimeout::NullArray, rewritten),
        None => ctx.reply.null_array(),
    }
}

fn no_group(key: &[u8], group: &[u8]) -> Error {
    Error::owned(format!(
        "NOGROUP No such key '{}' or consumer group '{}' in XREADGROUP with GROUP option",
        String::from_utf8_lossy(key),
        String::from_utf8_lossy(group)
    ))
}

fn parse_request<'a>(
    args: &'a [&'a [u8]],
    name: &str,
    grouped: bool,
) -> Result<Request<'a>, Error> {
    const NO_GROUP: Error = Error::text(
        "ERR The GROUP option is only supported by XREADGROUP. You called XREAD instead.",
    );
    const NO_NOACK: Error = Error::text(
        "ERR The NOACK option is only supported by XREADGROUP. You called XREAD instead.",
    );
    let mut request = Request {
        block_ms: None,
        count: usize::MAX,
        no_ack: false,
        group: None,
        keys: &[],
        ids: &[],
    };
    let mut at = 1;
    while let Some(word) = args.get(at) {
        let rest = &args[at + 1..];
        match rest {
            [ms, ..] if parse::is_word(word, "BLOCK") => {
                request.block_ms = Some(parse_timeout(ms)?);
                at += 2;
            }
            [count, ..] if parse::is_word(word, "COUNT") => {
                let count = usize::try_from(parse::int(count)?).unwrap_or(0);
                request.count = if count == 0 { usize::MAX } else { count };
                at += 2;
            }
            [_, ..] if parse::is_word(word, "STREAMS") => {
                if !rest.len().is_multiple_of(2) {
                    let symbol = if grouped { '>' } else { '$' };
                    return Err(Error::owned(format!(
                        "ERR Unbalanced '{name}' list of streams: for each stream key an ID or \
                         '{symbol}' must be specified."
                    )));
                }
                (request.keys, request.ids) = rest.split_at(rest.len() / 2);
                break;
            }
            [group, consumer, ..] if parse::is_word(word, "GROUP") => {
                if !grouped {
                    return Err(NO_GROUP);
                }
                request.group = Some((group, consumer));
                at += 3;
            }
            _ if parse::is_word(word, "NOACK") => {
                if !grouped {
                    return Err(NO_NOACK);
                }
                request.no_ack = true;
                at += 1;
            }
            _ => return Err(Error::Syntax),
        }
    }
    if request.keys.is_empty() { Err(Error::Syntax) } else { Ok(request) }
}

/// Milliseconds to block.
fn parse_timeout(arg: &[u8]) -> Result<u64, Error> {
    const WRONG: Error = Error::text("ERR timeout is not an integer or out of range");
    const NEGATIVE: Error = Error::text("ERR timeout is negative");
    u64::try_from(parse::integer(arg).ok_or(WRONG)?).map_err(|_| NEGATIVE)
}

/// The streams that had something, whose number is only known at the end.
struct Served {
    proto: Proto,
    body: Vec<u8>,
    streams: usize,
}

impl Served {
    fn new(proto: Proto) -> Self {
        Self { proto, body: Vec::new(), streams: 0 }
    }

    /// Begins one stream; its entries follow.
    fn start(&mut self, key: &[u8]) -> Reply<'_> {
        self.streams += 1;
        let mut reply = Reply::new(&mut self.body, self.proto);
        if self.proto == Proto::Resp2 {
            reply.array(2);
        }
        reply.bulk(key);
        reply
    }

    /// Replies everything; false if there is nothing.
    fn finish(self, reply: &mut Reply<'_>) -> bool {
        if self.streams == 0 {
            return false;
        }
        match self.proto {
            Proto::Resp2 => reply.array(self.streams),
            Proto::Resp3 => reply.map(self.streams),
        }
        reply.raw(&self.body);
        true
    }
}

/// Reads one stream for a consumer.
struct Reader<'a> {
    stream: Editor<'a>,
    group: Group,
    consumer: Consumer,
    count: usize,
    now: u64,
}

impl Reader<'_> {
    /// Replies what is pending for the consumer after `start`. Entries that were deleted since
    /// are null; the others count as delivered once more.
    fn history(&mut self, mut reply: Reply<'_>, start: Id) {
        let view = self.stream.view();
        let from = start.next().expect("the greatest id stands for new entries");
        let pending: Vec<_> =
            view.owned(&self.group, &self.consumer, from).take(self.count).collect();
        reply.array(pending.len());
        for (id, pending) in pending {
            if let Some(value) = self.stream.view().entry(id) {
                reply_entry(&mut reply, id, value);
                let deliveries = pending.deliveries.saturating_add(1);
                self.stream.assign(&self.group, id, &self.consumer, self.now, deliveries);
            } else {
                reply.array(2);
                id.reply(&mut reply);
                reply.null_array();
            }
        }
    }

    /// Replies entries that the group has not delivered, advances the group and, with `pending`,
    /// makes them pending for the consumer.
    fn new_entries(&mut self, mut reply: Reply<'_>, group_name: &[u8], pending: bool) {
        let view = self.stream.view();
        let progress = Progress::of(view);
        let from = self.group.last.next().expect("the stream has an entry after it");
        let entries: Vec<_> = view.entries(from, Id::MAX).take(self.count).collect();
        reply.array(entries.len());
        let mut ids = Vec::with_capacity(entries.len());
        for (id, value) in entries {
            reply_entry(&mut reply, id, value);
            progress.advance(&mut self.group, id);
            ids.push(id);
        }
        self.stream.put_group(group_name, &self.group);
        for id in ids.into_iter().filter(|_| pending) {
            self.stream.assign(&self.group, id, &self.consumer, self.now, 1);
        }
    }
}
