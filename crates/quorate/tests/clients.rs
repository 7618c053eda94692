//! Client libraries against a node of several workers.

mod common;

use common::Node;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

#[test]
fn redis_py_finds_what_it_knows() {
    let data = TempDir::new().expect("a temporary directory");
    let node = Node::start(data.path(), &["--workers", "3"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/redis_py.py");
    let port = node.address.port().to_string();
    let Ok(output) = Command::new("python3").arg(script).arg(port).output() else {
        println!("SKIPPED: python3 is not installed (apt-get install python3-redis)");
        return;
    };
    print!("{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
