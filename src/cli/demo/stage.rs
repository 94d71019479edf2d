//! The stage: owns everything, learns by events, plays the script, and gives the account at the end.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use super::Event;
use super::clients::{self, CLIENTS};
use super::ledger::{Kind, Ledger, Life, Remains};
use super::notice::{Notice, Status, Switched};
use super::picture::{BackendView, Happening, Percentiles, View, wait};
use super::process::{Folder, Process, Starter};
use super::report::{Account, report};
use super::screen::Screen;
use super::script::{Act, Script, Seen};
use super::server::{self, Server};
use super::traffic::{Traffic, Upheaval};
use super::wire::ANSWER_TIMEOUT;
use super::{picture, subject};
use crate::cli::Exit;

const EAST: &str = "east";

const WEST: &str = "west";

const WEIGHTS: [f64; 2] = [1.0, 0.5];

const TICK: Duration = Duration::from_millis(20);

/// Events taken in one turn, so that the picture goes on under any load.
const EVENTS_A_TURN_MAX: usize = 1_000;

const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Longer than a client waits for its last answer.
const LEAVE_TIMEOUT: Duration = ANSWER_TIMEOUT.saturating_add(Duration::from_secs(5));

/// After a switch, what clients see still belongs to it for so long.
const SETTLING: Duration = Duration::from_millis(500);

/// A fault that nobody announced began about so long before it was noticed.
const UNANNOUNCED: Duration = Duration::from_secs(1);

/// With `--keep`, a server that somebody killed starts again after this.
const RESTART_AFTER: Duration = Duration::from_secs(5);

const HAPPENINGS_KEPT_MAX: usize = 100;

const HISTORY_MAX: usize = 100;

const TROUBLES_KEPT_MAX: usize = 8;

/// Everything there is. Fields are dropped in this order: the terminal is restored, then Handover and the servers end.
pub(super) struct Stage {
    screen: Screen,
    handover: Process,
    servers: [Server; 2],
    program: PathBuf,
    starter: Starter,
    inbox: Receiver<Event>,
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    keep: bool,
    started: Instant,
    script: Script,
    ledger: Ledger,
    traffic: Traffic,
    state: State,
    folder: Folder,
}

/// What is known besides the account.
#[derive(Default)]
struct State {
    phase: Phase,
    /// How often somebody wanted it to end.
    interrupts: u32,
    clients: usize,
    status: Status,
    /// Every life so far, and whose it is.
    lives: Vec<(Life, &'static str)>,
    /// When servers were found dead.
    dead_since: [Option<Instant>; 2],
    happenings: Vec<Happening>,
    history: Vec<Percentiles>,
    troubles: VecDeque<String>,
    /// Upheavals whose outcome was told.
    upheavals_told: usize,
    /// Errors before the present upheaval.
    errors_before: u64,
    /// What went wrong with the play itself.
    failures: Vec<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    /// The script plays.
    #[default]
    Playing,
    /// The script is over, everything goes on.
    Kept,
    /// Time for the account.
    Ended,
    /// Somebody did not want to see the end.
    Interrupted,
}

impl Stage {
    /// Starts servers, Handover and clients.
    pub(super) fn set(
        keep: bool,
        seconds: Option<u64>,
        events: SyncSender<Event>,
        inbox: Receiver<Event>,
    ) -> Result<Self> {
        let folder = Folder::new().context("cannot make a temporary folder")?;
        let program = server::program(&folder)?;
        let starter = Starter::new();
        let start = |name, life| Server::start(&starter, &program, &folder, name, life);
        let servers = [start(EAST, Life(0))?, start(WEST, Life(1))?];
        let [east, west] = &servers;
        let weights = WEIGHTS.map(|weight| weight.to_string());
        let handover = subject::start(&starter, &folder, [(east, &weights[0]), (west, &weights[1])], &events)?;
        let (address, admin) = wait_for_addresses(&inbox)?;
        subject::watch(admin, &events)?;
        let status = wait_for_active(&inbox)?;
        let stop = Arc::new(AtomicBool::new(false));
        clients::start(address, &events, &stop).with_context(|| format!("the clients cannot connect to {address}"))?;
        let started = Instant::now();
        Ok(Self {
            screen: Screen::new(),
            handover,
            servers,
            program,
            starter,
            inbox,
            address,
            stop,
            keep,
            started,
            script: Script::new(EAST, seconds, started),
            ledger: Ledger::default(),
            traffic: Traffic::default(),
            state: State {
                clients: CLIENTS,
                status,
                lives: vec![(Life(0), EAST), (Life(1), WEST)],
                ..State::default()
            },
            folder,
        })
    }

    /// Plays to the end; says how it went.
    pub(super) fn play(mut self) -> Result<Exit> {
        self.introduce()?;
        while matches!(self.state.phase, Phase::Playing | Phase::Kept) {
            self.turn()?;
            self.advance()?;
        }
        self.let_clients_leave()?;
        self.account()
    }

    /// Waits a little for events, takes those there are, and shows how things stand.
    fn turn(&mut self) -> Result<()> {
        let mut event = self.inbox.recv_timeout(TICK).ok();
        for _ in 0..EVENTS_A_TURN_MAX {
            let Some(present) = event else { break };
            self.apply(present)?;
            event = self.inbox.try_recv().ok();
        }
        let now = Instant::now();
        self.traffic.age(now);
        self.tell_what_settled(now)?;
        if self.screen.is_due(now) {
            let view = self.view(now);
            self.screen.show(&view)?;
        }
        Ok(())
    }

    fn apply(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Exchange(exchange) => {
                // Who waits for an element wants to wait.
                if exchange.kind != Kind::Pop {
                    self.traffic.answered(exchange.sent_at, exchange.answered_at);
                }
                self.ledger.record(&exchange);
            }
            Event::Heard(message) => self.ledger.heard(message),
            Event::Wrong(what) => self.ledger.wrong(what),
            Event::Reconnected => self.ledger.reconnects += 1,
            Event::Left => self.state.clients = self.state.clients.saturating_sub(1),
            Event::Status(status) if status.epoch >= self.state.status.epoch => self.state.status = status,
            Event::Status(_) => {}
            Event::Notice(Notice::Switched(switched)) => self.on_switched(&switched)?,
            Event::Notice(Notice::Trouble(text)) => remember(&mut self.state.troubles, text),
            Event::Notice(Notice::Listening(_) | Notice::Admin(_)) => {}
            Event::HandoverEnded => self.on_handover_ended(),
            Event::Interrupt => self.on_interrupt(),
        }
        Ok(())
    }

    fn on_handover_ended(&mut self) {
        let said: Vec<_> = self.state.troubles.iter().cloned().collect();
        self.state.failures.push(format!("Handover ended by itself; it said: {}", said.join(" / ")));
        if self.state.phase != Phase::Interrupted {
            self.state.phase = Phase::Ended;
        }
    }

    fn on_interrupt(&mut self) {
        self.state.interrupts += 1;
        self.state.phase = match self.state.phase {
            Phase::Kept => Phase::Ended,
            Phase::Playing => Phase::Interrupted,
            over => over,
        };
    }

    fn on_switched(&mut self, switched: &Switched) -> Result<()> {
        self.state.status.epoch = self.state.status.epoch.max(switched.epoch);
        self.state.status.active = Some(switched.to.clone());
        if switched.first() {
            return Ok(());
        }
        self.enclose(switched, Instant::now());
        let Switched { from, to, reason, detect_us, switch_us, judged, .. } = switched;
        let took = |micros: &u64| wait(Some(Duration::from_micros(*micros)));
        let text = if switched.planned() {
            format!("{from} → {to}, planned, {reason}: done in {}", took(switch_us))
        } else {
            format!("{from} → {to}, {reason}: seen in {}, switched in {}", took(detect_us), took(switch_us))
        };
        self.happen(text)?;
        let words: Vec<_> = judged.iter().map(|(word, count)| format!("{count} {word}")).collect();
        let fate = if words.is_empty() { "nothing was".to_owned() } else { words.join(", ") };
        self.happen(format!("in flight then: {fate}"))
    }

    /// Marks the time of a switch, so that what clients saw of it is known.
    fn enclose(&mut self, switched: &Switched, now: Instant) {
        let to = Some(now + SETTLING);
        if let Some(kill) = self.traffic.upheavals.iter_mut().rfind(|upheaval| upheaval.to.is_none()) {
            kill.to = to;
            return;
        }
        let before = |duration: Duration| now.checked_sub(duration).unwrap_or(self.started);
        let (name, from) = if switched.planned() {
            (format!("the {}", switched.reason), before(Duration::from_micros(switched.switch_us) + TICK))
        } else {
            let from = before(Duration::from_micros(switched.detect_us) + UNANNOUNCED);
            (format!("the end of {}", switched.from), from)
        };
        self.begin(Upheaval { name, killed: !switched.planned(), from, to, longest: Duration::ZERO });
    }

    fn begin(&mut self, upheaval: Upheaval) {
        self.state.errors_before = self.errors();
        self.traffic.begin(upheaval);
    }

    fn errors(&self) -> u64 {
        self.ledger.errors().values().sum()
    }

    fn tell_what_settled(&mut self, now: Instant) -> Result<()> {
        let Some(upheaval) = self.traffic.upheavals.get(self.state.upheavals_told) else { return Ok(()) };
        if upheaval.to.is_none_or(|to| now < to) {
            return Ok(());
        }
        let longest = wait(Some(upheaval.longest));
        self.state.upheavals_told += 1;
        let errors = match self.errors().saturating_sub(self.state.errors_before) {
            0 => "no error".to_owned(),
            1 => "1 error".to_owned(),
            count => format!("{count} errors"),
        };
        self.happen(format!(
            "what clients saw: longest wait {longest}, {errors}, {} reconnects",
            self.ledger.reconnects
        ))
    }

    fn advance(&mut self) -> Result<()> {
        let now = Instant::now();
        if self.state.phase == Phase::Kept {
            return self.restart_the_dead(now);
        }
        let settled = self.traffic.upheavals.len() == self.state.upheavals_told;
        let seen = Seen { active: self.state.status.active.as_deref(), settled };
        match self.script.step(now, seen) {
            None => Ok(()),
            Some(Act::Kill) => self.kill_the_active(now),
            Some(Act::Restart) => (0..self.servers.len()).try_for_each(|index| self.restart_if_dead(index)),
            Some(Act::End) if self.keep => self.go_on(),
            Some(Act::End) => {
                self.state.phase = Phase::Ended;
                Ok(())
            }
            Some(Act::GiveUp(what)) => {
                self.state.failures.push(what.to_owned());
                self.state.phase = Phase::Ended;
                Ok(())
            }
        }
    }

    fn kill_the_active(&mut self, now: Instant) -> Result<()> {
        let active = self.state.status.active.clone();
        let Some(index) = self.servers.iter().position(|server| Some(server.name) == active.as_deref()) else {
            bail!("the active backend {active:?} is none of the demo's");
        };
        let (name, pid) = (self.servers[index].name, self.servers[index].pid());
        self.happen(format!("kill -9 {pid}: the Redis server of {name}, the active one"))?;
        self.begin(Upheaval {
            name: format!("the kill of {name}"),
            killed: true,
            from: now,
            to: None,
            longest: Duration::ZERO,
        });
        self.servers[index].kill();
        Ok(())
    }

    fn restart_if_dead(&mut self, index: usize) -> Result<()> {
        if self.servers[index].lives() {
            return Ok(());
        }
        let life = Life(self.state.lives.len() as u64);
        self.servers[index].restart(&self.starter, &self.program, &self.folder, life)?;
        let Server { name, port, .. } = self.servers[index];
        self.state.lives.push((life, name));
        self.state.dead_since[index] = None;
        self.happen(format!("{name} starts again on port {port}, without what it had in memory"))
    }

    /// With `--keep`: servers that somebody killed come back.
    fn restart_the_dead(&mut self, now: Instant) -> Result<()> {
        for index in 0..self.servers.len() {
            if self.servers[index].lives() {
                continue;
            }
            let name = self.servers[index].name;
            match self.state.dead_since[index] {
                None => {
                    self.state.dead_since[index] = Some(now);
                    let seconds = RESTART_AFTER.as_secs();
                    self.happen(format!("the server of {name} is gone; the demo starts it again in {seconds} s"))?;
                }
                Some(since) if now.duration_since(since) >= RESTART_AFTER => self.restart_if_dead(index)?,
                Some(_) => {}
            }
        }
        Ok(())
    }

    fn introduce(&mut self) -> Result<()> {
        let [east, west] = &self.servers;
        let text = format!("Handover at {}; east on port {}, west on port {}", self.address, east.port, west.port);
        self.happen(text)?;
        let pid = self.handover.pid();
        self.happen(format!("{CLIENTS} clients connect to Handover (pid {pid}), and stay"))
    }

    fn go_on(&mut self) -> Result<()> {
        self.state.phase = Phase::Kept;
        self.happen("the script is over; everything goes on until Ctrl-C".to_owned())?;
        let hint = self.hint();
        self.happen(hint)
    }

    fn hint(&mut self) -> String {
        let port = self.address.port();
        let active = self.state.status.active.as_deref();
        let active = self.servers.iter().find(|server| Some(server.name) == active);
        match (self.state.phase, active) {
            (Phase::Ended | Phase::Interrupted, _) => "the demo is over".to_owned(),
            (Phase::Kept, Some(server)) => {
                format!("try: redis-cli -p {port}   kill -9 {} ({})   Ctrl-C ends", server.pid(), server.name)
            }
            _ => format!("redis-cli -p {port} talks to Handover too; Ctrl-C ends the demo"),
        }
    }

    fn happen(&mut self, text: String) -> Result<()> {
        let happening = Happening { at: self.started.elapsed(), text };
        self.screen.happened(&happening)?;
        if self.state.happenings.len() == HAPPENINGS_KEPT_MAX {
            self.state.happenings.remove(0);
        }
        self.state.happenings.push(happening);
        Ok(())
    }

    fn let_clients_leave(&mut self) -> Result<()> {
        self.stop.store(true, Relaxed);
        let deadline = Instant::now() + LEAVE_TIMEOUT;
        let interrupts = self.state.interrupts;
        // Whoever asks again does not want to wait for clients that wait.
        while self.state.clients > 0 && self.state.interrupts == interrupts && Instant::now() < deadline {
            self.turn()?;
        }
        if self.state.clients > 0 {
            self.state.failures.push(format!("{} clients still wait for an answer", self.state.clients));
        }
        Ok(())
    }

    fn account(mut self) -> Result<Exit> {
        let now = Instant::now();
        let view = self.view(now);
        self.screen.show(&view)?;
        self.traffic.finish();
        let remains = self.remains();
        let lost = self.ledger.lost(self.started, |at| self.traffic.killed_at(at));
        let mut violations = self.ledger.violations(&remains, &lost);
        violations.append(&mut self.state.failures);
        let (ledger, traffic) = (&self.ledger, &self.traffic);
        let mut lines = vec![String::new()];
        if self.state.phase == Phase::Interrupted {
            lines.push("Interrupted before the end; so far:".to_owned());
        }
        lines.extend(report(&Account { ledger, traffic, remains: &remains, lost: &lost, violations: &violations }));
        self.screen.print(&lines)?;
        let good = violations.is_empty() && self.state.phase == Phase::Ended;
        Ok(if good { Exit::Clean } else { Exit::Failure })
    }

    /// What every life of every server left behind.
    fn remains(&mut self) -> Vec<Remains> {
        let lives = self.state.lives.clone();
        let mut all = Vec::new();
        for (position, (life, name)) in lives.iter().enumerate() {
            let later = lives[position + 1..].iter().any(|(_, other)| other == name);
            let earlier = lives[..position].iter().any(|(_, other)| other == name);
            let server = self.servers.iter_mut().find(|server| server.life == *life);
            let memory = server.map_or(Ok(None), Server::memory).unwrap_or_else(|error| {
                self.state.failures.push(format!("{error:#}"));
                None
            });
            let name = match (earlier, later) {
                (false, false) => (*name).to_owned(),
                (false, true) => format!("{name}, until killed"),
                (true, true) => format!("{name}, in between"),
                (true, false) => format!("{name}, started again"),
            };
            all.push(Remains { life: *life, name, memory });
        }
        all
    }

    fn view(&mut self, now: Instant) -> View {
        let pulse = self.traffic.pulse(now);
        if self.state.history.len() == HISTORY_MAX {
            self.state.history.remove(0);
        }
        self.state.history.push((pulse.p50, pulse.p99));
        let playing = self.state.phase == Phase::Playing;
        View {
            elapsed: now.duration_since(self.started),
            length: playing.then(|| self.script.length()),
            address: self.address.to_string(),
            clients: self.state.clients,
            active: self.state.status.active.clone(),
            reason: picture::why(&self.state.status.reason),
            backends: self.backends(),
            pulse,
            history: self.state.history.clone(),
            total: self.ledger.total(),
            errors: self.ledger.errors().iter().map(|(word, count)| (word.clone(), *count)).collect(),
            wrong: self.ledger.wrong_replies(),
            reconnects: self.ledger.reconnects,
            events: self.state.happenings.clone(),
            hint: self.hint(),
        }
    }

    fn backends(&mut self) -> Vec<BackendView> {
        let statuses = &self.state.status.backends;
        let view = |(server, weight): (&mut Server, f64)| {
            let status = statuses.iter().find(|status| status.name == server.name).cloned().unwrap_or_default();
            let pid = server.pid();
            BackendView {
                name: server.name.to_owned(),
                weight,
                port: server.port,
                pid: server.lives().then_some(pid),
                state: picture::backend_state(&status),
                healthy: status.healthy,
            }
        };
        self.servers.iter_mut().zip(WEIGHTS).map(view).collect()
    }
}

fn remember(troubles: &mut VecDeque<String>, text: String) {
    if troubles.len() == TROUBLES_KEPT_MAX {
        troubles.pop_front();
    }
    troubles.push_back(text);
}

/// Where Handover listens, for clients and for operators.
fn wait_for_addresses(inbox: &Receiver<Event>) -> Result<(SocketAddr, SocketAddr)> {
    let (mut clients, mut admin) = (None, None);
    wait_for(inbox, "Handover did not say where it listens", |event| {
        match event {
            Event::Notice(Notice::Listening(address)) => clients = Some(address),
            Event::Notice(Notice::Admin(address)) => admin = Some(address),
            _ => {}
        }
        clients.zip(admin)
    })
}

fn wait_for_active(inbox: &Receiver<Event>) -> Result<Status> {
    wait_for(inbox, "Handover found no backend that serves", |event| match event {
        Event::Status(status) if status.active.is_some() => Some(status),
        _ => None,
    })
}

/// Takes events until one of them decides; what Handover complains of meanwhile is told if none does.
fn wait_for<T>(inbox: &Receiver<Event>, otherwise: &str, mut decide: impl FnMut(Event) -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + START_TIMEOUT;
    let mut troubles = VecDeque::new();
    while let Ok(event) = inbox.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        match event {
            Event::Interrupt => bail!("interrupted"),
            Event::HandoverEnded => {
                troubles.push_front("Handover ended at once".to_owned());
                break;
            }
            Event::Notice(Notice::Trouble(text)) => remember(&mut troubles, text),
            other => {
                if let Some(decided) = decide(other) {
                    return Ok(decided);
                }
            }
        }
    }
    bail!("{otherwise}\n  {}", troubles.make_contiguous().join("\n  "))
}
