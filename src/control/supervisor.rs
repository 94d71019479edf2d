//! The sole owner of a group's decision: feeds the machine, and carries out what it says.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::channels::{
    Availability, BackendId, BackendStatus, GroupStatus, GroupWishes, Observation, Order, ProbeReport, Rehearsal,
    Route, Vitals, WorkerReport,
};
use crate::config::{Group, Promote};
use crate::control::audit;
use crate::control::checks::command::Told;
use crate::control::chronicle::Chronicle;
use crate::control::inventory::Bequest;
use crate::control::observed::{Clock, Observed};
use crate::control::prober::Probed;
use crate::control::promotion::{Promoting, Server, carry_out, outcome};
use crate::control::state::Keeper;
use crate::control::{Shared, now};
use crate::events::EventHub;
use crate::logic::detector::{Reading, Sample};
use crate::logic::failover::{
    BackendSpec, Command, Event, Failover, GroupSettings, Output, PromotionOrder, Reason, Saved,
};
use crate::logic::parity::{Parity, ParityChange};
use crate::logic::replication::{Facts, ReplicationSettings};

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
    pub(super) rehearsals: mpsc::Receiver<Rehearsal>,
    pub(super) bequests: watch::Sender<Bequest>,
    pub(super) route: watch::Sender<Route>,
    pub(super) asks: Vec<Arc<Notify>>,
    pub(super) keeper: Option<Keeper>,
    pub(super) events: EventHub,
}

/// Decides for one group.
pub struct Supervisor {
    name: String,
    machine: Failover,
    ends: Ends,
    status: watch::Sender<GroupStatus>,
    shared: Shared,
    tick: Duration,
    next_tick: Instant,
    observed: Vec<Observed>,
    chronicle: Chronicle,
    parity: Parity,
    /// Whose libraries of functions the next active inherits; `None`: nobody's are.
    testator: Option<Option<BackendId>>,
    /// Who waits for a planned switch to end, and its target.
    switching: Option<(BackendId, Outcome)>,
    /// Who waits for a drill to end.
    drilling: Option<Outcome>,
    status_at: Instant,
    /// What it takes to speak to each backend, and what promotes one.
    servers: Vec<Server>,
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
    Rehearsal(Rehearsal),
    Rehearsed,
    Promotion(BackendId, Result<(), String>),
    Time,
}

impl Supervisor {
    pub(super) fn new(
        group: &Group,
        shared: Shared,
        saved: Option<&Saved>,
        ends: Ends,
    ) -> (Self, watch::Receiver<GroupStatus>) {
        let start = now();
        let specs = group.backends.iter().zip(&shared.ids).map(|(backend, id)| BackendSpec {
            id: *id,
            name: backend.name.clone(),
            weight: backend.weight,
            health: backend.overrides.health.clone(),
            breaker: Some(group.breaker_of(backend)),
        });
        let settings = GroupSettings {
            health: group.health.clone(),
            detector: group.detector.clone(),
            breaker: group.breaker,
            failover: group.failover.clone(),
        };
        let replication = ReplicationSettings {
            replication: group.replication,
            promotes: group.promotion.by != Promote::Never,
            promote_timeout: group.promotion.timeout,
            waits: group.promotion.waits,
        };
        let machine =
            Failover::new(start, settings, specs.collect(), shared.vitals.len(), saved).with_replication(replication);
        let servers = group.backends.iter().zip(&shared.tls);
        let servers = servers.map(|(backend, tls)| Server { backend: backend.clone(), tls: tls.clone() }).collect();
        let observed: Vec<Observed> = group.backends.iter().map(|backend| Observed::new(&backend.name)).collect();
        let names = shared.ids.iter().copied().zip(group.backends.iter().map(|backend| backend.name.clone()));
        let chronicle = Chronicle::new(&group.name, names.collect(), ends.events.clone());
        let first = status_of((&chronicle, &Parity::new()), &machine, &observed, start);
        let (status, receiver) = watch::channel(first);
        let supervisor = Self {
            name: group.name.clone(),
            machine,
            ends,
            status,
            shared,
            tick: (group.detector.hang_timeout / LOOKS_PER_HANG).clamp(TICK_MIN, TICK_MAX),
            next_tick: start,
            observed,
            chronicle,
            parity: Parity::new(),
            testator: group.parity.loads_functions.then_some(None),
            switching: None,
            drilling: None,
            status_at: start,
            servers,
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
                self.observe(&report);
                if let Some(told) = told.map(Told::result) {
                    self.observe_facts(report.backend, &told);
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
        let was_settled = self.machine.is_settled();
        let old = self.standing(&command);
        let result = self.machine.on_operator(now, command.clone());
        let (group, new) = (self.name.as_str(), self.standing(&command));
        match &result {
            Ok(()) => tracing::info!(target: "audit", audit = true, group, by, order = what, old, new, "operator"),
            Err(why) => {
                tracing::warn!(target: "audit", audit = true, group, by, order = what, old, %why,
                    "operator's order refused");
                self.chronicle.refuse(&command, &by, &why.to_string(), self.machine.route().epoch);
            }
        }
        let Some(outcome) = outcome else { return };
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
            (Ok(()), None) => {
                // Who is answered and looks finds it done.
                self.publish_status(now);
                drop(outcome.send(Ok(what + self.remark(&command))));
            }
            (Err(why), _) => drop(outcome.send(Err(why.to_string()))),
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

    /// Tells who waits for a switch or a drill how it ended.
    fn tell(&mut self, event: &Event) {
        let text = self.chronicle.last_text();
        let ended = match event {
            Event::Switched(switched) if switched.reason != Reason::Start => Some((switched.to, true)),
            Event::SwitchCalledOff { to, .. } => Some((*to, false)),
            Event::DrillEnded { .. } => {
                if let Some(outcome) = self.drilling.take() {
                    drop(outcome.send(Ok(text)));
                }
                return;
            }
            _ => None,
        };
        let Some((to, has_switched)) = ended else { return };
        let waiting = self.switching.take_if(|(target, _)| *target == to || has_switched);
        let Some((target, outcome)) = waiting else { return };
        drop(outcome.send(match (has_switched, target == to) {
            (true, true) => Ok(text),
            (true, false) => {
                let name = self.chronicle.name_of(target);
                Err(format!("{name} was to become active, and another did: {text}"))
            }
            (false, _) => Err(text),
        }));
    }

    /// Reads the vitals of all workers.
    fn look(&mut self, now: Instant) {
        let workers = &self.shared.vitals;
        let sample = |backend: usize| {
            let readings = workers.iter().filter_map(|of_worker| of_worker.get(backend));
            let readings: Vec<Reading> = readings.map(|vitals| read(vitals, self.shared.origin)).collect();
            Sample::merge(&readings)
        };
        let samples: Vec<Sample> = (0..self.observed.len()).map(sample).collect();
        self.machine.on_vitals(now, &samples);
    }

    /// Does what the machine says; nothing here waits.
    fn carry_out(&mut self, mut is_news: bool) {
        while let Some(output) = self.machine.poll() {
            is_news = true;
            match output {
                Output::Publish(route) => {
                    self.bequeath(&route);
                    self.ends.route.send_replace(route);
                }
                Output::ProbeNow(backend) => {
                    if let Some(index) = self.index(backend) {
                        self.ends.asks[index].notify_one();
                    }
                }
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
            }
        }
        let now = now();
        let is_counting = self.machine.route().availability != Availability::Healthy;
        if is_news || (is_counting && now >= self.status_at + STATUS_MAX_AGE) {
            self.publish_status(now);
        }
    }

    /// Begins to carry out an order; what is left of an older one is dropped.
    fn promote(&mut self, order: PromotionOrder) {
        let server = |id| self.servers.get(self.index(id)?).cloned();
        let Some(to) = server(order.backend) else { return };
        let from = order.from.and_then(server);
        self.promoting = Some(Box::pin(carry_out(order, to, from, self.promote_by.clone())));
    }

    fn publish_status(&mut self, now: Instant) {
        self.status_at = now;
        self.status.send_replace(status_of((&self.chronicle, &self.parity), &self.machine, &self.observed, now));
    }

    fn observe(&mut self, report: &ProbeReport) {
        if let Some(index) = self.index(report.backend) {
            self.observed[index].on_probe(report);
        }
    }

    fn observe_facts(&mut self, backend: BackendId, told: &Result<Facts, String>) {
        if let (Ok(facts), Some(index)) = (told, self.index(backend)) {
            self.observed[index].on_facts(facts);
        }
    }

    fn note(&mut self, now: Instant, observation: Observation) {
        match observation {
            Observation::Lag { backend, verdict } => {
                if let Some(index) = self.index(backend) {
                    self.observed[index].on_lag(&verdict);
                }
                self.machine.on_lag(now, backend, verdict.is_ok());
            }
            Observation::Inventory { backend, inventory } => {
                let Some(index) = self.index(backend) else { return };
                let changes = self.parity.on_inventory(self.observed[index].name(), *inventory);
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
        let Some(from) = from.filter(|_| from != to).and_then(|from| self.index(from)) else { return };
        let known = self.parity.inventory(self.observed[from].name());
        if let Some(libraries) = known.and_then(|inventory| inventory.libraries.clone()) {
            self.ends.bequests.send_replace(Bequest { to, libraries: Arc::new(libraries) });
        }
    }

    fn index(&self, backend: BackendId) -> Option<usize> {
        self.shared.ids.iter().position(|id| *id == backend)
    }
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
    observed: &[Observed],
    now: Instant,
) -> GroupStatus {
    let clock = Clock { now, wall: SystemTime::now() };
    let route = machine.route().clone();
    let reason = match route.active {
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
            .zip(observed)
            .map(|(member, observed)| BackendStatus {
                replication: machine.standing(member.id),
                ..observed.status(&member, clock)
            })
            .collect(),
        switches: chronicle.switches(),
        last_switch: chronicle.last_switch(),
        failback_blocked: machine.blocked().map(|blocked| blocked.to_string()),
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

fn read(vitals: &Vitals, origin: Instant) -> Reading {
    let moment = |micros: u64| (micros > 0).then(|| origin + Duration::from_micros(micros));
    Reading {
        last_byte: moment(vitals.last_byte_us.load(Ordering::Relaxed)),
        waiting_since: moment(vitals.waiting_since_us.load(Ordering::Relaxed)),
        is_slow: vitals.waiting_slow.load(Ordering::Relaxed),
        successes: vitals.successes.load(Ordering::Relaxed),
        failures: vitals.failures.load(Ordering::Relaxed),
        replies: vitals.replies.load(),
        disturbances: vitals.disturbances.load(Ordering::Relaxed),
    }
}
