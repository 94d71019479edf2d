//! The command line, one file a subcommand.

pub mod arguments;
pub mod check;
pub mod demo;
pub mod probe;
pub mod run;
pub mod version;

use std::process::ExitCode;

/// How the process ends; the numbers are interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Clean = 0,
    /// A failure at run time.
    Failure = 1,
    /// Arguments that make no sense.
    Usage = 2,
    /// An address cannot be bound.
    CannotBind = 69,
    /// A bug in the control plane.
    Bug = 70,
    /// The drain's deadline passed and clients were cut.
    ClientsCut = 75,
    /// The configuration is wrong.
    Configuration = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
