//! Taking back what was changed since a moment: for a script that has to end before its end.
//!
//! While undoing is prepared for, each primitive of `keyspace.rs` and `coll_mut.rs` notes what it
//! is about to change. Undoing goes through the notes from the last to the first and changes
//! everything back with the same primitives. So the batch holds what was done and how it was taken
//! back, memory and replicas follow as always, and nothing else has to know. Versions are new ones:
//! who watches a key sees that it was touched.

use crate::entry::{Entry, Kind};
use crate::keyspace::{Expiry, Keyspace};
use crate::place::place_hash;
use crate::sorted::{Sub, Val};
use crate::table::TableError;
use quorate_base::Millis;

/// What is needed to take back what happened to one shard.
#[derive(Debug, Default)]
pub(crate) struct Undo {
    notes: Vec<Note>,
    /// Everything was dropped at some moment; nothing before it is known.
    cleared: bool,
}

/// What was there before one change.
#[derive(Debug)]
pub(crate) enum Note {
    /// The key did not exist.
    Absent(Box<[u8]>),
    /// An entry that was replaced or deleted.
    Whole(Entry),
    /// Bytes of a string that were overwritten in place.
    Patched { key: Box<[u8]>, offset: usize, bytes: Vec<u8> },
    /// The expiry of a key.
    Expiry { key: Box<[u8]>, expiry: Option<Millis> },
    /// The key was moved.
    Renamed { from: Box<[u8]>, to: Box<[u8]> },
    /// A collection that existed was opened for changes; its elements' notes follow.
    Opened(Box<Opened>),
    /// An element of the collection opened last.
    Element { sub: Sub, val: Option<Val> },
}

/// A collection beside its elements.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) key: Box<[u8]>,
    pub(crate) kind: Kind,
    pub(crate) encoding: u8,
    pub(crate) aux: Vec<u8>,
    pub(crate) expiry: Option<Millis>,
}

impl Undo {
    pub(crate) fn push(&mut self, note: Note) {
        self.notes.push(note);
    }
}

impl Keyspace {
    /// Remembers what is changed from now on, until [`Keyspace::undo`] or [`Keyspace::keep`].
    pub fn prepare_undo(&mut self) {
        self.undo = Some(Undo::default());
    }

    /// What was changed stays.
    pub fn keep(&mut self) {
        self.undo = None;
    }

    /// Notes what is about to change, if that is wanted.
    #[inline]
    pub(crate) fn note(&mut self, note: impl FnOnce() -> Note) {
        if let Some(undo) = &mut self.undo {
            undo.notes.push(note());
        }
    }

    /// Notes that everything is about to be dropped.
    pub(crate) fn note_cleared(&mut self) {
        if let Some(undo) = &mut self.undo {
            undo.notes.clear();
            undo.cleared = true;
        }
    }

    /// Takes back what was changed since [`Keyspace::prepare_undo`]; false if everything was
    /// dropped in between, which cannot be taken back.
    pub fn undo(&mut self) -> Result<bool, TableError> {
        let Some(undo) = self.undo.take() else { return Ok(true) };
        let mut elements = Vec::new();
        for note in undo.notes.into_iter().rev() {
            match note {
                Note::Element { sub, val } => elements.push((sub, val)),
                Note::Opened(opened) => self.undo_collection(&opened, elements.drain(..))?,
                Note::Absent(key) => {
                    elements.clear();
                    self.delete(self.place(&key), &key)?;
                }
                Note::Whole(entry) => self.undo_whole(&entry)?,
                Note::Patched { key, offset, bytes } => {
                    self.patch_string(self.place(&key), &key, offset, &bytes)?;
                }
                Note::Expiry { key, expiry } => self.undo_expiry(&key, expiry)?,
                Note::Renamed { from, to } => {
                    self.rename((self.place(&to), &to), (self.place(&from), &from))?;
                }
            }
        }
        Ok(!undo.cleared)
    }

    fn place(&self, key: &[u8]) -> u64 {
        place_hash(self.index.seed(), key)
    }

    fn undo_collection(
        &mut self,
        opened: &Opened,
        elements: impl Iterator<Item = (Sub, Option<Val>)>,
    ) -> Result<(), TableError> {
        let mut coll = self.open(self.place(&opened.key), &opened.key, opened.kind)?;
        coll.touch();
        for (sub, val) in elements {
            match val {
                Some(val) => {
                    coll.put(&sub, &val);
                }
                None => {
                    coll.remove(&sub);
                }
            }
        }
        coll.set_encoding(opened.encoding);
        coll.set_aux(&opened.aux);
        drop(coll);
        self.undo_expiry(&opened.key, opened.expiry)
    }

    fn undo_whole(&mut self, entry: &Entry) -> Result<(), TableError> {
        let (key, expiry) = (entry.key(), entry.expiry());
        let place = self.place(key);
        let Some(coll) = entry.coll() else {
            let value = entry.value().expect("only live entries are noted");
            let expiry = expiry.map_or(Expiry::Never, Expiry::At);
            return self.set_string(place, key, value, expiry, entry.is_raw());
        };
        self.delete(place, key)?;
        let mut new = self.open(place, key, coll.kind())?;
        new.touch();
        for (sub, val) in coll.elements().iter() {
            new.put(sub, val);
        }
        new.set_encoding(coll.encoding());
        new.set_aux(coll.aux());
        drop(new);
        self.undo_expiry(key, expiry)
    }

    fn undo_expiry(&mut self, key: &[u8], expiry: Option<Millis>) -> Result<(), TableError> {
        let place = self.place(key);
        if self.fetch(place, key)?.is_some_and(|entry| entry.expiry() != expiry) {
            self.set_expiry(place, key, expiry);
        }
        Ok(())
    }
}
