//! Tracked tasks: each has a name, a stop waits for all of them and names those that stay.
//!
//! Nobody calls `tokio::spawn`; every task starts here. A panic ends the task that it happened in and nothing else,
//! unless the task belongs to the control plane: then [`Lifecycle::control_panicked`] tells the application, which ends
//! the process.

mod signals;
mod systemd;

use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use signals::{Signal, Signals};
pub use systemd::Systemd;

/// Tasks whose name begins with this belong to the control plane.
pub const CONTROL_PREFIX: &str = "control";

/// A task's name: what it does, without a number that would differ from task to task.
pub type TaskName = Cow<'static, str>;

/// Starts tasks, asks them to stop, and waits for them. Clones are the same lifecycle.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    tracker: TaskTracker,
    stopping: CancellationToken,
    running: Arc<Mutex<BTreeMap<TaskName, usize>>>,
    control_panicked: watch::Sender<Option<TaskName>>,
}

impl Default for Lifecycle {
    fn default() -> Self {
        Self::new()
    }
}

impl Lifecycle {
    /// Nothing runs yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            tracker: TaskTracker::new(),
            stopping: CancellationToken::new(),
            running: Arc::default(),
            control_panicked: watch::Sender::new(None),
        }
    }

    /// Starts a task on the runtime that the caller runs on.
    pub fn start(&self, name: impl Into<TaskName>, future: impl Future<Output = ()> + Send + 'static) {
        let entry = self.enter(name.into());
        self.tracker.spawn(Contained { future, entry });
    }

    /// Starts a task that stays on the caller's thread: within a `LocalSet` or a `LocalRuntime` only.
    pub fn start_local(&self, name: impl Into<TaskName>, future: impl Future<Output = ()> + 'static) {
        let entry = self.enter(name.into());
        self.tracker.spawn_local(Contained { future, entry });
    }

    /// Is cancelled when everything shall end; long-lived tasks wait for it.
    #[must_use]
    pub fn stopping(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Asks every task to end.
    pub fn stop(&self) {
        self.stopping.cancel();
    }

    /// Waits until every task has ended.
    ///
    /// # Errors
    /// The tasks that had not ended in time.
    pub async fn stopped(&self, timeout: Duration) -> Result<(), Vec<Remaining>> {
        self.tracker.close();
        match tokio::time::timeout(timeout, self.tracker.wait()).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.remaining()),
        }
    }

    /// The tasks that run now, by name.
    #[must_use]
    pub fn remaining(&self) -> Vec<Remaining> {
        self.names().iter().map(|(name, &tasks)| Remaining { name: name.clone(), tasks }).collect()
    }

    /// Returns when a task of the control plane has panicked, with its name: the process must not go on without it.
    pub async fn control_panicked(&self) -> TaskName {
        let mut receiver = self.control_panicked.subscribe();
        let named = receiver.wait_for(Option::is_some).await.expect("self holds the sender");
        named.clone().expect("the wait ends with a name only")
    }

    fn enter(&self, name: TaskName) -> Entry {
        *self.names().entry(name.clone()).or_default() += 1;
        Entry { name, lifecycle: self.clone() }
    }

    fn names(&self) -> MutexGuard<'_, BTreeMap<TaskName, usize>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tasks of one name that have not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// Their name.
    pub name: TaskName,
    /// How many.
    pub tasks: usize,
}

impl fmt::Display for Remaining {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.tasks {
            1 => formatter.write_str(&self.name),
            tasks => write!(formatter, "{} ({tasks} tasks)", self.name),
        }
    }
}

/// A running task's line in the list of names; gone when the task is, however it went.
struct Entry {
    name: TaskName,
    lifecycle: Lifecycle,
}

impl Entry {
    fn panicked(&self, payload: &(dyn Any + Send)) {
        tracing::error!(task = %self.name, panic = panic_text(payload), "a task panicked");
        if self.name.starts_with(CONTROL_PREFIX) {
            self.lifecycle.control_panicked.send_replace(Some(self.name.clone()));
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut names = self.lifecycle.names();
        let Some(tasks) = names.get_mut(&self.name) else { return };
        *tasks -= 1;
        if *tasks == 0 {
            names.remove(&self.name);
        }
    }
}

pin_project! {
    /// Runs the task, and reports a panic in it instead of passing it on. Not an async function, which would hold the
    /// future that it is given twice.
    struct Contained<F> {
        #[pin]
        future: F,
        entry: Entry,
    }
}

impl<F: Future<Output = ()>> Future for Contained<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let task = self.project();
        // A future that panicked is dropped and never polled again, so nobody sees its broken state.
        match catch_unwind(AssertUnwindSafe(|| task.future.poll(context))) {
            Ok(poll) => poll,
            Err(payload) => {
                task.entry.panicked(payload.as_ref());
                Poll::Ready(())
            }
        }
    }
}

/// The words that a panic was raised with.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&str>() {
        return text;
    }
    payload.downcast_ref::<String>().map_or("no text", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::rc::Rc;
    use tokio::sync::oneshot;

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_stop_reaches_every_task_and_waits_for_it() {
        let lifecycle = Lifecycle::new();
        let (done, ended) = oneshot::channel();
        let stopping = lifecycle.stopping();
        lifecycle.start("listener", async move {
            stopping.cancelled().await;
            tokio::task::yield_now().await;
            done.send(()).unwrap();
        });
        assert_eq!(lifecycle.remaining(), [Remaining { name: "listener".into(), tasks: 1 }]);
        lifecycle.stop();
        assert_eq!(lifecycle.stopped(LONG).await, Ok(()));
        assert_eq!(ended.await, Ok(()));
        assert_eq!(lifecycle.remaining(), []);
    }

    #[tokio::test]
    async fn those_that_stay_are_named_and_counted() {
        let lifecycle = Lifecycle::new();
        for name in ["client", "client", "probe"] {
            lifecycle.start(name, std::future::pending());
        }
        lifecycle.start("short", async {});
        lifecycle.stop();
        let remaining = lifecycle.stopped(Duration::from_millis(20)).await.unwrap_err();
        let lines: Vec<String> = remaining.iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["client (2 tasks)", "probe"]);
    }

    #[tokio::test]
    async fn a_panic_is_contained() {
        let lifecycle = Lifecycle::new();
        lifecycle.start("client", async { panic!("a bug in a session") });
        lifecycle.start("other", async { tokio::task::yield_now().await });
        assert_eq!(lifecycle.stopped(LONG).await, Ok(()));
        assert_eq!(lifecycle.remaining(), []);
        assert_eq!(*lifecycle.control_panicked.borrow(), None);
    }

    #[tokio::test]
    async fn a_panic_in_the_control_plane_is_reported_even_to_those_who_ask_later() {
        let lifecycle = Lifecycle::new();
        lifecycle.start("control supervisor", async {
            tokio::task::yield_now().await;
            panic!("a bug in the control plane");
        });
        assert_eq!(lifecycle.control_panicked().await, "control supervisor");
        assert_eq!(lifecycle.stopped(LONG).await, Ok(()));
        assert_eq!(lifecycle.control_panicked().await, "control supervisor");
    }

    #[test]
    fn local_tasks_are_tracked_and_contained_on_their_own_runtime() {
        let lifecycle = Lifecycle::new();
        let runtime = tokio::runtime::LocalRuntime::new().unwrap();
        runtime.block_on(async {
            let not_send = Rc::new(());
            let stopping = lifecycle.stopping();
            lifecycle.start_local("client", async move {
                stopping.cancelled().await;
                drop(not_send);
            });
            lifecycle.start_local("panics", async { panic!("a bug in a session") });
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            assert_eq!(lifecycle.remaining(), [Remaining { name: "client".into(), tasks: 1 }]);
            lifecycle.stop();
            assert_eq!(lifecycle.stopped(LONG).await, Ok(()));
        });
    }

    #[test]
    fn a_runtime_that_ends_takes_its_tasks_off_the_list() {
        let lifecycle = Lifecycle::new();
        let runtime = tokio::runtime::LocalRuntime::new().unwrap();
        runtime.block_on(async { lifecycle.start_local("client", std::future::pending()) });
        drop(runtime);
        assert_eq!(lifecycle.remaining(), []);
    }
}
