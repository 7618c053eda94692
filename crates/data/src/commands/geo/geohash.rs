//! Geohashes as Redis computes them, bit for bit, and distances on a sphere.
//!
//! A position is the cell of a grid of 2^step by 2^step: the bits of its column (longitude, odd)
//! and row (latitude, even) interleaved. Scores have step 26, 52 bits. Rows span the latitudes of
//! the Web Mercator projection rather than -90 to 90.

/// The largest longitude; the smallest is its negative.
pub(super) const LONGITUDE_MAX: f64 = 180.0;
/// The largest latitude of the Web Mercator projection (EPSG:3857).
pub(super) const LATITUDE_MAX: f64 = 85.051_128_78;
/// The step of scores.
pub(super) const STEP_MAX: u32 = 26;

const EARTH_RADIUS_M: f64 = 6_372_797.560_856;
/// Half the width of the projected world in metres.
const MERCATOR_MAX_M: f64 = 20_037_726.37;
const DEGREE: f64 = std::f64::consts::PI / 180.0;
const ROWS: u64 = 0x5555_5555_5555_5555;
const COLUMNS: u64 = 0xaaaa_aaaa_aaaa_aaaa;

/// A place in degrees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Point {
    pub(super) longitude: f64,
    pub(super) latitude: f64,
}

/// One cell of the grid with 2^step rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) bits: u64,
    pub(super) step: u32,
}

/// What a cell covers, in degrees.
#[derive(Clone, Copy, Debug)]
pub(super) struct Area {
    pub(super) west: f64,
    pub(super) east: f64,
    pub(super) south: f64,
    pub(super) north: f64,
}

impl Point {
    /// True within what a geohash can express.
    pub(super) fn is_valid(self) -> bool {
        self.longitude.abs() <= LONGITUDE_MAX && self.latitude.abs() <= LATITUDE_MAX
    }

    /// The middle of the cell that `score` names; any score names one.
    pub(super) fn of_score(score: f64) -> Self {
        let area = Cell { bits: integer(score), step: STEP_MAX }.area();
        let middle = |low: f64, high: f64, max: f64| ((low + high) / 2.0).clamp(-max, max);
        Self {
            longitude: middle(area.west, area.east, LONGITUDE_MAX),
            latitude: middle(area.south, area.north, LATITUDE_MAX),
        }
    }

    /// The score of the cell around the point.
    pub(super) fn score(self) -> f64 {
        Cell::around(self, STEP_MAX).bits as f64
    }

    /// The standard geohash, which has rows from -90 to 90, of 11 characters; the last is always 0
    /// because 52 bits say nothing about it.
    pub(super) fn geohash(self) -> [u8; 11] {
        const ALPHABET: &[u8; 32] = b"0123456789bcdefghjkmnpqrstuvwxyz";
        let bits = encode(self, STEP_MAX, 90.0).bits;
        std::array::from_fn(|at| match at {
            10 => b'0',
            _ => ALPHABET[(bits >> (52 - (at + 1) * 5) & 0x1f) as usize],
        })
    }

    /// The distance in metres along a great circle (haversine).
    pub(super) fn distance(self, other: Self) -> f64 {
        let v = ((other.longitude * DEGREE - self.longitude * DEGREE) / 2.0).sin();
        if v == 0.0 {
            return self.latitude_distance(other);
        }
        let (from, to) = (self.latitude * DEGREE, other.latitude * DEGREE);
        let u = ((to - from) / 2.0).sin();
        let a = u * u + from.cos() * to.cos() * v * v;
        2.0 * EARTH_RADIUS_M * a.sqrt().asin()
    }

    /// The distance in metres of the two latitudes.
    pub(super) fn latitude_distance(self, other: Self) -> f64 {
        EARTH_RADIUS_M * (other.latitude * DEGREE - self.latitude * DEGREE).abs()
    }
}

impl Cell {
    /// The cell around `point`.
    pub(super) fn around(point: Point, step: u32) -> Self {
        encode(point, step, LATITUDE_MAX)
    }

    /// What the cell covers.
    pub(super) fn area(self) -> Area {
        let (row, column) = (squash(self.bits), squash(self.bits >> 1));
        let cells = (1u64 << self.step) as f64;
        let edge = |at: u32, max: f64| -max + f64::from(at) / cells * (max - -max);
        Area {
            west: edge(column, LONGITUDE_MAX),
            east: edge(column.wrapping_add(1), LONGITUDE_MAX),
            south: edge(row, LATITUDE_MAX),
            north: edge(row.wrapping_add(1), LATITUDE_MAX),
        }
    }

    /// The cell `columns` to the east and `rows` to the north (each -1, 0 or 1), around the edges.
    pub(super) fn neighbour(self, columns: i32, rows: i32) -> Self {
        let unused = 64 - self.step * 2;
        let bits = shift(self.bits & COLUMNS, COLUMNS >> unused, ROWS >> unused, columns)
            | shift(self.bits & ROWS, ROWS >> unused, COLUMNS >> unused, rows);
        Self { bits, ..self }
    }

    /// The scores of the points inside: from the first up to, not including, the second.
    pub(super) fn scores(self) -> (f64, f64) {
        let unused = (STEP_MAX - self.step) * 2;
        ((self.bits << unused) as f64, ((self.bits + 1) << unused) as f64)
    }
}

/// `score` as an integer. Those that no GEOADD made come out as in Redis on x86-64, which wraps
/// negative scores around and takes 0 for what is too large.
fn integer(score: f64) -> u64 {
    const TWO_63: f64 = 9_223_372_036_854_775_808.0;
    match score {
        _ if score >= 2.0 * TWO_63 => 0,
        _ if score >= TWO_63 => score as u64,
        _ if score >= -TWO_63 => score as i64 as u64,
        _ => 1 << 63,
    }
}

/// Adds `by` to the bits of one coordinate, kept in `mask`; a carry runs through the gaps.
fn shift(bits: u64, mask: u64, gaps: u64, by: i32) -> u64 {
    let moved = match by {
        0 => return bits,
        1 => bits.wrapping_add(gaps.wrapping_add(1)),
        _ => (bits | gaps).wrapping_sub(gaps.wrapping_add(1)),
    };
    moved & mask
}

fn encode(point: Point, step: u32, latitude_max: f64) -> Cell {
    let cells = (1u64 << step) as f64;
    let at = |degrees: f64, max: f64| ((degrees - -max) / (max - -max) * cells) as u32;
    let (row, column) = (at(point.latitude, latitude_max), at(point.longitude, LONGITUDE_MAX));
    Cell { bits: spread(row) | spread(column) << 1, step }
}

/// Puts the bits of `number` in the even places.
fn spread(number: u32) -> u64 {
    let mut bits = u64::from(number);
    bits = (bits | bits << 16) & 0x0000_ffff_0000_ffff;
    bits = (bits | bits << 8) & 0x00ff_00ff_00ff_00ff;
    bits = (bits | bits << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    bits = (bits | bits << 2) & 0x3333_3333_3333_3333;
    (bits | bits << 1) & ROWS
}

/// Takes the bits in the even places.
fn squash(bits: u64) -> u32 {
    let mut bits = bits & ROWS;
    bits = (bits | bits >> 1) & 0x3333_3333_3333_3333;
    bits = (bits | bits >> 2) & 0x0f0f_0f0f_0f0f_0f0f;
    bits = (bits | bits >> 4) & 0x00ff_00ff_00ff_00ff;
    bits = (bits | bits >> 8) & 0x0000_ffff_0000_ffff;
    (bits | bits >> 16) as u32
}

/// What to search: everything within a circle or a box around a point.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) center: Point,
    pub(super) form: Form,
    /// Metres per unit of the sizes in `form`.
    pub(super) unit_m: f64,
}

/// Sizes in the shape's unit.
#[derive(Clone, Copy, Debug)]
pub(super) enum Form {
    Circle { radius: f64 },
    Box { width: f64, height: f64 },
}

impl Shape {
    /// The distance in metres from the centre to `point`, if it is inside.
    pub(super) fn distance(&self, point: Point) -> Option<f64> {
        match self.form {
            Form::Circle { radius } => {
                let distance = self.center.distance(point);
                // A distance that is no number is inside, as in Redis.
                if distance > radius * self.unit_m { None } else { Some(distance) }
            }
            Form::Box { width, height } => {
                let (width, height) = (width * self.unit_m, height * self.unit_m);
                if point.latitude_distance(self.center) > height / 2.0 {
                    return None;
                }
                let beside = Point { latitude: point.latitude, ..self.center };
                if point.distance(beside) > width / 2.0 {
                    return None;
                }
                Some(self.center.distance(point))
            }
        }
    }

    /// The cells that together cover the shape, in the order in which Redis looks into them.
    pub(super) fn cells(&self) -> impl Iterator<Item = Cell> {
        let bounds = self.bounds();
        let radius_m = self.unit_m
            * match self.form {
                Form::Circle { radius } => radius,
                Form::Box { width, height } => {
                    ((width / 2.0) * (width / 2.0) + (height / 2.0) * (height / 2.0)).sqrt()
                }
            };
        let mut step = estimate_step(radius_m, self.center.latitude);
        let mut cell = Cell::around(self.center, step);
        let falls_short = cell.neighbour(0, 1).area().north < bounds.north
            || cell.neighbour(0, -1).area().south > bounds.south
            || cell.neighbour(1, 0).area().east < bounds.east
            || cell.neighbour(-1, 0).area().west > bounds.west;
        if step > 1 && falls_short {
            step -= 1;
            cell = Cell::around(self.center, step);
        }
        let area = cell.area();
        let useless = move |columns: i32, rows: i32| {
            step >= 2
                && (rows < 0 && area.south < bounds.south
                    || rows > 0 && area.north > bounds.north
                    || columns < 0 && area.west < bounds.west
                    || columns > 0 && area.east > bounds.east)
        };
        const AROUND: [(i32, i32); 9] =
            [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, 1), (1, -1), (-1, -1)];
        // In a coarse grid the neighbours on two sides can be the same cell.
        let mut last = None;
        AROUND.into_iter().filter(move |&(columns, rows)| !useless(columns, rows)).filter_map(
            move |(columns, rows)| {
                let neighbour = cell.neighbour(columns, rows);
                if last == Some(neighbour) {
                    return None;
                }
                last = ((columns, rows) != (0, 0)).then_some(neighbour);
                Some(neighbour)
            },
        )
    }

    /// The smallest area in degrees around the shape, not cut at the edges of the world.
    fn bounds(&self) -> Area {
        let (width, height) = match self.form {
            Form::Circle { radius } => (radius, radius),
            Form::Box { width, height } => (width / 2.0, height / 2.0),
        };
        let (width, height) = (self.unit_m * width, self.unit_m * height);
        let Point { longitude, latitude } = self.center;
        let rows = height / EARTH_RADIUS_M / DEGREE;
        // The edge nearer to the pole spans more degrees.
        let pole = if latitude < 0.0 { latitude - rows } else { latitude + rows };
        let columns = width / EARTH_RADIUS_M / (pole * DEGREE).cos() / DEGREE;
        Area {
            west: longitude - columns,
            east: longitude + columns,
            south: latitude - rows,
            north: latitude + rows,
        }
    }
}

/// The finest grid in which a cell and its neighbours cover a circle, more or less: cells shrink
/// towards the poles.
fn estimate_step(radius_m: f64, latitude: f64) -> u32 {
    if radius_m == 0.0 {
        return STEP_MAX;
    }
    let mut step = 1;
    let mut range = radius_m;
    while range < MERCATOR_MAX_M {
        range *= 2.0;
        step += 1;
    }
    step -= 2;
    if latitude.abs() > 66.0 {
        step -= 1;
        if latitude.abs() > 80.0 {
            step -= 1;
        }
    }
    step.clamp(1, STEP_MAX as i32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_are_those_of_redis() {
        let palermo = Point { longitude: 13.361389, latitude: 38.115556 };
        assert_eq!(palermo.score(), 3_479_099_956_230_698.0);
        let back = Point::of_score(palermo.score());
        assert_eq!(format!("{:.17}", back.longitude), "13.36138933897018433");
        assert_eq!(&back.geohash(), b"sqc8b49rny0");
        let catania = Point { longitude: 15.087269, latitude: 37.502669 };
        let distance = back.distance(Point::of_score(catania.score()));
        assert_eq!(format!("{distance:.4}"), "166274.1516");
    }

    #[test]
    fn neighbours_wrap_around_the_world() {
        for step in [1, 2, 13, 26] {
            let corner = Cell { bits: 0, step };
            assert_eq!(corner.neighbour(-1, -1).neighbour(1, 1), corner);
            let all = if step == 32 { u64::MAX } else { (1 << (step * 2)) - 1 };
            assert_eq!(corner.neighbour(-1, -1).bits, all);
        }
    }

    #[test]
    fn spreading_can_be_undone() {
        for number in [0, 1, 0x0f0f, 0x1234_5678, u32::MAX] {
            assert_eq!(squash(spread(number)), number);
        }
    }
}
