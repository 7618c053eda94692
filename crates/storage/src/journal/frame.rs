//! Frames: how records become blocks of a segment, and back.
//!
//! A frame starts at a multiple of [`BLOCK_BYTES`] and is padded with zeros to the next.
//! Integers are little-endian.
//!
//! ```text
//!  0  magic      6  "QUOJNL"
//!  6  version    2  of this layout; magic, version and header sum keep their place in all
//!  8  journal    8  the journal's id, random: no payload can pretend to be a frame
//! 16  segment    8  the number of the segment it was written to: frames of a recycled
//!                   file's earlier life never count
//! 24  sequence   8  1, 2, 3 … without gaps over the whole journal
//! 32  mark       8  everything up to this sequence was known to be durable
//! 40  oldest     8  the oldest segment that is still needed
//! 48  body len   4
//! 52  items      4
//! 56  kind       1  0 records, 1 start of a segment
//! 57  zero       7
//! 64  body sum   8  XXH3-64 of the body
//! 72  header sum 8  XXH3-64 of bytes 0..72
//! 80  body          items, one after the other:
//!                   1 · shard · term · index · payload     an entry
//!                   2 · shard · state                      a state
//!                   3 · shard · index                      in the store for good up to here
//!                   (a byte, then varints; payload and state with a varint length)
//! ```

use quorate_base::codec::{Reader, put_bytes, put_varint};
use quorate_base::hash::checksum;
use quorate_base::{Index, ShardId, Term};
use quorate_log::{Body, Record};

/// The unit of writing and alignment, in bytes. No block that was acknowledged is ever
/// written again before its segment is recycled.
pub const BLOCK_BYTES: usize = 4096;

/// The newest frame layout this release knows.
pub(crate) const VERSION: u16 = 1;

const MAGIC: &[u8; 6] = b"QUOJNL";
const HEADER_BYTES: usize = 80;
/// A buffer that grew beyond this for one large frame is given back, in bytes.
const BUFFER_KEPT_BYTES_MAX: usize = 8 * 1024 * 1024;
/// The most an item takes beside its payload or state, in bytes.
const ITEM_OVERHEAD_BYTES_MAX: usize = 1 + 5 + 10 + 10 + 10;

const ITEM_ENTRY: u8 = 1;
const ITEM_STATE: u8 = 2;
const ITEM_TRIMMED: u8 = 3;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The records of one append; none in a frame that only carries mark and oldest.
    Records,
    /// The first frame of a segment: every shard's latest state and what trim knew.
    Start,
}

/// The fixed part of a frame that its writer decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) journal: u64,
    pub(crate) segment: u64,
    pub(crate) sequence: u64,
    pub(crate) mark: u64,
    pub(crate) oldest: u64,
    pub(crate) kind: Kind,
}

/// A header as found, with what is needed to find and judge its body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found {
    pub(crate) header: Header,
    body_bytes: usize,
    body_sum: u64,
    pub(crate) items: u32,
}

impl Found {
    /// The intact header at the start of `block`, of this release's version.
    pub(crate) fn parse(block: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(block.get(..HEADER_BYTES)?);
        if reader.take(MAGIC.len())? != MAGIC {
            return None;
        }
        let version = reader.take(2)?;
        let header = Header {
            journal: reader.u64()?,
            segment: reader.u64()?,
            sequence: reader.u64()?,
            mark: reader.u64()?,
            oldest: reader.u64()?,
            kind: Kind::Records,
        };
        let body_bytes = reader.u32()? as usize;
        let items = reader.u32()?;
        let kind = match reader.u8()? {
            0 => Kind::Records,
            1 => Kind::Start,
            _ => return None,
        };
        reader.take(7)?;
        let body_sum = reader.u64()?;
        let intact = version == VERSION.to_le_bytes()
            && reader.u64()? == checksum(&block[..HEADER_BYTES - 8]);
        let header = Header { kind, ..header };
        intact.then_some(Self { header, body_bytes, body_sum, items })
    }

    /// The bytes the frame takes in its segment.
    pub(crate) fn padded_bytes(&self) -> usize {
        padded(HEADER_BYTES + self.body_bytes)
    }

    /// The body, if `frame` (which starts at the header) holds it undamaged.
    pub(crate) fn body<'a>(&self, frame: &'a [u8]) -> Option<&'a [u8]> {
        let body = frame.get(HEADER_BYTES..HEADER_BYTES + self.body_bytes)?;
        (checksum(body) == self.body_sum).then_some(body)
    }
}

/// The version that an intact header at the start of `block` states, known or not.
pub(crate) fn stated_version(block: &[u8]) -> Option<u16> {
    let header = block.get(..HEADER_BYTES)?;
    let mut reader = Reader::new(header);
    let magic = reader.take(MAGIC.len())? == MAGIC;
    let version = u16::from_le_bytes(reader.take(2)?.try_into().ok()?);
    let sum = checksum(&header[..HEADER_BYTES - 8]).to_le_bytes();
    (magic && header[HEADER_BYTES - 8..] == sum).then_some(version)
}

/// The items of a frame that may be damaged, read until they make no sense any more.
pub(crate) fn guess_items(frame: &[u8]) -> impl Iterator<Item = Item<'_>> {
    let mut reader = Reader::new(frame.get(HEADER_BYTES..).unwrap_or_default());
    std::iter::from_fn(move || Item::take(&mut reader))
}

/// `bytes` rounded up to whole blocks.
pub(crate) fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(BLOCK_BYTES)
}

/// One item of a frame's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item<'a> {
    Entry { shard: ShardId, term: Term, index: Index, payload: &'a [u8] },
    State { shard: ShardId, state: &'a [u8] },
    Trimmed { shard: ShardId, index: Index },
}

impl<'a> Item<'a> {
    /// The next item of a body; `None` at its end or if it is malformed.
    #[inline]
    pub(crate) fn take(reader: &mut Reader<'a>) -> Option<Self> {
        let tag = reader.u8()?;
        let shard = ShardId::try_from(reader.varint()?).ok()?;
        Some(match tag {
            ITEM_ENTRY => Self::Entry {
                shard,
                term: reader.varint()?,
                index: reader.varint()?,
                payload: reader.bytes()?,
            },
            ITEM_STATE => Self::State { shard, state: reader.bytes()? },
            ITEM_TRIMMED => Self::Trimmed { shard, index: reader.varint()? },
            _ => return None,
        })
    }

    fn bytes_max(&self) -> usize {
        ITEM_OVERHEAD_BYTES_MAX
            + match self {
                Self::Entry { payload, .. } => payload.len(),
                Self::State { state, .. } => state.len(),
                Self::Trimmed { .. } => 0,
            }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match *self {
            Self::Entry { shard, term, index, payload } => {
                out.push(ITEM_ENTRY);
                put_varint(out, u64::from(shard));
                put_varint(out, term);
                put_varint(out, index);
                put_bytes(out, payload);
            }
            Self::State { shard, state } => {
                out.push(ITEM_STATE);
                put_varint(out, u64::from(shard));
                put_bytes(out, state);
            }
            Self::Trimmed { shard, index } => {
                out.push(ITEM_TRIMMED);
                put_varint(out, u64::from(shard));
                put_varint(out, index);
            }
        }
    }
}

impl<'a> From<&'a Record> for Item<'a> {
    fn from(record: &'a Record) -> Self {
        let shard = record.shard;
        match &record.body {
            Body::Entry(entry) => {
                Self::Entry { shard, term: entry.term, index: entry.index, payload: &entry.payload }
            }
            Body::State(state) => Self::State { shard, state },
        }
    }
}

/// A frame under construction, in memory that starts at a block boundary, as direct
/// writes need it. Reused from frame to frame.
#[derive(Debug, Default)]
pub(crate) struct FrameBuffer {
    /// `start` bytes that align the rest, then the frame.
    bytes: Vec<u8>,
    start: usize,
    items: u32,
}

impl FrameBuffer {
    /// Replaces the content by a frame of `items`, still without its header. Returns the
    /// bytes it will take in a segment.
    pub(crate) fn fill<'a>(&mut self, items: impl Iterator<Item = Item<'a>> + Clone) -> usize {
        let body_bytes_max: usize = items.clone().map(|item| item.bytes_max()).sum();
        self.bytes.clear();
        if self.bytes.capacity() > BUFFER_KEPT_BYTES_MAX {
            self.bytes = Vec::new();
        }
        // Room for all that follows, so that nothing moves after the alignment is known.
        let capacity = BLOCK_BYTES + padded(HEADER_BYTES + body_bytes_max);
        self.bytes.reserve(capacity);
        self.start = self.bytes.as_ptr().align_offset(BLOCK_BYTES);
        self.bytes.resize(self.start + HEADER_BYTES, 0);
        self.items = 0;
        for item in items {
            item.put(&mut self.bytes);
            self.items += 1;
        }
        padded(self.bytes.len() - self.start)
    }

    /// Completes the frame with its header and returns it, padded and aligned.
    pub(crate) fn finish(&mut self, header: &Header) -> &[u8] {
        let frame = &mut self.bytes[self.start..];
        let (head, body) = frame.split_at_mut(HEADER_BYTES);
        let body_bytes = u32::try_from(body.len()).expect("a frame's bound is below 4 GiB");
        head[..6].copy_from_slice(MAGIC);
        head[6..8].copy_from_slice(&VERSION.to_le_bytes());
        head[8..16].copy_from_slice(&header.journal.to_le_bytes());
        head[16..24].copy_from_slice(&header.segment.to_le_bytes());
        head[24..32].copy_from_slice(&header.sequence.to_le_bytes());
        head[32..40].copy_from_slice(&header.mark.to_le_bytes());
        head[40..48].copy_from_slice(&header.oldest.to_le_bytes());
        head[48..52].copy_from_slice(&body_bytes.to_le_bytes());
        head[52..56].copy_from_slice(&self.items.to_le_bytes());
        head[56] = u8::from(header.kind == Kind::Start);
        head[57..64].fill(0);
        head[64..72].copy_from_slice(&checksum(body).to_le_bytes());
        let sum = checksum(&head[..HEADER_BYTES - 8]);
        head[72..80].copy_from_slice(&sum.to_le_bytes());
        let end = self.start + padded(HEADER_BYTES + body.len());
        self.bytes.resize(end, 0);
        &self.bytes[self.start..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_reads_back_and_is_aligned() {
        let items = [
            Item::Entry { shard: 7, term: 3, index: 1 << 40, payload: &[9; 5000] },
            Item::State { shard: u32::MAX, state: b"vote" },
            Item::Trimmed { shard: 0, index: u64::MAX },
        ];
        let header =
            Header { journal: 1, segment: 2, sequence: 3, mark: 2, oldest: 1, kind: Kind::Start };
        let mut buffer = FrameBuffer::default();
        for _ in 0..2 {
            let bytes = buffer.fill(items.iter().copied());
            let frame = buffer.finish(&header);
            assert_eq!(frame.len(), bytes);
            assert_eq!(frame.as_ptr().align_offset(BLOCK_BYTES), 0);
            let found = Found::parse(frame).unwrap();
            assert_eq!(found.header, header);
            assert_eq!(found.padded_bytes(), bytes);
            let mut reader = Reader::new(found.body(frame).unwrap());
            let read: Vec<_> = std::iter::from_fn(|| Item::take(&mut reader)).collect();
            assert_eq!(read, items);
            assert!(reader.is_empty());
        }
    }

    #[test]
    fn a_newer_version_is_recognised_but_not_read() {
        let mut buffer = FrameBuffer::default();
        buffer.fill(std::iter::empty());
        let header =
            Header { journal: 0, segment: 0, sequence: 0, mark: 0, oldest: 0, kind: Kind::Start };
        let mut frame = buffer.finish(&header).to_vec();
        frame[6] = 9;
        assert_eq!(stated_version(&frame), None);
        let sum = checksum(&frame[..72]);
        frame[72..80].copy_from_slice(&sum.to_le_bytes());
        assert_eq!(stated_version(&frame), Some(9));
        assert!(Found::parse(&frame).is_none());
    }
}
