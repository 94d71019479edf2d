//! What the workers of one group have in common: bodies of scripts, and the few cursors that are too large to be marked.
//!
//! They are shared and locked, rather than told from worker to worker: what one worker has answered a client must hold
//! for that client's next command on another, and a message would come later than that. The lock is taken for scripts
//! and for large cursors alone, and for a look-up at a time; for a script that a worker has just met, not even that.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::pubsub::PublishBarrier;
use super::scan::LargeCursors;
use super::scripts::Scripts;

/// Shared by the workers of one group.
#[derive(Debug)]
pub struct Commons {
    scripts: Mutex<Scripts>,
    /// Grows when something that was known of scripts is not any more.
    scripts_version: AtomicU64,
    cursors: Mutex<LargeCursors>,
    barrier: PublishBarrier,
}

impl Commons {
    /// Keeps at most so many bodies of scripts, of at most so many bytes together.
    #[must_use]
    pub fn new(scripts_max: usize, script_bytes_max: usize) -> Self {
        Self {
            scripts: Mutex::new(Scripts::new(scripts_max, script_bytes_max)),
            scripts_version: AtomicU64::new(0),
            cursors: Mutex::default(),
            barrier: PublishBarrier::default(),
        }
    }

    pub(super) fn scripts(&self) -> MutexGuard<'_, Scripts> {
        // Nothing under the lock can be left half done: a panic elsewhere spoils nothing here.
        self.scripts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a worker remembers of scripts holds while this stays the same.
    pub(super) fn scripts_version(&self) -> u64 {
        self.scripts_version.load(Ordering::Acquire)
    }

    /// What workers remember of scripts may be wrong from now on.
    pub(super) fn outdate_scripts(&self) {
        self.scripts_version.fetch_add(1, Ordering::Release);
    }

    pub(super) const fn barrier(&self) -> &PublishBarrier {
        &self.barrier
    }

    pub(super) fn cursors(&self) -> MutexGuard<'_, LargeCursors> {
        self.cursors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
