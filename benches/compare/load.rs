//! The load: clients on a few threads, each with an epoll loop of its own, that cost little beside what they measure.
//!
//! Every reply is compared byte for byte. Groups of clients may do different work at the same time. Where they send at
//! moments fixed in advance, the latency counts from that moment, whether or not the step could go out at it, so that
//! waiting in line is not left out.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustls::ClientConfig;

use crate::client::{Client, Progress};
use crate::histogram::Histogram;
use crate::work::Work;

const SCRATCH_BYTES: usize = 256 * 1024;
const EVENTS_MAX: usize = 256;
/// Without anything to do, a thread looks this often whether the time is over.
const IDLE_MAX: Duration = Duration::from_millis(20);

/// Clients that do the same.
#[derive(Clone)]
pub struct Group {
    pub address: SocketAddr,
    pub clients: usize,
    /// Client n does the n-th, counted round and round.
    pub works: Vec<Arc<Work>>,
    pub rhythm: Rhythm,
    pub tls: Option<Arc<ClientConfig>>,
}

/// When clients send.
#[derive(Clone, Copy, PartialEq)]
pub enum Rhythm {
    /// As soon as the reply to the step before is here.
    Closed,
    /// So many steps a second of the whole group, evenly spread, whatever has been answered.
    Paced(f64),
    /// At the start, and never again.
    Once,
}

/// What came of a group within the measured time.
#[derive(Clone)]
pub struct Outcome {
    pub commands: u64,
    /// From the sending (or the moment for it) to the last byte of the reply.
    pub latencies: Histogram,
}

/// When what is answered counts.
#[derive(Clone, Copy)]
struct Window {
    begin: Instant,
    end: Instant,
}

/// Open connections that wait for the start.
pub struct Load {
    starts: Vec<Sender<Window>>,
    threads: Vec<JoinHandle<Result<Vec<Outcome>, String>>>,
}

impl Load {
    /// Returns when every client is connected and has had the reply to its opening.
    pub fn open(groups: &[Group], threads: usize) -> Result<Self, String> {
        let mut load = Self { starts: Vec::new(), threads: Vec::new() };
        let (opened, openings) = channel();
        for number in 0..threads {
            let ((start, wait), opened, groups) = (channel(), opened.clone(), groups.to_vec());
            load.starts.push(start);
            load.threads.push(std::thread::spawn(move || serve(&groups, (number, threads), &opened, &wait)));
        }
        drop(opened);
        openings.iter().take(threads).collect::<Result<(), String>>().map(|()| load)
    }

    /// Works for `warm_up` and then for `length`, at both ends of which it takes a snapshot.
    pub fn run<T>(
        self,
        warm_up: Duration,
        length: Duration,
        snapshot: impl Fn() -> T,
    ) -> Result<(T, T, Vec<Outcome>), String> {
        let begin = Instant::now() + warm_up;
        let window = Window { begin, end: begin + length };
        for start in &self.starts {
            start.send(window).map_err(|_| "a thread of the load has ended".to_owned())?;
        }
        let at = |moment: Instant| {
            std::thread::sleep(moment.saturating_duration_since(Instant::now()));
            snapshot()
        };
        let (before, after) = (at(window.begin), at(window.end));
        Ok((before, after, self.finish()?))
    }

    /// Lets clients of the rhythm [`Rhythm::Once`] send; returns when all have their replies, or `limit` is over.
    pub fn run_once(self, limit: Duration) -> Result<Vec<Outcome>, String> {
        let begin = Instant::now();
        for start in &self.starts {
            start
                .send(Window { begin, end: begin + limit })
                .map_err(|_| "a thread of the load has ended".to_owned())?;
        }
        self.finish()
    }

    fn finish(self) -> Result<Vec<Outcome>, String> {
        drop(self.starts);
        let outcome_of = |thread: JoinHandle<Result<Vec<Outcome>, String>>| {
            thread.join().unwrap_or_else(|_| Err("a thread of the load panicked".to_owned()))
        };
        let of_threads: Vec<_> = self.threads.into_iter().map(outcome_of).collect::<Result<_, _>>()?;
        Ok(sum(&of_threads))
    }
}

fn sum(of_threads: &[Vec<Outcome>]) -> Vec<Outcome> {
    let groups = of_threads.first().map_or(0, Vec::len);
    let mut sums = vec![Outcome { commands: 0, latencies: Histogram::new() }; groups];
    for outcomes in of_threads {
        for (sum, outcome) in sums.iter_mut().zip(outcomes) {
            sum.commands += outcome.commands;
            sum.latencies.add(&outcome.latencies);
        }
    }
    sums
}

/// A thread: opens its share of every group's clients, waits for the start, works until the end.
fn serve(
    groups: &[Group],
    (number, threads): (usize, usize),
    opened: &Sender<Result<(), String>>,
    wait: &Receiver<Window>,
) -> Result<Vec<Outcome>, String> {
    let mut thread = match Thread::open(groups, number, threads) {
        Ok(thread) => thread,
        Err(error) => {
            // Whoever opens hears of it there, or has heard of another's.
            drop(opened.send(Err(error.clone())));
            return Err(error);
        }
    };
    drop(opened.send(Ok(())));
    let Ok(window) = wait.recv() else { return Ok(Vec::new()) };
    thread.work(window)?;
    // Until everybody's CPU time has been read: that of a thread that has ended is in none of its files.
    let _ = wait.recv();
    Ok(thread.outcomes)
}

struct Thread {
    epoll: std::os::fd::OwnedFd,
    clients: Vec<Client>,
    pacers: Vec<Pacer>,
    outcomes: Vec<Outcome>,
    scratch: Vec<u8>,
    /// Steps so far.
    answered: u64,
    /// After so many steps there is nothing left to do.
    waited_for: u64,
}

/// Hands out a group's moments to its clients in turn.
struct Pacer {
    clients: std::ops::Range<usize>,
    interval: Duration,
    next: usize,
    due: Instant,
}

impl Thread {
    fn open(groups: &[Group], number: usize, threads: usize) -> Result<Self, String> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| error.to_string())?;
        let outcome = Outcome { commands: 0, latencies: Histogram::new() };
        let outcomes = vec![outcome; groups.len()];
        let mut thread = Self {
            epoll,
            clients: Vec::new(),
            pacers: Vec::new(),
            outcomes,
            scratch: vec![0; SCRATCH_BYTES],
            answered: 0,
            waited_for: u64::MAX,
        };
        for (place, group) in groups.iter().enumerate() {
            let first = thread.clients.len();
            for client in (number..group.clients).step_by(threads) {
                let work = Arc::clone(&group.works[client % group.works.len()]);
                thread.add(Client::open(group, place, client, work)?)?;
            }
            let clients = first..thread.clients.len();
            if let (Rhythm::Paced(rate), false) = (group.rhythm, clients.is_empty()) {
                let share = clients.len() as f64 / group.clients as f64;
                let interval = Duration::from_secs_f64(1.0 / (rate * share));
                thread.pacers.push(Pacer { next: first, clients, interval, due: Instant::now() });
            }
        }
        if groups.iter().all(|group| group.rhythm == Rhythm::Once) {
            thread.waited_for = thread.clients.len() as u64;
        }
        Ok(thread)
    }

    fn add(&mut self, client: Client) -> Result<(), String> {
        let data = epoll::EventData::new_u64(self.clients.len() as u64);
        epoll::add(&self.epoll, &client.connection, data, epoll::EventFlags::IN).map_err(|error| error.to_string())?;
        self.clients.push(client);
        Ok(())
    }

    fn work(&mut self, window: Window) -> Result<(), String> {
        let now = Instant::now();
        self.pacers.iter_mut().for_each(|pacer| pacer.due = now);
        for client in 0..self.clients.len() {
            if self.clients[client].sends_at_once() {
                self.send(client, now)?;
            }
        }
        let mut events = Vec::with_capacity(EVENTS_MAX);
        loop {
            let now = Instant::now();
            self.pace(now)?;
            if now >= window.end || self.answered == self.waited_for {
                return Ok(());
            }
            let timeout = timespec(self.time_left(now));
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.to_string()),
            }
            for event in events.drain(..) {
                let (flags, client) = (event.flags, event.data.u64() as usize);
                if flags.contains(epoll::EventFlags::OUT) {
                    self.write(client)?;
                }
                if flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
                    self.read(client, window)?;
                }
            }
        }
    }

    fn time_left(&self, now: Instant) -> Duration {
        let due = self.pacers.iter().map(|pacer| pacer.due.saturating_duration_since(now)).min();
        due.unwrap_or(IDLE_MAX).min(IDLE_MAX)
    }

    /// Sends what has fallen due.
    fn pace(&mut self, now: Instant) -> Result<(), String> {
        for place in 0..self.pacers.len() {
            while self.pacers[place].due <= now {
                let pacer = &mut self.pacers[place];
                let (client, due) = (pacer.next, pacer.due);
                pacer.due += pacer.interval;
                pacer.next = if client + 1 == pacer.clients.end { pacer.clients.start } else { client + 1 };
                if self.clients[client].falls_due(due) {
                    self.send(client, due)?;
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, client: usize, due: Instant) -> Result<(), String> {
        self.clients[client].begin(due);
        self.write(client)
    }

    fn write(&mut self, client: usize) -> Result<(), String> {
        let state = &mut self.clients[client];
        let was_blocked = state.is_blocked;
        state.write()?;
        if state.is_blocked == was_blocked {
            return Ok(());
        }
        let writable = if state.is_blocked { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
        let data = epoll::EventData::new_u64(client as u64);
        epoll::modify(&self.epoll, &state.connection, data, epoll::EventFlags::IN | writable)
            .map_err(|error| error.to_string())
    }

    fn read(&mut self, client: usize, window: Window) -> Result<(), String> {
        let state = &mut self.clients[client];
        let Progress::Done { commands } = state.read(&mut self.scratch)? else { return Ok(()) };
        let now = Instant::now();
        self.answered += 1;
        if now >= window.begin && now < window.end {
            let outcome = &mut self.outcomes[state.group];
            outcome.commands += u64::from(commands);
            outcome.latencies.record(now - state.due);
        }
        match state.next_due(now) {
            Some(due) => self.send(client, due),
            None => Ok(()),
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: duration.as_secs() as i64, tv_nsec: duration.subsec_nanos().into() }
}
