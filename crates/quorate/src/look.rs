//! Looking at nodes from outside: `quorate status` and `quorate top`.
//!
//! Both ask nodes with `QUORATE STATUS`, as any client could. The node that is asked first names
//! the others and where their clients connect; these are asked too, side by side, because each
//! node tells only what it knows itself.
//!
//! ```text
//! client.rs    one question to one node, in RESP
//! facts.rs     what a node answers
//! survey.rs    all nodes asked, and what they say together
//! verdict.rs   whether that is healthy, and what to do if not
//! text.rs      tables, colours, numbers for people
//! status.rs    the pages of `quorate status`
//! top.rs       the screen of `quorate top`
//! ```

mod client;
mod facts;
mod status;
mod survey;
mod text;
mod top;
mod verdict;

pub(crate) use status::status;
pub(crate) use top::top;
