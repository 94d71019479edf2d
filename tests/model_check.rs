//! Every order of events of a switch's protocol: two workers, three backends, two clients, and what can befall them.
//!
//! The model is the protocol of docs/adr/0003 and docs/failover.md without its clock: a deadline may pass at any moment,
//! a message may take any time, whoever is held up does nothing. Each worker serves one client; one client sends what
//! must not run twice (INCR), the other what may be repeated (SET). One thing goes wrong in a run, at any moment;
//! `MODEL_FAULTS`, `MODEL_PLANNED` and `MODEL_COMMANDS` say how many do, for more than the test command has time for.
//!
//! It explores 73,573 states, 34 steps deep, in about 2 s of one core, unoptimised; with `MODEL_COMMANDS=2` 870,644
//! states, 42 steps deep, in 21 s; with two faults it did not come to an end in a minute.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::BTreeSet;

use stateright::{Checker, Model, Property};

const BACKENDS: usize = 3;
const WORKERS: usize = 2;
/// The most commands of a client.
const COMMANDS_MAX: u8 = 2;
/// The client whose commands may be repeated.
const REPEATER: usize = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Phase {
    Serve,
    Hold { to: usize, attempt: u8 },
    Cut { to: usize, attempt: u8 },
}

/// What the supervisor publishes: the whole state, so that a worker may miss one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Route {
    epoch: u8,
    active: usize,
    phase: Phase,
}

/// A command on its way through a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Flight {
    command: u8,
    backend: usize,
    is_executed: bool,
    /// The backend has died: no reply comes any more.
    is_broken: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Worker {
    seen: Route,
    is_held_up: bool,
    /// The attempt whose drain it still owes an acknowledgement.
    owes: Option<u8>,
    /// Its client's command: held, or on its way.
    held: Option<u8>,
    flight: Option<Flight>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Answer {
    Good,
    Uncertain,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    route: Route,
    attempts: u8,
    acknowledged: [bool; WORKERS],
    is_supervisor_held_up: bool,
    /// What the supervisor believes of each backend.
    is_healthy: [bool; BACKENDS],
    is_up: [bool; BACKENDS],
    /// The process is stopped: it accepts and does nothing.
    is_stopped: [bool; BACKENDS],
    workers: [Worker; WORKERS],
    /// Acknowledgements under way: (worker, attempt).
    acknowledgements: BTreeSet<(usize, u8)>,
    /// Bytes that a backend has got from a connection that was closed since: (backend, client, command).
    adrift: BTreeSet<(usize, usize, u8)>,
    /// How often each command was executed: by client, by number, by backend.
    executions: [[[u8; BACKENDS]; COMMANDS_MAX as usize]; WORKERS],
    answers: [[Option<Answer>; COMMANDS_MAX as usize]; WORKERS],
    sent: [u8; WORKERS],
    faults: u8,
    planned: u8,
    /// The newest epoch in which something was written.
    newest: u8,
    was_older_written: bool,
    was_misdelivered: bool,
    was_cut_by_plan: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Send(usize),
    Write(usize),
    Execute(usize),
    ExecuteAdrift(usize, usize, u8),
    Reply(usize),
    LoseLink(usize),
    Follow(usize),
    Drain(usize),
    Deliver(usize, u8),
    Leave,
    FailBack,
    Complete,
    TimeIsOver,
    Crash(usize),
    Return(usize),
    Stop(usize),
    Continue(usize),
    LoseProbes(usize),
    SeeDown(usize),
    SeeUp(usize),
    HoldUp(usize),
    GoOn(usize),
    HoldUpSupervisor,
    GoOnSupervisor,
}

/// The protocol. What it must have can be left out, to see that the model notices.
struct Protocol {
    /// Things that go wrong in one run.
    faults: u8,
    /// Planned switches that are begun in one run.
    planned: u8,
    /// Commands of each client.
    commands: u8,
    /// A worker that was held up looks at the route before it writes.
    looks_before_writing: bool,
    /// The number of an attempt tells a late acknowledgement apart.
    compares_attempts: bool,
    /// What may not run twice is answered as uncertain.
    judges: bool,
}

const WHOLE: Protocol =
    Protocol { faults: 1, planned: 1, commands: 1, looks_before_writing: true, compares_attempts: true, judges: true };

impl State {
    /// The heaviest, by number, that is believed healthy; other than the active.
    fn refuge(&self) -> Option<usize> {
        (0..BACKENDS).find(|backend| *backend != self.route.active && self.is_healthy[*backend])
    }

    fn begin(&mut self, phase: impl FnOnce(u8) -> Phase) {
        self.attempts += 1;
        self.acknowledged = [false; WORKERS];
        self.route.phase = phase(self.attempts);
    }

    fn serve(&mut self, to: usize) {
        self.route = Route { epoch: self.route.epoch + 1, active: to, phase: Phase::Serve };
    }

    /// The worker ends its connection: what is on its way is judged.
    fn judge(&mut self, worker: usize, protocol: &Protocol) {
        let Some(flight) = self.workers[worker].flight.take() else { return };
        if !flight.is_executed && !flight.is_broken {
            self.adrift.insert((flight.backend, worker, flight.command));
        }
        if worker == REPEATER || !protocol.judges {
            self.workers[worker].held = Some(flight.command);
        } else {
            self.answer(worker, flight.command, Answer::Uncertain);
        }
    }

    fn answer(&mut self, client: usize, command: u8, answer: Answer) {
        let is_expected = self.sent[client] == command + 1;
        let slot = &mut self.answers[client][usize::from(command)];
        self.was_misdelivered |= !is_expected || slot.is_some();
        *slot = Some(answer);
    }

    fn execute(&mut self, backend: usize, client: usize, command: u8) {
        self.executions[client][usize::from(command)][backend] += 1;
    }

    fn follow(&mut self, worker: usize, protocol: &Protocol) {
        let route = self.route;
        let before = std::mem::replace(&mut self.workers[worker].seen, route);
        self.workers[worker].owes = None;
        if route.epoch > before.epoch {
            self.judge(worker, protocol);
        }
        match route.phase {
            Phase::Serve => {}
            Phase::Hold { attempt, .. } => self.workers[worker].owes = Some(attempt),
            Phase::Cut { attempt, .. } => {
                self.judge(worker, protocol);
                self.acknowledgements.insert((worker, attempt));
            }
        }
    }

    fn is_settled(&self, commands: u8) -> bool {
        let is_answered = |client: usize| self.answers[client].iter().flatten().count() == usize::from(commands);
        self.route.phase == Phase::Serve && self.is_healthy[self.route.active] && (0..WORKERS).all(is_answered)
    }

    fn count(&self, client: usize, command: usize) -> u8 {
        self.executions[client][command].iter().sum()
    }
}

impl Protocol {
    fn may_fail(&self, state: &State) -> bool {
        state.faults < self.faults
    }

    fn worker_actions(&self, state: &State, number: usize, actions: &mut Vec<Action>) {
        let worker = &state.workers[number];
        if worker.is_held_up {
            actions.push(Action::GoOn(number));
            return;
        }
        let is_behind = worker.seen != state.route;
        if is_behind {
            actions.push(Action::Follow(number));
        }
        let may_write = worker.seen.phase == Phase::Serve && !(is_behind && self.looks_before_writing);
        if may_write && worker.held.is_some() && state.is_up[worker.seen.active] {
            actions.push(Action::Write(number));
        }
        match worker.flight {
            Some(flight) if flight.is_executed && !flight.is_broken => actions.push(Action::Reply(number)),
            Some(flight) if flight.is_broken => actions.push(Action::LoseLink(number)),
            Some(_) => {}
            None if worker.owes.is_some() => actions.push(Action::Drain(number)),
            None => {}
        }
    }

    fn supervisor_actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.is_supervisor_held_up {
            actions.push(Action::GoOnSupervisor);
            return;
        }
        actions.extend(state.acknowledgements.iter().map(|(worker, attempt)| Action::Deliver(*worker, *attempt)));
        for backend in 0..BACKENDS {
            let is_able = state.is_up[backend] && !state.is_stopped[backend];
            match state.is_healthy[backend] {
                true if !is_able => actions.push(Action::SeeDown(backend)),
                false if is_able => actions.push(Action::SeeUp(backend)),
                _ => {}
            }
        }
        let is_active_healthy = state.is_healthy[state.route.active];
        let is_all_there = state.acknowledged.iter().all(|is_there| *is_there);
        match state.route.phase {
            Phase::Serve | Phase::Hold { .. } if !is_active_healthy => {
                actions.extend(state.refuge().map(|_| Action::Leave));
            }
            Phase::Serve => {
                let is_heavier = state.refuge().is_some_and(|to| to < state.route.active);
                if is_heavier && state.planned < self.planned {
                    actions.push(Action::FailBack);
                }
            }
            Phase::Hold { .. } | Phase::Cut { .. } if is_all_there => actions.push(Action::Complete),
            Phase::Hold { .. } | Phase::Cut { .. } => actions.push(Action::TimeIsOver),
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let route = Route { epoch: 1, active: 0, phase: Phase::Serve };
        let worker = Worker { seen: route, is_held_up: false, owes: None, held: None, flight: None };
        vec![State {
            route,
            attempts: 0,
            acknowledged: [false; WORKERS],
            is_supervisor_held_up: false,
            is_healthy: [true; BACKENDS],
            is_up: [true; BACKENDS],
            is_stopped: [false; BACKENDS],
            workers: [worker.clone(), worker],
            acknowledgements: BTreeSet::new(),
            adrift: BTreeSet::new(),
            executions: [[[0; BACKENDS]; COMMANDS_MAX as usize]; WORKERS],
            answers: [[None; COMMANDS_MAX as usize]; WORKERS],
            sent: [0; WORKERS],
            faults: 0,
            planned: 0,
            newest: 0,
            was_older_written: false,
            was_misdelivered: false,
            was_cut_by_plan: false,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for worker in 0..WORKERS {
            self.worker_actions(state, worker, actions);
            let sent = usize::from(state.sent[worker]);
            let is_waiting = sent > 0 && state.answers[worker][sent - 1].is_none();
            if !is_waiting && state.sent[worker] < self.commands {
                actions.push(Action::Send(worker));
            }
            let flight = state.workers[worker].flight.filter(|flight| !flight.is_executed && !flight.is_broken);
            if flight.is_some_and(|flight| !state.is_stopped[flight.backend]) {
                actions.push(Action::Execute(worker));
            }
            if self.may_fail(state) && !state.workers[worker].is_held_up {
                actions.push(Action::HoldUp(worker));
            }
        }
        self.supervisor_actions(state, actions);
        let able = |(backend, _, _): &&(usize, usize, u8)| !state.is_stopped[*backend];
        let adrift = state.adrift.iter().filter(able);
        actions.extend(adrift.map(|(backend, client, command)| Action::ExecuteAdrift(*backend, *client, *command)));
        for backend in 0..BACKENDS {
            match (state.is_up[backend], state.is_stopped[backend]) {
                (true, false) if self.may_fail(state) => {
                    actions.extend([Action::Crash(backend), Action::Stop(backend)]);
                    if state.is_healthy[backend] {
                        actions.push(Action::LoseProbes(backend));
                    }
                }
                (true, true) => actions.push(Action::Continue(backend)),
                (false, _) => actions.push(Action::Return(backend)),
                _ => {}
            }
        }
        if self.may_fail(state) && !state.is_supervisor_held_up {
            actions.push(Action::HoldUpSupervisor);
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Send(client) => {
                state.workers[client].held = Some(state.sent[client]);
                state.sent[client] += 1;
            }
            Action::Write(number) => {
                let (newest, worker) = (state.newest, &mut state.workers[number]);
                let command = worker.held.take()?;
                let backend = worker.seen.active;
                worker.flight = Some(Flight { command, backend, is_executed: false, is_broken: false });
                state.was_older_written |= worker.seen.epoch < newest;
                state.newest = newest.max(worker.seen.epoch);
            }
            Action::Execute(number) => {
                let flight = state.workers[number].flight.as_mut()?;
                flight.is_executed = true;
                let (backend, command) = (flight.backend, flight.command);
                state.execute(backend, number, command);
            }
            Action::ExecuteAdrift(backend, client, command) => {
                state.adrift.remove(&(backend, client, command));
                state.execute(backend, client, command);
            }
            Action::Reply(number) => {
                let flight = state.workers[number].flight.take()?;
                state.answer(number, flight.command, Answer::Good);
            }
            Action::LoseLink(number) => state.judge(number, self),
            Action::Follow(number) => state.follow(number, self),
            Action::Drain(number) => {
                let attempt = state.workers[number].owes.take()?;
                state.acknowledgements.insert((number, attempt));
            }
            Action::Deliver(number, attempt) => {
                state.acknowledgements.remove(&(number, attempt));
                let current = state.attempts == attempt || !self.compares_attempts;
                state.acknowledged[number] |= current && state.route.phase != Phase::Serve;
            }
            Action::Leave => {
                let to = state.refuge()?;
                state.begin(|attempt| Phase::Cut { to, attempt });
            }
            Action::FailBack => {
                let to = state.refuge()?;
                state.planned += 1;
                state.begin(|attempt| Phase::Hold { to, attempt });
            }
            Action::Complete => match state.route.phase {
                // A target that failed meanwhile is not planned for any more.
                Phase::Hold { to, .. } if !state.is_healthy[to] => state.route.phase = Phase::Serve,
                Phase::Hold { to, .. } => {
                    state.was_cut_by_plan |= state.workers.iter().any(|worker| worker.flight.is_some());
                    state.serve(to);
                }
                Phase::Cut { to, .. } => state.serve(to),
                Phase::Serve => return None,
            },
            Action::TimeIsOver => match state.route.phase {
                Phase::Hold { .. } => state.route.phase = Phase::Serve,
                Phase::Cut { to, .. } => state.serve(to),
                Phase::Serve => return None,
            },
            Action::Crash(backend) => {
                state.faults += 1;
                state.is_up[backend] = false;
                state.adrift.retain(|(on, _, _)| *on != backend);
                for flight in state.workers.iter_mut().filter_map(|worker| worker.flight.as_mut()) {
                    flight.is_broken |= flight.backend == backend;
                }
            }
            Action::Return(backend) => state.is_up[backend] = true,
            Action::Stop(backend) => {
                state.faults += 1;
                state.is_stopped[backend] = true;
            }
            Action::Continue(backend) => state.is_stopped[backend] = false,
            Action::LoseProbes(backend) => {
                state.faults += 1;
                state.is_healthy[backend] = false;
            }
            Action::SeeDown(backend) => state.is_healthy[backend] = false,
            Action::SeeUp(backend) => state.is_healthy[backend] = true,
            Action::HoldUp(number) => {
                state.faults += 1;
                state.workers[number].is_held_up = true;
            }
            Action::GoOn(number) => state.workers[number].is_held_up = false,
            Action::HoldUpSupervisor => {
                state.faults += 1;
                state.is_supervisor_held_up = true;
            }
            Action::GoOnSupervisor => state.is_supervisor_held_up = false,
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("what may not run twice runs once at most, over all backends", |_, state: &State| {
                (0..WORKERS)
                    .filter(|client| *client != REPEATER)
                    .all(|client| (0..usize::from(COMMANDS_MAX)).all(|command| state.count(client, command) <= 1))
            }),
            Property::always("what was acknowledged was executed", |_, state: &State| {
                (0..WORKERS).all(|client| {
                    (0..usize::from(COMMANDS_MAX)).all(|command| {
                        state.answers[client][command] != Some(Answer::Good) || state.count(client, command) > 0
                    })
                })
            }),
            Property::always("nothing is written to an older epoch after a newer one", |_, state: &State| {
                !state.was_older_written
            }),
            Property::always("a planned switch finds nothing in flight", |_, state: &State| !state.was_cut_by_plan),
            Property::always("each reply goes to the command that waits for it", |_, state: &State| {
                !state.was_misdelivered
            }),
            // The faults are bounded and everybody who is held up goes on, so that every run ends.
            Property::always("whatever ends, ends serving, with every command answered", |model, state: &State| {
                let mut actions = Vec::new();
                model.actions(state, &mut actions);
                !actions.is_empty() || state.is_settled(model.commands)
            }),
            Property::sometimes("a command is uncertain", |_, state: &State| {
                state.answers.iter().flatten().any(|answer| *answer == Some(Answer::Uncertain))
            }),
            Property::sometimes("traffic returns", |_, state: &State| state.route.epoch > 2 && state.route.active == 0),
        ]
    }
}

#[test]
fn the_protocol_keeps_its_promises_in_every_order_of_events() {
    let given = |name: &str, otherwise| std::env::var(name).map_or(otherwise, |text| text.parse().unwrap());
    let protocol = Protocol {
        faults: given("MODEL_FAULTS", WHOLE.faults),
        planned: given("MODEL_PLANNED", WHOLE.planned),
        commands: given("MODEL_COMMANDS", WHOLE.commands),
        ..WHOLE
    };
    let checker = protocol.checker().threads(2).spawn_bfs().join();
    println!("{} states, depth {}", checker.unique_state_count(), checker.max_depth());
    checker.assert_properties();
}

/// The model would notice each of these; without them it would prove nothing.
#[test]
fn what_the_protocol_cannot_do_without() {
    // A late acknowledgement needs two planned switches, and a command between them.
    let twice = Protocol { faults: 1, planned: 2, commands: 2, ..WHOLE };
    for (protocol, property) in [
        (Protocol { looks_before_writing: false, ..WHOLE }, "nothing is written to an older epoch after a newer one"),
        (Protocol { compares_attempts: false, ..twice }, "a planned switch finds nothing in flight"),
        (Protocol { judges: false, ..WHOLE }, "what may not run twice runs once at most, over all backends"),
    ] {
        let checker = protocol.checker().finish_when(stateright::HasDiscoveries::AnyFailures).spawn_bfs().join();
        assert!(checker.discovery(property).is_some(), "not noticed: {property}");
    }
}
