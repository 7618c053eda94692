//! Redis data types on an ordered store.

pub mod table;
