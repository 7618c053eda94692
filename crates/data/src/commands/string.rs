//! Strings.

use crate::command::{Ctx, FIRST, Spec, flag};
use crate::error::Error;
use crate::keyspace::Expiry;

/// The family's commands.
pub(crate) const COMMANDS: &[Spec] = &[
    Spec { name: "get", arity: 2, flags: flag::READONLY | flag::FAST, keys: FIRST, run: get },
    Spec { name: "set", arity: -3, flags: flag::WRITE | flag::DENYOOM, keys: FIRST, run: set },
];

fn get(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    match ctx.db.string(args[1])? {
        Some(value) => ctx.reply.bulk(value),
        None => ctx.reply.null(),
    }
    Ok(())
}

fn set(ctx: &mut Ctx<'_>, args: &[&[u8]]) -> Result<(), Error> {
    ctx.db.set_string(args[1], args[2], Expiry::Never, false)?;
    ctx.reply.ok();
    Ok(())
}
