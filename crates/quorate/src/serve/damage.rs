//! What a node of a cluster does about damage that it finds when it starts.
//!
//! A node that stands alone refuses: nobody else has its data. Here the other replicas have it. So
//! what is damaged is set aside, for whoever wants to look at it, and the replicas concerned start
//! as *lost*: they neither vote nor lead until they have what the others have (`quorate_log`).
//!
//! Invariant: a replica remembers durably that it is lost before anything of it goes.
//!
//! - **The journal**, which holds the votes of all replicas: another one is written beside it, in
//!   which all are lost, and takes its place. A journal that is missing is the same, and so is a
//!   directory that takes the place of one that was lost (`known.rs`).
//! - **A table**: the journal learns that the replica is lost; then the table goes. A table that
//!   opens and cannot be read when requests or entries need it is the worker's affair, which does
//!   the same while the node serves (`quorate_node`).

use crate::serve::ServeError;
use crate::serve::datadir::DataDir;
use crate::serve::found::{Replica, open_journal};
use quorate_base::ShardId;
use quorate_log::raft::Restored;
use quorate_log::{Body, Log, Outputs, Record};
use quorate_node::Worker;
use quorate_storage::journal::{FileDisk, Journal, RecoveredShard, Rot};
use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// Removes or completes what a crash left of [`replace_journal`].
pub(super) fn finish(dir: &DataDir) -> Result<(), ServeError> {
    let (journal, unfinished) = (dir.journal(), unfinished(dir));
    if !unfinished.exists() {
        return Ok(());
    }
    if journal.exists() {
        return std::fs::remove_dir_all(&unfinished).map_err(|e| failed("remove", &unfinished, e));
    }
    // It was complete before the damaged one was set aside.
    rename(&unfinished, &journal)
}

/// Puts a journal in the place of a damaged one in which all `shards` are lost.
pub(super) fn replace_journal(
    dir: &DataDir,
    replica: &Replica,
    shards: impl Iterator<Item = ShardId>,
    rot: &Rot,
) -> Result<(), ServeError> {
    let damaged = dir.journal();
    let unfinished = write_journal(dir, replica, shards)?;
    let aside = set_aside(&damaged)?;
    rename(&unfinished, &damaged)?;
    tracing::error!(
        "the journal is damaged: {} at byte {}: {}. It was set aside as {}; this node lost its part \
         in every shard and gets it back from the other nodes. Look after the disk. What was set \
         aside can be removed",
        rot.path.display(),
        rot.offset,
        rot.what,
        aside.display()
    );
    Ok(())
}

/// Whether there is no journal, or nothing in it.
pub(super) fn lacks_journal(dir: &DataDir) -> Result<bool, ServeError> {
    match std::fs::read_dir(dir.journal()) {
        Ok(mut files) => Ok(files.next().is_none()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(failed("read", &dir.journal(), error)),
    }
}

/// Puts a journal in which all `shards` are lost where there is none.
pub(super) fn begin_lost(
    dir: &DataDir,
    replica: &Replica,
    shards: impl Iterator<Item = ShardId>,
) -> Result<(), ServeError> {
    let journal = dir.journal();
    // While this is there, what a crash leaves beside it is not taken for complete.
    std::fs::create_dir_all(&journal)
        .and_then(|()| File::open(&dir.path)?.sync_all())
        .map_err(|e| failed("create", &journal, e))?;
    let unfinished = write_journal(dir, replica, shards)?;
    rename(&unfinished, &journal)?;
    if dir.is_new {
        tracing::info!(
            "this node takes the place of one that was lost: it gets its part in every shard from \
             the other nodes, and does not count before"
        );
    } else {
        tracing::error!(
            "the journal is missing: this node lost its part in every shard and gets it back from \
             the other nodes"
        );
    }
    Ok(())
}

/// Writes a journal in which all `shards` are lost, beside where it belongs.
fn write_journal(
    dir: &DataDir,
    replica: &Replica,
    shards: impl Iterator<Item = ShardId>,
) -> Result<PathBuf, ServeError> {
    let unfinished = unfinished(dir);
    let mut records = Vec::new();
    for shard in shards {
        records.extend(lose(replica, shard, &mut RecoveredShard::default())?);
    }
    let (mut journal, _) = open_journal(&unfinished, dir.identity.journal)?;
    journal.append(&records, true)?;
    journal.mark()?;
    Ok(unfinished)
}

/// Sets the damaged table of a shard aside. `path` is inside it, `what` is wrong with it.
pub(super) fn lose_table(
    dir: &DataDir,
    replica: &Replica,
    journal: &mut Journal<FileDisk>,
    (shard, from_journal): (ShardId, &mut RecoveredShard),
    what: &str,
) -> Result<(), ServeError> {
    journal.append(&lose(replica, shard, from_journal)?, true)?;
    let aside = set_aside(&dir.store().join(shard.to_string()))?;
    tracing::error!(
        "the table of shard {shard} is damaged: {what}. It was set aside as {}; this node lost its \
         part in that shard and gets it back from the other nodes. Look after the disk. What was \
         set aside can be removed",
        aside.display()
    );
    Ok(())
}

/// Tells of the tables that a worker could not read when it started.
pub(super) fn tell_unreadable(worker: &Worker) {
    for replica in worker.replicas().iter().filter(|replica| !replica.serving) {
        tracing::error!(
            "the table of shard {} cannot be read: this node lost its part in that shard and gets it \
             back from the other nodes. Look after the disk",
            replica.shard
        );
    }
}

/// The shard in whose table `path` is.
pub(super) fn shard_of(dir: &DataDir, path: &Path) -> Option<ShardId> {
    let inside = path.strip_prefix(dir.store()).ok()?;
    inside.components().next()?.as_os_str().to_str()?.parse().ok()
}

/// What tells the journal that a replica is lost; `from_journal` learns it as well.
fn lose(
    replica: &Replica,
    shard: ShardId,
    from_journal: &mut RecoveredShard,
) -> Result<Vec<Record>, ServeError> {
    let restored = Restored {
        state: (!from_journal.state.is_empty()).then(|| from_journal.state.clone()),
        entries: from_journal.entries.clone(),
        lost: true,
        ..Restored::default()
    };
    let mut log = replica.new_log(shard, restored)?;
    let mut outputs = Outputs::default();
    log.take(&mut outputs);
    let records = outputs.persist;
    for record in &records {
        match &record.body {
            Body::State(state) => from_journal.state.clone_from(state),
            Body::Entry(_) => unreachable!("a lost replica proposes nothing"),
        }
    }
    assert!(!records.is_empty(), "shard {shard}: a loss is part of the durable state");
    Ok(records)
}

fn unfinished(dir: &DataDir) -> PathBuf {
    dir.path.join("journal.new")
}

/// Gives a directory another name beside it, and returns that.
fn set_aside(path: &Path) -> Result<PathBuf, ServeError> {
    let name = |n: u64| path.with_extension(format!("damaged-{n}"));
    let aside = (1..).map(name).find(|aside| !aside.exists()).expect("some number is free");
    rename(path, &aside)?;
    Ok(aside)
}

/// Renames a directory for good.
fn rename(from: &Path, to: &Path) -> Result<(), ServeError> {
    let parent = to.parent().expect("a directory inside another");
    std::fs::rename(from, to)
        .and_then(|()| File::open(parent)?.sync_all())
        .map_err(|e| failed("rename", from, e))
}

fn failed(doing: &'static str, path: &Path, source: std::io::Error) -> ServeError {
    ServeError::DataDir { doing, path: path.to_owned(), source }
}
