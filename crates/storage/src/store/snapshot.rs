//! What readers see: the tree as it stood after one completed flush.
//!
//! A snapshot owns the runs in memory and the list of table files it was taken with, so neither a
//! compaction nor a persist can change or block what it reads; `lsm-tree` deletes a file only
//! when the last list that names it is gone. It uses the parts of `lsm-tree` that its public API
//! hides, since `Tree::get` waits while a manifest is synced; the crate's version is pinned.
//! The memtable of `lsm-tree` is always empty: see `recent`.

use super::StoreError;
use super::gone::{self, Gone};
use super::keys;
use super::recent::{Merged, Recent};
use super::shard::Generation;
use lsm_tree::table::filter::standard_bloom::Builder;
use lsm_tree::{AbstractTree, InternalValue, SeqNo, Tree};
use quorate_data::table::{Mark, Table, TableError, Visit};
use std::cmp::Ordering;
use std::iter::Peekable;
use std::ops::Bound;
use std::sync::{Arc, RwLock};

type Get = dyn Fn(&[u8]) -> lsm_tree::Result<Option<InternalValue>> + Send + Sync;
type Pair = lsm_tree::Result<InternalValue>;
type Range = dyn Fn(&[u8], Bound<&[u8]>) -> Box<dyn Iterator<Item = Pair>> + Send + Sync;

/// Called with the pair of the tree, and the key and value it stands for; returning false ends
/// the walk.
type VisitStored<'a> = dyn FnMut(&InternalValue, &[u8], &[u8]) -> bool + 'a;
/// Keys longer than the tree takes, with their values.
type Group = Vec<(Vec<u8>, Vec<u8>)>;

/// What the files of a snapshot amount to.
pub(super) struct Figures {
    pub(super) tables: usize,
    pub(super) bytes: u64,
    /// Files or groups of files without overlap: how many places a read may have to look.
    pub(super) runs: usize,
}

/// A shard's contents and mark as of one flush.
pub(super) struct Snapshot {
    pub(super) mark: Mark,
    view: Option<View>,
}

struct View {
    // The closures own values of types that `lsm-tree` does not let us name.
    get: Box<Get>,
    range: Box<Range>,
    figures: Box<dyn Fn() -> Figures + Send + Sync>,
    generation: Arc<Generation>,
    /// Newer than the files.
    recent: Recent,
    gone: Gone,
}

/// Where a shard publishes its newest snapshot.
pub(super) type Published = Arc<RwLock<Arc<Snapshot>>>;

impl Snapshot {
    pub(super) fn empty() -> Self {
        Self { mark: Mark::default(), view: None }
    }

    /// Takes what `generation` holds now, except what `gone` hides. No flush may be under way.
    pub(super) fn take(
        generation: &Arc<Generation>,
        recent: Recent,
        mark: Mark,
        gone: Gone,
    ) -> Self {
        let seqno = generation.next_seqno();
        Self { mark, view: Some(View::capture(generation, seqno, recent, gone)) }
    }

    pub(super) fn figures(&self) -> Option<Figures> {
        self.view.as_ref().map(|view| (view.figures)())
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(view) = &self.view else { return Ok(None) };
        let stored = keys::stored(key);
        let Some(pair) = view.pair(&stored)? else { return Ok(None) };
        if view.gone.hides(&stored, pair.key.seqno) {
            return Ok(None);
        }
        match keys::decode(&stored, &pair.value) {
            // Another long key with the same hash would be here; it is not ours.
            Some((full, value)) => Ok((full == key).then(|| value.to_vec())),
            None => Err(view.malformed()),
        }
    }

    /// The mark record in the tree; none if there is none.
    pub(super) fn stored_mark(&self) -> Result<Option<Mark>, StoreError> {
        let Some(view) = &self.view else { return Ok(None) };
        match view.pair(keys::MARK)? {
            Some(pair) => keys::decode_mark(&pair.value).map(Some).ok_or_else(|| view.malformed()),
            None => Ok(None),
        }
    }

    /// The removed prefixes recorded in the tree.
    pub(super) fn stored_gone(&self) -> Result<Gone, StoreError> {
        let mut records = Vec::new();
        let Some(view) = &self.view else { return Ok(Gone::default()) };
        for pair in view.pairs(gone::RECORDS_FROM, Bound::Excluded(gone::RECORDS_TO)) {
            let pair = pair.map_err(|e| view.error(e))?;
            let record = gone::decode_record(&pair.key.user_key, &pair.value);
            records.push(record.ok_or_else(|| view.malformed())?);
        }
        records.sort_unstable_by_key(|(_, seqno)| *seqno);
        let mut gone = Gone::default();
        records.into_iter().for_each(|(prefix, seqno)| gone.add(prefix, seqno));
        Ok(gone)
    }

    /// Every pair with `from ≤ key`, and `key < to` where given, in key order.
    pub(super) fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        let (mut long, mut prefix) = (Group::new(), Vec::new());
        let mut open = true;
        self.walk(from, to, &mut |pair, key, value| {
            let group = keys::group(&pair.key.user_key);
            if !long.is_empty() && group != Some(&prefix[..]) {
                open = visit_sorted(&mut long, visit);
            }
            match group {
                _ if !open => {}
                // One group of long keys at a time is held in memory.
                Some(group) => {
                    prefix = group.to_vec();
                    long.push((key.to_vec(), value.to_vec()));
                }
                None => open = visit(key, value),
            }
            open
        })?;
        if open {
            visit_sorted(&mut long, visit);
        }
        Ok(())
    }

    /// Like `scan`, with the pairs of the tree added and long keys of a group in any order.
    pub(super) fn walk(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut VisitStored<'_>,
    ) -> Result<(), StoreError> {
        let Some(view) = &self.view else { return Ok(()) };
        let to = to.filter(|to| *to < keys::END).unwrap_or(keys::END);
        if from >= to {
            return Ok(());
        }
        let lower = &from[..from.len().min(keys::KEY_MAX)];
        let group_end;
        let upper = if to.len() > keys::KEY_MAX {
            group_end = [&to[..keys::KEY_MAX], &[0xff; 16]].concat();
            Bound::Included(&group_end[..])
        } else {
            Bound::Excluded(to)
        };
        for pair in view.pairs(lower, upper) {
            let pair = pair.map_err(|e| view.error(e))?;
            if view.gone.hides(&pair.key.user_key, pair.key.seqno) {
                continue;
            }
            let Some((key, value)) = keys::decode(&pair.key.user_key, &pair.value) else {
                return Err(view.malformed());
            };
            if from <= key && key < to && !visit(&pair, key, value) {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl View {
    /// Reads through the parts that make up the tree now, as of `seqno`.
    fn capture(generation: &Arc<Generation>, seqno: SeqNo, recent: Recent, gone: Gone) -> Self {
        let tree = &generation.tree;
        let state = tree.get_version_history_lock().latest_version();
        // A compaction between these two lines changes which files hold the pairs, not the pairs.
        let version = tree.current_version();
        let levels = version.clone();
        let get = move |key: &[u8]| {
            let hash = Builder::get_hash(key);
            for level in version.iter_levels() {
                for table in level.iter().filter_map(|run| run.get_for_key(key)) {
                    if let Some(entry) = table.get(key, seqno, hash)? {
                        return Ok(Some(entry).filter(is_live));
                    }
                }
            }
            Ok(None)
        };
        let range = move |from: &[u8], to: Bound<&[u8]>| -> Box<dyn Iterator<Item = Pair>> {
            let bounds: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Included(from), to);
            Box::new(Tree::create_internal_range::<&[u8], _>(state.clone(), &bounds, seqno, None))
        };
        let figures = move || Figures {
            tables: levels.iter_levels().map(|level| level.table_count()).sum(),
            bytes: levels.iter_levels().fold(0, |sum, level| sum + level.size()),
            runs: levels.iter_levels().map(|level| level.run_count()).sum(),
        };
        Self {
            get: Box::new(get),
            range: Box::new(range),
            figures: Box::new(figures),
            generation: Arc::clone(generation),
            recent,
            gone,
        }
    }

    /// The pair of a key of the tree.
    fn pair(&self, stored: &[u8]) -> Result<Option<InternalValue>, StoreError> {
        match self.recent.get(stored) {
            Some(pair) => Ok(Some(pair).filter(|pair| is_live(pair)).cloned()),
            None => (self.get)(stored).map_err(|e| self.error(e)),
        }
    }

    /// The pairs of a range of keys, in key order.
    fn pairs(&self, from: &[u8], to: Bound<&[u8]>) -> Pairs<'_> {
        let tree = (self.range)(from, to).peekable();
        Pairs { recent: self.recent.range(from, to), tree }
    }

    fn error(&self, error: lsm_tree::Error) -> StoreError {
        StoreError::tree("read", &self.generation.dir, error)
    }

    fn malformed(&self) -> StoreError {
        StoreError::damaged(&self.generation.dir, "a record has a wrong length")
    }
}

fn is_live(pair: &InternalValue) -> bool {
    !pair.is_tombstone()
}

/// The pairs of the files, with the newer ones in memory put over them.
struct Pairs<'a> {
    recent: Merged<'a>,
    tree: Peekable<Box<dyn Iterator<Item = Pair>>>,
}

impl Iterator for Pairs<'_> {
    type Item = Pair;

    fn next(&mut self) -> Option<Pair> {
        loop {
            let Some(newer) = self.recent.peek() else { return self.tree.next() };
            match self.tree.peek() {
                Some(Err(_)) => return self.tree.next(),
                Some(Ok(older)) => match older.key.user_key.cmp(&newer.key.user_key) {
                    Ordering::Less => return self.tree.next(),
                    Ordering::Equal => drop(self.tree.next()),
                    Ordering::Greater => {}
                },
                None => {}
            }
            self.recent.next();
            if is_live(newer) {
                return Some(Ok(newer.clone()));
            }
        }
    }
}

fn visit_sorted(group: &mut Group, visit: &mut Visit<'_>) -> bool {
    group.sort_unstable();
    group.drain(..).all(|(key, value)| visit(&key, &value))
}

/// A worker's view of one shard: always the newest snapshot.
pub(super) struct Reader {
    published: Published,
}

impl Reader {
    pub(super) fn new(published: Published) -> Self {
        Self { published }
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.published.read().expect("no holder of this lock panics"))
    }
}

impl Table for Reader {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        Reader::snapshot(self).get(key).map_err(|e| TableError(e.to_string()))
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), TableError> {
        Reader::snapshot(self).scan(from, to, visit).map_err(|e| TableError(e.to_string()))
    }

    fn mark(&self) -> Mark {
        Reader::snapshot(self).mark
    }

    fn snapshot(&self) -> Box<dyn Table> {
        Box::new(Pinned(Reader::snapshot(self)))
    }
}

/// One snapshot, kept.
struct Pinned(Arc<Snapshot>);

impl Table for Pinned {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, TableError> {
        self.0.get(key).map_err(|e| TableError(e.to_string()))
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), TableError> {
        self.0.scan(from, to, visit).map_err(|e| TableError(e.to_string()))
    }

    fn mark(&self) -> Mark {
        self.0.mark
    }

    fn snapshot(&self) -> Box<dyn Table> {
        Box::new(Self(Arc::clone(&self.0)))
    }
}
