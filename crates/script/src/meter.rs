//! How much a script may do: instructions of the virtual machine, work of native functions, and
//! time where somebody measures it.

use crate::raise::Raised;
use std::cell::Cell;

/// How many instructions pass between two looks at the meter. One of them may take long (joining
/// long strings, shifting a long table), so they are few.
pub const LOOK_INSTRUCTIONS: u32 = 200;

/// Why a script was ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It executed as many instructions as it may.
    Instructions,
    /// It took as long as it may.
    Time,
    /// The host wants it.
    Host,
}

/// Counts what the script at hand has done.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    used: Cell<u64>,
    max: Cell<u64>,
    watch: Cell<Option<fn() -> u64>>,
    until_ms: Cell<u64>,
    /// When to look at the clock again.
    look_at: Cell<u64>,
    stopped: Cell<Option<Stop>>,
}

impl Meter {
    /// Begins with nothing used. `watch` is any clock in milliseconds.
    pub(crate) fn start(&self, max: u64, time_ms: u64, watch: Option<fn() -> u64>) {
        self.used.set(0);
        self.max.set(max);
        self.watch.set(watch);
        self.until_ms.set(watch.map_or(0, |now| now().saturating_add(time_ms)));
        self.look_at.set(0);
        self.stopped.set(None);
    }

    /// Counts `work`, about as much as so many instructions.
    pub(crate) fn charge(&self, work: u64) -> mlua::Result<()> {
        let used = self.used.get().saturating_add(work);
        self.used.set(used);
        if used > self.max.get() {
            self.stop(Stop::Instructions);
        } else if used >= self.look_at.get() {
            self.look_at.set(used + u64::from(LOOK_INSTRUCTIONS));
            if self.watch.get().is_some_and(|now| now() >= self.until_ms.get()) {
                self.stop(Stop::Time);
            }
        }
        self.check()
    }

    /// Ends the script at the next opportunity.
    pub(crate) fn stop(&self, why: Stop) {
        if self.stopped.get().is_none() {
            self.stopped.set(Some(why));
        }
    }

    /// Fails if the script is to end.
    pub(crate) fn check(&self) -> mlua::Result<()> {
        match self.stopped.get() {
            None => Ok(()),
            Some(why) => Err(mlua::Error::external(Raised::Stop(why))),
        }
    }

    pub(crate) fn stopped(&self) -> Option<Stop> {
        self.stopped.get()
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.get()
    }
}
