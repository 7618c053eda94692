//! The few file operations the journal needs, and their real implementation.

use super::frame::BLOCK_BYTES;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A place for numbered segments of fixed length.
///
/// Creating, renaming and removing are atomic and durable when they return. Written bytes
/// are durable only after a synced write of exactly them, or after [`Disk::sync`] of their
/// segment; until then a crash keeps or loses each sector on its own.
pub trait Disk {
    /// Number and length in bytes of every segment, in any order; drops what unfinished
    /// calls of [`Disk::create`] left.
    fn list(&mut self) -> io::Result<Vec<(u64, u64)>>;

    /// Makes a segment of `bytes` zeros that no later write can run out of disk for, in
    /// place of the one with this number if there is one. Without room:
    /// [`io::ErrorKind::StorageFull`] or `QuotaExceeded`, and nothing has changed.
    fn create(&mut self, number: u64, bytes: u64) -> io::Result<()>;

    /// Gives the segment `from` the number `to`, which is free.
    fn recycle(&mut self, from: u64, to: u64) -> io::Result<()>;

    /// Removes a segment.
    fn remove(&mut self, number: u64) -> io::Result<()>;

    /// Fills `bytes` from a segment.
    fn read(&self, number: u64, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Makes sure, as well as can be, that [`Disk::read`] returns what the disk holds and not
    /// what a cache holds: after a failed sync the two may differ without another error.
    fn drop_cached(&self, number: u64) -> io::Result<()>;

    /// Writes whole blocks at a block boundary, from memory that is aligned likewise if
    /// `sync`. With `sync` these blocks (and no others) are durable on return.
    fn write(&mut self, number: u64, offset: u64, bytes: &[u8], sync: bool) -> io::Result<()>;

    /// Makes everything written to a segment durable.
    fn sync(&mut self, number: u64) -> io::Result<()>;

    /// What the disk has left for us, in bytes.
    fn free_bytes(&self) -> io::Result<u64>;

    /// How people find the segment.
    fn path(&self, number: u64) -> PathBuf;
}

/// A disk that outlives the journal on it.
impl<D: Disk> Disk for &mut D {
    fn list(&mut self) -> io::Result<Vec<(u64, u64)>> {
        (**self).list()
    }

    fn create(&mut self, number: u64, bytes: u64) -> io::Result<()> {
        (**self).create(number, bytes)
    }

    fn recycle(&mut self, from: u64, to: u64) -> io::Result<()> {
        (**self).recycle(from, to)
    }

    fn remove(&mut self, number: u64) -> io::Result<()> {
        (**self).remove(number)
    }

    fn read(&self, number: u64, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        (**self).read(number, offset, bytes)
    }

    fn drop_cached(&self, number: u64) -> io::Result<()> {
        (**self).drop_cached(number)
    }

    fn write(&mut self, number: u64, offset: u64, bytes: &[u8], sync: bool) -> io::Result<()> {
        (**self).write(number, offset, bytes, sync)
    }

    fn sync(&mut self, number: u64) -> io::Result<()> {
        (**self).sync(number)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        (**self).free_bytes()
    }

    fn path(&self, number: u64) -> PathBuf {
        (**self).path(number)
    }
}

/// Segments as files `<number, 16 hex digits>.journal` of one directory.
#[derive(Debug)]
pub struct FileDisk {
    directory: PathBuf,
    direct: bool,
    /// The segment being written.
    open: Option<OpenSegment>,
}

#[derive(Debug)]
struct OpenSegment {
    number: u64,
    /// Through the page cache.
    cached: File,
    /// Past the page cache, each write durable.
    direct: Option<File>,
}

const SUFFIX: &str = ".journal";
const UNFINISHED: &str = "unfinished.tmp";
const ZEROS_BYTES: usize = 1024 * 1024;

impl FileDisk {
    /// Uses `directory`, which is created if missing. `direct` asks for synced writes past
    /// the page cache; where the file system does not allow them they are a write and an
    /// fdatasync.
    pub fn open(directory: &Path, direct: bool) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        if let Some(parent) = directory.parent().filter(|p| !p.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        let mut disk = Self { directory: directory.to_owned(), direct: false, open: None };
        disk.direct = direct && disk.direct_works();
        Ok(disk)
    }

    /// Whether synced writes go past the page cache.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Some file systems accept the flags and refuse the write, so one is tried.
    fn direct_works(&self) -> bool {
        let path = self.directory.join(UNFINISHED);
        let block = aligned_zeros();
        let block = &block[block.as_ptr().align_offset(BLOCK_BYTES)..][..BLOCK_BYTES];
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).custom_flags(direct_flags());
        let works = options.open(&path).and_then(|file| file.write_all_at(block, 0)).is_ok();
        // Whatever is left is dropped by `list`.
        let _ = fs::remove_file(&path);
        works
    }

    fn opened(&mut self, number: u64) -> io::Result<&OpenSegment> {
        if self.open.as_ref().is_none_or(|open| open.number != number) {
            let path = self.path(number);
            let cached = OpenOptions::new().write(true).open(&path)?;
            let mut options = OpenOptions::new();
            options.write(true).custom_flags(direct_flags());
            let direct = if self.direct { Some(options.open(&path)?) } else { None };
            self.open = Some(OpenSegment { number, cached, direct });
        }
        Ok(self.open.as_ref().expect("opened above"))
    }

    fn close(&mut self, number: u64) {
        self.open.take_if(|open| open.number == number);
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

impl Disk for FileDisk {
    fn list(&mut self) -> io::Result<Vec<(u64, u64)>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name == UNFINISHED {
                fs::remove_file(entry.path())?;
            }
            let digits = name.strip_suffix(SUFFIX).filter(|digits| digits.len() == 16);
            if let Some(number) = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()) {
                segments.push((number, entry.metadata()?.len()));
            }
        }
        Ok(segments)
    }

    fn create(&mut self, number: u64, bytes: u64) -> io::Result<()> {
        self.close(number);
        let unfinished = self.directory.join(UNFINISHED);
        let made = write_zeros(&unfinished, bytes)
            .and_then(|()| fs::rename(&unfinished, self.path(number)));
        if let Err(error) = made {
            // Gives the room back; the first error is the one to report.
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
        self.sync_directory()
    }

    fn recycle(&mut self, from: u64, to: u64) -> io::Result<()> {
        self.close(from);
        fs::rename(self.path(from), self.path(to))?;
        self.sync_directory()
    }

    fn remove(&mut self, number: u64) -> io::Result<()> {
        self.close(number);
        fs::remove_file(self.path(number))?;
        self.sync_directory()
    }

    fn read(&self, number: u64, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        File::open(self.path(number))?.read_exact_at(bytes, offset)
    }

    fn drop_cached(&self, number: u64) -> io::Result<()> {
        drop_cached(&File::open(self.path(number))?)
    }

    fn write(&mut self, number: u64, offset: u64, bytes: &[u8], sync: bool) -> io::Result<()> {
        let open = self.opened(number)?;
        match &open.direct {
            Some(direct) if sync => direct.write_all_at(bytes, offset),
            _ => {
                open.cached.write_all_at(bytes, offset)?;
                if sync { open.cached.sync_data() } else { Ok(()) }
            }
        }
    }

    fn sync(&mut self, number: u64) -> io::Result<()> {
        self.opened(number)?.cached.sync_data()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        let stat = rustix::fs::statvfs(&self.directory)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn path(&self, number: u64) -> PathBuf {
        self.directory.join(format!("{number:016x}{SUFFIX}"))
    }
}

/// Writes the zeros instead of only reserving room for them: later writes then change no
/// metadata, which makes their sync one device write.
fn write_zeros(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
    reserve(&file, bytes)?;
    let zeros = vec![0; ZEROS_BYTES];
    let mut offset = 0;
    while offset < bytes {
        let len = (bytes - offset).min(ZEROS_BYTES as u64);
        file.write_all_at(&zeros[..len as usize], offset)?;
        offset += len;
    }
    file.sync_all()
}

#[cfg(target_os = "linux")]
fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    use rustix::{fs::FallocateFlags, io::Errno};
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // The zeros that follow reserve the room too, only less contiguously.
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(()),
        done => Ok(done?),
    }
}

#[cfg(not(target_os = "linux"))]
fn reserve(_file: &File, _bytes: u64) -> io::Result<()> {
    Ok(())
}

/// Drops what is clean; what is dirty is synced, and its failure seen, when opening ends.
#[cfg(target_os = "linux")]
fn drop_cached(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed)?)
}

#[cfg(not(target_os = "linux"))]
fn drop_cached(_file: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
fn direct_flags() -> i32 {
    use rustix::fs::OFlags;
    (OFlags::DIRECT | OFlags::DSYNC).bits().cast_signed()
}

/// Without direct writes a synced one is still durable on return.
#[cfg(not(target_os = "linux"))]
fn direct_flags() -> i32 {
    rustix::fs::OFlags::DSYNC.bits() as i32
}

fn aligned_zeros() -> Vec<u8> {
    vec![0; 2 * BLOCK_BYTES]
}
