//! The sole owner of a group's decision: feeds the machine, and carries out what it says.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::channels::{
    Amend, Amendment, Availability, BackendId, BackendStatus, Directions, GroupStatus, GroupWishes, Observation, Order,
    Recruit, Rehearsal, Route, WorkerReport,
};
use crate::config::{Group, Promote};
use crate::control::audit;
use crate::control::checks::command::Told;
use crate::control::chronicle::Chronicle;
use crate::control::inventory::Bequest;
use crate::control::now;
use crate::control::observed::Clock;
use crate::control::prober::Probed;
use crate::control::promotion::{Promoting, carry_out, outcome};
use crate::control::roster::{Roster, settings_of};
use crate::control::state::Keeper;
use crate::events::EventHub;
use crate::logic::detector::Sample;
use crate::logic::failover::{BackendSpec, Command, Event, Failover, Output, PromotionOrder, Reason, Refused, Saved};
use crate::logic::parity::{Parity, ParityChange};
use crate::logic::replication::ReplicationSettings;

/// The vitals are read so often in one hang timeout, within these bounds.
const LOOKS_PER_HANG: u32 = 20;
const TICK_MIN: Duration = Duration::from_millis(5);
const TICK_MAX: Duration = Duration::from_millis(50);
/// While nobody serves, the status is renewed so often.
const STATUS_MAX_AGE: Duration = Duration::from_secs(1);

/// Where the outcome of an operator's order goes.
type Outcome = oneshot::Sender<Result<String, String>>;

/// The supervisor's ends of the channels.
pub(super) struct Ends {
    pub(super) reports: mpsc::Receiver<WorkerReport>,
    pub(super) probes: mpsc::Receiver<Probed>,
    pub(super) observations: mpsc::Receiver<Observation>,
    pub(super) operator: mpsc::Receiver<Order>,
    pub(super) amended: mpsc::Receiver<Amendment>,
    pub(super) rehearsals: mpsc::Receiver<Rehearsal>,
    pub(super) bequests: watch::Sender<Bequest>,
    /// For the probers.
    pub(super) route: watch::Sender<Route>,
    /// For the workers.
    pub(super) directed: watch::Sender<Directions>,
    pub(super) keeper: Option<Keeper>,
    pub(super) events: EventHub,
}

/// Decides for one group.
pub struct Supervisor {
    name: String,
    machine: Failover,
    ends: Ends,
    status: watch::Sender<GroupStatus>,
    roster: Roster,
    tick: Duration,
    next_tick: Instant,
    chronicle: Chronicle,
    parity: Parity,
    /// Whose libraries of functions the next active inherits; `None`: nobody's are.
    testator: Option<Option<BackendId>>,
    /// Who waits for a planned switch to end, and its target.
    switching: Option<(BackendId, Outcome)>,
    /// The database that every URL of the group named at the start, if it was the same: sessions count on it.
    database: Option<u32>,
    /// Who waits for a backend to be gone.
    leaving: Vec<(BackendId, Outcome)>,
    /// Outcomes, told once the status shows what they say.
    told: Vec<(Outcome, Result<String, String>)>,
    /// Who waits for a drill to end.
    drilling: Option<Outcome>,
    status_at: Instant,
    /// What promotes a replica.
    promote_by: Promote,
    /// The order on a replica that is being carried out.
    promoting: Option<Promoting>,
    /// The question that is being answered, on a thread of its own; the others wait in their channel.
    rehearsing: Option<JoinHandle<()>>,
}

/// Why the supervisor woke.
enum Wake {
    Stop,
    Report(WorkerReport),
    Probe(Probed),
    Observation(Observation),
    Operator(Order),
    Amended(Amendment),
    Rehearsal(Rehearsal),
    Rehearsed,
    Promotion(BackendId, Result<(), String>),
    Time,
}

impl Supervisor {
    pub(super) fn new(
        group: &Group,
        (roster, specs, workers): (Roster, Vec<BackendSpec>, usize),
        saved: Option<&Saved>,
        ends: Ends,
    ) -> (Self, watch::Receiver<GroupStatus>) {
        let start = now();
        let mut chronicle = Chronicle::new(&group.name, ends.events.clone());
        specs.iter().for_each(|spec| chronicle.enroll(spec.id, &spec.name));
        let replication = ReplicationSettings {
            replication: group.replication,
            promotes: group.promotion.by != Promote::Never,
            promote_timeout: group.promotion.timeout,
            waits: group.promotion.waits,
        };
        let machine = Failover::new(start, settings_of(group), specs, workers, saved).with_replication(replication);
        let first = status_of((&chronicle, &Parity::new()), &machine, &roster, start);
        let (status, receiver) = watch::channel(first);
        let supervisor = Self {
            name: group.name.clone(),
            machine,
            ends,
            status,
            roster,
            tick: tick_of(group),
            next_tick: start,
            chronicle,
            parity: Parity::new(),
            testator: group.parity.loads_functions.then_some(None),
            switching: None,
            database: group.common_database(),
            leaving: Vec::new(),
            told: Vec::new(),
            drilling: None,
            status_at: start,
            promote_by: group.promotion.by.clone(),
            promoting: None,
            rehearsing: None,
        };
        (supervisor, receiver)
    }

    /// Decides until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let wake = self.wake(&stop).await;
            if matches!(wake, Wake::Stop) {
                return;
            }
            let is_news = self.apply(wake);
            self.carry_out(is_news);
        }
    }

    /// The only place that waits; it changes nothing.
    async fn wake(&mut self, stop: &CancellationToken) -> Wake {
        let at = self.machine.next_deadline().map_or(self.next_tick, |deadline| deadline.min(self.next_tick));
        tokio::select! {
            biased;
            () = stop.cancelled() => Wake::Stop,
            Some(report) = self.ends.reports.recv() => Wake::Report(report),
            Some(report) = self.ends.probes.recv() => Wake::Probe(report),
            Some(order) = self.ends.operator.recv() => Wake::Operator(order),
            Some(amendment) = self.ends.amended.recv() => Wake::Amended(amendment),
            () = ended(&mut self.rehearsing) => Wake::Rehearsed,
            Some(rehearsal) = self.ends.rehearsals.recv(), if self.rehearsing.is_none() => Wake::Rehearsal(rehearsal),
            (backend, outcome) = outcome(&mut self.promoting) => Wake::Promotion(backend, outcome),
            Some(observation) = self.ends.observations.recv() => Wake::Observation(observation),
            () = tokio::time::sleep_until(at.into()) => Wake::Time,
        }
    }

    /// Feeds the machine; says whether the status may have changed.
    fn apply(&mut self, wake: Wake) -> bool {
        let now = now();
        if now >= self.next_tick {
            // Whatever woke us, and even if reports never cease: silence is judged on time.
            self.next_tick = now + self.tick;
            self.look(now);
        }
        match wake {
            Wake::Stop => false,
            Wake::Report(report) => {
                self.machine.on_worker(now, report);
                false
            }
            Wake::Probe(Probed { report, told }) => {
                // A verdict is weighed against the replies that came until now.
                self.look(now);
                self.roster.observe(&report);
                if let Some(told) = told.map(Told::result) {
                    self.roster.observe_facts(report.backend, &told);
                    self.machine.on_facts(now, report.backend, told);
                }
                self.machine.on_probe(now, &report);
                true
            }
            Wake::Observation(observation) => {
                self.note(now, observation);
                true
            }
            Wake::Operator(order) => {
                self.obey(now, order);
                true
            }
            Wake::Amended(amendment) => {
                self.amend(now, amendment);
                true
            }
            Wake::Rehearsal(rehearsal) => {
                self.rehearse(now, rehearsal);
                false
            }
            Wake::Rehearsed => false,
            Wake::Promotion(backend, outcome) => {
                self.machine.on_promotion(now, backend, outcome);
                true
            }
            Wake::Time => {
                self.machine.on_tick(now, fastrand::f64());
                false
            }
        }
    }

    /// Carries out an operator's order, and leaves a trace of who gave it.
    fn obey(&mut self, now: Instant, Order { command, by, outcome }: Order) {
        let what = self.chronicle.describe(&command);
        if let Command::Remove { backend, .. } = command {
            self.chronicle.attribute(backend, &by);
        }
        let was_settled = self.machine.is_settled();
        let old = self.standing(&command);
        let result = self.machine.on_operator(now, command.clone());
        let (group, new) = (self.name.as_str(), self.standing(&command));
        match &result {
            Ok(()) => tracing::info!(target: "audit", audit = true, group, by, order = what, old, new, "operator"),
            Err(why) => {
                tracing::warn!(target: "audit", audit = true, group, by, order = what, old,
                    why = why.to_string(), "operator's order refused");
                self.chronicle.refuse(&command, &by, &why.to_string(), self.machine.route().epoch);
            }
        }
        let Some(outcome) = outcome else { return };
        if let (Command::Remove { backend, .. }, Ok(())) = (&command, &result) {
            return self.leaving.push((*backend, outcome));
        }
        let moves = matches!(
            command,
            Command::Switch { .. } | Command::Stay { .. } | Command::Drain { .. } | Command::Report { .. }
        );
        let to = match command {
            Command::Switch { to, .. } => Some(to),
            _ => self.machine.target().filter(|_| moves && was_settled),
        };
        match (result, to) {
            (Ok(()), _) if matches!(command, Command::Drill { .. }) => self.drilling = Some(outcome),
            (Ok(()), Some(to)) => self.switching = Some((to, outcome)),
            // Who asked may have gone: the order stands.
            (Ok(()), None) => self.told.push((outcome, Ok(what + self.remark(&command)))),
            (Err(why), _) => self.told.push((outcome, Err(why.to_string()))),
        }
    }

    /// A minute of a copy's life takes far longer than a decision may wait.
    fn rehearse(&mut self, now: Instant, Rehearsal { backend, fault, outcome }: Rehearsal) {
        // Who asked may have gone.
        if !outcome.is_closed() {
            let machine = self.machine.clone();
            let answer = move || drop(outcome.send(machine.simulate(now, backend, fault)));
            self.rehearsing = Some(tokio::task::spawn_blocking(answer));
        }
    }

    /// Changes the group itself, and leaves a trace of who wanted it.
    fn amend(&mut self, now: Instant, Amendment { what, by, outcome }: Amendment) {
        let (order, result, leaver) = match what {
            Amend::Add(recruit) => {
                let (id, order) = (recruit.id, format!("add {}", described(&recruit)));
                self.chronicle.attribute(id, &by);
                let result = self.enroll(recruit).and_then(|spec| self.machine.add(now, spec).map_err(words));
                (order, result.inspect_err(|_| self.dismiss(id)), None)
            }
            Amend::Replace { old, by: recruit } => {
                let id = recruit.id;
                let order = format!("replace {} by {}", self.chronicle.name_of(old), described(&recruit));
                self.chronicle.attribute(old, &by);
                let result = self.enroll(recruit).and_then(|spec| self.machine.replace(now, old, spec).map_err(words));
                (order, result.inspect_err(|_| self.dismiss(id)), Some(old))
            }
            Amend::Settings { group, backends } => {
                self.tick = tick_of(&group);
                let (settings, specs) = self.roster.configure(*group, &backends);
                self.machine.configure(now, settings, &specs);
                ("change settings".to_owned(), Ok(()), None)
            }
        };
        self.direct();
        let group = self.name.as_str();
        match &result {
            Ok(()) => tracing::info!(target: "audit", audit = true, group, by, order, "operator"),
            Err(why) => {
                tracing::warn!(target: "audit", audit = true, group, by, order, why, "operator's order refused");
            }
        }
        let Some(outcome) = outcome else { return };
        match (result, leaver) {
            (Ok(()), Some(old)) => self.leaving.push((old, outcome)),
            // Who asked may have gone: what was done stands.
            (result, _) => self.told.push((outcome, result.map(|()| order))),
        }
    }

    fn enroll(&mut self, recruit: Recruit) -> Result<BackendSpec, String> {
        let database = recruit.endpoint.backend.database;
        if let Some(common) = self.database.filter(|&common| common != database) {
            return Err(format!(
                "its URL names the database {database} and those of its group {common}: that takes a restart"
            ));
        }
        let spec = self.roster.enroll(recruit);
        self.chronicle.enroll(spec.id, &spec.name);
        Ok(spec)
    }

    fn dismiss(&mut self, backend: BackendId) {
        for change in self.parity.forget(self.chronicle.name_of(backend)) {
            self.tell_of_parity(&change);
        }
        self.roster.dismiss(backend);
        self.chronicle.dismiss(backend);
    }

    fn standing(&self, command: &Command) -> String {
        audit::standing(&self.machine, command, |id| self.chronicle.name_of(id).to_owned())
    }

    /// What who gave an order should know of it.
    fn remark(&self, command: &Command) -> &'static str {
        let (Command::Drain { backend } | Command::Report { backend, .. }) = command else { return "" };
        match self.machine.stranded() {
            Some(stranded) if stranded == *backend => "; it stays active, for no other backend can take over now",
            _ => "",
        }
    }

    /// Tells who waits for a switch, for a drill, or for a backend to be gone, how it ended.
    fn tell(&mut self, event: &Event) {
        let text = self.chronicle.last_text();
        if let Event::BackendRemoved { backend } | Event::BackendReplaced { backend, .. } = event {
            for (_, outcome) in self.leaving.extract_if(.., |(leaver, _)| leaver == backend) {
                self.told.push((outcome, Ok(text.clone())));
            }
            return;
        }
        let ended = match event {
            Event::Switched(switched) if switched.reason != Reason::Start => Some((switched.to, true)),
            Event::SwitchCalledOff { to, .. } => Some((*to, false)),
            Event::DrillEnded { .. } => {
                self.told.extend(self.drilling.take().map(|outcome| (outcome, Ok(text))));
                return;
            }
            _ => None,
        };
        let Some((to, has_switched)) = ended else { return };
        let waiting = self.switching.take_if(|(target, _)| *target == to || has_switched);
        let Some((target, outcome)) = waiting else { return };
        self.told.push((
            outcome,
            match (has_switched, target == to) {
                (true, true) => Ok(text),
                (true, false) => {
                    let name = self.chronicle.name_of(target);
                    Err(format!("{name} was to become active, and another did: {text}"))
                }
                (false, _) => Err(text),
            },
        ));
    }

    /// Reads the vitals of all workers.
    fn look(&mut self, now: Instant) {
        let samples: Vec<Sample> = self.machine.members().map(|member| self.roster.sample(member.id)).collect();
        self.machine.on_vitals(now, &samples);
    }

    /// Does what the machine says; nothing here waits.
    fn carry_out(&mut self, mut is_news: bool) {
        let mut is_directed = true;
        while let Some(output) = self.machine.poll() {
            is_news = true;
            match output {
                Output::Publish(route) => {
                    self.bequeath(&route);
                    self.ends.route.send_replace(route);
                    is_directed = false;
                }
                Output::ProbeNow(backend) => self.roster.ask(backend),
                Output::Log(event) => {
                    self.chronicle.tell(&event, self.machine.route().epoch);
                    self.tell(&event);
                }
                Output::Promote(order) => self.promote(order),
                Output::Persist(saved) => {
                    if let Some(keeper) = &self.ends.keeper {
                        keeper.keep(&self.name, &saved);
                    }
                }
                Output::Dismiss(backend) => {
                    self.dismiss(backend);
                    is_directed = false;
                }
            }
        }
        // One message for all of it: the route never names a backend that workers do not know.
        if !is_directed {
            self.direct();
        }
        let now = now();
        let is_counting = self.machine.route().availability != Availability::Healthy;
        if is_news || (is_counting && now >= self.status_at + STATUS_MAX_AGE) {
            self.publish_status(now);
        }
        for (outcome, result) in self.told.drain(..) {
            let _ = outcome.send(result);
        }
    }

    /// Tells the workers.
    fn direct(&self) {
        self.ends.directed.send_replace(self.roster.directions(self.machine.route().clone()));
    }

    /// Begins to carry out an order; what is left of an older one is dropped.
    fn promote(&mut self, order: PromotionOrder) {
        let Some(to) = self.roster.server(order.backend) else { return };
        let from = order.from.and_then(|from| self.roster.server(from));
        self.promoting = Some(Box::pin(carry_out(order, to, from, self.promote_by.clone())));
    }

    fn publish_status(&mut self, now: Instant) {
        self.status_at = now;
        self.status.send_replace(status_of((&self.chronicle, &self.parity), &self.machine, &self.roster, now));
    }

    fn note(&mut self, now: Instant, observation: Observation) {
        match observation {
            Observation::Lag { backend, verdict } => {
                self.roster.note_lag(backend, &verdict);
                self.machine.on_lag(now, backend, verdict.is_ok());
            }
            Observation::Inventory { backend, .. } if self.roster.observed(backend).is_none() => {}
            Observation::Inventory { backend, inventory } => {
                let changes = self.parity.on_inventory(self.chronicle.name_of(backend), *inventory);
                for change in changes {
                    self.tell_of_parity(&change);
                }
            }
        }
    }

    fn tell_of_parity(&self, change: &ParityChange) {
        let group = self.name.as_str();
        match change {
            ParityChange::Differs(difference) => {
                let aspect = difference.aspect.label();
                tracing::warn!(group, aspect, %difference, "backends differ");
            }
            ParityChange::Alike(aspect) => {
                tracing::info!(group, aspect = aspect.label(), "backends do not differ any more");
            }
        }
    }

    /// A new active gets the libraries of functions that the one before it was last seen with.
    fn bequeath(&mut self, route: &Route) {
        let Some(testator) = &mut self.testator else { return };
        let (from, to) = (*testator, route.active);
        *testator = to;
        let Some(from) = from.filter(|_| from != to) else { return };
        let known = self.parity.inventory(self.chronicle.name_of(from));
        if let Some(libraries) = known.and_then(|inventory| inventory.libraries.clone()) {
            self.ends.bequests.send_replace(Bequest { to, libraries: Arc::new(libraries) });
        }
    }
}

/// An added backend as the log may show it: without its password.
fn described(recruit: &Recruit) -> String {
    let backend = &recruit.endpoint.backend;
    format!("{} at {} with the weight {}", backend.name, backend.address, backend.weight)
}

fn words(why: Refused) -> String {
    why.to_string()
}

fn tick_of(group: &Group) -> Duration {
    (group.detector.hang_timeout / LOOKS_PER_HANG).clamp(TICK_MIN, TICK_MAX)
}

/// Waits for the rehearsal under way; for ever, if there is none.
async fn ended(rehearsing: &mut Option<JoinHandle<()>>) {
    match rehearsing {
        Some(rehearsal) => {
            // However it ended, there is room for the next.
            drop(rehearsal.await);
            *rehearsing = None;
        }
        None => std::future::pending().await,
    }
}

fn status_of(
    (chronicle, parity): (&Chronicle, &Parity),
    machine: &Failover,
    roster: &Roster,
    now: Instant,
) -> GroupStatus {
    let clock = Clock { now, wall: SystemTime::now() };
    let route = machine.route().clone();
    let reason = match route.active {
        None if machine.members().any(|member| member.is_healthy) => {
            "too few backends have been found healthy yet (failover.initial)".to_owned()
        }
        None => "no backend has been found healthy yet".to_owned(),
        Some(_) if machine.cause().is_empty() => machine.reason().to_string(),
        Some(_) => format!("{} ({})", machine.reason(), machine.cause()),
    };
    GroupStatus {
        name: chronicle.group().to_owned(),
        route,
        reason,
        backends: machine
            .members()
            .filter(|member| !member.is_hidden)
            .filter_map(|member| {
                let replication = machine.standing(member.id);
                Some(BackendStatus { replication, ..roster.observed(member.id)?.status(&member, clock) })
            })
            .collect(),
        switches: chronicle.switches(),
        last_switch: chronicle.last_switch(),
        failback_blocked: machine.blocked().map(|blocked| blocked.to_string()),
        would_promote: machine.would_promote(),
        without_active: machine.without_active(now),
        active_since: chronicle.active_since(),
        stay: machine.stay().map(|stay| (stay.backend, clock.at(stay.until))),
        compared: parity.known(),
        differences: parity.differences().to_vec(),
        events: chronicle.events(),
        wishes: GroupWishes {
            pause: machine.pause().map(|pause| (clock.at(pause.until), pause.writes_only)),
            drill: machine.drill().map(|(drill, until)| (drill, clock.at(until))),
            is_stranded: machine.stranded().is_some(),
        },
    }
}
