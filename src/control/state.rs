//! The state file: the last active, epoch and breakers of every group, over a restart.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::Addition;
use crate::logic::failover::{FenceReason, Report, Saved, SavedBreaker, SavedReport, SavedServer, Seen, Verdict};

/// Names the format; a file without it is not ours.
const FORMAT: &str = "handover-state-1";

/// The file's shape.
#[derive(Debug, Serialize, Deserialize)]
struct StateFile {
    format: String,
    groups: BTreeMap<String, GroupState>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct GroupState {
    active: Option<String>,
    epoch: u64,
    saved_at_unix_ms: u64,
    #[serde(default)]
    breakers: Vec<BreakerState>,
    #[serde(default)]
    stay: Option<Term>,
    #[serde(default)]
    bans: Vec<Term>,
    #[serde(default)]
    changes: Changes,
    #[serde(default)]
    drained: Vec<String>,
    #[serde(default)]
    reports: Vec<ReportState>,
    #[serde(default)]
    servers: Vec<ServerState>,
}

/// What operators changed at run time and the configuration file does not say. It ends when the file's own value
/// changes: then whoever wrote the file spoke last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// Weights.
    #[serde(default)]
    pub weights: Vec<ChangedWeight>,
    /// Backends that the file does not name.
    #[serde(default)]
    pub added: Vec<Addition>,
    /// Backends that the file names.
    #[serde(default)]
    pub removed: Vec<RemovedBackend>,
}

/// A weight that was changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChangedWeight {
    /// The backend's name.
    pub backend: String,
    /// What the file says.
    pub file: f64,
    /// What is in force.
    pub now: f64,
}

/// A backend that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemovedBackend {
    /// Its name.
    pub backend: String,
    /// Where the file has it.
    pub file: String,
}

/// What a checker said of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ReportState {
    backend: String,
    verdict: VerdictState,
    reporter: String,
    reason: String,
    left_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum VerdictState {
    Down,
    Drain,
    Weight(f64),
}

/// What was seen of a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ServerState {
    backend: String,
    run_id: String,
    histories: Vec<String>,
    offset: u64,
    keys: Option<u64>,
    was_whole: bool,
    fence: Option<FenceState>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct FenceState {
    reason: String,
    evidence: String,
    is_lasting: bool,
    age_ms: u64,
}

/// What an operator asked for, for a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Term {
    backend: String,
    left_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct BreakerState {
    backend: String,
    grace_ms: u64,
    left_ms: u64,
}

/// Why a state file cannot be read.
#[derive(Debug, thiserror::Error)]
enum StateError {
    #[error("cannot read the state file")]
    Read(#[source] io::Error),
    #[error("the state file is damaged")]
    Damaged(#[source] serde_json::Error),
    #[error("the state file has the unknown format {0:?}")]
    Foreign(String),
}

/// Takes what is to be kept, from any number of supervisors; only the latest of each counts.
#[derive(Clone, Debug)]
pub struct Keeper {
    groups: watch::Sender<BTreeMap<String, GroupState>>,
}

impl Keeper {
    /// Keeps this of a group. Never waits.
    pub fn keep(&self, group: &str, saved: &Saved) {
        let mut state = GroupState::of(saved, unix_ms(SystemTime::now()));
        self.groups.send_modify(|groups| {
            if let Some(former) = groups.get_mut(group) {
                state.changes = std::mem::take(&mut former.changes);
            }
            groups.insert(group.to_owned(), state);
        });
    }

    /// Keeps what was changed at run time in a group. Never waits.
    pub fn keep_changes(&self, group: &str, changes: Changes) {
        self.groups.send_if_modified(|groups| match groups.get_mut(group) {
            Some(state) if state.changes == changes => false,
            None if changes == Changes::default() => false,
            Some(state) => {
                state.changes = changes;
                true
            }
            None => {
                let state = GroupState::of(&Saved::default(), unix_ms(SystemTime::now()));
                groups.insert(group.to_owned(), GroupState { changes, ..state });
                true
            }
        });
    }

    /// What is kept as changed at run time in a group.
    #[must_use]
    pub fn changes(&self, group: &str) -> Changes {
        self.groups.borrow().get(group).map(|state| state.changes.clone()).unwrap_or_default()
    }
}

/// Writes the file whenever something changed.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    groups: watch::Receiver<BTreeMap<String, GroupState>>,
    /// Held as long as this process writes.
    lock: Option<File>,
    /// Another process writes, which was said.
    is_others: bool,
}

/// What was not written is tried again after so long: a disk may have room again, another process may have ended.
const RETRY: Duration = Duration::from_secs(1);

/// Opens the state file: what was saved of each group, and the two ends that keep it from now on.
/// A damaged or foreign file is set aside with a warning, and nothing is known. One that cannot be read stays where it
/// is. While another process keeps its state there, ours is not written, which a warning says.
#[must_use]
pub fn open(path: &Path) -> (BTreeMap<String, Saved>, Keeper, Writer) {
    let lock = try_lock(path);
    let is_others = matches!(lock, Ok(None));
    if is_others {
        warn_of_another(path);
    }
    let groups = read(path).unwrap_or_else(|error| {
        // What cannot be read may be no file at all, and what another process writes is not ours to move.
        match error {
            StateError::Read(_) => tell_unread(path, &error),
            _ if is_others => tell_unread(path, &error),
            _ => set_aside(path, &error),
        }
        BTreeMap::new()
    });
    let now = unix_ms(SystemTime::now());
    let saved = groups.iter().map(|(name, state)| (name.clone(), state.saved(now))).collect();
    let (sender, receiver) = watch::channel(groups);
    (
        saved,
        Keeper { groups: sender },
        Writer { path: path.to_owned(), groups: receiver, lock: lock.ok().flatten(), is_others },
    )
}

impl Writer {
    /// Writes until `stop`, what changed before it included.
    pub async fn run(mut self, stop: CancellationToken) {
        let (mut is_failing, mut is_due) = (false, false);
        loop {
            // What changed comes first, so that the last change is written before the end.
            tokio::select! {
                biased;
                changed = self.groups.changed() => if changed.is_err() { return },
                () = stop.cancelled() => return,
                () = tokio::time::sleep(RETRY), if is_due => {}
            }
            let groups = self.groups.borrow_and_update().clone();
            let (path, lock) = (self.path.clone(), self.lock.take());
            // A disk may block for long: not on a thread that anything else needs.
            let written = tokio::task::spawn_blocking(move || write_alone(&path, lock, groups)).await;
            let outcome = written.unwrap_or_else(|panic| Err(io::Error::other(panic)));
            is_due = !matches!(outcome, Ok(Some(_)));
            self.lock = match outcome {
                Ok(Some(lock)) => {
                    tell_once(&self.path, Ok(()), &mut is_failing);
                    self.tell_alone();
                    Some(lock)
                }
                Ok(None) => {
                    if !std::mem::replace(&mut self.is_others, true) {
                        warn_of_another(&self.path);
                    }
                    None
                }
                // The folder may be another one when it works again: the lock is taken anew.
                Err(error) => {
                    tell_once(&self.path, Err(error), &mut is_failing);
                    None
                }
            };
        }
    }

    fn tell_alone(&mut self) {
        if std::mem::take(&mut self.is_others) {
            tracing::info!(path = %self.path.display(), "the other process has ended: our state is written");
        }
    }
}

fn warn_of_another(path: &Path) {
    tracing::warn!(path = %path.display(),
        "another process keeps its state in this file: ours is not written until that one has ended; \
         give each Handover a failover.state_file of its own");
}

fn tell_unread(path: &Path, error: &StateError) {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::warn!(path = %path.display(), %error, source, "the state file is not read: the last active is not known");
}

/// Two processes that write one file would each undo what the other kept. The lock is a file of its own, since the
/// state file is replaced by each write. `None`: another process has it.
fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let lock = with_suffix(path, ".lock");
    let file = File::options().create(true).truncate(false).write(true).open(lock)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => Ok(None),
        // A file system without locks keeps nobody out, and is no reason to keep nothing.
        Ok(()) | Err(_) => Ok(Some(file)),
    }
}

/// Writes if nobody else does; gives the lock back. `None`: another process has it.
fn write_alone(path: &Path, lock: Option<File>, groups: BTreeMap<String, GroupState>) -> io::Result<Option<File>> {
    let lock = match lock {
        Some(lock) => lock,
        None => match try_lock(path)? {
            Some(lock) => lock,
            None => return Ok(None),
        },
    };
    write(path, groups)?;
    Ok(Some(lock))
}

fn tell_once(path: &Path, outcome: io::Result<()>, is_failing: &mut bool) {
    match outcome {
        Ok(()) if *is_failing => tracing::info!(path = %path.display(), "state file written again"),
        Err(error) if !*is_failing => {
            tracing::warn!(path = %path.display(), %error, "cannot write the state file: a restart will not know the last active");
            *is_failing = true;
            return;
        }
        Ok(()) | Err(_) => return,
    }
    *is_failing = false;
}

fn read(path: &Path) -> Result<BTreeMap<String, GroupState>, StateError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(StateError::Read(error)),
    };
    let file: StateFile = serde_json::from_slice(&bytes).map_err(StateError::Damaged)?;
    if file.format == FORMAT { Ok(file.groups) } else { Err(StateError::Foreign(file.format)) }
}

fn set_aside(path: &Path, error: &StateError) {
    let aside = with_suffix(path, ".bad");
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    let moved = std::fs::rename(path, &aside);
    tracing::warn!(path = %path.display(), aside = %aside.display(), is_moved = moved.is_ok(), %error, source,
        "state file set aside: the last active is not known");
}

/// Whole or not at all: a temporary file in the same directory, renamed over the old one.
fn write(path: &Path, groups: BTreeMap<String, GroupState>) -> io::Result<()> {
    let file = StateFile { format: FORMAT.to_owned(), groups };
    let bytes = serde_json::to_vec_pretty(&file)?;
    let temporary = with_suffix(path, ".tmp");
    let mut target = File::create(&temporary)?;
    target.write_all(&bytes)?;
    target.sync_all()?;
    std::fs::rename(&temporary, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn unix_ms(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl GroupState {
    fn of(saved: &Saved, saved_at_unix_ms: u64) -> Self {
        let breaker = |breaker: &SavedBreaker| BreakerState {
            backend: breaker.backend.clone(),
            grace_ms: millis(breaker.grace),
            left_ms: millis(breaker.left),
        };
        Self {
            active: saved.active.clone(),
            epoch: saved.epoch,
            saved_at_unix_ms,
            breakers: saved.breakers.iter().map(breaker).collect(),
            stay: saved.stay.as_ref().map(Term::of),
            bans: saved.bans.iter().map(Term::of).collect(),
            changes: Changes::default(),
            drained: saved.drained.clone(),
            reports: saved.reports.iter().filter_map(ReportState::of).collect(),
            servers: saved.servers.iter().map(ServerState::of).collect(),
        }
    }

    /// As it is now: what passed since counts; a clock that went back counts as no time.
    fn saved(&self, now_unix_ms: u64) -> Saved {
        let passed = now_unix_ms.saturating_sub(self.saved_at_unix_ms);
        let breaker = |breaker: &BreakerState| SavedBreaker {
            backend: breaker.backend.clone(),
            grace: Duration::from_millis(breaker.grace_ms),
            left: Duration::from_millis(breaker.left_ms.saturating_sub(passed)),
        };
        Saved {
            active: self.active.clone(),
            epoch: self.epoch,
            breakers: self.breakers.iter().map(breaker).collect(),
            stay: self.stay.as_ref().map(|term| term.saved(passed)),
            bans: self.bans.iter().map(|term| term.saved(passed)).collect(),
            drained: self.drained.clone(),
            reports: self.reports.iter().map(|report| report.saved(passed)).collect(),
            servers: self.servers.iter().map(|server| server.saved(passed)).collect(),
        }
    }
}

impl ReportState {
    fn of(saved: &SavedReport) -> Option<Self> {
        let SavedReport { backend, report } = saved;
        let verdict = match report.verdict {
            Verdict::Down => VerdictState::Down,
            Verdict::Drain => VerdictState::Drain,
            Verdict::Weight(weight) => VerdictState::Weight(weight),
            Verdict::Up => return None,
        };
        Some(Self {
            backend: backend.clone(),
            verdict,
            reporter: report.reporter.clone(),
            reason: report.reason.clone(),
            left_ms: millis(report.length),
        })
    }

    fn saved(&self, passed_ms: u64) -> SavedReport {
        let verdict = match self.verdict {
            VerdictState::Down => Verdict::Down,
            VerdictState::Drain => Verdict::Drain,
            VerdictState::Weight(weight) => Verdict::Weight(weight),
        };
        let length = Duration::from_millis(self.left_ms.saturating_sub(passed_ms));
        let (reporter, reason) = (self.reporter.clone(), self.reason.clone());
        SavedReport { backend: self.backend.clone(), report: Report { verdict, reporter, reason, length } }
    }
}

impl ServerState {
    fn of(saved: &SavedServer) -> Self {
        let Seen { run_id, histories, offset, keys, was_whole } = saved.seen.clone();
        let fence = saved.fence.as_ref().map(|(reason, evidence, is_lasting, age)| FenceState {
            reason: reason.label().to_owned(),
            evidence: evidence.clone(),
            is_lasting: *is_lasting,
            age_ms: millis(*age),
        });
        Self { backend: saved.backend.clone(), run_id, histories, offset, keys, was_whole, fence }
    }

    /// A fence of a reason that is not known here was set by a later version: it is not kept.
    fn saved(&self, passed_ms: u64) -> SavedServer {
        let Self { backend, run_id, histories, offset, keys, was_whole, fence } = self.clone();
        let fence = fence.and_then(|fence| {
            let age = Duration::from_millis(fence.age_ms.saturating_add(passed_ms));
            Some((FenceReason::of_label(&fence.reason)?, fence.evidence, fence.is_lasting, age))
        });
        SavedServer { backend, seen: Seen { run_id, histories, offset, keys, was_whole }, fence }
    }
}

impl Term {
    fn of((backend, left): &(String, Duration)) -> Self {
        Self { backend: backend.clone(), left_ms: millis(*left) }
    }

    fn saved(&self, passed_ms: u64) -> (String, Duration) {
        (self.backend.clone(), Duration::from_millis(self.left_ms.saturating_sub(passed_ms)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn saved(active: &str) -> Saved {
        let breaker = SavedBreaker { backend: "east".into(), grace: SECOND * 60, left: SECOND * 30 };
        let (stay, bans) = (Some((active.into(), SECOND * 30)), vec![("east".into(), SECOND * 20)]);
        let seen = Seen { run_id: "r".into(), histories: vec!["h".into()], offset: 14, keys: Some(3), was_whole: true };
        let fence = Some((FenceReason::StaleData, "less".into(), true, SECOND));
        let servers = vec![SavedServer { backend: "east".into(), seen, fence }];
        let breakers = vec![breaker];
        Saved { active: Some(active.into()), epoch: 7, breakers, stay, bans, servers, ..Saved::default() }
    }

    #[tokio::test]
    async fn what_is_kept_survives_and_other_groups_stay() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        for (group, active) in [("one", "west"), ("two", "north")] {
            let (_, keeper, writer) = open(&path);
            keeper.keep(group, &saved(active));
            let stop = CancellationToken::new();
            stop.cancel();
            writer.run(stop).await;
        }
        let (groups, _, _) = open(&path);
        let actives: Vec<_> = groups.values().map(|saved| saved.active.as_deref().unwrap()).collect();
        assert_eq!(actives, ["west", "north"]);
        assert_eq!((groups["one"].epoch, groups["one"].breakers[0].grace), (7, SECOND * 60));
        assert!(!with_suffix(&path, ".tmp").exists());
    }

    #[test]
    fn the_time_since_saving_counts() {
        let state = GroupState::of(&saved("west"), 100_000);
        assert_eq!(state.saved(110_000).breakers[0].left, SECOND * 20);
        assert_eq!(state.saved(900_000).breakers[0].left, Duration::ZERO);
        assert_eq!(state.saved(110_000).stay, Some(("west".into(), SECOND * 20)));
        assert_eq!(state.saved(900_000).bans, [("east".into(), Duration::ZERO)]);
        let aged = state.saved(110_000).servers.remove(0);
        assert_eq!(
            (aged.fence.as_ref().map(|fence| fence.3), &aged.seen),
            (Some(SECOND * 11), &saved("x").servers[0].seen)
        );
        assert_eq!(state.saved(50_000).breakers[0].left, SECOND * 30, "the clock went back");
    }

    #[test]
    fn a_damaged_or_foreign_file_is_set_aside() {
        for content in ["{\"format\":", "{\"format\":\"other\",\"groups\":{}}", "[]", ""] {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("state.json");
            std::fs::write(&path, content).unwrap();
            let (groups, _, _) = open(&path);
            assert!(groups.is_empty());
            assert!(!path.exists());
            assert_eq!(std::fs::read_to_string(with_suffix(&path, ".bad")).unwrap(), content);
        }
    }

    #[test]
    fn a_missing_file_is_no_trouble() {
        let directory = tempfile::tempdir().unwrap();
        assert!(open(&directory.path().join("state.json")).0.is_empty());
        let found: Vec<_> =
            std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(found, ["state.json.lock"]);
    }

    #[test]
    fn what_cannot_be_read_stays_where_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state.json");
        std::fs::create_dir(&path).unwrap();
        assert!(open(&path).0.is_empty());
        assert!(path.is_dir() && !with_suffix(&path, ".bad").exists());
    }
}
