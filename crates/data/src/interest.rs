//! Who waits for keys of a shard to change: blocked commands and WATCH.

use std::collections::HashMap;

/// The keys that somebody waits for or watches.
#[derive(Debug, Default)]
pub struct Interest {
    keys: HashMap<Box<[u8]>, Interested>,
    ready: Vec<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Interested {
    waiters: u32,
    watchers: u32,
    /// How many changes were seen.
    changed: u64,
}

impl Interest {
    /// True if nobody is interested in any key.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// A blocked command waits for `key`.
    pub fn add_waiter(&mut self, key: &[u8]) {
        self.keys.entry(key.into()).or_default().waiters += 1;
    }

    /// Takes back one [`Interest::add_waiter`].
    pub fn remove_waiter(&mut self, key: &[u8]) {
        self.release(key, |i| &mut i.waiters);
    }

    /// A connection watches `key`; it hands the result to [`Interest::has_changed`] later.
    pub fn watch(&mut self, key: &[u8]) -> u64 {
        let interested = self.keys.entry(key.into()).or_default();
        interested.watchers += 1;
        interested.changed
    }

    /// Takes back one [`Interest::watch`].
    pub fn unwatch(&mut self, key: &[u8]) {
        self.release(key, |i| &mut i.watchers);
    }

    /// True if a watched key was changed (not merely expired) since `watch` returned `token`.
    pub fn has_changed(&self, key: &[u8], token: u64) -> bool {
        self.keys.get(key).is_none_or(|i| i.changed != token)
    }

    /// The keys with waiters that changed since the last call, in order of their changes.
    pub fn take_ready(&mut self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.ready)
    }

    /// True if [`Interest::take_ready`] has something.
    #[inline]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(crate) fn changed(&mut self, key: &[u8]) {
        let Some(interested) = self.keys.get_mut(key) else { return };
        interested.changed += 1;
        if interested.waiters > 0 {
            self.ready.push(key.to_vec());
        }
    }

    /// Wakes who waits for `key`, though watchers see no change.
    pub(crate) fn wake(&mut self, key: &[u8]) {
        if self.keys.get(key).is_some_and(|interested| interested.waiters > 0) {
            self.ready.push(key.to_vec());
        }
    }

    /// The keys that anybody waits for or watches, in order.
    pub(crate) fn keys(&self) -> Vec<Vec<u8>> {
        let mut keys: Vec<Vec<u8>> = self.keys.keys().map(|key| key.to_vec()).collect();
        keys.sort_unstable();
        keys
    }

    fn release(&mut self, key: &[u8], count: impl Fn(&mut Interested) -> &mut u32) {
        let Some(interested) = self.keys.get_mut(key) else { return };
        let left = count(interested);
        *left = left.saturating_sub(1);
        if interested.waiters == 0 && interested.watchers == 0 {
            self.keys.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_see_changes_and_waiters_are_woken() {
        let mut interest = Interest::default();
        let token = interest.watch(b"k");
        assert!(!interest.has_changed(b"k", token));
        interest.changed(b"k");
        assert!(interest.has_changed(b"k", token) && !interest.has_ready());
        interest.add_waiter(b"k");
        interest.changed(b"k");
        interest.changed(b"other");
        assert_eq!(interest.take_ready(), [b"k".to_vec()]);
        interest.unwatch(b"k");
        interest.remove_waiter(b"k");
        assert!(interest.is_empty());
    }
}
