//! The replies of one client in the order of its requests, held back as long as something they
//! depend on is not committed.

use crate::event::ConnId;
use crate::job::JobId;
use quorate_base::{Index, ShardId};
use std::collections::VecDeque;

/// Whose output it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    Conn(ConnId),
    Job(JobId),
}

/// Replies in order. What stands behind a barrier, or behind a reply that another worker still
/// owes, stays.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) owner: Owner,
    /// What is written to.
    tail: Segment,
    /// What stands before the tail.
    queue: VecDeque<Chunk>,
    next_slot: u64,
    /// Bytes of replies in the queue.
    queued_bytes: usize,
    /// Bytes of the requests that other workers have not answered.
    owed_bytes: usize,
    /// What is written now may be dropped.
    muted: bool,
    /// A mark has been set and not been reached.
    marked: bool,
}

#[derive(Debug, Default)]
struct Segment {
    bytes: Vec<u8>,
    barriers: VecDeque<Barrier>,
}

/// Bytes from `start` on wait until `index` of `shard` is committed.
#[derive(Clone, Copy, Debug)]
struct Barrier {
    start: usize,
    shard: ShardId,
    index: Index,
}

#[derive(Debug)]
enum Chunk {
    Local(Segment),
    Remote {
        slot: u64,
        request_bytes: usize,
        reply: Option<Vec<u8>>,
        muted: bool,
    },
    /// Everything before it has left once it is reached.
    Mark,
}

impl Output {
    pub(crate) fn new(owner: Owner) -> Self {
        Self {
            owner,
            tail: Segment::default(),
            queue: VecDeque::new(),
            next_slot: 0,
            queued_bytes: 0,
            owed_bytes: 0,
            muted: false,
            marked: false,
        }
    }

    /// Where replies are appended.
    #[inline]
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.tail.bytes
    }

    /// The length of the buffer, to be handed to [`Output::hold`].
    #[inline]
    pub(crate) fn mark(&self) -> usize {
        self.tail.bytes.len()
    }

    /// Everything written since `start` waits for an entry. True if the barrier is a new one,
    /// which the shard must know of.
    #[inline]
    pub(crate) fn hold(&mut self, start: usize, shard: ShardId, index: Index) -> bool {
        if let Some(last) = self.tail.barriers.back()
            && (last.shard, last.index) == (shard, index)
        {
            return false;
        }
        self.tail.barriers.push_back(Barrier { start, shard, index });
        true
    }

    /// Begins a reply that [`Output::unmute`] keeps or drops, and that does not leave before.
    pub(crate) fn mute(&mut self) {
        self.push_tail();
        self.muted = true;
    }

    /// Ends what [`Output::mute`] began.
    pub(crate) fn unmute(&mut self, keep: bool) {
        self.muted = false;
        if !keep {
            self.tail = Segment::default();
        }
    }

    /// True between [`Output::mute`] and [`Output::unmute`].
    #[inline]
    pub(crate) fn is_muted(&self) -> bool {
        self.muted
    }

    /// Marks the end of what was written so far; one mark at a time.
    pub(crate) fn set_mark(&mut self) {
        self.push_tail();
        self.queue.push_back(Chunk::Mark);
        self.marked = true;
    }

    /// True until everything before the mark has been taken.
    #[inline]
    pub(crate) fn is_marked(&self) -> bool {
        self.marked
    }

    fn push_tail(&mut self) {
        if !self.tail.bytes.is_empty() {
            self.queued_bytes += self.tail.bytes.len();
            self.queue.push_back(Chunk::Local(std::mem::take(&mut self.tail)));
        }
    }

    /// Reserves the place of a reply that another worker will send to a request of so many bytes;
    /// returns its number.
    pub(crate) fn reserve(&mut self, request_bytes: usize) -> u64 {
        self.push_tail();
        self.next_slot += 1;
        self.owed_bytes += request_bytes;
        let (slot, muted) = (self.next_slot, self.muted);
        self.queue.push_back(Chunk::Remote { slot, request_bytes, reply: None, muted });
        self.next_slot
    }

    /// Bytes of the requests whose replies other workers still owe.
    pub(crate) fn owed_bytes(&self) -> usize {
        self.owed_bytes
    }

    /// Fills a reserved place.
    pub(crate) fn fill(&mut self, slot: u64, bytes: Vec<u8>) {
        for chunk in &mut self.queue {
            if let Chunk::Remote { slot: s, request_bytes, reply, muted } = chunk
                && *s == slot
            {
                self.owed_bytes -= std::mem::take(request_bytes);
                let bytes = if *muted { Vec::new() } else { bytes };
                self.queued_bytes += bytes.len();
                *reply = Some(bytes);
                return;
            }
        }
    }

    /// True if nothing is held back and nothing waits to be taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.tail.bytes.is_empty()
    }

    /// The bytes held back or not yet taken.
    pub(crate) fn len(&self) -> usize {
        self.queued_bytes + self.tail.bytes.len()
    }

    /// Gives back what was taken, before everything else.
    pub(crate) fn put_first(&mut self, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.queued_bytes += bytes.len();
            self.queue.push_front(Chunk::Local(Segment { bytes, barriers: VecDeque::new() }));
        }
    }

    /// Takes what may leave now; `committed` knows each shard's commit index.
    pub(crate) fn take(&mut self, committed: impl Fn(ShardId) -> Index) -> Vec<u8> {
        let mut out = Vec::new();
        let all = self.take_queued(&mut out, &committed);
        self.queued_bytes -= out.len();
        if all && !self.muted {
            self.tail.release(&mut out, &committed);
        }
        out
    }
}

impl Output {
    /// Takes what may leave of the queue; true if that was all.
    fn take_queued(&mut self, out: &mut Vec<u8>, committed: &impl Fn(ShardId) -> Index) -> bool {
        while let Some(chunk) = self.queue.front_mut() {
            match chunk {
                Chunk::Remote { reply: None, .. } => return false,
                Chunk::Mark => self.marked = false,
                Chunk::Remote { reply: Some(reply), .. } => append(out, reply),
                Chunk::Local(segment) => {
                    if !segment.release(out, committed) {
                        return false;
                    }
                }
            }
            self.queue.pop_front();
        }
        true
    }
}

impl Segment {
    /// Appends what may leave to `out`; true if that was all.
    fn release(&mut self, out: &mut Vec<u8>, committed: &impl Fn(ShardId) -> Index) -> bool {
        while let Some(barrier) = self.barriers.front() {
            if committed(barrier.shard) < barrier.index {
                let free = barrier.start;
                if free > 0 {
                    out.extend(self.bytes.drain(..free));
                    self.barriers.iter_mut().for_each(|b| b.start -= free);
                }
                return false;
            }
            self.barriers.pop_front();
        }
        append(out, &mut self.bytes);
        true
    }
}

fn append(out: &mut Vec<u8>, bytes: &mut Vec<u8>) {
    if out.is_empty() {
        std::mem::swap(out, bytes);
    } else {
        out.append(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_leave_in_order_and_not_before_their_barriers() {
        let mut output = Output::new(Owner::Conn(1));
        output.buffer().extend_from_slice(b"read");
        let start = output.mark();
        output.buffer().extend_from_slice(b"write1");
        assert!(output.hold(start, 3, 10));
        let start = output.mark();
        output.buffer().extend_from_slice(b"write2");
        assert!(!output.hold(start, 3, 10));
        assert_eq!(output.take(|_| 9), b"read");
        assert_eq!(output.take(|_| 9), b"");
        assert_eq!(output.take(|shard| if shard == 3 { 10 } else { 0 }), b"write1write2");
        assert!(output.is_empty());
    }

    #[test]
    fn a_reserved_place_holds_back_what_follows() {
        let mut output = Output::new(Owner::Conn(1));
        output.buffer().extend_from_slice(b"a");
        let first = output.reserve(1);
        output.buffer().extend_from_slice(b"c");
        let second = output.reserve(1);
        output.fill(second, b"d".to_vec());
        assert_eq!(output.take(|_| 0), b"a");
        output.fill(first, b"b".to_vec());
        assert_eq!(output.take(|_| 0), b"bcd");
    }
}
