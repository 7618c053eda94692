//! The command families: one file each, parse and execute side by side.
//!
//! How each type lies in its collection's elements (see [`crate::sorted`]; the order is bytewise):
//!
//! ```text
//! hash     field                                → value
//! set      member                               → (empty)
//! zset     'm' │ member                         → score, f64 bits LE
//!          's' │ sortable score u64 BE │ member → (empty), or 1 if the score is -0
//! list     position, see list.rs                → element
//! stream   'e' │ id 16 B BE                     → fields and values; groups: see stream.rs
//! ```

use crate::command::{Spec, Subcommands};

mod bitmap;
mod dump;
mod expire;
mod generic;
mod geo;
mod hash;
mod hyperloglog;
mod list;
mod sample;
mod set;
mod sort;
mod stream;
mod string;
#[cfg(test)]
mod twins;
mod zset;

/// Every family with its name as in `COMMAND DOCS` groups.
pub(crate) const FAMILIES: &[(&str, &[Spec])] = &[
    ("generic", generic::COMMANDS),
    ("generic", expire::COMMANDS),
    ("generic", sort::COMMANDS),
    ("generic", dump::COMMANDS),
    ("string", string::COMMANDS),
    ("bitmap", bitmap::COMMANDS),
    ("hash", hash::COMMANDS),
    ("list", list::COMMANDS),
    ("set", set::COMMANDS),
    ("sorted-set", zset::COMMANDS),
    ("hyperloglog", hyperloglog::COMMANDS),
    ("geo", geo::COMMANDS),
    ("stream", stream::COMMANDS),
];

/// Commands whose first argument names a subcommand.
pub(crate) const CONTAINERS: &[(&str, Subcommands)] = &[
    ("memory", generic::MEMORY),
    ("object", generic::OBJECT),
    ("xgroup", stream::GROUP),
    ("xinfo", stream::INFO),
];
