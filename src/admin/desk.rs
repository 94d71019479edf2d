//! What operators ask and order, answered in words: the same verbs for the console and for HTTP. It owns nothing; it
//! shows what the supervisors publish, and hands orders to them.

mod help;
mod request;
mod show;
mod simulated;
mod why;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::request::ReportRequest;
pub(super) use self::request::{Change, Channel, Courtesy, Request, parse};
pub(super) use self::why::rounded;
use super::status::{self, Status};
use crate::channels::{
    Amend, Amendment, BackendId, BackendStatus, Command, Drill, DrillFault, GroupStatus, Manner, Order, ProcessCommand,
    ProcessOrder, Recruit, Rehearsal, Removal, Report,
};
use crate::command::policy::Policy;
use crate::config::{Addition, Config, Group, closest};
use crate::events::EventHub;
use crate::logic::explain::explain;
use crate::logic::settings::RetryCeiling;
use crate::net::recruit::Recruiter;
use crate::resp::encode;
use crate::telemetry::counters::WorkerCounters;

/// How much longer than its drill somebody waits for the ledger.
const LEDGER_MAX: Duration = Duration::from_secs(10);

const DRILL_PENDING: &str = "the drill is under way: EVENTS has its ledger once it is over";

/// One group as operators see it.
#[derive(Debug)]
pub struct DeskGroup {
    /// How it stands.
    pub status: watch::Receiver<GroupStatus>,
    /// To its supervisor.
    pub orders: mpsc::Sender<Order>,
    /// The same, for what changes the group itself.
    pub amendments: mpsc::Sender<Amendment>,
    /// Questions to its supervisor.
    pub rehearsals: mpsc::Sender<Rehearsal>,
    /// Its counters, one for each worker.
    pub counters: Vec<Arc<WorkerCounters>>,
    /// Which of its commands travel where.
    pub policy: Policy,
}

/// Where operators are answered.
#[derive(Debug)]
pub struct Desk {
    /// In the file's order.
    pub groups: Vec<DeskGroup>,
    /// The configuration in force.
    pub in_force: watch::Receiver<Arc<Config>>,
    /// Prepares backends that are added.
    pub recruiter: Recruiter,
    /// To the application.
    pub process: mpsc::Sender<ProcessOrder>,
    /// What happens.
    pub events: EventHub,
    /// What each second brings, while somebody listens.
    pub outcomes: EventHub,
    /// When the process started.
    pub started: SystemTime,
    /// Cancelled once no new clients are taken.
    pub draining: CancellationToken,
}

/// Who asks, and how long they wait for an outcome.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    /// For the audit log: `console uid 0`, `http 127.0.0.1:4711`.
    pub(super) name: String,
    /// The same without what changes with each connection: the name of a checker that gives none.
    pub(super) place: String,
    /// An order that had no outcome for so long is not waited for: the log will tell.
    pub(super) patience: Duration,
    /// Whether a drill's ledger is waited for.
    pub(super) waits_for_drills: bool,
}

/// What an operator reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// What was done.
    Line(String),
    /// What was asked.
    Lines(Vec<String>),
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The request makes no sense.
    Wrong(String),
    /// It was not carried out.
    Refused(String),
    /// It is being carried out.
    Pending(String),
}

impl Trouble {
    pub(super) fn message(&self) -> &str {
        let (Self::Wrong(message) | Self::Refused(message) | Self::Pending(message)) = self;
        message
    }
}

impl Desk {
    /// Answers a request, or carries it out.
    pub(super) async fn carry_out(
        &self,
        request: Request,
        group: Option<&str>,
        asker: &Asker,
    ) -> Result<Answer, Trouble> {
        let lines = match request {
            Request::Change(change) => return self.change(group, change, asker).await.map(Answer::Line),
            Request::Process(command) => self.process(command, asker).await?,
            Request::Simulate { fault, backend } => self.simulate(group, fault, &backend).await?,
            request => self.look(request, group).map_err(Trouble::Wrong)?,
        };
        Ok(Answer::Lines(one_lines(lines)))
    }

    pub(super) fn hub(&self, channel: Channel) -> EventHub {
        match channel {
            Channel::Events => self.events.clone(),
            Channel::Outcomes => self.outcomes.clone(),
        }
    }

    /// What only needs to be looked up.
    fn look(&self, request: Request, group: Option<&str>) -> Result<Vec<String>, String> {
        Ok(match request {
            Request::Help(verb) => help::help(verb.as_deref())?,
            Request::Status => self.status(),
            Request::Why => why::why(&self.stands(group)?, SystemTime::now()),
            Request::Events(count) => show::events(&self.stands(group)?, count),
            Request::Show(name) => {
                let status = self.stands(group)?;
                let mut lines = show::backend(find(&status, &name)?);
                lines.extend(status.differences.iter().map(|difference| format!("differs from others: {difference}")));
                lines
            }
            Request::Explain(command) => self.explain(group, &command)?,
            _ => Vec::new(),
        })
    }

    /// The answer to WHY about a group.
    pub(super) fn why(group: &GroupStatus) -> Vec<String> {
        one_lines(why::why(group, SystemTime::now()))
    }

    /// The answer to SHOW.
    pub(super) fn show(backend: &BackendStatus) -> Vec<String> {
        one_lines(show::backend(backend))
    }

    fn status(&self) -> Vec<String> {
        let groups: Vec<GroupStatus> = self.groups.iter().map(|group| group.status.borrow().clone()).collect();
        let uptime = self.started.elapsed().unwrap_or_default();
        let page = Status::new(&groups, uptime, self.draining.is_cancelled()).summary();
        page.lines().map(str::to_owned).collect()
    }

    /// The group of that name; the only one when none is named.
    fn group(&self, name: Option<&str>) -> Result<&DeskGroup, String> {
        let names =
            || self.groups.iter().map(|group| group.status.borrow().name.clone()).collect::<Vec<_>>().join(", ");
        match (name, self.groups.as_slice()) {
            (None, [only]) => Ok(only),
            (None, _) => Err(format!("there are several groups: add GROUP and one of {}", names())),
            (Some(name), groups) => groups
                .iter()
                .find(|group| group.status.borrow().name == name)
                .ok_or_else(|| format!("no group '{name}'; there is {}", names())),
        }
    }

    fn stands(&self, group: Option<&str>) -> Result<GroupStatus, String> {
        self.group(group).map(|group| group.status.borrow().clone())
    }

    fn explain(&self, group: Option<&str>, command: &[Vec<u8>]) -> Result<Vec<String>, String> {
        let group = match (group, self.groups.first()) {
            (None, Some(first)) => first,
            _ => self.group(group)?,
        };
        let mut frame = BytesMut::new();
        encode::request(&mut frame, command);
        let classified = group.policy.apply(&frame, &command[0]);
        Ok(explain(&frame, classified, self.ceiling(group)))
    }

    fn settings_of(&self, group: &DeskGroup) -> Option<Group> {
        let status = group.status.borrow();
        self.in_force.borrow().groups.iter().find(|settings| settings.name == status.name).cloned()
    }

    /// What the group repeats.
    fn ceiling(&self, group: &DeskGroup) -> RetryCeiling {
        self.settings_of(group).map_or(RetryCeiling::Never, |settings| settings.retry.ceiling)
    }

    async fn simulate(&self, group: Option<&str>, fault: DrillFault, name: &str) -> Result<Vec<String>, Trouble> {
        let group = self.group(group).map_err(Trouble::Wrong)?;
        let backend = find(&group.status.borrow(), name).map_err(Trouble::Wrong)?.id;
        let (outcome, told) = oneshot::channel();
        group.rehearsals.send(Rehearsal { backend, fault, outcome }).await.map_err(|_| gone())?;
        let simulation = told.await.map_err(|_| gone())?;
        let status = group.status.borrow().clone();
        Ok(simulated::in_words(&status, &group.counters, self.ceiling(group), (backend, fault), &simulation))
    }

    async fn change(&self, group: Option<&str>, change: Change, asker: &Asker) -> Result<String, Trouble> {
        let group = self.group(group).map_err(Trouble::Wrong)?;
        let drill = match &change {
            Change::Add(addition) => return self.add(group, addition.clone(), asker).await,
            Change::Drill { length, .. } => Some(*length),
            _ => None,
        };
        let command = command_of(&group.status.borrow(), change, asker).map_err(Trouble::Wrong)?;
        let (outcome, told) = oneshot::channel();
        let order = Order { command, by: asker.name.clone(), outcome: Some(outcome) };
        group.orders.send(order).await.map_err(|_| gone())?;
        match drill {
            Some(length) if asker.waits_for_drills => outcome_of(told, length + LEDGER_MAX, DRILL_PENDING).await,
            Some(_) => outcome_of(told, asker.patience, DRILL_PENDING).await,
            None => outcome_of(told, asker.patience, "no outcome yet: see EVENTS").await,
        }
    }

    /// Everything that the file is checked for is checked here, in the same words.
    async fn add(&self, group: &DeskGroup, addition: Addition, asker: &Asker) -> Result<String, Trouble> {
        let (recruit, warnings) = self.recruit(group, addition).inspect_err(|trouble| {
            let (by, why) = (asker.name.as_str(), trouble.message());
            tracing::warn!(target: "audit", audit = true, by, order = "add a backend", why, "operator's order refused");
        })?;
        let (outcome, told) = oneshot::channel();
        let amendment = Amendment { what: Amend::Add(recruit), by: asker.name.clone(), outcome: Some(outcome) };
        group.amendments.send(amendment).await.map_err(|_| gone())?;
        let done = outcome_of(told, asker.patience, "no outcome yet: see EVENTS").await?;
        Ok(std::iter::once(done).chain(warnings).collect::<Vec<_>>().join("; "))
    }

    /// What is to be added, ready to serve, and what may surprise about it.
    fn recruit(&self, group: &DeskGroup, addition: Addition) -> Result<(Recruit, Vec<String>), Trouble> {
        let settings = self.settings_of(group).ok_or_else(gone)?;
        let workers = self.in_force.borrow().workers;
        let wrong = |text: String| Trouble::Wrong(status::one_line(&text.replace('\n', "; ")));
        let (backend, mut warnings) =
            addition.backend(&settings, workers).map_err(|problems| wrong(problems.to_string()))?;
        let mut statuses = self.groups.iter().map(|group| group.status.borrow());
        if let Some(owner) = statuses.find(|status| status.backends.iter().any(|known| known.name == backend.name)) {
            let (name, owner) = (&backend.name, &owner.name);
            return Err(wrong(format!("name = \"{name}\": is the name of a backend of group {owner} already")));
        }
        if addition.has_password() {
            warnings.push("its URL has a password, which is not written down: it is gone after a restart".to_owned());
        }
        let recruit = self.recruiter.recruit(backend, Some(addition)).map_err(|error| wrong(error.to_string()))?;
        Ok((recruit, warnings))
    }

    async fn process(&self, command: ProcessCommand, asker: &Asker) -> Result<Vec<String>, Trouble> {
        let (outcome, told) = oneshot::channel();
        let order = ProcessOrder { command, by: asker.name.clone(), outcome };
        self.process.send(order).await.map_err(|_| gone())?;
        match tokio::time::timeout(asker.patience, told).await {
            Ok(Ok(outcome)) => outcome.map_err(|why| Trouble::Refused(status::one_line(&why))),
            Ok(Err(_)) => Err(gone()),
            Err(_) => Err(Trouble::Pending("no outcome yet: see the log".to_owned())),
        }
    }
}

/// Backends and checkers speak in some of them: nothing of theirs may move the cursor of a terminal.
fn one_lines(lines: Vec<String>) -> Vec<String> {
    lines.iter().map(|line| status::one_line(line)).collect()
}

fn gone() -> Trouble {
    Trouble::Refused("the control plane has ended: see the log".to_owned())
}

async fn outcome_of(
    told: oneshot::Receiver<Result<String, String>>,
    patience: Duration,
    pending: &str,
) -> Result<String, Trouble> {
    match tokio::time::timeout(patience, told).await {
        Ok(Ok(outcome)) => outcome.map_err(Trouble::Refused),
        Ok(Err(_)) => Err(Trouble::Refused("overtaken by another order or switch: see EVENTS".to_owned())),
        Err(_) => Err(Trouble::Pending(pending.to_owned())),
    }
    .map(|text| status::one_line(&text))
}

fn command_of(status: &GroupStatus, change: Change, asker: &Asker) -> Result<Command, String> {
    let id = |name: &str| find(status, name).map(|backend| backend.id);
    Ok(match change {
        Change::Switch { to, is_forced } => {
            Command::Switch { to: id(&to)?, manner: if is_forced { Manner::Forced } else { Manner::Planned } }
        }
        Change::Weight { backend, weight } => Command::SetWeight { backend: id(&backend)?, weight },
        Change::Stay { backend, length } => Command::Stay { backend: id(&backend)?, length },
        Change::EndStay => Command::EndStay,
        Change::Ban { backend, length } => Command::Ban { backend: id(&backend)?, length },
        Change::EndBan { backend } => Command::EndBan { backend: id(&backend)? },
        Change::Drain { backend } => Command::Drain { backend: id(&backend)? },
        Change::EndDrain { backend } => Command::EndDrain { backend: id(&backend)? },
        Change::Report(report) => report_of(id(&report.backend)?, report, asker),
        Change::Pause { length, writes_only } => Command::Pause { length, writes_only },
        Change::Resume => Command::Resume,
        Change::Drill { backend, fault, length, is_forced } => {
            Command::Drill { drill: Drill { backend: id(&backend)?, fault }, length, is_forced }
        }
        Change::EndDrill => Command::EndDrill,
        Change::Remove { backend, is_forced } => {
            let removal = if is_forced { Removal::Forced } else { Removal::Planned };
            Command::Remove { backend: id(&backend)?, removal }
        }
        Change::Add(addition) => return Err(format!("{addition:?} is no member yet")),
    })
}

fn report_of(backend: BackendId, report: ReportRequest, asker: &Asker) -> Command {
    let ReportRequest { verdict, length, reporter, reason, .. } = report;
    let reporter = reporter.unwrap_or_else(|| asker.place.clone());
    Command::Report { backend, report: Report { verdict, reporter, reason, length } }
}

/// The backend of that name.
fn find<'a>(status: &'a GroupStatus, name: &str) -> Result<&'a BackendStatus, String> {
    status.backends.iter().find(|backend| backend.name == name).ok_or_else(|| {
        let names: Vec<&str> = status.backends.iter().map(|backend| backend.name.as_str()).collect();
        let hint = closest(name, &names).map_or_else(String::new, |known| format!(" - did you mean {known}?"));
        format!("no backend '{name}' in group {}; there is {}{hint}", status.name, names.join(", "))
    })
}
