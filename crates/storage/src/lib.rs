//! The real journal and the real store of a node: files, direct I/O, LSM trees. At the outer
//! edge: it does I/O and nothing else, owns no thread and reads no clock.

pub mod journal;
pub mod store;
