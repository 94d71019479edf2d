//! Commands, pure: what a command is, where it may travel, and whether it may be repeated.
//!
//! [`classify`] is what the path of a command asks; [`policy`] is the same with the operator's lists applied.
//! Everything rests on one table ([`table`]), made from `commands.tsv` by `scripts/command-table.py`.

pub mod blocking;
pub mod classify;
pub mod policy;
pub mod refusal;
pub mod retry;
pub mod table;
mod table_data;
