//! Finding places within a circle or a box.

use super::geohash::{Form, Point, Shape};
use super::{distance_reply, point, point_reply, unit_m};
use crate::command::Ctx;
use crate::commands::zset::{self, Members};
use crate::entry::Kind;
use crate::error::Error;
use crate::parse::{self, is_word};

/// Which command is parsed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Command {
    Radius { may_store: bool },
    RadiusByMember { may_store: bool },
    Search,
    SearchStore,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Ascending,
    Descending,
}

/// Where the centre comes from; a member of a key that does not exist has no place.
#[derive(Clone, Copy)]
enum Center {
    Point(Point),
    Nowhere,
}

#[derive(Default)]
struct Query<'a> {
    center: Option<Center>,
    from_member: bool,
    from_point: bool,
    form: Option<(Form, f64)>,
    store: Option<&'a [u8]>,
    store_distance: bool,
    with_distance: bool,
    with_hash: bool,
    with_point: bool,
    order: Option<Order>,
    any: bool,
    /// 0: all.
    count: usize,
}

/// A place that was found.
struct Found<'m> {
    member: &'m [u8],
    score: f64,
    point: Point,
    /// In the unit of the query.
    distance: f64,
}

pub(super) fn geosearch(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    search(ctx, args, args[1], Command::Search)
}

pub(super) fn geosearchstore(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    search(ctx, args, args[2], Command::SearchStore)
}

pub(super) fn georadius(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    search(ctx, args, args[1], Command::Radius { may_store: true })
}

pub(super) fn georadius_ro(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    search(ctx, args, args[1], Command::Radius { may_store: false })
}

pub(super) fn georadiusbymember(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    search(ctx, args, args[1], Command::RadiusByMember { may_store: true })
}

pub(super) fn georadiusbymember_ro(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    search(ctx, args, args[1], Command::RadiusByMember { may_store: false })
}

fn search(ctx: &mut Ctx<'_>, args: &[&[u8]], source: &[u8], command: Command) -> Result<(), Error> {
    let members = ctx.db.coll(source, Kind::Zset)?.map(Members::of);
    let query = Query::parse(args, command, members)?;
    let found = match (members, query.center, query.form) {
        (Some(members), Some(Center::Point(center)), Some((form, unit_m))) => {
            query.find(members, &Shape { center, form, unit_m })
        }
        _ => Vec::new(),
    };
    if let Some(target) = query.store {
        let score = |f: &Found<'_>| if query.store_distance { f.distance } else { f.score };
        let pairs: Vec<(Vec<u8>, f64)> =
            found.iter().map(|found| (found.member.to_vec(), score(found))).collect();
        return zset::store(ctx, target, &pairs);
    }
    let options = [query.with_distance, query.with_hash, query.with_point];
    let options = options.into_iter().filter(|&with| with).count();
    ctx.reply.array(found.len());
    for found in &found {
        if options > 0 {
            ctx.reply.array(options + 1);
        }
        ctx.reply.bulk(found.member);
        if query.with_distance {
            distance_reply(&mut ctx.reply, found.distance);
        }
        if query.with_hash {
            ctx.reply.int(found.score as i64);
        }
        if query.with_point {
            point_reply(&mut ctx.reply, found.point);
        }
    }
    Ok(())
}

impl<'a> Query<'a> {
    /// Checks the arguments in Redis' order; `members` are those of the source key.
    fn parse(
        args: &[&'a [u8]],
        command: Command,
        members: Option<Members<'_>>,
    ) -> Result<Self, Error> {
        let mut query = Self::default();
        let options = match command {
            Command::Radius { .. } => {
                query.center = Some(Center::Point(point(args[2], args[3])?));
                query.form = Some(radius(args[4], args[5])?);
                &args[6..]
            }
            Command::RadiusByMember { .. } => {
                let center = of_member(members, args[2])?;
                query.center = Some(center);
                if matches!(center, Center::Point(_)) {
                    query.form = Some(radius(args[3], args[4])?);
                }
                &args[5..]
            }
            Command::Search => &args[2..],
            Command::SearchStore => {
                query.store = Some(args[1]);
                &args[3..]
            }
        };
        let mut rest = options;
        while !rest.is_empty() {
            let taken = match query.take_common(rest, command)? {
                0 if matches!(command, Command::Search | Command::SearchStore) => {
                    query.take_search(rest, command, members)?
                }
                taken => taken,
            };
            if taken == 0 {
                return Err(Error::Syntax);
            }
            rest = &rest[taken..];
        }
        query.check(args[0], command)?;
        Ok(query)
    }

    /// Takes an option that all forms have, or STORE; returns how many arguments it was.
    fn take_common(&mut self, args: &[&'a [u8]], command: Command) -> Result<usize, Error> {
        let word = args[0];
        let may_store = matches!(
            command,
            Command::Radius { may_store: true } | Command::RadiusByMember { may_store: true }
        );
        if is_word(word, "withdist") {
            self.with_distance = true;
        } else if is_word(word, "withhash") {
            self.with_hash = true;
        } else if is_word(word, "withcoord") {
            self.with_point = true;
        } else if is_word(word, "any") {
            self.any = true;
        } else if is_word(word, "asc") {
            self.order = Some(Order::Ascending);
        } else if is_word(word, "desc") {
            self.order = Some(Order::Descending);
        } else if is_word(word, "count") && args.len() > 1 {
            let count = parse::int(args[1])?;
            self.count = usize::try_from(count)
                .ok()
                .filter(|&count| count > 0)
                .ok_or(Error::text("ERR COUNT must be > 0"))?;
            return Ok(2);
        } else if may_store
            && args.len() > 1
            && (is_word(word, "store") || is_word(word, "storedist"))
        {
            self.store = Some(args[1]);
            self.store_distance = is_word(word, "storedist");
            return Ok(2);
        } else {
            return Ok(0);
        }
        Ok(1)
    }

    /// Takes an option of GEOSEARCH or GEOSEARCHSTORE; returns how many arguments it was.
    fn take_search(
        &mut self,
        args: &[&[u8]],
        command: Command,
        members: Option<Members<'_>>,
    ) -> Result<usize, Error> {
        let word = args[0];
        // A centre or form may be given again in the same way, not in the other.
        if is_word(word, "frommember") && args.len() > 1 && !self.from_point {
            self.center = Some(of_member(members, args[1])?);
            self.from_member = true;
            return Ok(2);
        }
        if is_word(word, "fromlonlat") && args.len() > 2 && !self.from_member {
            self.center = Some(Center::Point(point(args[1], args[2])?));
            self.from_point = true;
            return Ok(3);
        }
        let (is_circle, is_box) = match self.form {
            None => (false, false),
            Some((Form::Circle { .. }, _)) => (true, false),
            Some((Form::Box { .. }, _)) => (false, true),
        };
        if is_word(word, "byradius") && args.len() > 2 && !is_box {
            self.form = Some(radius(args[1], args[2])?);
            return Ok(3);
        }
        if is_word(word, "bybox") && args.len() > 3 && !is_circle {
            self.form = Some(sides(args[1], args[2], args[3])?);
            return Ok(4);
        }
        if is_word(word, "storedist") && command == Command::SearchStore {
            self.store_distance = true;
            return Ok(1);
        }
        Ok(0)
    }

    /// Checks what the options say together.
    fn check(&self, name: &[u8], command: Command) -> Result<(), Error> {
        if self.store.is_some() && (self.with_distance || self.with_hash || self.with_point) {
            let what = match command {
                Command::SearchStore => "GEOSEARCHSTORE",
                _ => "STORE option in GEORADIUS",
            };
            return Err(Error::owned(format!(
                "ERR {what} is not compatible with WITHDIST, WITHHASH and WITHCOORD options"
            )));
        }
        if matches!(command, Command::Search | Command::SearchStore) {
            let name = String::from_utf8_lossy(name);
            if self.center.is_none() {
                return Err(Error::owned(format!(
                    "ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for {name}"
                )));
            }
            if self.form.is_none() {
                return Err(Error::owned(format!(
                    "ERR exactly one of BYRADIUS and BYBOX can be specified for {name}"
                )));
            }
        }
        if self.any && self.count == 0 {
            return Err(Error::text("ERR the ANY argument requires COUNT argument"));
        }
        Ok(())
    }

    /// The places inside `shape`, in the order of the reply.
    fn find<'m>(&self, members: Members<'m>, shape: &Shape) -> Vec<Found<'m>> {
        let count = if self.count == 0 { usize::MAX } else { self.count };
        let enough = if self.any { count } else { usize::MAX };
        let inside = shape.cells().flat_map(|cell| {
            let (from, to) = cell.scores();
            members.scores(from, to)
        });
        let found = inside.filter_map(|(member, score)| {
            let point = Point::of_score(score);
            let distance = shape.distance(point)?;
            Some(Found { member, score, point, distance })
        });
        let mut found: Vec<Found<'m>> = found.take(enough).collect();
        let order = self.order.or((self.count > 0 && !self.any).then_some(Order::Ascending));
        match order {
            Some(Order::Ascending) => found.sort_by(|a, b| a.distance.total_cmp(&b.distance)),
            Some(Order::Descending) => found.sort_by(|a, b| b.distance.total_cmp(&a.distance)),
            None => {}
        }
        found.truncate(count);
        found.iter_mut().for_each(|found| found.distance /= shape.unit_m);
        found
    }
}

fn of_member(members: Option<Members<'_>>, member: &[u8]) -> Result<Center, Error> {
    let Some(members) = members else { return Ok(Center::Nowhere) };
    let score =
        members.score(member).ok_or(Error::text("ERR could not decode requested zset member"))?;
    Ok(Center::Point(Point::of_score(score)))
}

fn radius(radius: &[u8], unit: &[u8]) -> Result<(Form, f64), Error> {
    let radius = parse::number(radius).ok_or(Error::text("ERR need numeric radius"))?;
    if radius < 0.0 {
        return Err(Error::text("ERR radius cannot be negative"));
    }
    Ok((Form::Circle { radius }, unit_m(unit)?))
}

fn sides(width: &[u8], height: &[u8], unit: &[u8]) -> Result<(Form, f64), Error> {
    let width = parse::number(width).ok_or(Error::text("ERR need numeric width"))?;
    let height = parse::number(height).ok_or(Error::text("ERR need numeric height"))?;
    if height < 0.0 || width < 0.0 {
        return Err(Error::text("ERR height or width cannot be negative"));
    }
    Ok((Form::Box { width, height }, unit_m(unit)?))
}
