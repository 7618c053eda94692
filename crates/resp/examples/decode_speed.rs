//! How fast requests are decoded on one core: `cargo run --release -p quorate-resp --example decode_speed`.

use std::{hint::black_box, ops::ControlFlow, time::Instant};

use quorate_resp::Decoder;

const ROUNDS: usize = 200_000;
const PIPELINE: usize = 64;
const VALUE_BYTES: usize = 64;

fn main() {
    let mut batch = Vec::new();
    for n in 0..PIPELINE {
        let key = format!("key:{n:012}");
        let head = format!("*3\r\n$3\r\nSET\r\n${}\r\n{key}\r\n${VALUE_BYTES}\r\n", key.len());
        batch.extend_from_slice(head.as_bytes());
        batch.extend_from_slice(&[b'v'; VALUE_BYTES]);
        batch.extend_from_slice(b"\r\n");
    }
    measure("whole pipelines", &batch, batch.len());
    measure("reads of 1000 bytes, cutting commands", &batch, 1000);
    measure("reads of 50 bytes, cutting every command", &batch, 50);
}

fn measure(what: &str, batch: &[u8], read_bytes: usize) {
    let mut decoder = Decoder::new();
    let (mut commands, mut bytes) = (0usize, 0usize);
    let start = Instant::now();
    for _ in 0..ROUNDS {
        for read in black_box(batch).chunks(read_bytes) {
            decoder
                .feed(read, |args| {
                    commands += 1;
                    bytes += black_box(args).iter().map(|arg| arg.len()).sum::<usize>();
                    ControlFlow::Continue(())
                })
                .expect("well-formed requests");
        }
    }
    let elapsed = start.elapsed();
    assert_eq!(commands, ROUNDS * PIPELINE);
    black_box(bytes);
    let rate = commands as f64 / elapsed.as_secs_f64() / 1e6;
    println!("{what}: {rate:.1} M commands/s, {:.1} ns each", 1e3 / rate);
}
