//! `handover run`: configuration → logging → runtime → app → exit code.

use super::Exit;
use crate::app;
use crate::config::{Config, Sources};
use crate::telemetry::logging::Logging;

/// Threads of everything that is not on the path of a command.
const CONTROL_THREADS: usize = 2;

/// Serves until a signal ends it.
#[must_use]
pub fn run(sources: Sources) -> Exit {
    let loaded = match Config::load(&sources) {
        Ok(loaded) => loaded,
        Err(problems) => {
            eprintln!("{problems}");
            return Exit::Configuration;
        }
    };
    let logging = match Logging::install(loaded.config.log) {
        Ok(logging) => logging,
        Err(error) => {
            eprintln!("cannot set up logging: {error}");
            return Exit::Failure;
        }
    };
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(CONTROL_THREADS).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the control plane's threads");
            return Exit::Failure;
        }
    };
    let exit = runtime.block_on(app::run(loaded.config, loaded.file, sources, &logging));
    runtime.shutdown_background();
    exit
}
