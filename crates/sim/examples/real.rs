use quorate_base::prng::Prng;
use quorate_sim::load::*;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::*;
fn main() {
    let port = std::env::args().nth(1).unwrap();
    for name in NAMES {
        let mut load = by_name(name, Options { tolerance_us: 3000, ..Options::default() }).unwrap();
        let mut prng = Prng::new(1);
        let t = Instant::now();
        let connect = || { let s = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap(); s.set_nonblocking(true).unwrap(); s.set_nodelay(true).unwrap(); s };
        let mut admin = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        admin.write_all(b"*1\r\n$8\r\nFLUSHALL\r\n").unwrap();
        let mut b = [0; 65536];
        admin.read(&mut b).unwrap();
        let mut conns: Vec<_> = (0..load.clients()).map(|_| connect()).collect();
        while t.elapsed() < Duration::from_secs(4) {
            for c in 0..conns.len() {
                let now = t.elapsed().as_micros() as u64;
                if let Some(out) = load.next(c, now, &mut prng) { conns[c].write_all(&out).unwrap(); }
                if prng.below(3000) == 0 { conns[c] = connect(); load.disconnected(c, now); continue; }
                if let Ok(n) = conns[c].read(&mut b) { load.reply(c, t.elapsed().as_micros() as u64, &b[..n]); }
            }
        }
        std::thread::sleep(Duration::from_millis(600));
        let mut view = FinalView { began_us: t.elapsed().as_micros() as u64, ..FinalView::default() };
        for r in load.final_requests() {
            admin.write_all(&r).unwrap();
            std::thread::sleep(Duration::from_millis(2));
            let n = admin.read(&mut b).unwrap();
            view.answers.push((r, b[..n].to_vec()));
        }
        view.ended_us = t.elapsed().as_micros() as u64;
        let t2 = Instant::now();
        let r = load.finish(&view);
        println!("{name}: {r:?} {:?} finish {:?}", load.tally(), t2.elapsed());
    }
}
