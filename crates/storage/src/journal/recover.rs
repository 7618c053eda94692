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
use std::collections::{BTreeMap, VecDeque};
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
    mut disk: D,
    options: Options,
) -> Result<(Journal<D>, Recovered), JournalError> {
    let segments = disk.list().map_err(|e| io_error(&disk, "listing the segments of", 0, e))?;
    let segments: BTreeMap<u64, u64> = segments.into_iter().collect();
    let mut reading = Reading {
        disk: &disk,
        segments: &segments,
        ledger: Ledger::default(),
        recovered: Recovered::default(),
        window: Vec::new(),
    };
    let newest = reading.read()?;
    let (ledger, recovered) = (reading.ledger, reading.recovered);
    finish(disk, options, &segments, newest, ledger, recovered)
}

/// A segment of which a part is in memory.
struct Segment<'a, D> {
    disk: &'a D,
    number: u64,
    len: usize,
    /// The id of the journal that wrote its first recognisable frame; 0: it has none.
    journal: u64,
    /// What is in memory, and where it starts.
    window: Vec<u8>,
    window_start: usize,
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

impl<D: Disk> Segment<'_, D> {
    /// So many bytes at `offset`, fewer at the end of the segment.
    fn bytes(&mut self, offset: usize, len: usize) -> Result<&[u8], JournalError> {
        let end = (offset + len).min(self.len);
        let window_end = self.window_start + self.window.len();
        if offset < self.window_start || end > window_end {
            // Frames follow each other: what is left of the window is the start of the next.
            let left = if (self.window_start..window_end).contains(&offset) {
                self.window.copy_within(offset - self.window_start.., 0);
                window_end - offset
            } else {
                0
            };
            let wanted = len.max(WINDOW_BYTES).min(self.len - offset.min(self.len));
            self.window.resize(wanted, 0);
            self.window_start = offset;
            let from = (offset + left) as u64;
            let done = self.disk.read(self.number, from, &mut self.window[left..]);
            done.map_err(|e| io_error(self.disk, "reading", self.number, e))?;
        }
        let at = offset - self.window_start;
        Ok(&self.window[at..at.max(end - self.window_start)])
    }

    /// The header at `offset`, if it was written to this segment.
    fn header(&mut self, offset: usize) -> Result<Option<Found>, JournalError> {
        let (number, journal) = (self.number, self.journal);
        Ok(Found::parse(self.bytes(offset, BLOCK_BYTES)?).filter(|found| {
            let header = &found.header;
            header.segment == number && header.journal == journal && header.sequence < u64::MAX
        }))
    }

    /// The first intact header at or behind `offset`.
    fn header_from(&mut self, offset: usize) -> Result<Option<(usize, Found)>, JournalError> {
        for at in (offset..self.len).step_by(BLOCK_BYTES) {
            if let Some(found) = self.header(at)? {
                return Ok(Some((at, found)));
            }
        }
        Ok(None)
    }

    /// The undamaged frame at `offset`: the start frame at 0, others elsewhere.
    fn frame(&mut self, offset: usize) -> Result<Option<(Found, &[u8])>, JournalError> {
        let Some(found) = self.header(offset)? else { return Ok(None) };
        let in_place = (found.header.kind == Kind::Start) == (offset == 0);
        let inside = offset + found.padded_bytes() <= self.len;
        if !in_place || !inside {
            return Ok(None);
        }
        let body = found.body(self.bytes(offset, found.padded_bytes())?);
        Ok(body.map(|body| (found, body)))
    }

    /// The frame at `end`, if it is undamaged and the next in sequence.
    fn next(&mut self, end: End) -> Result<Option<(Found, &[u8])>, JournalError> {
        let frame = self.frame(end.offset)?;
        Ok(frame.filter(|(found, _)| found.header.sequence == end.sequence))
    }

    /// Judges the end of the newest segment, whose start frame is `start`.
    fn tail(&mut self, start: Found) -> Result<Tail, JournalError> {
        let mut last = start;
        let mut end = End { offset: 0, sequence: start.header.sequence };
        while let Some((found, _)) = self.next(end)? {
            last = found;
            end = end.after(&found);
        }
        let empty = last.items == 0 || last.header.kind == Kind::Start;
        let mut tail = Tail {
            end,
            oldest: last.header.oldest,
            marked: empty && last.header.mark + 1 == last.header.sequence,
            proven: false,
            torn_end: end.offset,
        };
        let mut offset = end.offset;
        while let Some((at, found)) = self.header_from(offset)? {
            tail.proven |=
                found.header.sequence > end.sequence && found.header.mark >= end.sequence;
            let frame_end = (at + found.padded_bytes()).min(self.len);
            tail.torn_end = tail.torn_end.max(frame_end);
            offset = at + BLOCK_BYTES;
        }
        Ok(tail)
    }
}

impl End {
    fn after(self, found: &Found) -> Self {
        Self { offset: self.offset + found.padded_bytes(), sequence: self.sequence + 1 }
    }
}

/// What reading has brought so far.
struct Reading<'a, D> {
    disk: &'a D,
    /// Number and bytes of each segment that is there.
    segments: &'a BTreeMap<u64, u64>,
    ledger: Ledger,
    recovered: Recovered,
    /// The memory of a segment that was read.
    window: Vec<u8>,
}

impl<'a, D: Disk> Reading<'a, D> {
    /// Reads everything and judges it; none if no segment was ever begun. The newest
    /// segment is read twice: its end says which is the oldest.
    fn read(&mut self) -> Result<Option<Newest>, JournalError> {
        let Some(newest) = self.find_newest()? else { return Ok(None) };
        let mut expected = None;
        for number in newest.tail.oldest.min(newest.number)..=newest.number {
            let mut segment = self.load(number, expected.unwrap_or(0))?;
            let end = self.apply(&mut segment, newest.journal, expected)?;
            expected = Some(end.sequence);
            let what = if number == newest.number {
                let what = "a frame that a later one knows to be synced is damaged";
                newest.tail.proven.then_some(what)
            } else {
                let next = self.load(number + 1, end.sequence)?.header(0)?;
                // A damaged start is reported for the segment itself.
                let broken = next.is_some_and(|next| next.header.sequence != end.sequence);
                broken.then_some("a synced frame is damaged")
            };
            if let Some(what) = what {
                return Err(self.rot(&mut segment, end, what, newest.number));
            }
            self.window = segment.window;
        }
        Ok(Some(newest))
    }

    /// The newest segment with an intact start; those after it were never begun.
    fn find_newest(&mut self) -> Result<Option<Newest>, JournalError> {
        for &number in self.segments.keys().rev() {
            let dropped = self.disk.drop_cached(number);
            dropped.map_err(|e| io_error(self.disk, "dropping the cache of", number, e))?;
            let mut segment = self.load(number, 0)?;
            if let Some((start, _)) = segment.frame(0)? {
                let tail = segment.tail(start)?;
                let journal = segment.journal;
                self.window = segment.window;
                return Ok(Some(Newest { number, journal, tail }));
            }
            // Nothing follows a start frame before it is synced.
            if let Some((_, found)) = segment.header_from(BLOCK_BYTES)? {
                let end = End { offset: 0, sequence: found.header.mark };
                let what = "the segment's start is damaged, though frames follow it";
                return Err(self.rot(&mut segment, end, what, number));
            }
            self.window = segment.window;
        }
        match self.segments.keys().next() {
            // The first segment of all may have been prepared and not begun yet.
            None | Some(1) => Ok(None),
            Some(&number) => {
                let what = "no segment has an intact start";
                Err(self.rot_at(number, End { offset: 0, sequence: 0 }, what, Vec::new()))
            }
        }
    }

    /// Begins to read a segment. `sequence` is what it should start with, 0 if unknown.
    fn load(&mut self, number: u64, sequence: u64) -> Result<Segment<'a, D>, JournalError> {
        let place = End { offset: 0, sequence };
        let Some(&len) = self.segments.get(&number) else {
            return Err(self.rot_at(number, place, "the segment is missing", Vec::new()));
        };
        if len > SEGMENT_BYTES_MAX {
            return Err(self.rot_at(number, place, "too long for a segment", Vec::new()));
        }
        let mut window = std::mem::take(&mut self.window);
        window.clear();
        let (disk, len) = (self.disk, len as usize);
        let mut segment = Segment { disk, number, len, journal: 0, window, window_start: 0 };
        let version = stated_version(segment.bytes(0, BLOCK_BYTES)?);
        if let Some(found) = version.filter(|&version| version > VERSION) {
            let path = self.disk.path(number);
            return Err(JournalError::Version { path, found, known: VERSION });
        }
        for at in (0..len).step_by(BLOCK_BYTES) {
            let found = Found::parse(segment.bytes(at, BLOCK_BYTES)?);
            if let Some(found) = found.filter(|found| found.header.segment == number) {
                segment.journal = found.header.journal;
                break;
            }
        }
        Ok(segment)
    }

    /// Takes in the intact frames of a segment. `expected`: the sequence it starts with,
    /// none for the oldest segment.
    fn apply(
        &mut self,
        segment: &mut Segment<'a, D>,
        journal: u64,
        expected: Option<u64>,
    ) -> Result<End, JournalError> {
        let ours = segment.journal == journal;
        let start = segment.frame(0)?.filter(|_| ours).map(|(start, _)| start);
        let Some(start) = start else {
            let end = End { offset: 0, sequence: expected.unwrap_or(0) };
            return Err(self.rot(segment, end, "the segment's start is damaged", 0));
        };
        let mut end = End { offset: 0, sequence: start.header.sequence };
        let whole_blocks = segment.len / BLOCK_BYTES * BLOCK_BYTES;
        self.ledger.begin(segment.number, whole_blocks as u64);
        self.recovered.report.segments += 1;
        while let Some((found, body)) = segment.next(end)? {
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

    /// The error for damage at `end`; looks up to segment `newest` for what it held.
    fn rot(
        &mut self,
        segment: &mut Segment<'a, D>,
        end: End,
        what: &'static str,
        newest: u64,
    ) -> JournalError {
        let mut losses = Losses::default();
        // The damage is what there is to report, not that looking further failed.
        let _ = losses.guess(segment, end.offset);
        let _ = losses.see_later(segment, end);
        for number in segment.number + 1..=newest {
            if let Ok(mut later) = self.load(number, 0) {
                let _ = losses.see_later(&mut later, End { offset: 0, ..end });
                self.window = later.window;
            }
        }
        let lost = losses.list(&self.ledger);
        self.rot_at(segment.number, end, what, lost)
    }

    fn rot_at(&self, number: u64, end: End, what: &'static str, lost: Vec<Lost>) -> JournalError {
        let (offset, sequence) = (end.offset as u64, end.sequence);
        let path = self.disk.path(number);
        JournalError::Rot(Box::new(Rot { path, offset, sequence, what, lost }))
    }
}

/// Makes what was read durable, overwrites what was cut, and removes what is of no more
/// use.
fn finish<D: Disk>(
    mut disk: D,
    options: Options,
    segments: &BTreeMap<u64, u64>,
    newest: Option<Newest>,
    ledger: Ledger,
    mut recovered: Recovered,
) -> Result<(Journal<D>, Recovered), JournalError> {
    recovered.shards.retain(|_, shard| !shard.state.is_empty() || !shard.entries.is_empty());
    if let Some(Newest { number, tail, .. }) = &newest {
        cut(&mut disk, *number, tail)?;
        recovered.report.cut_bytes = (tail.torn_end - tail.end.offset) as u64;
    }
    let oldest = ledger.oldest().unwrap_or(0);
    let newest_number = newest.as_ref().map_or(0, |newest| newest.number);
    let mut prepared = VecDeque::new();
    for (&number, &bytes) in segments {
        let whole = bytes >= SEGMENT_BYTES_MIN && bytes.is_multiple_of(BLOCK_BYTES as u64);
        let follows = number == newest_number + 1 + prepared.len() as u64;
        if follows && whole {
            prepared.push_back(Prepared { number, bytes });
        } else if !(oldest..=newest_number).contains(&number) {
            let done = disk.remove(number);
            done.map_err(|e| io_error(&disk, "removing", number, e))?;
        }
    }
    let sequence = newest.as_ref().map_or(0, |newest| newest.tail.end.sequence - 1);
    let journal = Journal {
        disk,
        id: newest.as_ref().map_or(options.id, |newest| newest.journal),
        options,
        ledger,
        prepared,
        tail: newest.as_ref().map_or(0, |newest| newest.tail.end.offset as u64),
        sequence,
        synced: sequence,
        marked: newest.is_none_or(|newest| newest.tail.marked),
        buffer: FrameBuffer::default(),
        poison: None,
    };
    Ok((journal, recovered))
}

/// Overwrites the recognisable headers of the torn tail, so that none of its frames can
/// ever follow a new one, and syncs: what was read may have been in memory only.
fn cut<D: Disk>(disk: &mut D, number: u64, tail: &Tail) -> Result<(), JournalError> {
    let whole_blocks = tail.torn_end / BLOCK_BYTES * BLOCK_BYTES;
    let zeros = vec![0; ZEROS_BYTES];
    let mut offset = tail.end.offset;
    while offset < whole_blocks {
        let len = ZEROS_BYTES.min(whole_blocks - offset);
        let done = disk.write(number, offset as u64, &zeros[..len], false);
        done.map_err(|e| io_error(disk, "cutting the tail of", number, e))?;
        offset += len;
    }
    let done = disk.sync(number);
    done.map_err(|e| io_error(disk, "syncing", number, e))
}

/// Read at a time, in bytes: large enough for the disk, small enough for the caches.
const WINDOW_BYTES: usize = 1024 * 1024;
/// How much of a damaged frame is searched for what it held, in bytes.
const GUESS_BYTES_MAX: usize = 16 * 1024 * 1024;
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
    fn guess<D: Disk>(
        &mut self,
        segment: &mut Segment<'_, D>,
        offset: usize,
    ) -> Result<(), JournalError> {
        let next = segment.header_from(offset + BLOCK_BYTES)?;
        let end = next.map_or(segment.len, |(at, _)| at);
        let frame = segment.bytes(offset, GUESS_BYTES_MAX.min(end.saturating_sub(offset)))?;
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
        Ok(())
    }

    /// Notes the first indexes in the intact frames behind the damage.
    fn see_later<D: Disk>(
        &mut self,
        segment: &mut Segment<'_, D>,
        damage: End,
    ) -> Result<(), JournalError> {
        let mut offset = damage.offset;
        while let Some((at, found)) = segment.header_from(offset)? {
            offset = at + BLOCK_BYTES;
            if found.header.sequence <= damage.sequence {
                continue;
            }
            let Some(body) = found.body(segment.bytes(at, found.padded_bytes())?) else { continue };
            let mut reader = Reader::new(body);
            while let Some(item) = Item::take(&mut reader) {
                if let Item::Entry { shard, index, .. } = item {
                    self.later.entry(shard).or_insert(index);
                }
            }
        }
        Ok(())
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
