//! How long a client waits for its replies.
//!
//! A turn already knows its time, so nothing is read and nothing is kept for a single command: the
//! time of the oldest command that is not answered is, and when its reply leaves, all commands that
//! came with it have been answered as well. A client that sends on before it was answered is looked
//! at batch by batch: one *mark* at a time says where the next batch ends.

use crate::dispatch::Command;
use crate::histogram::Histogram;
use crate::output::Output;
use quorate_data::command::flag;

/// What is known of the replies that a client waits for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Timed {
    /// When the oldest command that is not answered came, in microseconds.
    since_us: Option<u64>,
    /// Commands so far that are in the histogram, or do not belong there.
    counted: u64,
    /// While there is a mark: the commands before it, and when the first behind it came.
    mark: Option<(u64, u64)>,
}

impl Timed {
    /// Something comes from a client that has sent so many commands.
    #[inline]
    pub(crate) fn on_input(&mut self, output: &mut Output, commands: u64, now_us: u64) {
        if self.since_us.is_none() {
            self.since_us = Some(now_us);
        } else if !output.is_marked() && !output.is_muted() && !output.is_empty() {
            output.set_mark();
            self.mark = Some((commands, now_us));
        }
    }

    /// Everything that came was looked at. A client that has nothing to wait for, or waits for a
    /// key to change, is not timed.
    #[inline]
    pub(crate) fn on_handled(
        &mut self,
        output: &Output,
        parked: bool,
        last: Option<Command>,
        commands: u64,
    ) {
        let waits = parked && last.is_some_and(|command| command.is(flag::BLOCKING));
        if waits || !parked && output.is_empty() {
            *self = Self { counted: commands, ..Self::default() };
        }
    }

    /// What may leave was taken from the output.
    #[inline]
    pub(crate) fn on_taken(
        &mut self,
        output: &Output,
        commands: u64,
        now_us: u64,
        latency: &mut Histogram,
    ) {
        let Some(mut since_us) = self.since_us.filter(|_| !output.is_marked()) else { return };
        let mut count = |since_us: u64, upto: u64| {
            latency.record(now_us.saturating_sub(since_us), upto.saturating_sub(self.counted));
            self.counted = upto;
        };
        if let Some((upto, then_us)) = self.mark.take() {
            count(since_us, upto);
            since_us = then_us;
            self.since_us = Some(then_us);
        }
        if output.is_empty() {
            count(since_us, commands);
            self.since_us = None;
        }
    }
}
