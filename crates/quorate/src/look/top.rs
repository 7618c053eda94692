//! `quorate top`: how the nodes are, each second.
//!
//! A screen of lines is all there is to draw, so it is drawn without a library: the terminal is
//! put into raw mode, its alternate screen is used, and both are undone however this ends. The
//! nodes are asked by a thread of its own, so keys are answered while a node is not.

mod screen;
mod view;

use super::survey::Survey;
use crate::cli::TopArgs;
use screen::Screen;
use std::io::{IsTerminal as _, Read as _};
use std::process::ExitCode;
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};
use view::View;

/// How often the nodes are asked.
const PERIOD: Duration = Duration::from_secs(1);

/// How often the screen is looked at for another size while nothing else happens.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What happens while the screen is shown.
enum Event {
    Surveyed(Survey),
    Keys(Vec<u8>),
    /// A signal, or the end of the input.
    Stop,
}

/// Shows the screen until a key or a signal ends it.
pub(crate) fn top(args: &TopArgs) -> ExitCode {
    if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
        eprintln!(
            "quorate: top needs a terminal; `quorate status` says it once, --json for programs"
        );
        return ExitCode::FAILURE;
    }
    match show(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("quorate: the terminal cannot be used: {error}");
            ExitCode::FAILURE
        }
    }
}

fn show(args: &TopArgs) -> std::io::Result<()> {
    let mut screen = Screen::open()?;
    let (sender, events) = channel();
    start(sender, args.at.clone())?;
    let mut view = View::new();
    let mut size = screen.size();
    loop {
        screen.draw(&view.lines(size.0, size.1))?;
        match events.recv_timeout(LOOK_AGAIN) {
            Ok(Event::Surveyed(survey)) => view.take(survey),
            Ok(Event::Keys(keys)) => {
                if !view.press(&keys) {
                    return Ok(());
                }
            }
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {}
            Ok(Event::Stop) | Err(_) => return Ok(()),
        }
        size = screen.size();
    }
}

/// Starts what brings events; it ends with the process.
fn start(events: Sender<Event>, addresses: Vec<String>) -> std::io::Result<()> {
    let keys = events.clone();
    std::thread::Builder::new().name("keys".into()).spawn(move || {
        let mut buffer = [0; 64];
        loop {
            let event = match std::io::stdin().read(&mut buffer) {
                Ok(0) | Err(_) => Event::Stop,
                Ok(bytes) => Event::Keys(buffer[..bytes].to_vec()),
            };
            let last = matches!(event, Event::Stop);
            if keys.send(event).is_err() || last {
                return;
            }
        }
    })?;
    let signals = events.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let _ = runtime.block_on(signal());
        let _ = signals.send(Event::Stop);
    })?;
    std::thread::Builder::new().name("survey".into()).spawn(move || {
        loop {
            let began = Instant::now();
            if events.send(Event::Surveyed(Survey::take(&addresses))).is_err() {
                return;
            }
            std::thread::sleep(PERIOD.saturating_sub(began.elapsed()));
        }
    })?;
    Ok(())
}

/// Waits for a signal that asks to end.
async fn signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut int = signal(SignalKind::interrupt())?;
    let mut term = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
        _ = hangup.recv() => {}
    }
    Ok(())
}
