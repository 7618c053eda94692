//! Scripts on a whole node of two workers, and on a cluster.

use crate::testing::Node;

/// RESP of a command.
fn resp(args: &[&str]) -> Vec<u8> {
    let mut out = format!("*{}\r\n", args.len()).into_bytes();
    for arg in args {
        out.extend_from_slice(format!("${}\r\n{arg}\r\n", arg.len()).as_bytes());
    }
    out
}

struct Bench {
    node: Node,
    /// At worker 0.
    a: u64,
    /// At worker 1.
    b: u64,
}

impl Bench {
    fn new() -> Self {
        let mut node = Node::new(2);
        let (a, b) = (node.client(), node.client());
        Self { node, a, b }
    }

    fn ask(&mut self, client: u64, args: &[&str]) -> String {
        self.node.feed(client, &resp(args));
        self.node.settle();
        self.node.text(client)
    }

    #[track_caller]
    fn check(&mut self, args: &[&str], expected: &str) {
        // Whichever worker the client is at.
        for client in [self.a, self.b] {
            assert_eq!(self.ask(client, args), expected, "{args:?}");
        }
    }
}

const SET: &str = "redis.call('SET', KEYS[1], ARGV[1]) return redis.call('GET', KEYS[1])";

#[test]
fn a_script_executes_where_its_keys_are() {
    let mut bench = Bench::new();
    for key in ["a", "b", "c", "d", "e"] {
        bench.check(&["EVAL", SET, "1", key, "v"], "$1|v|");
        bench.check(&["GET", key], "$1|v|");
    }
    let all = "for i, key in ipairs(KEYS) do redis.call('INCR', key) end return #KEYS";
    bench.check(&["DEL", "a", "b", "c", "d", "e"], ":5|".replace(":5|", &bench_del()).as_str());
    assert_eq!(bench.ask(1, &["EVAL", all, "5", "a", "b", "c", "d", "e"]), ":5|");
    bench.check(&["MGET", "a", "b", "c", "d", "e"], "*5|$1|1|$1|1|$1|1|$1|1|$1|1|");
}

/// `check` executes twice: what the second DEL says.
fn bench_del() -> String {
    ":5|".into()
}
