//! Any bytes, cut anywhere and stopped anywhere, decode to the same commands and the same end as in
//! one piece. The first byte of the input chooses the cuts and the second the stops.
//! `cargo +nightly fuzz run decode` in `crates/resp`.

#![no_main]

use std::ops::ControlFlow;

use libfuzzer_sys::fuzz_target;
use quorate_resp::{Decoder, ProtocolError};

/// The commands, and the bytes left over or the error.
type Outcome = (Vec<Vec<Vec<u8>>>, Result<usize, ProtocolError>);

fuzz_target!(|data: &[u8]| {
    let [cut, stop, input @ ..] = data else { return };
    let whole = decode(input, input.len().max(1), 0);
    let pieces = decode(input, usize::from(*cut) + 1, *stop);
    assert_eq!(whole, pieces);
});

/// Decodes `input` in pieces of `cut` bytes, stopping after every `stop`th command (0: never).
fn decode(input: &[u8], cut: usize, stop: u8) -> Outcome {
    let mut decoder = Decoder::new();
    let mut commands: Vec<Vec<Vec<u8>>> = Vec::new();
    let mut pieces = input.chunks(cut);
    loop {
        let piece = pieces.next();
        let before = commands.len();
        let result = decoder.feed(piece.unwrap_or_default(), |args| {
            assert!(!args.is_empty());
            commands.push(args.iter().map(|arg| arg.to_vec()).collect());
            if stop > 0 && commands.len() % usize::from(stop) == 0 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        if let Err(error) = result {
            return (commands, Err(error));
        }
        if piece.is_none() && commands.len() == before {
            return (commands, Ok(decoder.pending_bytes()));
        }
    }
}
