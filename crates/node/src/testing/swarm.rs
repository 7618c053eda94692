//! Many clients at once: each seed draws the number of workers, what the clients do, in which
//! order messages arrive and when the journal confirms, who leaves, and when the node crashes.
//! Every command of a client that stays gets exactly one reply, in order; what was acknowledged is
//! there after a crash; transactions and commands over several shards are atomic.

use super::Node;
use crate::event::ConnId;
use quorate_base::Prng;
use std::collections::BTreeMap;

/// Accounts between which clients move a constant sum.
const ACCOUNTS: u64 = 12;
const SUM: i64 = 1_200;
const STEPS: usize = 300;

struct Swarm {
    node: Node,
    prng: Prng,
    /// Clients with what they are owed: the numbers of their unanswered PINGs.
    clients: BTreeMap<ConnId, Vec<String>>,
    pings: u64,
}

impl Swarm {
    fn new(seed: u64) -> Self {
        let mut prng = Prng::new(seed);
        let mut node = Node::new([1, 2, 4][prng.below(3) as usize]);
        node.shuffle = Some(Prng::new(seed + 1));
        let client = node.client();
        for account in 0..ACCOUNTS {
            node.check(client, &format!("SET a{account} {}", SUM / ACCOUNTS as i64), "+OK|");
        }
        node.disconnect(client);
        node.manual_sync = true;
        Self { node, prng, clients: BTreeMap::new(), pings: 0 }
    }

    fn draw(&mut self, bound: u64) -> u64 {
        self.prng.below(bound)
    }

    fn step(&mut self) {
        match self.draw(100) {
            0..15 => {
                let client = self.node.client();
                self.clients.insert(client, Vec::new());
            }
            15..70 => self.act(),
            70..80 => {
                let workers = self.node.workers.len() as u64;
                let worker = self.draw(workers) as u16;
                for _ in 0..self.draw(4) {
                    self.node.sync_one(worker);
                }
            }
            80..95 => {
                for _ in 0..self.draw(6) {
                    self.node.deliver();
                }
            }
            95 => self.leave(),
            96 => self.interfere(),
            97..99 => {
                let ms = self.draw(300);
                self.node.advance(ms);
            }
            _ => self.rest(),
        }
    }

    fn some_client(&mut self) -> Option<ConnId> {
        let count = self.clients.len() as u64;
        (count > 0)
            .then(|| self.draw(count))
            .and_then(|n| self.clients.keys().nth(n as usize))
            .copied()
    }

    /// A client does something and then sends a PING, whose reply shows that it is not stuck.
    fn act(&mut self) {
        let Some(client) = self.some_client() else { return };
        let (from, to, more) = (self.draw(ACCOUNTS), self.draw(ACCOUNTS), self.draw(ACCOUNTS));
        let amount = self.draw(50);
        let transfer = format!(
            "MULTI\r\nDECRBY a{from} {amount}\r\nINCRBY a{to} {amount}\r\nMGET a{from} a{more}\r\nEXEC\r\n"
        );
        let command = match self.draw(10) {
            0..3 => transfer,
            3 => format!("WATCH a{more} a{to}\r\n{transfer}"),
            4 => format!("MGET a{from} a{to} a{more}\r\n"),
            5 => format!("BLPOP l{from} l{to} 0.2\r\n"),
            6 => format!("RPUSH l{from} x y\r\n"),
            7 => format!("SUBSCRIBE c{from}\r\nUNSUBSCRIBE c{from}\r\nPUBLISH c{to} hi\r\n"),
            8 => "CLIENT LIST\r\nINFO\r\n".to_owned(),
            _ => format!("CLIENT REPLY SKIP\r\nSET b{from} 1\r\nDEL b{from} b{to} b{more}\r\n"),
        };
        self.pings += 1;
        let ping = format!("p{}", self.pings);
        self.node.feed(client, format!("{command}ECHO {ping}\r\n").as_bytes());
        self.clients.get_mut(&client).expect("it was just chosen").push(ping);
    }

    fn leave(&mut self) {
        if let Some(client) = self.some_client() {
            self.node.disconnect(client);
            self.clients.remove(&client);
        }
    }

    /// A client does something to another.
    fn interfere(&mut self) {
        let (Some(client), Some(other)) = (self.some_client(), self.some_client()) else { return };
        let line = match self.draw(4) {
            0 if client != other => format!("CLIENT KILL ID {other}"),
            1 => "CLIENT PAUSE 30 WRITE".to_owned(),
            2 => "CLIENT PAUSE 20".to_owned(),
            _ => format!("CLIENT UNBLOCK {other} ERROR"),
        };
        self.node.feed(client, format!("{line}\r\n").as_bytes());
    }

    /// Everything comes to rest: each client has its replies and the sum is what it was.
    fn rest(&mut self) {
        self.node.manual_sync = false;
        self.node.settle();
        self.node.advance(60_000);
        self.clients.retain(|client, _| !self.node.is_closed(*client));
        for (client, owed) in &mut self.clients {
            let text = self.node.text(*client);
            let pings: Vec<&str> = text
                .split('|')
                .filter(|l| {
                    l.len() > 1 && l.starts_with('p') && l[1..].bytes().all(|b| b.is_ascii_digit())
                })
                .collect();
            assert_eq!(pings, *owed, "client {client} is stuck: {text}");
            owed.clear();
        }
        self.check_sum();
        self.node.manual_sync = true;
    }

    fn check_sum(&mut self) {
        let client = self.node.client();
        let accounts: Vec<String> = (0..ACCOUNTS).map(|n| format!("a{n}")).collect();
        let text = self.node.run(client, &format!("MGET {}", accounts.join(" ")));
        let values = text.split('|').skip(2).step_by(2).filter_map(|v| v.parse::<i64>().ok());
        assert_eq!(values.sum::<i64>(), SUM, "{text}");
        self.node.disconnect(client);
    }

    fn crash(&mut self) {
        self.clients.clear();
        self.node.restart();
        self.node.manual_sync = false;
        self.check_sum();
        self.node.manual_sync = true;
    }
}

#[test]
fn many_clients_at_once() {
    for seed in 0..60 {
        let mut swarm = Swarm::new(seed);
        for _ in 0..3 {
            for _ in 0..STEPS {
                swarm.step();
            }
            if swarm.draw(2) == 0 {
                swarm.rest();
            }
            swarm.crash();
        }
    }
}
