//! The scripts that a worker knows, by SHA-1, and the engine that runs them.
//!
//! As in Redis nothing of it survives a restart.

use quorate_base::ShardId;
use quorate_script::header::Flags;
use quorate_script::{Engine, Script, header};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How many scripts are kept; the one that was not used for longest goes.
pub(crate) const SCRIPTS_MAX: usize = 4_096;

/// How many bytes the texts of scripts may have together.
pub(crate) const SCRIPTS_BYTES_MAX: usize = 32 << 20;

#[derive(Debug, Default)]
pub(crate) struct Scripts {
    engine: Option<Box<Engine>>,
    kept: BTreeMap<String, Kept>,
    bytes: usize,
    uses: u64,
    /// Shards that the last script used besides its own, with the bytes of their effects before.
    pub(crate) widened: Vec<(ShardId, usize)>,
    /// The script that ran last is to execute again with all shards at hand.
    pub(crate) wants_all: bool,
    /// How many scripts are known to need all shards.
    wide: usize,
}

#[derive(Debug)]
struct Kept {
    body: Arc<[u8]>,
    flags: Flags,
    script: Script,
    used: u64,
    /// It was seen to use keys that it does not declare.
    wide: bool,
}

impl Scripts {
    /// The engine; made when it is first needed. Give it back with [`Scripts::put_engine`].
    pub(super) fn take_engine(&mut self) -> Box<Engine> {
        self.engine.take().unwrap_or_default()
    }

    pub(super) fn put_engine(&mut self, engine: Box<Engine>) {
        self.engine = Some(engine);
    }

    pub(crate) fn has(&self, sha: &str) -> bool {
        self.kept.contains_key(sha)
    }

    /// The text of a script by its SHA-1 as a client writes it.
    pub(super) fn body(&self, sha: &[u8]) -> Option<Arc<[u8]>> {
        let sha = std::str::from_utf8(sha).ok()?.to_ascii_lowercase();
        self.kept.get(&sha).map(|kept| Arc::clone(&kept.body))
    }

    /// A script that is about to run.
    pub(super) fn script(&mut self, sha: &str) -> Option<(Script, Flags)> {
        let kept = self.kept.get_mut(sha)?;
        self.uses += 1;
        kept.used = self.uses;
        Some((kept.script.clone(), kept.flags))
    }

    /// Notes that a script needs all shards.
    pub(super) fn note_wide(&mut self, sha: &str) {
        if let Some(kept) = self.kept.get_mut(sha) {
            self.wide += usize::from(!std::mem::replace(&mut kept.wide, true));
        }
    }

    pub(super) fn has_wide(&self) -> bool {
        self.wide > 0
    }

    pub(super) fn is_wide(&self, sha: &str) -> bool {
        self.kept.get(sha).is_some_and(|kept| kept.wide)
    }

    /// Compiles and keeps a script; or what is wrong with it.
    pub(crate) fn load(&mut self, sha: String, body: &[u8]) -> Result<(), String> {
        if self.has(&sha) {
            return Ok(());
        }
        let (flags, start) = header::script(body)?;
        let engine = self.take_engine();
        let compiled = engine.compile(&body[start..]);
        self.put_engine(engine);
        let script = compiled
            .map_err(|text| format!("ERR Error compiling script (new function): {text}"))?;
        self.uses += 1;
        self.bytes += body.len();
        let kept = Kept { body: body.into(), flags, script, used: self.uses, wide: false };
        self.kept.insert(sha, kept);
        while self.kept.len() > SCRIPTS_MAX || self.bytes > SCRIPTS_BYTES_MAX && self.kept.len() > 1
        {
            self.drop_oldest();
        }
        Ok(())
    }

    fn drop_oldest(&mut self) {
        let oldest = self.kept.iter().min_by_key(|(_, kept)| kept.used);
        let oldest = oldest.map(|(sha, _)| sha.clone());
        if let Some(kept) = oldest.and_then(|sha| self.kept.remove(&sha)) {
            self.bytes -= kept.body.len();
            self.wide -= usize::from(kept.wide);
        }
    }

    /// Forgets all scripts.
    pub(crate) fn flush(&mut self) {
        self.kept.clear();
        (self.bytes, self.wide) = (0, 0);
    }

    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize) {
        (self.kept.len(), self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_script::sha1_hex;

    #[test]
    fn the_script_that_was_not_used_for_longest_goes() {
        let mut scripts = Scripts::default();
        let body = |n: usize| format!("return {n}").into_bytes();
        let load = |scripts: &mut Scripts, n: usize| {
            let sha = sha1_hex(&body(n));
            scripts.load(sha.clone(), &body(n)).unwrap();
            sha
        };
        let first = load(&mut scripts, 0);
        let second = load(&mut scripts, 1);
        for n in 2..SCRIPTS_MAX {
            load(&mut scripts, n);
        }
        assert!(scripts.script(&first).is_some());
        load(&mut scripts, SCRIPTS_MAX);
        assert!(scripts.has(&first) && !scripts.has(&second));
        assert_eq!(scripts.sizes().0, SCRIPTS_MAX);
        scripts.flush();
        assert_eq!(scripts.sizes(), (0, 0));
    }
}
