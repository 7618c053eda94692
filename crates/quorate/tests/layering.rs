//! The layers of `ARCHITECTURE.md`, checked: which crate may depend on which, and that nothing
//! below the edge reads a clock, draws randomness, starts a thread or does I/O.
//!
//! [`POLICIES`] is the whole rule. Dependencies are checked against lists of what is *allowed*,
//! and so are the modules of `std` in the pure crates, so that something new has to be let in
//! here on purpose. Checked is what reaches a user: `src/` without `#[cfg(test)]` items and
//! without `testing` modules (helpers that the tests of other crates share); tests, examples and
//! fuzz targets may do what they like.

mod layering {
    pub(crate) mod source;
    pub(crate) mod tokens;
}

use figment::Figment;
use figment::providers::{Format, Toml};
use layering::source::{Rules, violations};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// What one crate may know.
struct Policy {
    /// Its directory below `crates/`.
    name: &'static str,
    /// Crates of this workspace it may depend on, by their directories.
    inner: &'static [&'static str],
    /// Other crates it may depend on.
    outer: &'static [&'static str],
    /// What its sources may use.
    rules: Rules,
}

/// Every crate of the workspace, bottom up.
const POLICIES: &[Policy] = &[
    Policy { name: "base", inner: &[], outer: &["xxhash-rust"], rules: Rules::Pure },
    Policy { name: "resp", inner: &["base"], outer: &["smallvec"], rules: Rules::Pure },
    Policy { name: "log", inner: &["base"], outer: &["raft", "slog"], rules: Rules::Pure },
    Policy { name: "placement", inner: &["base"], outer: &[], rules: Rules::Pure },
    // The one dependency between siblings: a command writes its reply as it executes.
    Policy {
        name: "data",
        inner: &["base", "resp"],
        outer: &["hashbrown", "smallvec"],
        rules: Rules::Pure,
    },
    Policy {
        name: "script",
        inner: &["base", "resp"],
        outer: &["mlua", "sha1_smol"],
        rules: Rules::Pure,
    },
    Policy {
        name: "node",
        inner: &["base", "resp", "log", "data", "script"],
        outer: &["smallvec"],
        rules: Rules::Pure,
    },
    Policy {
        name: "storage",
        inner: &["base", "log", "data"],
        outer: &["byteview", "lsm-tree", "rustix", "sfa", "thiserror", "xxhash-rust"],
        rules: Rules::FilesOnly,
    },
    // A world of its own beside the binary; what it needs of storage is the journal, in memory.
    Policy {
        name: "sim",
        inner: &["base", "log", "data", "node", "storage"],
        outer: &[],
        rules: Rules::Simulated,
    },
    Policy {
        name: "quorate",
        inner: &["base", "resp", "log", "data", "node", "storage", "sim"],
        outer: &[
            "clap",
            "figment",
            "http-body-util",
            "hyper",
            "hyper-util",
            "mimalloc",
            "rustix",
            "serde",
            "serde_json",
            "thiserror",
            "tokio",
            "tracing",
            "tracing-subscriber",
        ],
        rules: Rules::Anything,
    },
    // Starts the built binary as a user would, and knows no crate of it.
    Policy {
        name: "xtask",
        inner: &[],
        outer: &["bytes", "clap", "h2", "http", "serde_json", "tokio"],
        rules: Rules::Anything,
    },
];

fn crates_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("crates/quorate has a parent").into()
}

/// The names under `[dependencies]` and `[build-dependencies]` of a manifest, also those that
/// are only for some targets.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    #[derive(Default, serde::Deserialize)]
    #[serde(default, rename_all = "kebab-case")]
    struct Tables {
        dependencies: BTreeMap<String, serde_json::Value>,
        build_dependencies: BTreeMap<String, serde_json::Value>,
        target: BTreeMap<String, Tables>,
    }
    fn collect(tables: Tables, names: &mut BTreeSet<String>) {
        names.extend(tables.dependencies.into_keys());
        names.extend(tables.build_dependencies.into_keys());
        tables.target.into_values().for_each(|of_target| collect(of_target, names));
    }
    let tables: Tables = Figment::from(Toml::string(manifest)).extract().expect("a manifest");
    let mut names = BTreeSet::new();
    collect(tables, &mut names);
    names
}

/// The dependencies of `manifest` that `policy` does not allow.
fn forbidden_dependencies(policy: &Policy, manifest: &str) -> Vec<String> {
    let allowed = |name: &str| match name.strip_prefix("quorate-") {
        Some(inner) => policy.inner.contains(&inner),
        None => policy.outer.contains(&name),
    };
    dependencies(manifest).into_iter().filter(|name| !allowed(name)).collect()
}

#[test]
fn every_crate_has_a_policy() {
    let found: BTreeSet<String> = std::fs::read_dir(crates_dir())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().join("Cargo.toml").is_file())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    let known: BTreeSet<String> = POLICIES.iter().map(|policy| policy.name.to_owned()).collect();
    assert_eq!(found, known, "crates found, and crates that POLICIES knows");
}

#[test]
fn crates_depend_only_on_what_lies_below_them() {
    for policy in POLICIES {
        let path = crates_dir().join(policy.name).join("Cargo.toml");
        let manifest = std::fs::read_to_string(&path).unwrap();
        let forbidden = forbidden_dependencies(policy, &manifest);
        assert!(
            forbidden.is_empty(),
            "{} depends on {forbidden:?}, which the layers of ARCHITECTURE.md do not allow",
            path.display()
        );
    }
}

#[test]
fn every_dependency_is_explained() {
    let path = crates_dir().join("../docs/dependencies.md");
    let page = std::fs::read_to_string(path).unwrap();
    for policy in POLICIES {
        let manifest = crates_dir().join(policy.name).join("Cargo.toml");
        for name in dependencies(&std::fs::read_to_string(manifest).unwrap()) {
            let explained = name.starts_with("quorate-") || page.contains(&format!("`{name}`"));
            assert!(explained, "docs/dependencies.md does not say what {name} is for");
        }
    }
}

#[test]
fn nothing_below_the_edge_touches_the_outside() {
    let mut found = Vec::new();
    for policy in POLICIES {
        found.extend(violations(&crates_dir().join(policy.name).join("src"), policy.rules));
    }
    assert!(
        found.is_empty(),
        "time, randomness, disk and network arrive as arguments or events (ARCHITECTURE.md):\n{}",
        found.join("\n")
    );
}

// --- the checker can fail ------------------------------------------------------------------------

#[test]
fn a_forbidden_dependency_is_found() {
    let policy = Policy { name: "x", inner: &["base"], outer: &["smallvec"], rules: Rules::Pure };
    let manifest = "
        [dependencies]
        quorate-base.workspace = true
        quorate-node = { path = '../node' }
        smallvec = '1'
        [build-dependencies]
        cc = '1'
        [target.'cfg(unix)'.dependencies]
        libc = '0.2'
        [dev-dependencies]
        proptest = '1'";
    assert_eq!(forbidden_dependencies(&policy, manifest), ["cc", "libc", "quorate-node"]);
}
