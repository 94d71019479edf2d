//! A group's control plane against servers of the test's own, with the test as its only worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis_protocol::resp2::decode::decode;
use redis_protocol::resp2::types::OwnedFrame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::channels::{BackendId, Phase, Vitals};
use crate::config::{Address, Backend, BackendOverrides, Checks, CommandLists, Parity, Promotion, Replication};
use crate::logic::failover::{Command, Manner};
use crate::logic::settings::{
    BreakerSettings, DetectorSettings, Failback, FailoverSettings, HealthSettings, InitialPolicy, LatencySettings,
    NoneHealthy, ProbeMode, ProbePolicy, RetryCeiling, RetrySettings,
};
use crate::net::dial::Endpoint;

const MS: fn(u64) -> Duration = Duration::from_millis;
/// Against hanging only.
const AT_MOST: Duration = Duration::from_secs(20);
const HEAVY: BackendId = BackendId(7);
const LIGHT: BackendId = BackendId(8);

/// A server that answers probes. Dropping it closes its port and its connections.
struct Server {
    port: u16,
    is_readonly: Arc<AtomicBool>,
    is_hung: Arc<AtomicBool>,
    _tasks: JoinSet<()>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_readonly, is_hung) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        let (readonly, hung) = (Arc::clone(&is_readonly), Arc::clone(&is_hung));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                connections.spawn(serve(socket, Arc::clone(&readonly), Arc::clone(&hung)));
            }
        });
        Self { port, is_readonly, is_hung, _tasks: tasks }
    }

    fn backend(&self, name: &str, weight: f64) -> Backend {
        Backend {
            name: name.into(),
            address: Address::Tcp("127.0.0.1".into(), self.port),
            health_check_address: None,
            database: 0,
            credential: None,
            tls: None,
            weight,
            connect_timeout: Duration::from_secs(5),
            checks: Checks::default(),
            overrides: BackendOverrides::default(),
        }
    }
}

async fn serve(mut socket: TcpStream, is_readonly: Arc<AtomicBool>, is_hung: Arc<AtomicBool>) {
    let mut bytes = Vec::new();
    while socket.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {
        while let Ok(Some((OwnedFrame::Array(words), used))) = decode(&bytes) {
            bytes.drain(..used);
            let word = |index: usize| match &words[index] {
                OwnedFrame::BulkString(word) => String::from_utf8(word.clone()).unwrap(),
                other => panic!("{other:?}"),
            };
            let reply = match word(0).as_str() {
                "PING" => "+PONG\r\n".into(),
                "ROLE" => "*1\r\n$6\r\nmaster\r\n".into(),
                "ECHO" => format!("${}\r\n{}\r\n", word(1).len(), word(1)),
                "SETRANGE" if is_readonly.load(Ordering::SeqCst) => "-READONLY no\r\n".into(),
                "SETRANGE" => ":0\r\n".into(),
                _ => "-ERR unknown command\r\n".to_owned(),
            };
            let is_hung = is_hung.load(Ordering::SeqCst);
            if !is_hung && socket.write_all(reply.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

fn config(backends: Vec<Backend>) -> Group {
    Group {
        name: "default".into(),
        listeners: Vec::new(),
        backends,
        replication: Replication::default(),
        promotion: Promotion::default(),
        health: HealthSettings {
            modes: vec![ProbeMode::Write],
            interval: MS(500),
            timeout: MS(5000),
            jitter: 0.2,
            standby_interval: MS(500),
            accept_interval: MS(10_000),
            fall: 3,
            rise: 3,
            probes: 1,
            probes_delay: MS(100),
            policy: ProbePolicy::All,
            probe_key: "handover:probe".into(),
        },
        detector: DetectorSettings {
            hang_timeout: MS(1000),
            suspect_after: MS(50),
            slow_timeout: MS(6000),
            window: MS(2000),
            failures_min: 5,
            failure_rate: 0.1,
            latency: LatencySettings::default(),
        },
        breaker: BreakerSettings { grace: MS(60_000), grace_max: MS(600_000) },
        failover: FailoverSettings {
            hold: MS(1500),
            drain: MS(1000),
            failback: Failback::Auto,
            failback_hold: MS(60_000),
            failback_jitter: 0.1,
            switches_max: 3,
            switches_window: MS(600_000),
            initial: InitialPolicy::All,
            attempts: 0,
            delay: MS(1000),
            none_healthy: NoneHealthy::LastActive,
            checks_cursors: true,
        },
        retry: RetrySettings {
            ceiling: RetryCeiling::WriteLastWins,
            rearm_blocked: true,
            attempts: 3,
            budget: 0.1,
            deadline: MS(2000),
        },
        commands: CommandLists::default(),
        pubsub: crate::logic::settings::PubSubSettings::default(),
        parity: Parity { interval: Duration::ZERO, loads_functions: false },
    }
}

/// Two servers, their control plane, and the one worker's ends.
struct Plane {
    servers: Vec<Option<Server>>,
    reports: mpsc::Sender<WorkerReport>,
    orders: mpsc::Sender<Order>,
    directions: watch::Receiver<Directions>,
    status: watch::Receiver<GroupStatus>,
    vitals: Vec<Arc<Vitals>>,
    origin: Instant,
    lifecycle: Lifecycle,
}

impl Plane {
    /// Runs until the heavy one serves and the light one is known to be healthy.
    async fn start(keeper: Option<Keeper>) -> Self {
        let servers = [Server::start().await, Server::start().await];
        let config = config(vec![servers[0].backend("heavy", 2.0), servers[1].backend("light", 1.0)]);
        let (origin, lifecycle) = (Instant::now(), Lifecycle::new());
        let recruit = |(id, backend): (BackendId, &Backend)| {
            let endpoint = Arc::new(Endpoint { backend: Arc::new(backend.clone()), tls: None });
            Recruit { id, endpoint, addition: None }
        };
        let recruits = [HEAVY, LIGHT].into_iter().zip(&config.backends).map(recruit).collect();
        let parts = Parts { recruits, workers: 1, origin, lifecycle: lifecycle.clone() };
        let events = EventHub::new(Arc::default(), CancellationToken::new());
        let GroupControl { supervisor, reports, orders, directions, status, .. } =
            group(&config, parts, None, keeper, events);
        let vitals = directions.borrow().backends.iter().map(|known| Arc::clone(&known.vitals[0])).collect();
        lifecycle.start("control supervisor", supervisor.run(lifecycle.stopping()));
        let servers = servers.into_iter().map(Some).collect();
        let mut plane = Self { servers, reports, orders, directions, status, vitals, origin, lifecycle };
        let first = plane.until(|route| route.standby == Some(LIGHT)).await;
        assert_eq!((first.epoch, first.active, first.phase), (1, Some(HEAVY), Phase::Serve));
        plane
    }

    async fn until(&mut self, mut wanted: impl FnMut(&Route) -> bool) -> Route {
        let directed = self.directions.wait_for(|directions| wanted(&directions.route));
        timeout(AT_MOST, directed).await.expect("in time").unwrap().route.clone()
    }

    async fn say(&self, report: WorkerReport) {
        self.reports.send(report).await.unwrap();
    }

    /// Acknowledges the switch that is under way, and waits for the new epoch.
    async fn follow(&mut self) -> Route {
        let route = self.until(|route| route.phase != Phase::Serve).await;
        let worker = 0;
        self.say(match route.phase {
            Phase::Cut { attempt, .. } => WorkerReport::Stopped { worker, attempt },
            Phase::Hold { attempt, .. } => WorkerReport::Drained { worker, attempt },
            Phase::Serve => unreachable!("waited for another phase"),
        })
        .await;
        self.until(|next| next.epoch == route.epoch + 1).await
    }

    async fn end(self) {
        self.lifecycle.stop();
        self.lifecycle.stopped(AT_MOST).await.expect("all tasks end");
    }
}

#[tokio::test]
async fn a_killed_server_is_left_without_waiting_for_a_timer() {
    let mut plane = Plane::start(None).await;
    plane.servers[0] = None;
    let at = Instant::now();
    plane.say(WorkerReport::LinkLost { backend: HEAVY, epoch: 1, at, cause: "closed".into() }).await;
    let route = plane.follow().await;
    println!("lost to serving again: {:?}", at.elapsed());
    assert_eq!((route.active, route.standby), (Some(LIGHT), None));
    let judged = crate::channels::Judged { repeated: 3, ..Default::default() };
    plane.say(WorkerReport::Activated { worker: 0, epoch: 2, judged }).await;
    let status = timeout(AT_MOST, plane.status.wait_for(|status| status.switches.len() == 2)).await.unwrap().unwrap();
    let expected = ("heavy".into(), "light".into(), "connection lost".into(), 1);
    assert!(status.switches.contains(&expected), "{:?}", status.switches);
    assert_eq!((status.backends[0].healthy, status.backends[0].circuit), (false, "open"));
    drop(status);
    plane.end().await;
}

#[tokio::test]
async fn a_lost_connection_to_a_living_server_changes_nothing() {
    let mut plane = Plane::start(None).await;
    let before = plane.status.borrow().backends[0].probes.0;
    plane.say(WorkerReport::LinkLost { backend: HEAVY, epoch: 1, at: Instant::now(), cause: "closed".into() }).await;
    let probed = plane.status.wait_for(|status| status.backends[0].probes.0 > before);
    assert_eq!(timeout(AT_MOST, probed).await.unwrap().unwrap().route.epoch, 1);
    assert_eq!(plane.directions.borrow().route.phase, Phase::Serve);
    plane.end().await;
}

#[tokio::test]
async fn a_word_is_acquitted_or_convicted_by_the_probe() {
    let mut plane = Plane::start(None).await;
    let word = || WorkerReport::CannotServe { backend: HEAVY, at: Instant::now(), word: "READONLY" };
    plane.say(word()).await;
    assert_eq!(plane.until(|route| route.acquittals == 1).await.epoch, 1);
    plane.servers[0].as_ref().unwrap().is_readonly.store(true, Ordering::SeqCst);
    plane.say(word()).await;
    assert_eq!(plane.follow().await.active, Some(LIGHT));
    plane.end().await;
}

#[tokio::test]
async fn an_idle_group_leaves_a_dead_server_by_its_probes() {
    let mut plane = Plane::start(None).await;
    plane.servers[0] = None;
    assert_eq!(plane.follow().await.active, Some(LIGHT));
    let verdict = plane.status.borrow().backends[0].last_verdict.clone();
    assert!(verdict.starts_with("failed: cannot connect"), "{verdict}");
    plane.end().await;
}

#[tokio::test]
async fn silence_in_the_vitals_is_a_fault() {
    let mut plane = Plane::start(None).await;
    plane.servers[0].as_ref().unwrap().is_hung.store(true, Ordering::SeqCst);
    let since = u64::try_from(plane.origin.elapsed().as_micros()).unwrap().max(1);
    plane.vitals[0].waiting_since_us.store(since, Ordering::Relaxed);
    assert_eq!(plane.follow().await.active, Some(LIGHT));
    let at = Duration::from_micros(since) + MS(1000);
    assert!(plane.origin.elapsed() >= at, "not before the hang timeout");
    plane.end().await;
}

#[tokio::test]
async fn an_operator_switches_and_the_state_file_knows() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.json");
    let (_, keeper, writer) = state::open(&path);
    let mut plane = Plane::start(Some(keeper)).await;
    let order = |to| {
        let (outcome, told) = oneshot::channel();
        let command = Command::Switch { to, manner: Manner::Planned };
        (Order { command, by: "test".to_owned(), outcome: Some(outcome) }, told)
    };
    let (switch, told) = order(LIGHT);
    plane.orders.send(switch).await.unwrap();
    assert_eq!(plane.follow().await.active, Some(LIGHT));
    let judged = crate::channels::Judged::default();
    plane.say(WorkerReport::Activated { worker: 0, epoch: 2, judged }).await;
    let told_text = timeout(AT_MOST, told).await.expect("an outcome").unwrap().unwrap();
    assert!(told_text.starts_with("switched from heavy to light in "), "{told_text}");
    let (again, told) = order(LIGHT);
    plane.orders.send(again).await.unwrap();
    assert_eq!(timeout(AT_MOST, told).await.expect("an outcome").unwrap(), Err("it is the active already".to_owned()));
    plane.end().await;
    timeout(AT_MOST, writer.run(CancellationToken::new())).await.expect("ends with its keepers");
    let (saved, _, _) = state::open(&path);
    assert_eq!((saved["default"].active.as_deref(), saved["default"].epoch), (Some("light"), 2));
}
