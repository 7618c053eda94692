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
    Spec {
        name: "geosearch",
        arity: -7,
        flags: flag::READONLY,
        keys: FIRST,
        run: search::geosearch,
    },
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Harness;

    const SICILY: &str = "GEOADD s 13.361389 38.115556 Palermo 15.087269 37.502669 Catania";

    #[test]
    fn places_are_found_and_printed_as_redis_does() {
        let mut h = Harness::new(4);
        h.check(SICILY, ":2|");
        h.check("ZSCORE s Palermo", "$16|3479099956230698|");
        h.check("GEODIST s Palermo Catania km", "$8|166.2742|");
        h.check("GEODIST s Palermo nowhere", "$-1|");
        h.check(
            "GEOPOS s Palermo nowhere",
            "*2|*2|$20|13.36138933897018433|$20|38.11555639549629859|*-1|",
        );
        h.check("GEOHASH s Palermo Catania", "*2|$11|sqc8b49rny0|$11|sqdtr74hyu0|");
        h.check(
            "GEOSEARCH s FROMLONLAT 15 37 BYRADIUS 200 km WITHDIST DESC",
            "*2|*2|$7|Palermo|$8|190.4424|*2|$7|Catania|$7|56.4413|",
        );
        h.check("GEORADIUSBYMEMBER s Palermo 100 km STOREDIST near", ":1|");
        h.check("ZRANGE near 0 -1 WITHSCORES", "*2|$7|Palermo|$1|0|");
        h.check("GEORADIUS nokey 0 0 1 m STORE near", ":0|");
        h.check("ZCARD near", ":0|");
    }

    #[test]
    fn options_are_checked_together() {
        let mut h = Harness::new(4);
        h.check(SICILY, ":2|");
        h.check("GEOADD s 181 0 x", "-ERR invalid longitude,latitude pair 181.000000,0.000000|");
        h.check("GEOADD s NX XX 1 1 x", "-ERR syntax error|");
        h.check(
            "GEOSEARCH s BYRADIUS 1 km ASC DESC ASC",
            "-ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for GEOSEARCH|",
        );
        h.check(
            "GEOSEARCH s FROMMEMBER nowhere BYRADIUS 1 km",
            "-ERR could not decode requested zset member|",
        );
        h.check(
            "GEOSEARCH s FROMMEMBER Palermo BYRADIUS 1 km ANY",
            "-ERR the ANY argument requires COUNT argument|",
        );
        h.check("GEORADIUS_RO s 0 0 1 m STORE x", "-ERR syntax error|");
    }

    #[test]
    fn the_target_of_a_radius_is_a_key() {
        let keys = |line: &str| {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let mut keys = KeyPositions::new();
            storing_keys(&args, &mut keys);
            keys.into_vec()
        };
        assert_eq!(keys("georadius s 1 1 1 m"), [1]);
        assert_eq!(keys("georadius s 1 1 1 m store a storedist b"), [1, 9]);
        assert_eq!(keys("georadiusbymember s x 1 m STORE a"), [1, 6]);
        assert_eq!(keys("georadius s 1 1 1 m store"), [1]);
    }
}
