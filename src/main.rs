//! The process: arguments → what to do → exit code.

use std::process::ExitCode;

use clap::Parser;
use handover::cli::arguments::{Action, Arguments};
use handover::cli::{Exit, check, demo, run, version};
use handover::config::Sources;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let action = arguments.action();
    let sources = arguments.settings.sources(Sources::of_process());
    let exit = match action {
        Action::Run => run::run(sources),
        Action::Check(flags) => check::check(&sources, flags.probe),
        Action::Demo(flags) => demo::demo(flags.keep, flags.seconds),
        Action::Version => {
            println!("{}", version::version());
            Exit::Clean
        }
    };
    exit.into()
}
