//! A collection opened for changes.

use crate::entry::{Coll, Entry, Kind, STORED, TOMB};
use crate::keyspace::{Keyspace, generation, new_coll, seconds};
use crate::sorted::{Sub, Val};
use crate::undo::{Note, Opened};
use std::ops::Deref;

/// Changes one collection. Reads go to the [`Coll`] it dereferences to. The first change records
/// the key, each change its element, and dropping the guard the rest; without a change nothing is
/// recorded and an absent key stays absent. A collection left without elements is deleted, except
/// a stream.
pub struct CollMut<'a> {
    keyspace: &'a mut Keyspace,
    place: u64,
    coll: Box<Coll>,
    state: State,
    existed: bool,
    /// WATCH does not see what changes.
    quiet: bool,
    bytes_before: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Untouched,
    Changed,
}

impl Deref for CollMut<'_> {
    type Target = Coll;
    fn deref(&self) -> &Coll {
        &self.coll
    }
}

impl<'a> CollMut<'a> {
    pub(crate) fn open(keyspace: &'a mut Keyspace, place: u64, key: &[u8], kind: Kind) -> Self {
        keyspace.settle(place, key);
        let mut existed = false;
        let mut bytes_before = 0;
        let mut coll = None;
        if let Some(entry) = keyspace.index.get_mut(place, key)
            && matches!(entry, Entry::Coll(_))
        {
            bytes_before = entry.bytes();
            let Entry::Coll(found) = std::mem::replace(entry, Entry::placeholder()) else {
                unreachable!("the entry was just seen to be a collection")
            };
            assert!(found.kind == kind, "opened a {:?} as {kind:?}", found.kind);
            existed = true;
            coll = Some(found);
        }
        let coll = coll.unwrap_or_else(|| new_coll(key, kind));
        let state = State::Untouched;
        Self { keyspace, place, coll, state, existed, quiet: false, bytes_before }
    }

    /// Sets an element; returns its previous value.
    pub fn put(&mut self, sub: &[u8], val: &[u8]) -> Option<Val> {
        self.begin();
        self.keyspace.recorder.put(sub, val);
        let old = self.coll.elements.put(sub, val, true);
        self.keyspace.note(|| Note::Element { sub: Sub::from_slice(sub), val: old.clone() });
        old
    }

    /// Adds an element that is absent; false, and no change, if it is there.
    pub fn insert(&mut self, sub: &[u8], val: &[u8]) -> bool {
        let inserted = self.coll.elements.insert_new(sub, val, true);
        if inserted {
            self.begin();
            self.keyspace.recorder.put(sub, val);
            self.keyspace.note(|| Note::Element { sub: Sub::from_slice(sub), val: None });
        }
        inserted
    }

    /// Removes an element; returns its value. An absent element is no change.
    pub fn remove(&mut self, sub: &[u8]) -> Option<Val> {
        let old = self.coll.elements.remove(sub)?;
        self.begin();
        self.keyspace.recorder.remove(sub);
        self.keyspace.note(|| Note::Element { sub: Sub::from_slice(sub), val: Some(old.clone()) });
        if self.coll.flags & STORED != 0 {
            self.coll.removed.push(Sub::from_slice(sub));
        }
        Some(old)
    }

    /// Replaces what the family keeps beside the elements.
    pub fn set_aux(&mut self, aux: &[u8]) {
        if self.coll.aux != aux {
            self.begin();
            self.coll.aux.clear();
            self.coll.aux.extend_from_slice(aux);
        }
    }

    /// Replaces the encoding number.
    pub fn set_encoding(&mut self, encoding: u8) {
        if self.coll.encoding != encoding {
            self.begin();
            self.coll.encoding = encoding;
        }
    }

    /// From now on WATCH does not see what changes, unless the key is created. Whoever waits for
    /// the key does.
    pub fn be_quiet(&mut self) {
        self.quiet = self.existed;
    }

    /// Counts as a change even if nothing else does, so that an empty stream can be created.
    pub fn touch(&mut self) {
        self.begin();
    }

    fn begin(&mut self) {
        if self.state == State::Changed {
            return;
        }
        self.state = State::Changed;
        let (coll, existed) = (&self.coll, self.existed);
        self.keyspace.note(|| match existed {
            false => Note::Absent(coll.key.clone()),
            true => Note::Opened(Box::new(Opened {
                key: coll.key.clone(),
                kind: coll.kind,
                encoding: coll.encoding,
                aux: coll.aux.clone(),
                expiry: (coll.expiry != 0).then_some(coll.expiry),
            })),
        });
        self.keyspace.recorder.open(&self.coll.key, self.coll.kind, !self.existed);
        let version = match self.quiet {
            true => self.keyspace.bump_quietly(&self.coll.key),
            false => self.keyspace.bump(&self.coll.key),
        };
        self.coll.version = version;
        if !self.existed {
            self.coll.generation = version;
        }
    }

    fn finish_changed(&mut self) {
        let doomed = self.coll.is_empty() && self.coll.kind != Kind::Stream;
        self.keyspace.recorder.close(doomed, self.coll.encoding, &self.coll.aux);
        let now = self.keyspace.recorder.now();
        self.coll.accessed = seconds(now);
        if !self.existed {
            self.keyspace.keys += 1;
        }
        let key = self.coll.key.clone();
        self.put_back();
        if doomed {
            let place = self.place;
            let entry = self.keyspace.index.get(place, &key).expect("it was just put back");
            let dead = generation(entry);
            self.keyspace.place_delete(place, &key, false, dead);
        }
    }

    /// Returns the collection to the index, in the place it was taken from if there is one.
    fn put_back(&mut self) {
        let mut coll = std::mem::replace(&mut self.coll, new_coll(b"", Kind::Set));
        let keyspace = &mut *self.keyspace;
        let changed = self.state == State::Changed;
        if !self.existed {
            if !changed {
                return;
            }
            let stored = match keyspace.index.remove(self.place, &coll.key) {
                Some(tomb) => {
                    assert!(tomb.flags() & TOMB != 0, "a live entry was overwritten");
                    keyspace.entry_bytes -= tomb.bytes();
                    tomb.flags() & STORED
                }
                None => 0,
            };
            coll.flags = stored | keyspace.cycle.dirty();
            keyspace.dirty.push(self.place);
            let entry = Entry::Coll(coll);
            keyspace.entry_bytes += entry.bytes();
            keyspace.dirty_bytes += entry.bytes();
            keyspace.index.insert(self.place, entry);
            return;
        }
        let dirty = keyspace.cycle.dirty();
        if changed && coll.flags & dirty == 0 {
            coll.flags |= dirty;
            keyspace.dirty.push(self.place);
        }
        let slot = keyspace.index.placeholder_mut(self.place);
        *slot = Entry::Coll(coll);
        let bytes = slot.bytes();
        keyspace.entry_bytes = keyspace.entry_bytes + bytes - self.bytes_before;
        keyspace.dirty_bytes += bytes.saturating_sub(self.bytes_before) + usize::from(changed) * 64;
    }
}

impl Drop for CollMut<'_> {
    fn drop(&mut self) {
        match self.state {
            State::Untouched => self.put_back(),
            State::Changed => self.finish_changed(),
        }
    }
}
