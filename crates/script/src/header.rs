//! The first line of a script that says how it wants to run: `#!lua flags=no-writes,…`, and of a
//! library: `#!lua name=…`.

/// Flags of a script or function, see [`flag_of`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(u8);

impl Flags {
    /// It writes nothing.
    pub const NO_WRITES: Self = Self(1);
    /// It may run when memory is short.
    pub const ALLOW_OOM: Self = Self(2);
    /// It may run on a replica with stale data.
    pub const ALLOW_STALE: Self = Self(4);
    /// It must not run in a cluster.
    pub const NO_CLUSTER: Self = Self(8);
    /// It may use keys of several slots.
    pub const ALLOW_CROSS_SLOT_KEYS: Self = Self(16);
    /// A script without a first line that says anything: old rules are for it.
    pub const COMPATIBLE: Self = Self(32);

    /// Whether all flags of `other` are set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// With the flags of `other` as well.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The flag of that name.
pub fn flag_of(name: &[u8]) -> Option<Flags> {
    Some(match name {
        b"no-writes" => Flags::NO_WRITES,
        b"allow-oom" => Flags::ALLOW_OOM,
        b"allow-stale" => Flags::ALLOW_STALE,
        b"no-cluster" => Flags::NO_CLUSTER,
        b"allow-cross-slot-keys" => Flags::ALLOW_CROSS_SLOT_KEYS,
        _ => return None,
    })
}

/// The flags of a script and where its code begins; or what is wrong with its first line.
pub fn script(body: &[u8]) -> Result<(Flags, usize), String> {
    if !body.starts_with(b"#!") {
        return Ok((Flags::COMPATIBLE, 0));
    }
    let Some(end) = body.iter().position(|&b| b == b'\n') else {
        return Err("ERR Invalid script shebang".into());
    };
    let mut parts = body[..end].split(|&b| b == b' ');
    let engine = parts.next().unwrap_or_default();
    if engine != b"#!lua" {
        let engine = String::from_utf8_lossy(engine);
        return Err(format!("ERR Unexpected engine in script shebang: {engine}"));
    }
    let mut flags = Flags::default();
    for part in parts {
        let Some(list) = part.strip_prefix(b"flags=") else {
            let part = String::from_utf8_lossy(part);
            return Err(format!("ERR Unknown lua shebang option: {part}"));
        };
        for name in list.split(|&b| b == b',').filter(|name| !name.is_empty()) {
            let Some(flag) = flag_of(name) else {
                let name = String::from_utf8_lossy(name);
                return Err(format!("ERR Unexpected flag in script shebang: {name}"));
            };
            flags = flags.with(flag);
        }
    }
    Ok((flags, end))
}

/// The name of a library and where its code begins; or what is wrong with its first line.
pub fn library(body: &[u8]) -> Result<(Vec<u8>, usize), String> {
    let end = body.iter().position(|&b| b == b'\n').filter(|_| body.starts_with(b"#!"));
    let Some(end) = end else {
        return Err(if body.starts_with(b"#!") {
            "ERR Invalid library metadata".into()
        } else {
            "ERR Missing library metadata".into()
        });
    };
    let mut parts = body[..end].split(|&b| b == b' ');
    let engine = parts.next().unwrap_or_default();
    let engine = engine.strip_prefix(b"#!").unwrap_or_default();
    let mut name = None;
    for part in parts.filter(|part| !part.is_empty()) {
        let Some(value) = part.strip_prefix(b"name=") else {
            let part = String::from_utf8_lossy(part);
            return Err(format!("ERR Invalid metadata value given: {part}"));
        };
        if name.replace(value.to_vec()).is_some() {
            return Err("ERR Invalid metadata value, name argument was given multiple times".into());
        }
    }
    let Some(name) = name else { return Err("ERR Library name was not given".into()) };
    let fits = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    if name.is_empty() || !name.iter().all(fits) {
        return Err("ERR Library names can only contain letters, numbers, or underscores(_) and \
                    must be at least one character long"
            .into());
    }
    if !engine.eq_ignore_ascii_case(b"lua") {
        return Err(format!("ERR Engine '{}' not found", String::from_utf8_lossy(engine)));
    }
    Ok((name, end))
}
