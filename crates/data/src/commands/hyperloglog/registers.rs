//! The format of a HyperLogLog as Redis stores it, and its arithmetic.
//!
//! ```text
//! "HYLL" │ encoding u8: 0 dense, 1 sparse │ 3 × 0 │ count u64 LE, highest bit: stale │ registers
//!
//! dense    16384 registers of 6 bits, the lowest bits of a byte first
//! sparse   runs:  00llllll            l + 1 registers are 0
//!                 01llllll llllllll   l + 1 registers are 0
//!                 1vvvvvll            l + 1 registers are v + 1
//! ```
//!
//! The estimate is the one of Otmar Ertl, "New cardinality estimation algorithms for HyperLogLog
//! sketches" (2017), section 4 (the improved raw estimator), which Redis uses. Where runs are
//! split and joined, the same choices are made as in Redis, so that the bytes agree.

use crate::error::Error;
use smallvec::SmallVec;
use std::ops::Range;

const REGISTERS: usize = 1 << REGISTER_BITS;
/// Bits of the hash that choose the register.
const REGISTER_BITS: u32 = 14;
/// The other bits of the hash; a register holds at most one more.
const RANK_BITS: u32 = 64 - REGISTER_BITS;
const HASH_SEED: u64 = 0xadc8_3b19;

pub(super) const HEADER_BYTES: usize = 16;
/// Where the header keeps the count.
pub(super) const CACHE: Range<usize> = 8..16;
const MAGIC: &[u8] = b"HYLL";
const ENCODING: usize = 4;
const DENSE: u8 = 0;
const SPARSE: u8 = 1;
const STALE: u8 = 0x80;
const DENSE_BYTES: usize = HEADER_BYTES + REGISTERS * 6 / 8;

/// The largest value and the longest run that one byte of the sparse form can say.
const SPARSE_VALUE_MAX: u8 = 32;
const VALUE_RUN_MAX: usize = 4;
const ZERO_RUN_MAX: usize = 64;
/// How many runs are looked at to join neighbours after a change.
const JOIN_STEPS: usize = 5;

const CORRUPTED: Error = Error::text("INVALIDOBJ Corrupted HLL object detected");

/// An empty one, sparse.
pub(super) fn empty() -> Vec<u8> {
    let mut value = vec![0; HEADER_BYTES];
    value[..MAGIC.len()].copy_from_slice(MAGIC);
    value[ENCODING] = SPARSE;
    push_run(&mut value, 0, REGISTERS);
    value
}

/// True if the header is right; sparse registers may still be corrupted.
pub(super) fn is_hyperloglog(value: &[u8]) -> bool {
    value.len() >= HEADER_BYTES
        && value.starts_with(MAGIC)
        && match value[ENCODING] {
            DENSE => value.len() == DENSE_BYTES,
            SPARSE => true,
            _ => false,
        }
}

pub(super) fn is_dense(value: &[u8]) -> bool {
    value[ENCODING] == DENSE
}

/// The count in the header, unless it is stale.
pub(super) fn cached_count(value: &[u8]) -> Option<u64> {
    let bytes = value[CACHE].try_into().expect("the field has eight bytes");
    (value[CACHE.end - 1] & STALE == 0).then(|| u64::from_le_bytes(bytes))
}

/// Marks the count in the header as stale.
pub(super) fn forget_count(value: &mut [u8]) {
    value[CACHE.end - 1] |= STALE;
}

/// The register that `element` falls into and the value it wants there at least.
pub(super) fn observe(element: &[u8]) -> (usize, u8) {
    let hash = murmur64a(element, HASH_SEED);
    let register = hash as usize % REGISTERS;
    let rank = (hash >> REGISTER_BITS | 1 << RANK_BITS).trailing_zeros() + 1;
    (register, rank as u8)
}

/// Austin Appleby's MurmurHash64A (public domain), on little-endian words.
fn murmur64a(bytes: &[u8], seed: u64) -> u64 {
    const FACTOR: u64 = 0xc6a4_a793_5bd1_e995;
    const SHIFT: u32 = 47;
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(FACTOR);
    let (words, rest) = bytes.as_chunks();
    for word in words {
        let mut k = u64::from_le_bytes(*word).wrapping_mul(FACTOR);
        k = (k ^ k >> SHIFT).wrapping_mul(FACTOR);
        hash = (hash ^ k).wrapping_mul(FACTOR);
    }
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(FACTOR);
    }
    hash = (hash ^ hash >> SHIFT).wrapping_mul(FACTOR);
    hash ^ hash >> SHIFT
}

// --- dense -----------------------------------------------------------------------------------

/// The byte a dense register begins in, and its lowest bit there.
fn dense_place(register: usize) -> (usize, usize) {
    (HEADER_BYTES + register * 6 / 8, register * 6 % 8)
}

pub(super) fn dense_register(value: &[u8], register: usize) -> u8 {
    let (at, shift) = dense_place(register);
    // The last register ends with the string.
    let next = value.get(at + 1).copied().unwrap_or(0);
    (u16::from_le_bytes([value[at], next]) >> shift) as u8 & 63
}

/// The two bytes that hold `register` once it is raised to `count`, and where they are; `None` if
/// it is as high already.
pub(super) fn dense_patch(value: &[u8], register: usize, count: u8) -> Option<(usize, [u8; 2])> {
    if dense_register(value, register) >= count {
        return None;
    }
    let (at, shift) = dense_place(register);
    // One byte earlier for the last register, whose bits are in the last byte alone.
    let from = at.min(value.len() - 2);
    let shift = shift + (at - from) * 8;
    let word = u16::from_le_bytes([value[from], value[from + 1]]);
    let word = word & !(63 << shift) | u16::from(count) << shift;
    Some((from, word.to_le_bytes()))
}

/// Converts the sparse form to the dense one.
pub(super) fn make_dense(value: &mut Vec<u8>) -> Result<(), Error> {
    if is_dense(value) {
        return Ok(());
    }
    let mut dense = vec![0; DENSE_BYTES];
    dense[..HEADER_BYTES].copy_from_slice(&value[..HEADER_BYTES]);
    dense[ENCODING] = DENSE;
    for_each_run(value, |range, count| {
        for register in range {
            raise_dense(&mut dense, register, count);
        }
    })?;
    *value = dense;
    Ok(())
}

fn raise_dense(value: &mut [u8], register: usize, count: u8) -> bool {
    let Some((at, bytes)) = dense_patch(value, register, count) else { return false };
    value[at..at + 2].copy_from_slice(&bytes);
    true
}

// --- sparse ----------------------------------------------------------------------------------

/// One run of the sparse form.
#[derive(Clone, Copy)]
struct Run {
    /// What its registers hold.
    value: u8,
    len: usize,
    /// How long it is in the string.
    bytes: usize,
}

impl Run {
    /// The run at `at`; `None` at the end.
    fn read(value: &[u8], at: usize) -> Option<Self> {
        let &head = value.get(at)?;
        let low = usize::from(head & 63);
        Some(match head >> 6 {
            0 => Self { value: 0, len: low + 1, bytes: 1 },
            1 => {
                let next = value.get(at + 1).copied().unwrap_or(0);
                Self { value: 0, len: (low << 8 | usize::from(next)) + 1, bytes: 2 }
            }
            _ => Self { value: (head >> 2 & 31) + 1, len: (low & 3) + 1, bytes: 1 },
        })
    }
}

fn value_run(value: u8, len: usize) -> u8 {
    0x80 | (value - 1) << 2 | (len - 1) as u8
}

fn push_run(out: &mut impl Extend<u8>, value: u8, len: usize) {
    match (value, len) {
        (_, 0) => {}
        (0, 1..=ZERO_RUN_MAX) => out.extend([(len - 1) as u8]),
        (0, _) => out.extend((0x4000 | (len - 1) as u16).to_be_bytes()),
        _ => out.extend([value_run(value, len)]),
    }
}

/// Visits the sparse runs that are not 0.
fn for_each_run(value: &[u8], mut visit: impl FnMut(Range<usize>, u8)) -> Result<(), Error> {
    let (mut at, mut first) = (HEADER_BYTES, 0);
    while let Some(run) = Run::read(value, at) {
        let end = first + run.len;
        if end > REGISTERS {
            return Err(CORRUPTED);
        }
        if run.value > 0 {
            visit(first..end, run.value);
        }
        (at, first) = (at + run.bytes, end);
    }
    if first == REGISTERS { Ok(()) } else { Err(CORRUPTED) }
}

/// Raises `register` to `count`; false if it is as high already. The sparse form becomes dense
/// when it cannot hold the value or would grow past `sparse_bytes_max`.
pub(super) fn raise(
    value: &mut Vec<u8>,
    register: usize,
    count: u8,
    sparse_bytes_max: usize,
) -> Result<bool, Error> {
    if is_dense(value) {
        return Ok(raise_dense(value, register, count));
    }
    if count > SPARSE_VALUE_MAX {
        make_dense(value)?;
        return Ok(raise_dense(value, register, count));
    }
    let (mut previous, mut at, mut first) = (HEADER_BYTES, HEADER_BYTES, 0);
    let run = loop {
        let run = Run::read(value, at).ok_or(CORRUPTED)?;
        if register < first + run.len {
            break run;
        }
        (previous, at, first) = (at, at + run.bytes, first + run.len);
    };
    if run.value >= count {
        return Ok(false);
    }
    let mut split = SmallVec::<[u8; 5]>::new();
    push_run(&mut split, run.value, register - first);
    split.push(value_run(count, 1));
    push_run(&mut split, run.value, first + run.len - 1 - register);
    let grown = value.len() + split.len() - run.bytes;
    if grown > value.len() && grown > sparse_bytes_max {
        make_dense(value)?;
        return Ok(raise_dense(value, register, count));
    }
    value.splice(at..(at + run.bytes).min(value.len()), split);
    join_runs(value, previous);
    Ok(true)
}

/// Joins equal neighbours among the runs from `at` on.
fn join_runs(value: &mut Vec<u8>, mut at: usize) {
    for _ in 0..JOIN_STEPS {
        let Some(run) = Run::read(value, at) else { break };
        if run.value > 0
            && let Some(next) = Run::read(value, at + 1)
            && next.value == run.value
            && next.len + run.len <= VALUE_RUN_MAX
        {
            value[at + 1] = value_run(run.value, run.len + next.len);
            value.remove(at);
        } else {
            at += run.bytes;
        }
    }
}

// --- counting --------------------------------------------------------------------------------

/// All registers, a byte each.
pub(super) struct Registers(Box<[u8; REGISTERS]>);

impl Default for Registers {
    fn default() -> Self {
        Self(Box::new([0; REGISTERS]))
    }
}

impl Registers {
    /// Raises every register to that of `value`.
    pub(super) fn merge(&mut self, value: &[u8]) -> Result<(), Error> {
        if !is_dense(value) {
            return for_each_run(value, |range, count| {
                self.0[range].iter_mut().for_each(|own| *own = count.max(*own));
            });
        }
        let (groups, _) = value[HEADER_BYTES..].as_chunks();
        for (own, &[a, b, c]) in self.0.as_chunks_mut::<4>().0.iter_mut().zip(groups) {
            let four = u32::from_le_bytes([a, b, c, 0]);
            for (nth, own) in own.iter_mut().enumerate() {
                *own = ((four >> (nth * 6)) as u8 & 63).max(*own);
            }
        }
        Ok(())
    }

    /// The registers that are not 0.
    pub(super) fn nonzero(&self) -> impl Iterator<Item = (usize, u8)> {
        self.0.iter().copied().enumerate().filter(|&(_, count)| count > 0)
    }

    /// The estimated number of distinct elements.
    pub(super) fn count(&self) -> u64 {
        /// 1 / (2 ln 2)
        const ALPHA: f64 = 0.721_347_520_444_481_7;
        let mut histogram = [0u32; 64];
        self.0.iter().for_each(|&count| histogram[usize::from(count)] += 1);
        let m = REGISTERS as f64;
        let ranks = RANK_BITS as usize;
        let mut z = m * tau((m - f64::from(histogram[ranks + 1])) / m);
        for count in histogram[1..=ranks].iter().rev() {
            z = (z + f64::from(*count)) * 0.5;
        }
        z += m * sigma(f64::from(histogram[0]) / m);
        (ALPHA * m * m / z).round() as u64
    }
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z == before {
            return z / 3.0;
        }
    }
}
