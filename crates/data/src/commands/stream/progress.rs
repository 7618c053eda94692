//! How far a group has read: its counter of entries, which deletions in the middle may spoil, and
//! its lag. The counter counts entries ever added up to the last one delivered. The rules are
//! those of Redis with its fixes for groups that trimming has overtaken (its pull requests 13338,
//! 13473 and 13958); before these the lag could be wrong rather than unknown.

use super::id::Id;
use super::store::{Group, Header, View};

/// What the counters of a stream's groups follow from.
pub(super) struct Progress {
    header: Header,
    first: Id,
}

impl Progress {
    pub(super) fn of(view: View<'_>) -> Self {
        Self { header: view.header(), first: view.first().unwrap_or_default() }
    }

    /// Notes that `id`, which is after `group.last`, was delivered.
    pub(super) fn advance(&self, group: &mut Group, id: Id) {
        match group.entries_read {
            Some(read) if group.last >= self.first && !self.has_deletions_from(group.last) => {
                group.entries_read = Some(read + 1);
            }
            _ if self.header.added > 0 => {
                group.entries_read = counter_at(&self.header, self.first, id);
            }
            _ => {}
        }
        group.last = id;
    }

    /// How many entries the group has yet to read, if that can be known.
    pub(super) fn lag(&self, group: &Group) -> Option<i64> {
        let Header { max_deleted, added, len, .. } = self.header;
        if added == 0 || len == 0 {
            return Some(0);
        }
        if group.last < self.first && max_deleted < self.first {
            return Some(len as i64);
        }
        let read = match group.entries_read {
            Some(read) if !self.has_deletions_from(group.last) => read,
            _ => counter_at(&self.header, self.first, group.last)?,
        };
        Some(added.wrapping_sub(read) as i64)
    }

    /// True if an entry at or after `id` was deleted from the middle.
    fn has_deletions_from(&self, id: Id) -> bool {
        let Header { len, max_deleted, .. } = self.header;
        len > 0 && max_deleted != Id::MIN && id <= max_deleted
    }
}

/// The counter of a group whose last delivered entry is `id`, if that can be known. `first` is the
/// first entry.
pub(super) fn counter_at(header: &Header, first: Id, id: Id) -> Option<u64> {
    let Header { last, max_deleted, added, len, .. } = *header;
    if added == 0 {
        return Some(0);
    }
    if len == 0 && id <= last {
        return Some(added);
    }
    if id != Id::MIN && id < max_deleted {
        return None;
    }
    if id == last {
        return Some(added);
    }
    if id > last || max_deleted != Id::MIN && max_deleted >= first {
        return None;
    }
    match id.cmp(&first) {
        std::cmp::Ordering::Less => Some(added.wrapping_sub(len)),
        std::cmp::Ordering::Equal => Some(added.wrapping_sub(len).wrapping_add(1)),
        std::cmp::Ordering::Greater => None,
    }
}
