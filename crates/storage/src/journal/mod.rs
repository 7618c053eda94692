//! The node's journal: one sequence of frames for all shards, on disk.
//!
//! It owns the files in which entries and states become durable, from the append until
//! the store has them for good. It knows nothing of what they mean, reads no clock and
//! starts no thread; whoever owns it decides when to append, sync, prepare and trim.
//!
//! # Layout
//!
//! ```text
//!   oldest                            current             prepared
//!  ┌──────────────────┐┌──────────────────┐┌──────────────────┐┌──────────────────┐
//!  │ segment 3        ││ segment 4        ││ segment 5        ││ segment 6        │
//!  └──────────────────┘└──────────────────┘└──────────────────┘└──────────────────┘
//!   each a file of fixed length, zeroed ahead of need or recycled from the oldest
//!
//!  segment 5, in blocks of 4 KiB
//!  ┌───────────┬─────────┬─────────┬─────────────┬──────────────────────┬───┬───┐
//!  │ start     │ frame   │ frame   │ frame       │ zeros, or frames of  │ reserve │
//!  │ 41        │ 42      │ 43      │ 44          │ the file's past life │   │   │
//!  └───────────┴─────────┴─────────┴─────────────┴──────────────────────┴───┴───┘
//!   every shard's latest state          ^ mark 43: up to here all was synced when
//!                                         frame 44 was written
//! ```
//!
//! A frame (see `frame.rs` for its bytes) is one atomic unit. Sequence numbers have no
//! gaps. A segment's start frame is written and synced after everything before it was
//! synced and before anything follows it; because it repeats every shard's latest state,
//! older segments can go as soon as the store has their entries. The last two blocks of a
//! segment are reserved for a mark and for the frame that a trim writes, so that a full
//! disk can always be trimmed.
//!
//! # What opening decides
//!
//! Reading goes on as long as intact frames of the right segment follow each other in
//! sequence. Where they stop, say at sequence *e*:
//!
//! - a later intact header with mark ≥ *e*, or a later segment's start frame with another
//!   sequence than *e*: frame *e* had been synced. This is **rot**; opening refuses.
//! - otherwise *e* was never promised. The **torn tail** from there on is cut. Headers of
//!   cut frames are overwritten before anything is appended, so they never come back.
//! - a segment that is missing between the oldest needed (every frame states it) and the
//!   newest is rot too.
//!
//! What cannot be told apart is damage of the very last frames, after which nothing was
//! written: hence [`Journal::mark`] when the node falls idle or closes.
//!
//! # Invariants
//!
//! `oldest ≤ current < prepared`, `mark ≤ synced ≤ sequence`. Once a write or a sync has
//! failed nobody knows what the disk holds: the journal is poisoned and every later call
//! returns that first error.

pub mod disk;
pub mod error;
mod frame;
mod ledger;
pub mod memory;
mod recover;
#[cfg(test)]
mod tests;

pub use disk::{Disk, FileDisk};
pub use error::{JournalError, Lost, Rot};
pub use frame::BLOCK_BYTES;
pub use ledger::SHARDS_MAX;
pub use memory::MemoryDisk;
pub use recover::{Recovered, RecoveredShard, Report};

use frame::{FrameBuffer, Header, Item, Kind};
use ledger::Ledger;
use quorate_base::{Index, ShardId};
use quorate_log::{Body, Record};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// The longest state of a shard, in bytes.
pub const STATE_BYTES_MAX: usize = 4096;
/// The most records of one append.
pub const RECORDS_MAX: usize = 1024 * 1024;
/// The longest frame, in bytes; below the 4 GiB that a frame's header can state.
pub const FRAME_BYTES_MAX: usize = 3 * 1024 * 1024 * 1024;
/// The shortest segment, in bytes.
pub const SEGMENT_BYTES_MIN: u64 = 4 * BLOCK_BYTES as u64;
/// The longest segment: a start frame and another frame of the longest kind, in bytes.
pub const SEGMENT_BYTES_MAX: u64 = 2 * FRAME_BYTES_MAX as u64 + SEGMENT_BYTES_MIN;

/// Kept free at the end of a segment for a mark and for a trim.
const RESERVE_BYTES: u64 = 2 * BLOCK_BYTES as u64;

/// How a journal behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// The length of a segment, in bytes; a multiple of [`BLOCK_BYTES`]. A frame that is
    /// larger gets a larger segment of its own.
    pub segment_bytes: u64,
    /// The most segments kept ready ahead of need; further freed ones are removed.
    pub prepared_max: usize,
    /// The identity of a journal that is created: a random number that no client can
    /// know, so that no payload can pretend to be a frame.
    pub id: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { segment_bytes: 64 * 1024 * 1024, prepared_max: 2, id: 0 }
    }
}

/// What is left for appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// In the current and the prepared segments. An append takes its frame, rounded up to
    /// whole blocks; what is too short for it at the end of a segment stays unused, and a
    /// new segment begins with every shard's state.
    pub prepared_bytes: u64,
    /// On the disk, beyond that.
    pub disk_free_bytes: u64,
}

/// The journal of one node. See the module.
#[derive(Debug)]
pub struct Journal<D> {
    disk: D,
    options: Options,
    id: u64,
    ledger: Ledger,
    /// Segments without frames, in order; they follow the current one without gaps.
    prepared: VecDeque<Prepared>,
    /// Where the next frame goes in the current segment, in bytes.
    tail: u64,
    /// The last frame written; 0: none.
    sequence: u64,
    /// The last frame known to be durable.
    synced: u64,
    /// No frame after the last mark needs one.
    marked: bool,
    buffer: FrameBuffer,
    poison: Option<JournalError>,
}

#[derive(Clone, Copy, Debug)]
struct Prepared {
    number: u64,
    bytes: u64,
}

impl<D: Disk> Journal<D> {
    /// Reads what `disk` holds, cuts a torn tail, and returns the journal ready for
    /// appends together with its content. Everything returned is durable.
    pub fn open(disk: D, options: Options) -> Result<(Self, Recovered), JournalError> {
        assert!(
            (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&options.segment_bytes)
                && options.segment_bytes.is_multiple_of(BLOCK_BYTES as u64),
            "a segment of {} bytes is too short, too long or not in whole blocks",
            options.segment_bytes
        );
        recover::open(disk, options)
    }

    /// Appends `records` as one frame: after a crash all of them are there, or none. With
    /// `sync` they and everything before are durable on return, otherwise by the next
    /// synced call. An empty state makes the journal forget the shard's state.
    ///
    /// [`JournalError::Full`] means that nothing was written. Going beyond [`STATE_BYTES_MAX`],
    /// [`RECORDS_MAX`], [`FRAME_BYTES_MAX`] or [`SHARDS_MAX`] is the caller's mistake and panics
    /// before anything is written.
    pub fn append(&mut self, records: &[Record], sync: bool) -> Result<(), JournalError> {
        self.check()?;
        assert_within_bounds(records);
        if records.is_empty() {
            return if sync { self.sync() } else { Ok(()) };
        }
        self.ledger.assert_takes(records.iter().map(|record| record.shard));
        let bytes = self.buffer.fill(records.iter().map(Item::from));
        assert!(bytes <= FRAME_BYTES_MAX, "a frame of {bytes} bytes is too long");
        self.make_room(bytes as u64, RESERVE_BYTES)?;
        self.write_frame(sync)?;
        self.marked = false;
        for record in records {
            self.ledger.note(&Item::from(record));
        }
        Ok(())
    }

    /// Makes everything appended so far durable.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        self.check()?;
        if self.synced < self.sequence {
            let number = self.current_number();
            let done = self.disk.sync(number);
            self.io("syncing", number, done)?;
            self.synced = self.sequence;
        }
        Ok(())
    }

    /// Syncs, and writes a frame without records if needed, so that damage to anything
    /// synced so far is told from a torn tail. For when the node falls idle or closes.
    pub fn mark(&mut self) -> Result<(), JournalError> {
        self.sync()?;
        if self.marked || self.sequence == 0 {
            return Ok(());
        }
        self.buffer.fill(std::iter::empty());
        self.make_room(BLOCK_BYTES as u64, BLOCK_BYTES as u64)?;
        // The start frame of a new segment is as good.
        if !self.marked {
            self.write_frame(true)?;
            self.marked = true;
        }
        Ok(())
    }

    /// Learns that the store has every entry at or below `durable(shard)` for good
    /// ([`Index::MAX`] for a shard that is gone) and lets the segments go that hold nothing
    /// else, oldest first. Returns the bytes freed or made ready for new frames.
    pub fn trim(&mut self, durable: &dyn Fn(ShardId) -> Index) -> Result<u64, JournalError> {
        self.check()?;
        let free = self.ledger.learn(durable);
        if free == 0 {
            return Ok(0);
        }
        // First it is on record which segment is the oldest, then the others go: so a
        // segment that is missing later is known to be missing.
        self.buffer.fill(std::iter::empty());
        self.make_room(BLOCK_BYTES as u64, 0)?;
        self.write_frame_naming_oldest(true, self.ledger.oldest_after(free))?;
        self.marked = true;
        let mut freed_bytes = 0;
        for _ in 0..free {
            let segment = self.ledger.release();
            freed_bytes += segment.bytes;
            self.recycle(segment.number, segment.bytes)?;
        }
        Ok(freed_bytes)
    }

    /// The shards whose entries keep the oldest segment from going, as of the last trim:
    /// flush these to make room. None while there is a single segment.
    pub fn oldest(&self) -> impl Iterator<Item = ShardId> + '_ {
        self.ledger.pins()
    }

    /// The bytes of all segments that hold frames.
    pub fn bytes(&self) -> u64 {
        self.ledger.bytes()
    }

    /// The same without the current one: what trimming can free.
    pub fn trimmable_bytes(&self) -> u64 {
        self.bytes() - self.ledger.current().map_or(0, |current| current.bytes)
    }

    /// What is left for appends, for admission control.
    pub fn room(&self) -> Result<Room, JournalError> {
        self.check()?;
        let current = self.ledger.current().map_or(0, |current| current.bytes);
        let in_current = current.saturating_sub(self.tail + RESERVE_BYTES);
        // The start frame of a prepared segment takes at least a block.
        let overhead = RESERVE_BYTES + BLOCK_BYTES as u64;
        let prepared: u64 = self.prepared.iter().map(|p| p.bytes.saturating_sub(overhead)).sum();
        let disk_free_bytes =
            self.disk.free_bytes().map_err(|e| self.error("asking the free bytes of", 0, e))?;
        Ok(Room { prepared_bytes: in_current + prepared, disk_free_bytes })
    }

    /// Makes the next segment ready ahead of need. False: the disk has no room for it now.
    /// Slow (it writes a segment of zeros), so it is not part of an append unless it must.
    pub fn prepare(&mut self) -> Result<bool, JournalError> {
        self.check()?;
        if !self.prepared.is_empty() {
            return Ok(true);
        }
        match self.create(self.options.segment_bytes) {
            Err(JournalError::Full { .. }) => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// True when more than half of the current segment is used and none is prepared: the
    /// time to call [`Journal::prepare`].
    pub fn wants_prepare(&self) -> bool {
        let current = self.ledger.current().map_or(0, |current| current.bytes);
        self.prepared.is_empty() && self.tail * 2 >= current
    }

    /// The disk beneath, for tests and the simulator.
    pub fn disk_mut(&mut self) -> &mut D {
        &mut self.disk
    }

    /// Gives the disk back without writing anything.
    pub fn into_disk(self) -> D {
        self.disk
    }

    fn check(&self) -> Result<(), JournalError> {
        self.poison.clone().map_or(Ok(()), Err)
    }

    fn current_number(&self) -> u64 {
        self.ledger.current().expect("frames are written to a segment").number
    }

    fn next_number(&self) -> u64 {
        self.ledger.current().map_or(1, |current| current.number + 1)
    }

    /// Goes on to the next segment if `bytes` and `reserve` do not fit the current one.
    fn make_room(&mut self, bytes: u64, reserve: u64) -> Result<(), JournalError> {
        if self.ledger.current().is_some_and(|now| self.tail + bytes + reserve <= now.bytes) {
            return Ok(());
        }
        let mut start = FrameBuffer::default();
        let start_bytes = start.fill(self.ledger.start_items());
        assert!(start_bytes <= FRAME_BYTES_MAX, "a start frame of {start_bytes} bytes is too long");
        let needed_bytes = start_bytes as u64 + bytes + RESERVE_BYTES;
        if self.prepared.front().is_none_or(|next| next.bytes < needed_bytes) {
            self.create(self.options.segment_bytes.max(needed_bytes))?;
        }
        self.begin_segment(&mut start)
    }

    /// Makes the segment after the current one, in place of a prepared one if there is.
    fn create(&mut self, bytes: u64) -> Result<(), JournalError> {
        let number = self.next_number();
        match self.disk.create(number, bytes) {
            Err(error) if is_full(&error) => {
                return Err(JournalError::Full { needed_bytes: bytes });
            }
            done => self.io("preparing", number, done)?,
        }
        self.prepared.pop_front();
        self.prepared.push_front(Prepared { number, bytes });
        Ok(())
    }

    fn begin_segment(&mut self, start: &mut FrameBuffer) -> Result<(), JournalError> {
        self.sync()?;
        let next = self.prepared.pop_front().expect("made by the caller");
        let header = Header {
            journal: self.id,
            segment: next.number,
            sequence: self.sequence + 1,
            mark: self.synced,
            oldest: self.ledger.oldest().unwrap_or(next.number),
            kind: Kind::Start,
        };
        let frame = start.finish(&header);
        let done = self.disk.write(next.number, 0, frame, true);
        self.tail = frame.len() as u64;
        self.io("starting", next.number, done)?;
        self.sequence += 1;
        self.synced = self.sequence;
        self.marked = true;
        self.ledger.begin(next.number, next.bytes);
        Ok(())
    }

    fn write_frame(&mut self, sync: bool) -> Result<(), JournalError> {
        let oldest = self.ledger.oldest().expect("frames are written to a segment");
        self.write_frame_naming_oldest(sync, oldest)
    }

    /// Writes the frame in the buffer at the tail, where there is room for it.
    fn write_frame_naming_oldest(&mut self, sync: bool, oldest: u64) -> Result<(), JournalError> {
        let segment = self.current_number();
        let header = Header {
            journal: self.id,
            segment,
            sequence: self.sequence + 1,
            mark: self.synced,
            oldest,
            kind: Kind::Records,
        };
        let frame = self.buffer.finish(&header);
        // A synced write vouches for its own blocks only: with unsynced frames before it,
        // the whole segment is synced instead.
        let alone = self.synced == self.sequence;
        let done = self.disk.write(segment, self.tail, frame, sync && alone);
        self.tail += frame.len() as u64;
        self.io("writing", segment, done)?;
        self.sequence += 1;
        if sync && alone {
            self.synced = self.sequence;
        }
        if sync { self.sync() } else { Ok(()) }
    }

    /// Makes a segment ready for new frames, or removes it.
    fn recycle(&mut self, number: u64, bytes: u64) -> Result<(), JournalError> {
        let fits = bytes == self.options.segment_bytes;
        if fits && self.prepared.len() < self.options.prepared_max {
            let to = self.next_number() + self.prepared.len() as u64;
            let done = self.disk.recycle(number, to);
            self.io("recycling", number, done)?;
            self.prepared.push_back(Prepared { number: to, bytes });
            return Ok(());
        }
        let done = self.disk.remove(number);
        self.io("removing", number, done)
    }

    /// Turns a failed operation into the error that every later call repeats.
    fn io(
        &mut self,
        op: &'static str,
        number: u64,
        done: io::Result<()>,
    ) -> Result<(), JournalError> {
        done.map_err(|error| {
            let error = self.error(op, number, error);
            self.poison = Some(error.clone());
            error
        })
    }

    fn error(&self, op: &'static str, number: u64, source: io::Error) -> JournalError {
        JournalError::Io { op, path: self.disk.path(number), source: Arc::new(source) }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn assert_within_bounds(records: &[Record]) {
    assert!(records.len() <= RECORDS_MAX, "an append of {} records is too long", records.len());
    for record in records {
        if let Body::State(state) = &record.body {
            let (shard, len) = (record.shard, state.len());
            assert!(len <= STATE_BYTES_MAX, "the state of shard {shard} has {len} bytes");
        }
    }
}
