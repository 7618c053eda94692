//! A journal that was damaged while the node was down.
//!
//! What a crash can do is cut off, and said. What it cannot do is refused, with the place, and
//! nothing is changed: the damaged file may still be repaired.

mod common;

use common::journal::{self, BLOCK_BYTES, BODY_AT, Frame, flip};
use common::node::run_to_end;
use common::{Node, free_address};
use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

const KEYS: u64 = 50;

fn frames(data: &Path) -> Vec<Frame> {
    let frames = journal::frames(data);
    assert!(frames.len() as u64 >= KEYS, "every acknowledged write has a frame: {frames:?}");
    frames
}

/// A directory whose journal holds [`KEYS`] keys, each in a frame of its own.
fn written() -> TempDir {
    let data = TempDir::new().expect("a temporary directory");
    let mut node = Node::start(data.path(), &["--workers", "2"]);
    let mut client = node.client();
    for n in 0..KEYS {
        assert_eq!(client.call(&["SET", &format!("k{n}"), &n.to_string()]).bytes(), b"OK");
    }
    node.kill();
    data
}

/// Makes the last frame with data the last frame of all, as if the ones behind it had not been
/// written yet, and returns it.
fn cut_behind_data(data: &Path) -> Frame {
    let all = frames(data);
    let last = all.iter().rfind(|f| f.body_bytes > 0).expect("there is data").clone();
    for frame in all.iter().filter(|f| f.sequence > last.sequence) {
        let file = File::options().write(true).open(&frame.path).expect("a segment");
        file.write_all_at(&[0; BLOCK_BYTES], frame.offset).expect("a file of ours");
    }
    assert!(last.mark < last.sequence, "a frame does not prove itself");
    last
}

/// Starts the node; all keys but the last `missing` must be there.
fn assert_there(data: &Path, missing: u64) -> Node {
    let node = Node::start(data, &["--workers", "2"]);
    let mut client = node.client();
    for n in 0..KEYS {
        let got = client.call(&["GET", &format!("k{n}")]);
        if n < KEYS - missing {
            assert_eq!(got.bytes(), n.to_string().as_bytes(), "k{n}");
        } else {
            assert!(got.is_null(), "k{n} was in the frame that was damaged: {got:?}");
        }
    }
    assert_eq!(client.line("SET after 1").bytes(), b"OK");
    node
}

#[test]
fn a_torn_last_frame_is_cut_and_said() {
    for torn_at in [BODY_AT as u64 + 1, 72] {
        let data = written();
        let last = cut_behind_data(data.path());
        flip(&last, torn_at);
        let node = assert_there(data.path(), 1);
        // A frame whose header is torn as well cannot be told from one never written.
        if torn_at >= BODY_AT as u64 {
            let log = node.stderr();
            assert!(log.contains("torn write"), "{log}");
        }
        // What was cut stays cut, and what came after stays.
        let node = node.restart();
        assert_eq!(node.client().line("GET after").bytes(), b"1");
        assert!(!node.stderr().contains("torn write"), "{}", node.stderr());
    }
}

#[test]
fn a_last_frame_that_is_too_short_is_cut() {
    let data = written();
    let last = cut_behind_data(data.path());
    let file = File::options().write(true).open(&last.path).expect("a segment");
    file.set_len(last.offset + BODY_AT as u64 + 3).expect("a file of ours");
    assert_there(data.path(), 1);
}

#[test]
fn damage_to_synced_data_is_refused_with_its_place_and_changes_nothing() {
    let data = written();
    let all = frames(data.path());
    let with_data: Vec<&Frame> = all.iter().filter(|f| f.body_bytes > 8).collect();
    let middle = with_data[with_data.len() / 2];
    for at in [BODY_AT as u64 + 2, 20] {
        flip(middle, at);
        let before = std::fs::read(&middle.path).expect("a segment");
        let exit = run_to_end(free_address(), data.path(), &["--workers", "2"]);
        assert_eq!(exit.status.code(), Some(1), "{exit:?}");
        let place = format!("{} at byte {}", middle.path.display(), middle.offset);
        for word in ["is damaged", &place, "Nothing was changed", "backup"] {
            assert!(exit.stderr.contains(word), "'{word}' is missing: {exit:?}");
        }
        assert!(exit.stdout.is_empty(), "it looks as if it had started: {exit:?}");
        assert!(before == std::fs::read(&middle.path).expect("a segment"), "it was changed");
        flip(middle, at);
    }
    assert_there(data.path(), 0);
}

#[test]
fn a_segment_that_is_missing_is_refused_by_its_name() {
    const VALUE_BYTES: usize = 1 << 20;
    let data = TempDir::new().expect("a temporary directory");
    let mut node = Node::start(data.path(), &["--workers", "1"]);
    let mut client = node.client();
    // Its shard is not flushed, so that the journal keeps everything since.
    assert_eq!(client.line("SET idle 1").bytes(), b"OK");
    let value = "v".repeat(VALUE_BYTES);
    for n in 0..2 * KEYS {
        assert_eq!(client.call(&["SET", &format!("{{busy}}{}", n % 4), &value]).bytes(), b"OK");
    }
    node.kill();
    let used: BTreeSet<PathBuf> = frames(data.path()).into_iter().map(|f| f.path).collect();
    assert!(used.len() >= 4, "{used:?}");

    let listed = || {
        let entries = std::fs::read_dir(data.path().join("journal")).expect("a journal");
        entries.map(|e| e.expect("a readable directory").path()).collect::<BTreeSet<_>>()
    };
    for missing in [0, used.len() / 2, used.len() - 2] {
        let path = used.iter().nth(missing).expect("it is one of them");
        let aside = data.path().join("aside");
        std::fs::rename(path, &aside).expect("a file of ours");
        let before = listed();
        let exit = run_to_end(free_address(), data.path(), &["--workers", "1"]);
        assert_eq!(exit.status.code(), Some(1), "{exit:?}");
        let path = path.display().to_string();
        for word in ["is damaged", &path, "the segment is missing", "Nothing was changed"] {
            assert!(exit.stderr.contains(word), "'{word}' is missing: {exit:?}");
        }
        assert_eq!(listed(), before);
        std::fs::rename(&aside, path).expect("a file of ours");
    }

    let node = Node::start(data.path(), &["--workers", "1"]);
    let mut client = node.client();
    assert_eq!(client.line("GET idle").bytes(), b"1");
    assert_eq!(client.line("STRLEN {busy}0").number(), Some(VALUE_BYTES as i64));
}
