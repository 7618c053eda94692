//! Places: sorted sets whose scores are geohashes. `geohash` has the arithmetic.

use super::zset;
use crate::command::{Ctx, FIRST, FIRST_TWO, KeyPositions, Keys, Spec, flag};
use crate::entry::Kind;
use crate::error::Error;
use crate::parse::{self, is_word};
use quorate_resp::{Proto, Reply};

mod geohash;
mod search;

use geohash::Point;

const STORING: Keys = Keys::Custom(storing_keys);

/// The family's commands.
pub(crate) const COMMANDS: &[Spec] = &[
    Spec {
        name: "geoadd",
        arity: -5,
        flags: flag::WRITE | flag::DENYOOM,
        keys: FIRST,
        run: geoadd,
    },
    Spec { name: "geodist", arity: -4, flags: flag::READONLY, keys: FIRST, run: geodist },
    Spec { name: "geohash", arity: -2, flags: flag::READONLY, keys: FIRST, run: geohash },
    Spec { name: "geopos", arity: -2, flags: flag::READONLY, keys: FIRST, run: geopos },
    Spec { name: "geosearch", arity: -7, flags: flag::READONLY, keys: FIRST, run: search::geosearch },
    Spec {
        name: "geosearchstore",
        arity: -8,
        flags: flag::WRITE | flag::DENYOOM,
        keys: FIRST_TWO,
        run: search::geosearchstore,
    },
    Spec {
        name: "georadius",
        arity: -6,
        flags: flag::WRITE | flag::DENYOOM | flag::MOVABLE_KEYS,
        keys: STORING,
        run: search::georadius,
    },
    Spec {
        name: "georadius_ro",
        arity: -6,
        flags: flag::READONLY,
        keys: FIRST,
        run: search::georadius_ro,
    },
    Spec {
        name: "georadiusbymember",
        arity: -5,
        flags: flag::WRITE | flag::DENYOOM | flag::MOVABLE_KEYS,
        keys: STORING,
        run: search::georadiusbymember,
    },
    Spec {
        name: "georadiusbymember_ro",
        arity: -5,
        flags: flag::READONLY,
        keys: FIRST,
        run: search::georadiusbymember_ro,
    },
];

/// The keys of GEORADIUS and GEORADIUSBYMEMBER: the source, and what the last STORE or STOREDIST
/// names.
fn storing_keys(args: &[&[u8]], out: &mut KeyPositions) {
    out.push(1);
    let mut target = None;
    let mut at = 5;
    while at + 1 < args.len() {
        if is_word(args[at], "store") || is_word(args[at], "storedist") {
            at += 1;
            target = Some(at);
        }
        at += 1;
    }
    out.extend(target);
}

fn geoadd(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let is_option = |word: &&&[u8]| ["nx", "xx", "ch"].iter().any(|option| is_word(word, option));
    let first = 2 + args[2..].iter().take_while(is_option).count();
    let (options, places) = (&args[2..first], &args[first..]);
    let has = |option| options.iter().any(|word| is_word(word, option));
    if !places.len().is_multiple_of(3) || has("nx") && has("xx") {
        return Err(Error::Syntax);
    }
    let mut pairs = Vec::with_capacity(places.len() / 3);
    for place in places.chunks_exact(3) {
        pairs.push((point(place[0], place[1])?.score(), place[2]));
    }
    if pairs.is_empty() {
        return Err(Error::Syntax);
    }
    let options = zset::AddOptions {
        nx: has("nx"),
        xx: has("xx"),
        ch: has("ch"),
        ..zset::AddOptions::default()
    };
    zset::add_pairs(ctx, args[1], pairs.into_iter(), options)
}

/// A longitude and a latitude, or the error that Redis replies.
fn point(longitude: &[u8], latitude: &[u8]) -> Result<Point, Error> {
    let point = Point { longitude: parse::float(longitude)?, latitude: parse::float(latitude)? };
    if !point.is_valid() {
        return Err(Error::owned(format!(
            "ERR invalid longitude,latitude pair {:.6},{:.6}",
            point.longitude, point.latitude
        )));
    }
    Ok(point)
}

/// Metres per unit.
fn unit_m(name: &[u8]) -> Result<f64, Error> {
    match name {
        name if is_word(name, "m") => Ok(1.0),
        name if is_word(name, "km") => Ok(1000.0),
        name if is_word(name, "ft") => Ok(0.3048),
        name if is_word(name, "mi") => Ok(1609.34),
        _ => Err(Error::text("ERR unsupported unit provided. please use M, KM, FT, MI")),
    }
}

fn geodist(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let unit_m = match args[4..] {
        [] => 1.0,
        [unit] => unit_m(unit)?,
        _ => return Err(Error::Syntax),
    };
    let members = ctx.db.coll(args[1], Kind::Zset)?.map(zset::Members::of);
    let place = |member| members.and_then(|m| m.score(member)).map(Point::of_score);
    match (place(args[2]), place(args[3])) {
        (Some(from), Some(to)) => distance_reply(&mut ctx.reply, from.distance(to) / unit_m),
        _ => ctx.reply.null(),
    }
    Ok(())
}

fn geohash(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let members = ctx.db.coll(args[1], Kind::Zset)?.map(zset::Members::of);
    ctx.reply.array(args.len() - 2);
    for member in &args[2..] {
        match members.and_then(|members| members.score(member)) {
            Some(score) => ctx.reply.bulk(&Point::of_score(score).geohash()),
            None => ctx.reply.null(),
        }
    }
    Ok(())
}

fn geopos(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    let members = ctx.db.coll(args[1], Kind::Zset)?.map(zset::Members::of);
    ctx.reply.array(args.len() - 2);
    for member in &args[2..] {
        match members.and_then(|members| members.score(member)) {
            Some(score) => point_reply(&mut ctx.reply, Point::of_score(score)),
            None => ctx.reply.null_array(),
        }
    }
    Ok(())
}

fn distance_reply(reply: &mut Reply<'_>, distance: f64) {
    reply.bulk(format!("{distance:.4}").as_bytes());
}

/// Both coordinates with up to 17 decimals and no zeros at the end.
fn point_reply(reply: &mut Reply<'_>, point: Point) {
    reply.array(2);
    for degrees in [point.longitude, point.latitude] {
        let text = format!("{degrees:.17}");
        let text = text.trim_end_matches('0').trim_end_matches('.');
        let text = if text == "-0" { "0" } else { text };
        match reply.proto() {
            Proto::Resp2 => reply.bulk(text.as_bytes()),
            Proto::Resp3 => {
                reply.raw(b",");
                reply.raw(text.as_bytes());
                reply.raw(b"\r\n");
            }
        }
    }
}
