//! The stream family.

use crate::command::Spec;

/// The family's commands.
pub(crate) const COMMANDS: &[Spec] = &[];
