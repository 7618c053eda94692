//! A disk in memory that can fail, fill up and crash: for tests, fuzzing and simulation.
//!
//! It keeps, for every sector that was written and not synced, what the sector held
//! before; [`MemoryDisk::crash`] then decides the fate of each such sector on its own.

use super::disk::Disk;
use super::frame::BLOCK_BYTES;
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

/// What a disk writes in one piece, in bytes.
pub const SECTOR_BYTES: usize = 512;

/// What becomes of an unsynced sector in a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was written after all.
    Kept,
    /// It holds what it held before.
    Lost,
    /// So many bytes of it were written.
    Torn(usize),
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    segments: BTreeMap<u64, Segment>,
    /// The most bytes of all segments together; 0: no bound.
    pub capacity_bytes: u64,
    /// Changing operations (create, recycle, remove, write, sync) so far.
    pub operations: u64,
    /// The operation with this number, and all after it, fail half done; 0: none.
    pub fail_at: u64,
}

#[derive(Clone, Debug, Default)]
struct Segment {
    bytes: Vec<u8>,
    /// By sector number: what was there when it was last durable.
    unsynced: BTreeMap<usize, Vec<u8>>,
}

impl MemoryDisk {
    /// The disk after a power cut, with a fate for each unsynced sector.
    pub fn crash(&self, mut fate: impl FnMut() -> Fate) -> Self {
        let mut segments = self.segments.clone();
        for segment in segments.values_mut() {
            for (sector, old) in std::mem::take(&mut segment.unsynced) {
                let now = &mut segment.bytes[sector * SECTOR_BYTES..][..old.len()];
                let kept = match fate() {
                    Fate::Kept => old.len(),
                    Fate::Lost => 0,
                    Fate::Torn(bytes) => bytes.min(old.len()),
                };
                now[kept..].copy_from_slice(&old[kept..]);
            }
        }
        Self { segments, capacity_bytes: self.capacity_bytes, operations: 0, fail_at: 0 }
    }

    /// The numbers of the segments.
    pub fn numbers(&self) -> Vec<u64> {
        self.segments.keys().copied().collect()
    }

    /// The bytes of a segment, to look at or to damage; `None` if there is none.
    pub fn bytes_mut(&mut self, number: u64) -> Option<&mut Vec<u8>> {
        self.segments.get_mut(&number).map(|segment| &mut segment.bytes)
    }

    /// Puts a segment there, or takes it away, behind the journal's back.
    pub fn replace(&mut self, number: u64, bytes: Option<Vec<u8>>) {
        match bytes {
            Some(bytes) => {
                self.segments.insert(number, Segment { bytes, unsynced: BTreeMap::new() });
            }
            None => drop(self.segments.remove(&number)),
        }
    }

    /// Counts an operation; true if it is the first that fails.
    fn operate(&mut self) -> io::Result<bool> {
        self.operations += 1;
        if self.fail_at > 0 && self.operations > self.fail_at {
            return Err(io::Error::other("the disk has failed before"));
        }
        Ok(self.operations == self.fail_at)
    }

    fn operate_whole(&mut self) -> io::Result<()> {
        if self.operate()? { Err(io::Error::other("the disk fails")) } else { Ok(()) }
    }

    fn used_bytes(&self) -> u64 {
        self.segments.values().map(|segment| segment.bytes.len() as u64).sum()
    }

    fn segment(&mut self, number: u64) -> io::Result<&mut Segment> {
        self.segments.get_mut(&number).ok_or(io::ErrorKind::NotFound.into())
    }
}

impl Disk for MemoryDisk {
    fn list(&mut self) -> io::Result<Vec<(u64, u64)>> {
        Ok(self.segments.iter().map(|(&n, segment)| (n, segment.bytes.len() as u64)).collect())
    }

    fn create(&mut self, number: u64, bytes: u64) -> io::Result<()> {
        self.operate_whole()?;
        if self.capacity_bytes > 0 && self.used_bytes() + bytes > self.capacity_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.replace(number, Some(vec![0; bytes as usize]));
        Ok(())
    }

    fn recycle(&mut self, from: u64, to: u64) -> io::Result<()> {
        self.operate_whole()?;
        assert!(!self.segments.contains_key(&to), "segment {to} is not free");
        let segment = self.segments.remove(&from).ok_or(io::ErrorKind::NotFound)?;
        self.segments.insert(to, segment);
        Ok(())
    }

    fn remove(&mut self, number: u64) -> io::Result<()> {
        self.operate_whole()?;
        self.segments.remove(&number).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn read(&self, number: u64, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let segment = self.segments.get(&number).ok_or(io::ErrorKind::NotFound)?;
        let from = segment.bytes.get(offset as usize..).and_then(|rest| rest.get(..bytes.len()));
        bytes.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn drop_cached(&self, _number: u64) -> io::Result<()> {
        Ok(())
    }

    fn write(&mut self, number: u64, offset: u64, bytes: &[u8], sync: bool) -> io::Result<()> {
        let fails = self.operate()?;
        let segment = self.segment(number)?;
        let offset = offset as usize;
        assert!(
            offset.is_multiple_of(BLOCK_BYTES) && bytes.len().is_multiple_of(BLOCK_BYTES),
            "{} bytes at {offset} are not whole blocks",
            bytes.len()
        );
        assert!(offset + bytes.len() <= segment.bytes.len(), "a write goes beyond its segment");
        for (i, new) in bytes.chunks(SECTOR_BYTES).enumerate() {
            let at = offset + i * SECTOR_BYTES;
            let now = &mut segment.bytes[at..at + new.len()];
            segment.unsynced.entry(at / SECTOR_BYTES).or_insert_with(|| now.to_vec());
            now.copy_from_slice(new);
            if sync && !fails {
                segment.unsynced.remove(&(at / SECTOR_BYTES));
            }
        }
        if fails { Err(io::Error::other("the disk fails")) } else { Ok(()) }
    }

    fn sync(&mut self, number: u64) -> io::Result<()> {
        self.operate_whole()?;
        self.segment(number)?.unsynced.clear();
        Ok(())
    }

    fn free_bytes(&self) -> io::Result<u64> {
        match self.capacity_bytes {
            0 => Ok(u64::MAX),
            capacity => Ok(capacity.saturating_sub(self.used_bytes())),
        }
    }

    fn path(&self, number: u64) -> PathBuf {
        PathBuf::from(format!("memory/{number:016x}.journal"))
    }
}
