//! The terminal: raw mode and the alternate screen, given back however the process ends.

use crate::look::text::Line;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use std::io::Write as _;

/// The alternate screen without a cursor, and the way back.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";

/// Terminals that know it show what is between these at once.
const BEGIN_FRAME: &str = "\x1b[?2026h";
const END_FRAME: &str = "\x1b[?2026l";

/// The size of a terminal that does not tell it.
const SIZE: (usize, usize) = (80, 24);

/// The terminal while it is ours.
pub(super) struct Screen {
    before: Termios,
    colours: bool,
}

impl Screen {
    /// Takes the terminal of this process.
    pub(super) fn open() -> std::io::Result<Self> {
        let before = tcgetattr(std::io::stdin())?;
        let report = std::panic::take_hook();
        let at_panic = before.clone();
        std::panic::set_hook(Box::new(move |info| {
            leave(&at_panic);
            report(info);
        }));
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &raw)?;
        let colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let screen = Self { before, colours };
        let mut out = std::io::stdout().lock();
        out.write_all(ENTER.as_bytes())?;
        out.flush()?;
        Ok(screen)
    }

    /// Columns and rows.
    pub(super) fn size(&self) -> (usize, usize) {
        match tcgetwinsize(std::io::stdout()) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                (size.ws_col.into(), size.ws_row.into())
            }
            _ => SIZE,
        }
    }

    /// Shows these lines and nothing else.
    pub(super) fn draw(&mut self, lines: &[Line]) -> std::io::Result<()> {
        let (width, height) = self.size();
        let mut frame = format!("{BEGIN_FRAME}\x1b[H");
        for (at, line) in lines.iter().take(height).enumerate() {
            if at > 0 {
                frame += "\r\n";
            }
            frame += &line.show(self.colours, width);
            frame += "\x1b[K";
        }
        frame += "\x1b[J";
        frame += END_FRAME;
        let mut out = std::io::stdout().lock();
        out.write_all(frame.as_bytes())?;
        out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave(&self.before);
    }
}

/// Gives the terminal back as it was.
fn leave(before: &Termios) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(LEAVE.as_bytes());
    let _ = out.flush();
    let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
}
