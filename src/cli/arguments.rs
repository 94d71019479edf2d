//! The arguments of the process.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::Sources;

/// A RESP proxy that hands Redis clients over from a failing backend to the next best, and back.
#[derive(Parser)]
#[command(name = "handover", version, disable_help_subcommand = true)]
pub struct Arguments {
    /// What to do; without any: run.
    #[command(subcommand)]
    action: Option<Action>,
    /// Flags of every action.
    #[command(flatten)]
    pub settings: Settings,
}

/// What to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Subcommand)]
pub enum Action {
    /// Serve clients (what happens without a subcommand).
    #[default]
    Run,
    /// Say everything that is wrong with the configuration, or what it amounts to.
    Check(Check),
    /// Start two backends and clients, break things, and show what the clients see.
    Demo(Demo),
    /// Print the version.
    Version,
}

/// Flags of the check.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Check {
    /// Ask every backend, too: what it is, what it lets Handover do, and how it differs from the others.
    #[arg(long)]
    pub probe: bool,
}

/// Flags of the demo.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Demo {
    /// Leave everything running at the end, until interrupted.
    #[arg(long)]
    pub keep: bool,
    /// End after so many seconds.
    #[arg(long, value_name = "N")]
    pub seconds: Option<u64>,
}

/// Flags of every action. They win over the environment, and that over the file. No `Debug`: a URL may hold a password.
#[derive(Args, Clone, Default)]
pub struct Settings {
    /// The configuration file [default: ./handover.toml, then /etc/handover/handover.toml].
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Listen here instead of where the file says; repeatable.
    ///
    /// host:port, [::1]:port or unix:///path; keys of [[listener]] may follow: 0.0.0.0:6379,allow_open=true
    #[arg(long, global = true, value_name = "ADDRESS")]
    listen: Vec<String>,
    /// Use this backend instead of those of the file; repeatable.
    ///
    /// Keys of [[backend]] may follow: east=redis://10.0.0.1:6379,weight=1
    #[arg(long = "backend", global = true, value_name = "NAME=URL,weight=1")]
    backends: Vec<String>,
    /// The least severe level that is logged: error, warn, info, debug, trace.
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Any other key: --set health.interval=250ms; repeatable.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_and_value)]
    overrides: Vec<(String, String)>,
}

impl Arguments {
    /// What to do.
    #[must_use]
    pub fn action(&self) -> Action {
        self.action.unwrap_or_default()
    }
}

impl Settings {
    /// The sources of the configuration: these flags over what `process` brings.
    #[must_use]
    pub fn sources(self, process: Sources) -> Sources {
        let Self { config, listen, backends, log_level, overrides } = self;
        Sources { file: config, listen, backends, log_level, overrides, ..process }
    }
}

fn key_and_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("must be KEY=VALUE, as in health.interval=250ms")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<Arguments, ErrorKind> {
        Arguments::try_parse_from(line.split(' ')).map_err(|error| error.kind())
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn actions() {
        for (line, expected) in [
            ("handover", Action::Run),
            ("handover run", Action::Run),
            ("handover -c a.toml", Action::Run),
            ("handover check -c a.toml", Action::Check(Check { probe: false })),
            ("handover check --probe", Action::Check(Check { probe: true })),
            ("handover version", Action::Version),
            ("handover demo", Action::Demo(Demo::default())),
            ("handover demo --keep --seconds 5", Action::Demo(Demo { keep: true, seconds: Some(5) })),
        ] {
            assert_eq!(parse(line).map(|arguments| arguments.action()), Ok(expected), "{line}");
        }
    }

    #[test]
    fn flags_stand_before_or_after_the_action() {
        for line in [
            "handover -c a.toml --listen 127.0.0.1:1 --backend a=redis://h --log-level warn --set x.y=1=2 check",
            "handover check --config a.toml --listen 127.0.0.1:1 --backend a=redis://h --log-level warn --set x.y=1=2",
        ] {
            let settings = parse(line).unwrap_or_else(|kind| panic!("{line}: {kind:?}")).settings;
            let process = Sources { cores: 4, ..Sources::default() };
            let sources = settings.sources(process);
            assert_eq!(sources.file, Some(PathBuf::from("a.toml")), "{line}");
            assert_eq!(sources.listen, ["127.0.0.1:1"], "{line}");
            assert_eq!(sources.backends, ["a=redis://h"], "{line}");
            assert_eq!(sources.log_level.as_deref(), Some("warn"), "{line}");
            assert_eq!(sources.overrides, [("x.y".to_owned(), "1=2".to_owned())], "{line}");
            assert_eq!(sources.cores, 4, "{line}");
        }
    }

    #[test]
    fn nonsense_is_refused() {
        for (line, expected) in [
            ("handover walk", ErrorKind::InvalidSubcommand),
            ("handover --set health.interval", ErrorKind::ValueValidation),
            ("handover run --probe", ErrorKind::UnknownArgument),
            ("handover demo --seconds x", ErrorKind::ValueValidation),
            ("handover --keep", ErrorKind::UnknownArgument),
        ] {
            assert_eq!(parse(line).err(), Some(expected), "{line}");
        }
    }
}
