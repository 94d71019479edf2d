//! The harness of the integration tests: real servers, real sockets, no tokio; every wait is bounded, nothing hopes.
//!
//! Use it with `mod support;`. Children die with the test process; what a test starts, its `Drop` ends.
#![allow(dead_code, unused_imports, reason = "each test binary uses its own part of the harness")]
#![allow(unreachable_pub, reason = "every test binary is a crate of its own")]

mod certificates;
mod client;
mod fake_backend;
mod handover;
mod pair;
mod port;
mod process;
mod redis_server;
mod relay;
mod resp;

use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use certificates::{Authority, Certificate, Eavesdropper, TlsClient, shown};
pub use client::RawClient;
pub use fake_backend::{FakeBackend, FakeConnection, courtesy};
pub use handover::{Handover, HandoverBuilder, LogLine, Response};
pub use pair::{Pair, PairBuilder};
pub use port::ReservedPort;
pub use process::{Process, Signal};
pub use redis_server::{RedisServer, RedisServerBuilder};
pub use relay::{Cut, Mode, Relay};
pub use resp::{Value, encode, read_value};

/// A bound against hanging, not a measurement: ten times and more what anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(10);

const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Returns as soon as `condition` holds; fails the test, at the caller's line, when it does not within `bound`.
#[track_caller]
pub fn wait_until(bound: Duration, mut condition: impl FnMut() -> bool) {
    assert!(holds_within(bound, &mut condition), "the condition did not hold within {bound:?}");
}

/// Whether `condition` came to hold within `bound`.
pub fn holds_within(bound: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + bound;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}

/// The repository's root.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Handover itself: `$HANDOVER_PROGRAM`, else the one that was built with the tests.
pub fn program() -> String {
    std::env::var("HANDOVER_PROGRAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_handover").to_owned())
}

/// The Python that has redis-py, from the virtual environment that `test.sh` makes.
#[track_caller]
pub fn python() -> PathBuf {
    let python = root().join(".venv/bin/python");
    assert!(python.exists(), "no .venv with redis-py: run ./test.sh once, which makes it");
    python
}

fn find_on_path(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(name)).find(|path| path.is_file())
}
