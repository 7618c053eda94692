//! What readers see: the tree as it stood after one completed flush.
//!
//! A snapshot owns the memtable and the list of table files it was taken with, so neither a
//! compaction nor a persist can change or block what it reads; `lsm-tree` deletes a file only
//! when the last list that names it is gone. It uses the parts of `lsm-tree` that its public API
//! hides, since `Tree::get` waits while a manifest is synced; the crate's version is pinned.

use super::StoreError;
use super::keys;
use super::shard::Generation;
use lsm_tree::table::filter::standard_bloom::Builder;
use lsm_tree::{AbstractTree, InternalValue, SeqNo, Tree, UserKey, UserValue};
use quorate_data::table::{Mark, Table, TableError, Visit};
use std::ops::Bound;
use std::sync::{Arc, RwLock};

type Get = dyn Fn(&[u8]) -> lsm_tree::Result<Option<UserValue>> + Send + Sync;
type Pair = lsm_tree::Result<(UserKey, UserValue)>;
type Range = dyn Fn(&[u8], Bound<&[u8]>) -> Box<dyn Iterator<Item = Pair>> + Send + Sync;

/// Called with the key in the tree, the key and the value; returning false ends the walk.
type VisitStored<'a> = dyn FnMut(&UserKey, &[u8], &[u8]) -> bool + 'a;

/// A shard's contents and mark as of one flush.
pub(super) struct Snapshot {
    pub(super) mark: Mark,
    view: Option<View>,
}

struct View {
    // The closures own values of types that `lsm-tree` does not let us name.
    get: Box<Get>,
    range: Box<Range>,
    generation: Arc<Generation>,
}

/// Where a shard publishes its newest snapshot.
pub(super) type Published = Arc<RwLock<Arc<Snapshot>>>;

impl Snapshot {
    pub(super) fn empty() -> Self {
        Self { mark: Mark::default(), view: None }
    }

    /// Takes what `generation` holds now. No flush may be under way.
    pub(super) fn take(generation: &Arc<Generation>, mark: Mark) -> Self {
        let seqno = generation.next_seqno();
        let (get, range) = capture(&generation.tree, seqno);
        Self { mark, view: Some(View { get, range, generation: Arc::clone(generation) }) }
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(view) = &self.view else { return Ok(None) };
        let stored = keys::stored(key);
        let Some(value) = (view.get)(&stored).map_err(|e| view.error(e))? else { return Ok(None) };
        match keys::decode(&stored, &value) {
            // Without a key in the value, `decode` hands back the stored key, which is `key`.
            Some((full, value)) => Ok((full == key).then(|| value.to_vec())),
            None => Err(view.malformed()),
        }
    }

    /// The mark record in the tree; none if there is none.
    pub(super) fn stored_mark(&self) -> Result<Option<Mark>, StoreError> {
        let Some(view) = &self.view else { return Ok(None) };
        match (view.get)(keys::MARK).map_err(|e| view.error(e))? {
            Some(bytes) => keys::decode_mark(&bytes).map(Some).ok_or_else(|| view.malformed()),
            None => Ok(None),
        }
    }

    /// Every pair with `from ≤ key`, and `key < to` where given, in key order.
    pub(super) fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), StoreError> {
        let mut long: Vec<(UserKey, Vec<u8>, Vec<u8>)> = Vec::new();
        let mut open = true;
        self.walk(from, to, &mut |stored, key, value| {
            let group = keys::group(stored);
            if long.first().is_some_and(|(first, ..)| keys::group(first) != group) {
                open = visit_sorted(&mut long, visit);
            }
            if open && group.is_some() {
                // One group of long keys at a time is held in memory.
                long.push((stored.clone(), key.to_vec(), value.to_vec()));
            } else if open {
                open = visit(key, value);
            }
            open
        })?;
        if open {
            visit_sorted(&mut long, visit);
        }
        Ok(())
    }

    /// Like `scan`, with the keys in the tree added and long keys of a group in any order.
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
        for pair in (view.range)(lower, upper) {
            let (stored, value) = pair.map_err(|e| view.error(e))?;
            let Some((key, value)) = keys::decode(&stored, &value) else {
                return Err(view.malformed());
            };
            if from <= key && key < to && !visit(&stored, key, value) {
                return Ok(());
            }
        }
        Ok(())
    }
}

impl View {
    fn error(&self, error: lsm_tree::Error) -> StoreError {
        StoreError::tree("read", &self.generation.dir, error)
    }

    fn malformed(&self) -> StoreError {
        StoreError::damaged(&self.generation.dir, "a record has a wrong length")
    }
}

fn visit_sorted(group: &mut Vec<(UserKey, Vec<u8>, Vec<u8>)>, visit: &mut Visit<'_>) -> bool {
    group.sort_unstable_by(|a, b| a.1.cmp(&b.1));
    group.drain(..).all(|(_, key, value)| visit(&key, &value))
}

/// Reads through the parts that make up the tree now, as of `seqno`.
fn capture(tree: &Tree, seqno: SeqNo) -> (Box<Get>, Box<Range>) {
    let state = tree.get_version_history_lock().latest_version();
    let memtable = Arc::clone(&state.active_memtable);
    // A compaction between these two lines changes which files hold the pairs, not the pairs.
    let version = tree.current_version();
    let live = |entry: InternalValue| (!entry.is_tombstone()).then_some(entry.value);
    let get = move |key: &[u8]| {
        if let Some(entry) = memtable.get(key, seqno) {
            return Ok(live(entry));
        }
        let hash = Builder::get_hash(key);
        for level in version.iter_levels() {
            for table in level.iter().filter_map(|run| run.get_for_key(key)) {
                if let Some(entry) = table.get(key, seqno, hash)? {
                    return Ok(live(entry));
                }
            }
        }
        Ok(None)
    };
    let range = move |from: &[u8], to: Bound<&[u8]>| -> Box<dyn Iterator<Item = Pair>> {
        let bounds: (Bound<&[u8]>, Bound<&[u8]>) = (Bound::Included(from), to);
        Box::new(
            Tree::create_internal_range::<&[u8], _>(state.clone(), &bounds, seqno, None)
                .map(|entry| entry.map(|e| (e.key.user_key, e.value))),
        )
    };
    (Box::new(get), Box::new(range))
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
        self.snapshot().get(key).map_err(|e| TableError(e.to_string()))
    }

    fn scan(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut Visit<'_>,
    ) -> Result<(), TableError> {
        self.snapshot().scan(from, to, visit).map_err(|e| TableError(e.to_string()))
    }

    fn mark(&self) -> Mark {
        self.snapshot().mark
    }
}
