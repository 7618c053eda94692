//! What a command answers when it cannot do what it was asked: Redis' own prefixes and texts.

use crate::table::TableError;
use std::borrow::Cow;
use std::fmt;

/// A command's error reply. Nothing was changed when a command returns one, unless the command's
/// own documentation says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The key holds another type.
    WrongType,
    /// An option word is unknown or misplaced.
    Syntax,
    /// An argument or a stored value is no 64-bit integer.
    NotInteger,
    /// An argument is no finite number.
    NotFloat,
    /// A list index is outside the list.
    IndexOutOfRange,
    /// The command needs a key that is not there.
    NoSuchKey,
    /// Too few or too many arguments for the named command.
    WrongArity(String),
    /// A string would exceed [`quorate_base::limits::VALUE_BYTES_MAX`].
    TooLong,
    /// The full text, prefix included, for what only one command says.
    Text(Cow<'static, str>),
    /// The store could not be read; says where and why.
    Store(TableError),
}

impl Error {
    /// An error with the generic `ERR` prefix left to the caller: `text` starts with the prefix.
    pub const fn text(text: &'static str) -> Self {
        Self::Text(Cow::Borrowed(text))
    }

    /// The same for a text made at run time.
    pub fn owned(text: String) -> Self {
        Self::Text(Cow::Owned(text))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WrongType => {
                f.write_str("WRONGTYPE Operation against a key holding the wrong kind of value")
            }
            Self::Syntax => f.write_str("ERR syntax error"),
            Self::NotInteger => f.write_str("ERR value is not an integer or out of range"),
            Self::NotFloat => f.write_str("ERR value is not a valid float"),
            Self::IndexOutOfRange => f.write_str("ERR index out of range"),
            Self::NoSuchKey => f.write_str("ERR no such key"),
            Self::WrongArity(name) => {
                write!(f, "ERR wrong number of arguments for '{name}' command")
            }
            Self::TooLong => {
                f.write_str("ERR string exceeds maximum allowed size (proto-max-bulk-len)")
            }
            Self::Text(text) => f.write_str(text),
            Self::Store(error) => write!(f, "ERR the store failed: {error}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<TableError> for Error {
    fn from(error: TableError) -> Self {
        Self::Store(error)
    }
}
