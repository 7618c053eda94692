//! As much of the journal's layout as is needed to damage it.
//!
//! A frame starts at a multiple of 4096 bytes with `QUOJNL`; its sequence number is at 24, the mark
//! (everything up to there was durable) at 32, the length of its body at 48, the body at 80.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

pub(crate) const BLOCK_BYTES: usize = 4096;
pub(crate) const BODY_AT: usize = 80;

/// A frame as the tests see it.
#[derive(Clone, Debug)]
pub(crate) struct Frame {
    pub(crate) path: PathBuf,
    pub(crate) offset: u64,
    pub(crate) sequence: u64,
    pub(crate) mark: u64,
    pub(crate) body_bytes: u64,
}

/// All frames of a node's journal, in order.
pub(crate) fn frames(data: &Path) -> Vec<Frame> {
    let mut frames = Vec::new();
    for entry in std::fs::read_dir(data.join("journal")).expect("a node has a journal") {
        let path = entry.expect("a readable directory").path();
        let bytes = std::fs::read(&path).expect("a segment");
        for (n, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
            if !block.starts_with(b"QUOJNL") {
                continue;
            }
            let u64_at =
                |at: usize| u64::from_le_bytes(block[at..at + 8].try_into().expect("eight bytes"));
            frames.push(Frame {
                path: path.clone(),
                offset: (n * BLOCK_BYTES) as u64,
                sequence: u64_at(24),
                mark: u64_at(32),
                body_bytes: u64_at(48) & 0xffff_ffff,
            });
        }
    }
    frames.sort_by_key(|f| f.sequence);
    frames
}

/// Flips a bit of the byte at `at` of a frame.
pub(crate) fn flip(frame: &Frame, at: u64) {
    let file = File::options().read(true).write(true).open(&frame.path).expect("a segment");
    let mut byte = [0];
    file.read_exact_at(&mut byte, frame.offset + at).expect("it is inside");
    byte[0] ^= 0x10;
    file.write_all_at(&byte, frame.offset + at).expect("a file of ours");
}
