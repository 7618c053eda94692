//! The files of a shard that are not `lsm-tree`'s, and checks of those it does not check.

use super::StoreError;
use quorate_base::hash::checksum;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_128;

const POINTER: &str = "pointer";
const POINTER_NEW: &str = "pointer.new";
const MAGIC: u64 = u64::from_le_bytes(*b"QRpoint1");

/// Entries of `dir` with their names; names that are not text are skipped.
pub(super) fn list(dir: &Path) -> Result<Vec<(PathBuf, String)>, StoreError> {
    let fail = |e| StoreError::io("list", dir, e);
    let mut entries = Vec::new();
    for entry in fs::read_dir(dir).map_err(fail)? {
        let entry = entry.map_err(fail)?;
        if let Ok(name) = entry.file_name().into_string() {
            entries.push((entry.path(), name));
        }
    }
    Ok(entries)
}

/// Creates `dir` and its parents; the last step is durable.
pub(super) fn create_dir(dir: &Path) -> Result<(), StoreError> {
    if dir.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(dir).map_err(|e| StoreError::io("create", dir, e))?;
    dir.parent().map_or(Ok(()), sync_dir)
}

/// Bytes of the file system of `dir` that are free for this process.
pub(super) fn free_bytes(dir: &Path) -> Result<u64, StoreError> {
    let stat = rustix::fs::statvfs(dir)
        .map_err(|e| StoreError::io("ask the free bytes of", dir, e.into()))?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| StoreError::io("sync", dir, e))
}

/// Removes a directory that may be gone already.
pub(super) fn remove_dir(dir: &Path) -> Result<(), StoreError> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(StoreError::io("remove", dir, e)),
        _ => Ok(()),
    }
}

/// The generation that `shard_dir` points to; none if it was never persisted.
pub(super) fn read_pointer(shard_dir: &Path) -> Result<Option<u64>, StoreError> {
    let path = shard_dir.join(POINTER);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(StoreError::io("read", &path, e)),
    };
    let word = |i: usize| {
        let bytes: [u8; 8] = bytes[i * 8..][..8].try_into().expect("eight bytes were taken");
        u64::from_le_bytes(bytes)
    };
    if bytes.len() != 24 || word(0) != MAGIC || word(2) != checksum(&bytes[..16]) {
        return Err(StoreError::damaged(shard_dir, "its pointer file fails its checksum"));
    }
    Ok(Some(word(1)))
}

/// Makes `generation` the one that counts, durably and in one step.
pub(super) fn write_pointer(shard_dir: &Path, generation: u64) -> Result<(), StoreError> {
    let mut bytes = [MAGIC.to_le_bytes(), generation.to_le_bytes()].concat();
    bytes.extend(checksum(&bytes).to_le_bytes());
    let (new, path) = (shard_dir.join(POINTER_NEW), shard_dir.join(POINTER));
    // The generation's own directory entry must not come after the pointer to it.
    sync_dir(shard_dir)?;
    File::create(&new)
        .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
        .map_err(|e| StoreError::io("write", &new, e))?;
    fs::rename(&new, &path).map_err(|e| StoreError::io("replace", &path, e))?;
    sync_dir(shard_dir)
}

/// Makes `shard_dir` hold nothing that counts, durably.
pub(super) fn remove_pointer(shard_dir: &Path) -> Result<(), StoreError> {
    let path = shard_dir.join(POINTER);
    match fs::remove_file(&path) {
        Ok(()) => sync_dir(shard_dir),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(StoreError::io("remove", &path, e)),
    }
}

/// Checks what `lsm-tree` trusts when it opens the tree in `dir`, and a flipped bit would turn into
/// hidden tables or an allocation without bound: the manifest, and the table of contents of each
/// file that it names. The rest of a table is checked block by block as it is read.
///
/// ```text
/// current      version u64 │ xxh3-128 of the file v<version> │ kind 0
/// tables/<n>   … │ contents │ "SFA!" 1 0 │ xxh3-128 of the contents │ their start u64, length u64
/// ```
pub(super) fn check_tree(dir: &Path) -> Result<(), StoreError> {
    let current = read_current(dir)?;
    let version = version_of(&current);
    let path = dir.join(format!("v{version}"));
    let manifest = fs::read(&path).map_err(|e| unreadable(dir, &path, e))?;
    if current[24] != 0 || xxh3_128(&manifest).to_le_bytes() != current[8..24] {
        return Err(StoreError::damaged(
            dir,
            format!("its manifest v{version} fails its checksum"),
        ));
    }
    let Some(tables) = tables_of(&manifest) else {
        return Err(StoreError::damaged(dir, format!("its manifest v{version} is malformed")));
    };
    for table in tables {
        let path = dir.join("tables").join(table.to_string());
        if !contents_are_whole(&path).map_err(|e| unreadable(dir, &path, e))? {
            return Err(StoreError::damaged(dir, format!("table {table} fails its checksum")));
        }
    }
    Ok(())
}

/// The number of the manifest that counts.
pub(super) fn current_version(dir: &Path) -> Result<u64, StoreError> {
    read_current(dir).map(|current| version_of(&current))
}

fn read_current(dir: &Path) -> Result<[u8; 25], StoreError> {
    let path = dir.join("current");
    let current = fs::read(&path).map_err(|e| unreadable(dir, &path, e))?;
    <[u8; 25]>::try_from(current)
        .map_err(|_| StoreError::damaged(dir, "its file `current` has the wrong length"))
}

fn version_of(current: &[u8; 25]) -> u64 {
    u64::from_le_bytes(current[..8].try_into().expect("eight bytes were taken"))
}

/// The tables whose files are there, whether a manifest names them or not.
pub(super) fn table_files(dir: &Path) -> Result<BTreeSet<u64>, StoreError> {
    let names = list(&dir.join("tables"))?.into_iter();
    Ok(names.filter_map(|(_, name)| name.parse().ok()).collect())
}

/// Removes the file of a table that nothing refers to.
pub(super) fn remove_table(dir: &Path, table: u64) -> Result<(), StoreError> {
    let path = dir.join("tables").join(table.to_string());
    fs::remove_file(&path).map_err(|e| StoreError::io("remove", &path, e))
}

fn unreadable(dir: &Path, path: &Path, error: std::io::Error) -> StoreError {
    match error.kind() {
        ErrorKind::NotFound => StoreError::damaged(dir, format!("{} is missing", path.display())),
        _ => StoreError::io("read", path, error),
    }
}

/// The tables that a manifest names. Its section `tables` holds
/// levels u8 × (runs u8 × (tables u32 × (id u64 │ kind u8 │ checksum u128 │ seqno u64))).
fn tables_of(manifest: &[u8]) -> Option<Vec<u64>> {
    let archive = sfa::Reader::from_reader(&mut std::io::Cursor::new(manifest)).ok()?;
    let section = archive.toc().section(b"tables")?;
    let mut rest = manifest.get(usize::try_from(section.pos()).ok()?..)?;
    let mut ids = Vec::new();
    for _ in 0..take::<1>(&mut rest)?[0] {
        for _ in 0..take::<1>(&mut rest)?[0] {
            for _ in 0..u32::from_le_bytes(take(&mut rest)?) {
                ids.push(u64::from_le_bytes(take(&mut rest)?));
                take::<25>(&mut rest)?;
            }
        }
    }
    Some(ids)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk()?;
    *rest = tail;
    Some(*head)
}

fn contents_are_whole(path: &Path) -> std::io::Result<bool> {
    const TRAILER: usize = 38;
    const CONTENTS_MAX: u64 = 64 << 10;
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut trailer = [0; TRAILER];
    let Some(end) = len.checked_sub(TRAILER as u64) else { return Ok(false) };
    file.seek(SeekFrom::Start(end))?;
    file.read_exact(&mut trailer)?;
    let word = |at: usize| {
        u64::from_le_bytes(trailer[at..][..8].try_into().expect("eight bytes were taken"))
    };
    let (start, contents_len) = (word(22), word(30));
    if start.checked_add(contents_len) != Some(end) || contents_len > CONTENTS_MAX {
        return Ok(false);
    }
    let mut contents = vec![0; contents_len as usize];
    file.seek(SeekFrom::Start(start))?;
    file.read_exact(&mut contents)?;
    Ok(trailer[..6] == *b"SFA!\x01\x00" && xxh3_128(&contents).to_le_bytes() == trailer[6..22])
}
