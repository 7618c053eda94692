//! The files of a shard that are not `lsm-tree`'s, and the check of the one it does not check.

use super::StoreError;
use quorate_base::hash::checksum;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

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

/// Checks the manifest of the tree in `dir` against the checksum in its `current` file
/// (version u64 LE │ xxh3-128 of the file `v<version>`, u128 LE │ kind 0). `lsm-tree` writes that
/// checksum but trusts the manifest, and a bit flipped there can hide whole tables.
pub(super) fn check_manifest(dir: &Path) -> Result<(), StoreError> {
    let read = |path: PathBuf| {
        fs::read(&path).map_err(|e| match e.kind() {
            ErrorKind::NotFound => {
                StoreError::damaged(dir, format!("{} is missing", path.display()))
            }
            _ => StoreError::io("read", &path, e),
        })
    };
    let current = read(dir.join("current"))?;
    let Ok(current) = <[u8; 25]>::try_from(current) else {
        return Err(StoreError::damaged(dir, "its file `current` has the wrong length"));
    };
    let version = u64::from_le_bytes(current[..8].try_into().expect("eight bytes were taken"));
    let sum = u128::from_le_bytes(current[8..24].try_into().expect("16 bytes were taken"));
    let manifest = read(dir.join(format!("v{version}")))?;
    if current[24] != 0 || xxhash_rust::xxh3::xxh3_128(&manifest) != sum {
        return Err(StoreError::damaged(
            dir,
            format!("its manifest v{version} fails its checksum"),
        ));
    }
    Ok(())
}
