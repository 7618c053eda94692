//! One shard's tree: its generations, and the steps that change it.
//!
//! # A persist or a compaction without room
//!
//! `lsm-tree` writes new tables first, then a manifest `v<n>`, and last switches
//! `current` to it; only then does it go on with the new state. If it runs out of room before the
//! switch, the old state stands in memory and on disk, and the next manifest overwrites the
//! unfinished one, so the tree is as sound as before. The unfinished tables stay until the tree is
//! opened, so they are removed here. Whether `current` was switched is read from the file: if it
//! was, memory and disk disagree, and the shard stops.

use super::gone::{self, Gone};
use super::keys;
use super::recent::{Batch, Recent};
use super::snapshot::{Published, Snapshot};
use super::{COMPACT_RESERVE_BYTES, Shared, StoreError, StoreStats, files};
use lsm_tree::compaction::PullDown;
use lsm_tree::config::CompressionPolicy;
use lsm_tree::{
    AbstractTree, AnyTree, CompressionType, Config, SeqNo, SequenceNumberCounter, Tree,
};
use quorate_base::ShardId;
use quorate_data::table::{Flush, Mark, TableOp};
use std::collections::BTreeSet;
use std::ops::Bound;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock};

/// Overlapping runs at which `maintain` merges the youngest level. Every read looks through all.
pub(super) const RUNS_MERGE: usize = if cfg!(test) { 4 } else { 16 };
/// Runs at which `persist` compacts by itself before it adds one. The manifest counts at most 255.
const RUNS_MAX: usize = if cfg!(test) { 6 } else { 48 };
/// Runs at which a persist must wait for a compaction; below, it may go on without one.
const RUNS_STUCK: usize = if cfg!(test) { 12 } else { 200 };
/// What the manifest can count; beyond it tables would be lost.
const RUNS_LIMIT: usize = 250;
/// Bytes of a table file of the oldest level.
const TABLE_BYTES: u64 = if cfg!(test) { 2 << 10 } else { 64 << 20 };
/// Unpersisted bytes at which `maintain` adds no more tombstones.
const TOMBSTONE_BYTES_MAX: u64 = 16 << 20;

/// A tree in its own directory.
pub(super) struct Generation {
    number: u64,
    pub(super) dir: PathBuf,
    pub(super) tree: Tree,
    seqno: SequenceNumberCounter,
    /// Held by the one compaction under way.
    compacting: Mutex<()>,
}

/// What a compaction is going to do.
#[derive(Clone, Copy)]
struct Plan {
    /// Level 0 becomes this one; none: everything becomes the last level.
    level: Option<u8>,
    /// What it reads, and writes at most.
    bytes: u64,
}

impl Plan {
    /// What must be free when it begins. The files of merged tables are no larger than those they
    /// were merged from, but for their ends.
    fn needed_bytes(self) -> u64 {
        self.bytes + self.bytes / 16 + COMPACT_RESERVE_BYTES
    }
}

impl Generation {
    fn open(number: u64, dir: PathBuf, shared: &Shared) -> Result<Arc<Self>, StoreError> {
        let seqno = SequenceNumberCounter::default();
        let tree = Config::new(&dir, seqno.clone(), SequenceNumberCounter::default())
            .use_cache(Arc::clone(&shared.cache))
            .use_descriptor_table(Some(Arc::clone(&shared.descriptors)))
            .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
            .open()
            .map_err(|e| StoreError::tree("open", &dir, e))?;
        let AnyTree::Standard(tree) = tree else {
            return Err(StoreError::damaged(&dir, "it is a tree of another kind"));
        };
        seqno.fetch_max(tree.get_highest_seqno().map_or(0, |highest| highest + 1));
        Ok(Arc::new(Self { number, dir, tree, seqno, compacting: Mutex::new(()) }))
    }

    /// Above the number of every completed write.
    pub(super) fn next_seqno(&self) -> SeqNo {
        self.seqno.get()
    }

    /// One step of compaction; true if it changed anything, which it does not beside another
    /// thread's. Pairs at or above `watermark` keep their sequence numbers.
    ///
    /// Level 0 collects the runs of persists, the last level is the base, and each level between
    /// holds at most one run: what level 0 once was. The base is merged only with about as much as
    /// it holds, or when no level is free. So every pair is rewritten few times, and what is
    /// overwritten or removed takes no more room than what is not, and the young runs.
    fn compact(&self, watermark: SeqNo) -> Result<bool, CompactError> {
        // What is chosen must still hold when it is done: merging level 0 past an occupied level
        // would bring back old values.
        let Ok(_compacting) = self.compacting.try_lock() else { return Ok(false) };
        let fail = |e| StoreError::tree("compact", &self.dir, e);
        let Some(plan) = self.plan() else { return Ok(false) };
        let version = self.tree.current_version();
        let files = files::table_files(&self.dir)?;
        let done = match plan.level {
            None => self.tree.major_compact(TABLE_BYTES, watermark),
            Some(level) => self.tree.compact(Arc::new(PullDown(0, level)), watermark).map(|_| ()),
        };
        match done {
            Err(error) if StoreError::is_out_of_room(&error) => {
                return Err(CompactError::Full { files, plan, error });
            }
            done => done.map_err(fail)?,
        }
        // Snapshots own the files they read, so the tree itself need not remember older states.
        self.tree.get_version_history_lock().maintenance(&self.dir, SeqNo::MAX).map_err(fail)?;
        Ok(self.tree.current_version().id() != version.id())
    }

    /// What [`Generation::compact`] would do now.
    fn plan(&self) -> Option<Plan> {
        if self.tree.l0_run_count() < RUNS_MERGE {
            return None;
        }
        let version = self.tree.current_version();
        let mut sizes = Vec::new();
        for level in version.iter_levels() {
            sizes.push(level.size());
        }
        let (base, above) = sizes.split_last().expect("a tree has levels");
        let free = above.iter().skip(1).take_while(|size| **size == 0).count();
        if free == 0 || above.iter().sum::<u64>() >= *base {
            return Some(Plan { level: None, bytes: sizes.iter().sum() });
        }
        let level = u8::try_from(free).expect("a tree has few levels");
        Some(Plan { level: Some(level), bytes: sizes[0] })
    }

    /// After a compaction that failed: if there was no room for it, takes away what it left.
    /// Nothing may be written to the tree meanwhile.
    fn after(&self, error: CompactError) -> StoreError {
        match error {
            CompactError::Other(error) => error,
            CompactError::Full { files, plan, error } => match self.take_back(&files) {
                Ok(true) => self.full(plan),
                Ok(false) => StoreError::tree("compact", &self.dir, error),
                Err(error) => error,
            },
        }
    }

    fn full(&self, plan: Plan) -> StoreError {
        StoreError::Full { path: self.dir.clone(), needed_bytes: plan.needed_bytes() }
    }

    /// Removes the tables that came after `files` and that the tree does not know. False if the
    /// manifest that counts is not the tree's.
    fn take_back(&self, files: &BTreeSet<u64>) -> Result<bool, StoreError> {
        let version = self.tree.current_version();
        if files::current_version(&self.dir)? != version.id() {
            return Ok(false);
        }
        let known: BTreeSet<u64> = version.iter_tables().map(lsm_tree::Table::id).collect();
        for table in files::table_files(&self.dir)?.difference(files) {
            if !known.contains(table) {
                files::remove_table(&self.dir, *table)?;
            }
        }
        Ok(true)
    }

    /// Makes what `recent` holds a durable run of the tree.
    fn add(&self, recent: &Recent) -> lsm_tree::Result<()> {
        let pairs = recent.range(b"", Bound::Unbounded).cloned().map(Ok);
        if let Some((tables, blobs)) = self.tree.flush_to_tables(pairs)? {
            self.tree.register_tables(&tables, blobs.as_deref(), None, &[], SeqNo::MAX)?;
        }
        Ok(())
    }
}

/// Why a compaction failed.
enum CompactError {
    /// There was no room. These were the files before.
    Full {
        files: BTreeSet<u64>,
        plan: Plan,
        error: lsm_tree::Error,
    },
    Other(StoreError),
}

impl From<StoreError> for CompactError {
    fn from(error: StoreError) -> Self {
        Self::Other(error)
    }
}

/// A shard on disk, or the place for one.
pub(super) struct Shard {
    id: ShardId,
    dir: PathBuf,
    shared: Arc<Shared>,
    published: Published,
    unpersisted: AtomicU64,
    writer: Mutex<Writer>,
}

/// What only the writing side knows.
struct Writer {
    /// Receives the writes; none until the first.
    live: Option<Arc<Generation>>,
    /// The generation that the pointer file names.
    pointed: Option<u64>,
    /// Contained in `live`, durable or not.
    written: Mark,
    durable: Mark,
    next_generation: u64,
    /// Of `live`: what it does not have on disk.
    recent: Recent,
    /// Of `live`.
    gone: Gone,
    /// Below it, no pair that the oldest of `gone` removed is left.
    gone_until: Vec<u8>,
    /// Cleared away, but still what the pointer names.
    superseded: Option<Arc<Generation>>,
    /// To be removed from disk when no reader holds them.
    retired: Vec<Arc<Generation>>,
    /// Replaced snapshots: kept until no reader holds them, so that it is never a reader that
    /// lets go of the last reference to a deleted file and has to remove it.
    replaced: Vec<Arc<Snapshot>>,
    failed: Option<String>,
}

impl Writer {
    /// Pairs below it are older than every removal, present and future.
    fn watermark(&self, live: &Generation) -> SeqNo {
        self.gone.watermark().min(live.next_seqno())
    }
}

impl Shard {
    /// A shard that has nothing on disk.
    pub(super) fn empty(id: ShardId, dir: PathBuf, shared: Arc<Shared>) -> Self {
        let writer = Writer {
            live: None,
            pointed: None,
            written: Mark::default(),
            durable: Mark::default(),
            next_generation: 1,
            recent: Recent::default(),
            gone: Gone::default(),
            gone_until: Vec::new(),
            superseded: None,
            retired: Vec::new(),
            replaced: Vec::new(),
            failed: None,
        };
        Self {
            id,
            dir,
            shared,
            published: Arc::new(RwLock::new(Arc::new(Snapshot::empty()))),
            unpersisted: AtomicU64::new(0),
            writer: Mutex::new(writer),
        }
    }

    /// Opens what `dir` holds; none if no persist ever completed in it.
    pub(super) fn open(
        id: ShardId,
        dir: PathBuf,
        shared: Arc<Shared>,
    ) -> Result<Option<Self>, StoreError> {
        let Some(number) = files::read_pointer(&dir)? else {
            files::remove_dir(&dir)?;
            return Ok(None);
        };
        for (path, name) in files::list(&dir)? {
            if name.parse::<u64>().is_ok_and(|n| n != number) {
                files::remove_dir(&path)?;
            }
        }
        let tree_dir = dir.join(number.to_string());
        // `lsm-tree` would take an absent manifest for a new tree.
        files::check_tree(&tree_dir)?;
        let generation = Generation::open(number, tree_dir, &shared)?;
        let (recent, gone) = (Recent::default(), Gone::default());
        let found = Snapshot::take(&generation, recent, Mark::default(), gone);
        let Some(mark) = found.stored_mark()? else {
            return Err(StoreError::damaged(&generation.dir, "it holds no mark"));
        };
        let gone = found.stored_gone()?;
        // What is written from now on is newer than any removal, though compactions zeroed the
        // sequence numbers that said so.
        generation.seqno.fetch_max(gone.newest() + 1);
        let shard = Self::empty(id, dir, shared);
        {
            let mut writer = shard.writer();
            (writer.written, writer.durable) = (mark, mark);
            (writer.pointed, writer.next_generation) = (Some(number), number + 1);
            (writer.live, writer.gone) = (Some(generation), gone);
            shard.publish(&mut writer);
        }
        Ok(Some(shard))
    }

    pub(super) fn published(&self) -> Published {
        Arc::clone(&self.published)
    }

    pub(super) fn has_tree(&self) -> bool {
        self.writer().live.is_some()
    }

    pub(super) fn unpersisted_bytes(&self) -> u64 {
        self.unpersisted.load(Ordering::Relaxed)
    }

    /// Makes `flush` visible, whole.
    pub(super) fn write(&self, flush: Flush) -> Result<(), StoreError> {
        assert_eq!(flush.shard, self.id, "a flush went to the wrong shard");
        let mut writer = self.writer();
        self.check(&writer)?;
        let result = self.write_into(&mut writer, flush);
        self.remember(&mut writer, result)
    }

    fn write_into(&self, writer: &mut Writer, flush: Flush) -> Result<(), StoreError> {
        if flush.clear {
            if let Some(old) = writer.live.take() {
                let counts = writer.pointed == Some(old.number);
                if counts { writer.superseded = Some(old) } else { writer.retired.push(old) }
            }
            (writer.gone, writer.gone_until) = (Gone::default(), Vec::new());
            writer.recent = Recent::default();
        }
        let generation = match &writer.live {
            Some(generation) => Arc::clone(generation),
            None => self.create_generation(writer)?,
        };
        let seqno = generation.seqno.next();
        let mut batch = Batch::new(seqno);
        let mut ops = flush.ops;
        if ops.iter().any(is_prefix) {
            let (recent, gone) = (writer.recent.clone(), writer.gone.clone());
            let before = Snapshot::take(&generation, recent, writer.written, gone);
            for op in ops.extract_if(.., |op| is_prefix(op)) {
                let TableOp::DeletePrefix(prefix) = op else { continue };
                let oldest = writer.gone.oldest_seqno();
                delete_prefix(&before, &mut batch, &mut writer.gone, prefix, seqno)?;
                if writer.gone.oldest_seqno() != oldest {
                    writer.gone_until.clear();
                }
            }
        }
        batch.add_ops(ops);
        batch.put(keys::MARK, keys::encode_mark(flush.mark).to_vec());
        writer.recent.push(batch);
        writer.written = flush.mark;
        self.publish(writer);
        Ok(())
    }

    fn create_generation(&self, writer: &mut Writer) -> Result<Arc<Generation>, StoreError> {
        let number = writer.next_generation;
        writer.next_generation += 1;
        files::create_dir(&self.dir)?;
        let dir = self.dir.join(number.to_string());
        // A leftover of a generation that never counted.
        files::remove_dir(&dir)?;
        let generation = Generation::open(number, dir, &self.shared)?;
        writer.live = Some(Arc::clone(&generation));
        Ok(generation)
    }

    /// Makes everything written durable, mark included.
    pub(super) fn persist(&self) -> Result<Mark, StoreError> {
        let mut writer = self.writer();
        self.check(&writer)?;
        let result = self.persist_live(&mut writer);
        self.remember(&mut writer, result)?;
        Ok(writer.durable)
    }

    fn persist_live(&self, writer: &mut Writer) -> Result<(), StoreError> {
        let Some(live) = writer.live.clone() else { return Ok(()) };
        if writer.recent.is_empty() {
            return Ok(());
        }
        // Unless another thread compacts, or there is no room, this leaves few runs.
        while live.tree.l0_run_count() >= RUNS_MAX
            && let Some(plan) = live.plan()
        {
            if files::free_bytes(&self.dir)? < plan.needed_bytes() {
                break;
            }
            match live.compact(writer.watermark(&live)).map_err(|error| live.after(error)) {
                Ok(true) => {}
                Ok(false) | Err(StoreError::Full { .. }) => break,
                Err(error) => return Err(error),
            }
        }
        let runs = live.tree.l0_run_count();
        if runs >= RUNS_STUCK
            && let Some(plan) = live.plan()
            && (runs >= RUNS_LIMIT || files::free_bytes(&self.dir)? < plan.needed_bytes())
        {
            return Err(live.full(plan));
        }
        let files = files::table_files(&live.dir)?;
        match live.add(&writer.recent) {
            Err(error) if StoreError::is_out_of_room(&error) => {
                // What another thread's compaction wrote is told from what is left over once it
                // has ended.
                let _compacting = live.compacting.lock().expect("no holder of this lock panics");
                return Err(match live.take_back(&files)? {
                    true => {
                        let needed_bytes = self.unpersisted_bytes();
                        StoreError::Full { path: live.dir.clone(), needed_bytes }
                    }
                    false => StoreError::tree("write", &live.dir, error),
                });
            }
            done => done.map_err(|e| StoreError::tree("write", &live.dir, e))?,
        }
        if writer.pointed != Some(live.number) {
            files::write_pointer(&self.dir, live.number)?;
            writer.pointed = Some(live.number);
        }
        writer.durable = writer.written;
        writer.retired.extend(writer.superseded.take());
        writer.recent = Recent::default();
        self.publish(writer);
        Ok(())
    }

    /// See [`super::Store::maintain`].
    pub(super) fn maintain(&self) -> Result<bool, StoreError> {
        let (live, watermark) = {
            let mut writer = self.writer();
            self.check(&writer)?;
            if sweep(&mut writer)? || self.bury(&mut writer)? {
                return Ok(true);
            }
            let Some(live) = writer.live.clone() else { return Ok(false) };
            let watermark = writer.watermark(&live);
            (live, watermark)
        };
        // Without the lock: writes and persists go on.
        let result = live.compact(watermark);
        let mut writer = self.writer();
        let changed = match result.map_err(|error| live.after(error)) {
            // What was damaged before does not forbid writing.
            Err(error @ StoreError::Damaged { .. }) => return Err(error),
            other => self.remember(&mut writer, other)?,
        };
        if changed && writer.live.as_ref().is_some_and(|now| Arc::ptr_eq(now, &live)) {
            self.publish(&mut writer);
        }
        Ok(changed)
    }

    /// See [`super::Store::maintain_bytes`].
    pub(super) fn maintain_bytes(&self) -> u64 {
        let writer = self.writer();
        let Some(live) = &writer.live else { return 0 };
        let unread = |generation: &Arc<Generation>| Arc::strong_count(generation) == 1;
        let sweeps = writer.retired.iter().any(unread);
        let buries =
            writer.gone.oldest().is_some() && self.unpersisted_bytes() < TOMBSTONE_BYTES_MAX;
        if sweeps || buries { 0 } else { live.plan().map_or(0, Plan::needed_bytes) }
    }

    /// Writes tombstones for some pairs of the oldest removed prefix; true if there was one and
    /// memory allows. Changes nothing that a reader sees.
    fn bury(&self, writer: &mut Writer) -> Result<bool, StoreError> {
        let Some((prefix, removed_at)) = writer.gone.oldest() else { return Ok(false) };
        let Some(live) = writer.live.clone() else { return Ok(false) };
        if self.unpersisted_bytes() >= TOMBSTONE_BYTES_MAX {
            return Ok(false);
        }
        let (prefix, end) = (prefix.to_vec(), keys::after_prefix(prefix));
        let recent = writer.recent.clone();
        let all = Snapshot::take(&live, recent, writer.written, Gone::default());
        let from = writer.gone_until.clone().max(prefix.clone());
        let mut batch = Batch::new(live.seqno.next());
        let (mut seen, mut reached) = (0, None);
        all.walk(&from, Some(&end), &mut |pair, key, _| {
            seen += 1;
            // A group of long keys has no order to resume in, so it is done as a whole.
            if seen > gone::KEYS_MAX && keys::group(&pair.key.user_key).is_none() {
                reached = Some(key.to_vec());
                return false;
            }
            if pair.key.seqno < removed_at {
                batch.delete(&pair.key.user_key);
            }
            true
        })?;
        writer.gone_until = reached.unwrap_or_else(|| {
            batch.delete(&gone::record_key(&prefix));
            writer.gone.remove(&prefix);
            Vec::new()
        });
        writer.recent.push(batch);
        self.publish(writer);
        Ok(true)
    }

    /// Removes everything; durable on return.
    pub(super) fn drop_contents(&self) -> Result<(), StoreError> {
        let mut writer = self.writer();
        // Also allowed after a failure: nothing of it is kept.
        files::remove_pointer(&self.dir)?;
        writer.failed = None;
        writer.pointed = None;
        (writer.written, writer.durable) = (Mark::default(), Mark::default());
        (writer.gone, writer.gone_until) = (Gone::default(), Vec::new());
        writer.recent = Recent::default();
        let (live, superseded) = (writer.live.take(), writer.superseded.take());
        writer.retired.extend(live.into_iter().chain(superseded));
        self.publish(&mut writer);
        sweep(&mut writer).map(|_| ())
    }

    pub(super) fn add_stats(&self, stats: &mut StoreStats) {
        let snapshot = Arc::clone(&self.published.read().expect("no holder of this lock panics"));
        let Some(figures) = snapshot.figures() else { return };
        stats.shards += 1;
        stats.tables += figures.tables;
        stats.disk_bytes += figures.bytes;
        stats.unpersisted_bytes += self.unpersisted_bytes();
        stats.runs_max = stats.runs_max.max(figures.runs);
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().expect("no holder of this lock panics")
    }

    fn check(&self, writer: &Writer) -> Result<(), StoreError> {
        match &writer.failed {
            Some(first) => {
                Err(StoreError::Stopped { path: self.dir.clone(), first: first.clone() })
            }
            None => Ok(()),
        }
    }

    fn remember<T>(
        &self,
        writer: &mut Writer,
        result: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Err(error) = &result
            && !matches!(error, StoreError::Full { .. })
        {
            writer.failed.get_or_insert_with(|| error.to_string());
        }
        result
    }

    /// Shows readers what is written now.
    fn publish(&self, writer: &mut Writer) {
        let (recent, gone) = (writer.recent.clone(), writer.gone.clone());
        self.unpersisted.store(recent.bytes(), Ordering::Relaxed);
        let snapshot = match &writer.live {
            Some(live) => Snapshot::take(live, recent, writer.written, gone),
            None => Snapshot::empty(),
        };
        let mut published = self.published.write().expect("no holder of this lock panics");
        writer.replaced.push(std::mem::replace(&mut *published, Arc::new(snapshot)));
        drop(published);
        writer.replaced.retain(|old| Arc::strong_count(old) > 1);
    }
}

/// Removes the pairs that `before` shows under `prefix`: a few one by one, the rest by a record.
fn delete_prefix(
    before: &Snapshot,
    batch: &mut Batch,
    gone: &mut Gone,
    prefix: Vec<u8>,
    seqno: SeqNo,
) -> Result<(), StoreError> {
    let (mut removed, mut more) = (0, false);
    before.walk(&prefix, Some(&keys::after_prefix(&prefix)), &mut |pair, _, _| {
        more = removed == gone::KEYS_MAX && gone.takes(&prefix);
        if !more {
            batch.delete(&pair.key.user_key);
            removed += 1;
        }
        !more
    })?;
    if more {
        batch.put(&gone::record_key(&prefix), seqno.to_le_bytes().to_vec());
        gone.add(prefix, seqno);
    }
    Ok(())
}

/// Removes the directories of retired generations that nobody reads; true if there were any.
fn sweep(writer: &mut Writer) -> Result<bool, StoreError> {
    writer.replaced.retain(|old| Arc::strong_count(old) > 1);
    let (gone, kept) = std::mem::take(&mut writer.retired)
        .into_iter()
        .partition::<Vec<_>, _>(|generation| Arc::strong_count(generation) == 1);
    writer.retired = kept;
    for generation in &gone {
        files::remove_dir(&generation.dir)?;
    }
    Ok(!gone.is_empty())
}

fn is_prefix(op: &TableOp) -> bool {
    matches!(op, TableOp::DeletePrefix(_))
}
