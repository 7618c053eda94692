//! Opening a journal: reads the segments, tells a torn tail from rot, and brings back
//! what survives. Reading comes first; nothing is changed before all of it was judged.

use super::disk::Disk;
use super::error::{JournalError, Lost, Rot};
use super::frame::{BLOCK_BYTES, Found, FrameBuffer, Item, Kind, VERSION};
use super::frame::{guess_items, stated_version};
use super::ledger::Ledger;
use super::{Journal, Options, Prepared, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN};
use quorate_base::codec::Reader;
use quorate_base::{Index, ShardId};
use quorate_log::Entry;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

/// What a journal held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Each shard that has a state or entries.
    pub shards: BTreeMap<ShardId, RecoveredShard>,
    /// How it was read.
    pub report: Report,
}

/// What a journal held for one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveredShard {
    /// The latest state; empty: none.
    pub state: Vec<u8>,
    /// The entries that were not replaced, in order of their index. Some that the store
    /// has for good may be among them.
    pub entries: Vec<Entry>,
}

/// How a journal was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments read.
    pub segments: usize,
    /// Intact frames read.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The recognisable bytes of the torn tail that was cut; 0: none.
    pub cut_bytes: u64,
}

/// See [`Journal::open`].
pub(super) fn open<D: Disk>(
    disk: D,
    options: Options,
) -> Result<(Journal<D>, Recovered), JournalError> {
    let mut reading = Reading::new(disk)?;
    let Some(newest) = reading.find_newest()? else {
        return reading.finish(options, None);
    };
    let tail = newest.tail();
    let (number, journal) = (newest.number, newest.journal);
    let mut newest = Some(newest);
    let mut expected = None;
    for at in tail.oldest.min(number)..=number {
        let segment = match newest.take_if(|newest| newest.number == at) {
            Some(newest) => newest,
            None => reading.load(at, expected.unwrap_or(0))?,
        };
        let end = reading.apply(&segment, journal, expected)?;
        expected = Some(end.sequence);
        if at < number {
            reading.check_continued(&segment, end, number)?;
            reading.reuse = segment.bytes;
        } else if tail.proven {
            let what = "a frame that a later one knows to be synced is damaged";
            return Err(reading.rot(&segment, end, what, number));
        }
    }
    reading.finish(options, Some(Newest { number, journal, tail }))
}

/// A segment in memory.
struct Loaded {
    number: u64,
    bytes: Vec<u8>,
    /// The id of the journal that wrote its first recognisable frame; 0: it has none.
    journal: u64,
}

/// Where the intact frames of a segment end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct End {
    offset: usize,
    /// What would come next.
    sequence: u64,
}

/// How the newest segment ends.
struct Tail {
    end: End,
    /// The oldest segment that the last frame needs.
    oldest: u64,
    /// Nothing before the last frame is without a mark that covers it.
    marked: bool,
    /// A later header knows that the frame missing at `end` had been synced.
    proven: bool,
    /// Where the last recognisable header behind `end`, or its frame, ends.
    torn_end: usize,
}

struct Newest {
    number: u64,
    journal: u64,
    tail: Tail,
}

impl Loaded {
    /// The header at `offset`, if it was written to this segment.
    fn header(&self, offset: usize) -> Option<Found> {
        Found::parse(self.bytes.get(offset..)?).filter(|found| {
            let header = &found.header;
            header.segment == self.number
                && header.journal == self.journal
                && header.sequence < u64::MAX
        })
    }

    /// The intact headers from `offset` on.
    fn headers(&self, offset: usize) -> impl Iterator<Item = (usize, Found)> + '_ {
        let offsets = (offset..self.bytes.len()).step_by(BLOCK_BYTES);
        offsets.filter_map(|at| self.header(at).map(|found| (at, found)))
    }

    /// The undamaged frame at `offset`: the start frame at 0, others elsewhere.
    fn frame(&self, offset: usize) -> Option<(Found, &[u8])> {
        let found = self.header(offset)?;
        let body = found.body(&self.bytes[offset..])?;
        let in_place = (found.header.kind == Kind::Start) == (offset == 0);
        let inside = offset + found.padded_bytes() <= self.bytes.len();
        (in_place && inside).then_some((found, body))
    }

    /// The frame at `end`, if it is undamaged and the next in sequence.
    fn next(&self, end: End) -> Option<(Found, &[u8])> {
        self.frame(end.offset).filter(|(found, _)| found.header.sequence == end.sequence)
    }

    /// Judges the end of the newest segment, whose start frame is intact.
    fn tail(&self) -> Tail {
        let (mut last, _) = self.frame(0).expect("the newest segment has an intact start");
        let mut end = End { offset: 0, sequence: last.header.sequence };
        while let Some((found, _)) = self.next(end) {
            last = found;
            end = end.after(&found);
        }
        let mut tail = Tail {
            end,
            oldest: last.header.oldest,
            marked: last.items == 0 || last.header.kind == Kind::Start,
            proven: false,
            torn_end: end.offset,
        };
        tail.marked &= last.header.mark + 1 == last.header.sequence;
        for (at, found) in self.headers(end.offset) {
            tail.proven |=
                found.header.sequence > end.sequence && found.header.mark >= end.sequence;
            let frame_end = (at + found.padded_bytes()).min(self.bytes.len());
            tail.torn_end = tail.torn_end.max(frame_end);
        }
        tail
    }
}

impl End {
    fn after(self, found: &Found) -> Self {
        Self { offset: self.offset + found.padded_bytes(), sequence: self.sequence + 1 }
    }
}

/// What reading has brought so far.
struct Reading<D> {
    disk: D,
    /// Number and bytes of each segment that is there.
    segments: BTreeMap<u64, u64>,
    ledger: Ledger,
    recovered: Recovered,
    /// The memory of a segment that was read.
    reuse: Vec<u8>,
}

impl<D: Disk> Reading<D> {
    fn new(mut disk: D) -> Result<Self, JournalError> {
        let list = disk.list();
        let segments = list.map_err(|e| io_error(&disk, "listing the segments of", 0, e))?;
        Ok(Self {
            disk,
            segments: segments.into_iter().collect(),
            ledger: Ledger::default(),
            recovered: Recovered::default(),
            reuse: Vec::new(),
        })
    }

    /// The newest segment with an intact start; those after it were never begun.
    fn find_newest(&mut self) -> Result<Option<Loaded>, JournalError> {
        let numbers: Vec<u64> = self.segments.keys().copied().collect();
        for &number in numbers.iter().rev() {
            let segment = self.load(number, 0)?;
            if segment.frame(0).is_some() {
                return Ok(Some(segment));
            }
            // Nothing follows a start frame before it is synced.
            if let Some((_, found)) = segment.headers(BLOCK_BYTES).next() {
                let end = End { offset: 0, sequence: found.header.mark };
                let what = "the segment's start is damaged, though frames follow it";
                return Err(self.rot(&segment, end, what, number));
            }
            self.reuse = segment.bytes;
        }
        match numbers.first() {
            // The first segment of all may have been prepared and not begun yet.
            None | Some(1) => Ok(None),
            Some(&number) => {
                let what = "no segment has an intact start";
                Err(self.rot_at(number, End { offset: 0, sequence: 0 }, what, Vec::new()))
            }
        }
    }

    /// Reads a whole segment. `sequence` is what it should start with, 0 if unknown.
    fn load(&mut self, number: u64, sequence: u64) -> Result<Loaded, JournalError> {
        let place = End { offset: 0, sequence };
        let Some(&len) = self.segments.get(&number) else {
            return Err(self.rot_at(number, place, "the segment is missing", Vec::new()));
        };
        if len > SEGMENT_BYTES_MAX {
            return Err(self.rot_at(number, place, "too long for a segment", Vec::new()));
        }
        let mut bytes = std::mem::take(&mut self.reuse);
        bytes.resize(len as usize, 0);
        let done = self.disk.read(number, 0, &mut bytes);
        done.map_err(|e| io_error(&self.disk, "reading", number, e))?;
        if let Some(found) = stated_version(&bytes).filter(|&version| version > VERSION) {
            let path = self.disk.path(number);
            return Err(JournalError::Version { path, found, known: VERSION });
        }
        let mut blocks = bytes.chunks(BLOCK_BYTES).filter_map(Found::parse);
        let first = blocks.find(|found| found.header.segment == number);
        let journal = first.map_or(0, |found| found.header.journal);
        Ok(Loaded { number, bytes, journal })
    }

    /// Takes in the intact frames of a segment. `expected`: the sequence it starts with,
    /// none for the oldest segment.
    fn apply(
        &mut self,
        segment: &Loaded,
        journal: u64,
        expected: Option<u64>,
    ) -> Result<End, JournalError> {
        let start = segment.frame(0).filter(|_| segment.journal == journal);
        let Some((start, _)) = start else {
            let end = End { offset: 0, sequence: expected.unwrap_or(0) };
            return Err(self.rot(segment, end, "the segment's start is damaged", 0));
        };
        let mut end = End { offset: 0, sequence: start.header.sequence };
        let whole_blocks = segment.bytes.len() / BLOCK_BYTES * BLOCK_BYTES;
        self.ledger.begin(segment.number, whole_blocks as u64);
        self.recovered.report.segments += 1;
        while let Some((found, body)) = segment.next(end) {
            if !self.take_in(body, found.items) {
                let what = "the content of an intact frame makes no sense";
                return Err(self.rot(segment, end, what, 0));
            }
            end = end.after(&found);
            self.recovered.report.frames += 1;
        }
        self.recovered.report.bytes += end.offset as u64;
        Ok(end)
    }

    /// Takes in the items of one frame; false if they are malformed.
    fn take_in(&mut self, body: &[u8], items: u32) -> bool {
        let mut reader = Reader::new(body);
        for _ in 0..items {
            let Some(item) = Item::take(&mut reader) else { return false };
            self.ledger.note(&item);
            self.recovered.take_in(item);
        }
        reader.is_empty()
    }

    /// Checks that the segment after `segment` goes on where its intact frames end.
    fn check_continued(
        &mut self,
        segment: &Loaded,
        end: End,
        newest: u64,
    ) -> Result<(), JournalError> {
        let number = segment.number + 1;
        if !self.segments.contains_key(&number) {
            return Err(self.load(number, end.sequence).err().expect("it is not there"));
        }
        let mut block = vec![0; BLOCK_BYTES];
        let done = self.disk.read(number, 0, &mut block);
        done.map_err(|e| io_error(&self.disk, "reading", number, e))?;
        let start = Found::parse(&block).filter(|found| found.header.segment == number);
        match start {
            Some(start) if start.header.sequence == end.sequence => Ok(()),
            Some(_) => Err(self.rot(segment, end, "a synced frame is damaged", newest)),
            // Reported for the segment itself when it is read.
            None => Ok(()),
        }
    }

    /// The error for damage at `end`; looks up to segment `newest` for what it held.
    fn rot(&mut self, segment: &Loaded, end: End, what: &'static str, newest: u64) -> JournalError {
        let mut lost = Losses::default();
        lost.guess(segment, end.offset);
        lost.see_later(segment, end);
        for number in segment.number + 1..=newest {
            if let Ok(later) = self.load(number, 0) {
                lost.see_later(&later, End { offset: 0, ..end });
                self.reuse = later.bytes;
            }
        }
        let lost = lost.list(&self.ledger);
        self.rot_at(segment.number, end, what, lost)
    }

    fn rot_at(&self, number: u64, end: End, what: &'static str, lost: Vec<Lost>) -> JournalError {
        let (offset, sequence) = (end.offset as u64, end.sequence);
        JournalError::Rot(Box::new(Rot {
            path: self.disk.path(number),
            offset,
            sequence,
            what,
            lost,
        }))
    }

    /// Makes what was read durable, overwrites what was cut, and removes what is of no
    /// more use.
    fn finish(
        mut self,
        options: Options,
        newest: Option<Newest>,
    ) -> Result<(Journal<D>, Recovered), JournalError> {
        if let Some(Newest { number, tail, .. }) = &newest {
            self.cut(*number, tail)?;
        }
        self.recovered.shards.retain(|_, s| !s.state.is_empty() || !s.entries.is_empty());
        let oldest = self.ledger.oldest().unwrap_or(0);
        let newest_number = newest.as_ref().map_or(0, |newest| newest.number);
        let mut prepared = Vec::new();
        for (&number, &bytes) in &self.segments {
            let whole = bytes >= SEGMENT_BYTES_MIN && bytes.is_multiple_of(BLOCK_BYTES as u64);
            let follows = number == newest_number + 1 + prepared.len() as u64;
            if follows && whole {
                prepared.push(Prepared { number, bytes });
            } else if !(oldest..=newest_number).contains(&number) {
                let done = self.disk.remove(number);
                done.map_err(|e| io_error(&self.disk, "removing", number, e))?;
            }
        }
        let sequence = newest.as_ref().map_or(0, |newest| newest.tail.end.sequence - 1);
        let journal = Journal {
            disk: self.disk,
            id: newest.as_ref().map_or(options.id, |newest| newest.journal),
            options,
            ledger: self.ledger,
            prepared: prepared.into(),
            tail: newest.as_ref().map_or(0, |newest| newest.tail.end.offset as u64),
            sequence,
            synced: sequence,
            marked: newest.is_none_or(|newest| newest.tail.marked),
            buffer: FrameBuffer::default(),
            poison: None,
        };
        Ok((journal, self.recovered))
    }

    /// Overwrites the recognisable headers of the torn tail, so that none of its frames can
    /// ever follow a new one, and syncs: what was read may have been in memory only.
    fn cut(&mut self, number: u64, tail: &Tail) -> Result<(), JournalError> {
        let whole_blocks = tail.torn_end / BLOCK_BYTES * BLOCK_BYTES;
        let zeros = vec![0; ZEROS_BYTES];
        let mut offset = tail.end.offset;
        while offset < whole_blocks {
            let len = ZEROS_BYTES.min(whole_blocks - offset);
            let done = self.disk.write(number, offset as u64, &zeros[..len], false);
            done.map_err(|e| io_error(&self.disk, "cutting the tail of", number, e))?;
            offset += len;
        }
        let done = self.disk.sync(number);
        done.map_err(|e| io_error(&self.disk, "syncing", number, e))?;
        self.recovered.report.cut_bytes = (tail.torn_end - tail.end.offset) as u64;
        Ok(())
    }
}

/// Written at a time when a tail is cut, in bytes.
const ZEROS_BYTES: usize = 1024 * 1024;

fn io_error<D: Disk>(disk: &D, op: &'static str, number: u64, error: io::Error) -> JournalError {
    JournalError::Io { op, path: disk.path(number), source: Arc::new(error) }
}

impl Recovered {
    #[inline]
    fn take_in(&mut self, item: Item<'_>) {
        match item {
            Item::Entry { shard, term, index, payload } => {
                let entries = &mut self.shards.entry(shard).or_default().entries;
                if entries.last().is_some_and(|last| last.index >= index) {
                    entries.truncate(entries.partition_point(|entry| entry.index < index));
                }
                entries.push(Entry { term, index, payload: Arc::new(payload.to_vec()) });
            }
            Item::State { shard, state } => {
                self.shards.entry(shard).or_default().state = state.to_vec();
            }
            Item::Trimmed { shard, index } => {
                if let Some(known) = self.shards.get_mut(&shard) {
                    let stored = known.entries.partition_point(|entry| entry.index <= index);
                    known.entries.drain(..stored);
                }
            }
        }
    }
}

/// What a damaged place may have held, from the place itself and from what comes later.
#[derive(Default)]
struct Losses {
    guessed: BTreeMap<ShardId, (Index, Index)>,
    /// The first index of each shard seen after the damage.
    later: BTreeMap<ShardId, Index>,
}

impl Losses {
    /// Reads what can be read of the damaged frame itself.
    fn guess(&mut self, segment: &Loaded, offset: usize) {
        let end = segment.headers(offset + BLOCK_BYTES).next().map(|(at, _)| at);
        let frame = &segment.bytes[offset..end.unwrap_or(segment.bytes.len())];
        for item in guess_items(frame) {
            match item {
                Item::Entry { shard, index, .. } => {
                    let (first, last) = self.guessed.entry(shard).or_insert((index, index));
                    *first = (*first).min(index);
                    *last = (*last).max(index);
                }
                Item::State { shard, .. } => {
                    self.guessed.entry(shard).or_insert((0, 0));
                }
                Item::Trimmed { .. } => {}
            }
        }
    }

    /// Notes the first indexes in the intact frames behind the damage.
    fn see_later(&mut self, segment: &Loaded, damage: End) {
        for (at, found) in segment.headers(damage.offset) {
            let Some(body) = found.body(&segment.bytes[at..]) else { continue };
            if found.header.sequence <= damage.sequence {
                continue;
            }
            let mut reader = Reader::new(body);
            while let Some(item) = Item::take(&mut reader) {
                if let Item::Entry { shard, index, .. } = item {
                    self.later.entry(shard).or_insert(index);
                }
            }
        }
    }

    /// `ledger` knows what came before the damage.
    fn list(mut self, ledger: &Ledger) -> Vec<Lost> {
        for (shard, later) in self.later {
            let before = ledger.last(shard);
            if before > 0 && before + 1 < later {
                self.guessed.entry(shard).or_insert((before + 1, later - 1));
            }
        }
        let lost = self.guessed.into_iter().take(Rot::LOST_MAX);
        lost.map(|(shard, (first, last))| Lost { shard, first, last }).collect()
    }
}
