//! Clients that others wrote, at work while the backend behind them changes, forced and planned.

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use fred::interfaces::{
    ClientLike, EventInterface, KeysInterface, ListInterface, PubsubInterface, TransactionInterface,
};
use redis::AsyncCommands;
use support::{PATIENCE, Pair, Process, RedisServer, Value, holds_within, python, wait_until};

/// Interpreters load a lot of files before they do anything, and a job that was left behind is waited for.
const LONG_PATIENCE: Duration = PATIENCE.saturating_mul(3);

/// A program that says `running`, then tells how far it is, and ends when its stop file exists.
struct Program {
    process: Process,
    stop_file: PathBuf,
    /// What a line of progress begins with; a number follows.
    progress: &'static str,
}

impl Program {
    /// Starts `program` with `arguments`, then host, port and stop file; it runs when this returns.
    #[track_caller]
    fn start(pair: &Pair, program: &Path, arguments: &[&str], progress: &'static str) -> Self {
        let stop_file = pair.handover.folder().join("stop");
        let process = start(pair, program, arguments, &stop_file);
        let running = process.find_line(LONG_PATIENCE, |line| line == "running");
        assert!(running.is_some(), "it does not run:\n{}", process.output());
        Self { process, stop_file, progress }
    }

    fn reached(&self) -> u64 {
        let lines = self.process.lines();
        lines.iter().rev().find_map(|line| line.strip_prefix(self.progress)?.trim().parse().ok()).unwrap_or(0)
    }

    /// Waits until it is so much further than it is now.
    #[track_caller]
    fn expect_progress(&mut self, more: u64) {
        let goal = self.reached() + more;
        wait_until(LONG_PATIENCE, || self.reached() >= goal || self.process.exit_status().is_some());
        assert!(self.process.exit_status().is_none(), "it ended:\n{}", self.process.output());
    }

    /// Goes on through a fault and a planned switch back, and ends well.
    #[track_caller]
    fn live_through_switches(mut self, pair: &mut Pair, more: u64) {
        self.expect_progress(more);
        pair.fail_over();
        self.expect_progress(more);
        pair.fail_back();
        self.expect_progress(more);
        self.finish();
    }

    /// Lets it end, which it must do well; everything it wrote.
    #[track_caller]
    fn finish(mut self) -> Vec<String> {
        std::fs::write(&self.stop_file, "").expect("a file in Handover's folder");
        let status = self.process.wait();
        assert!(status.success(), "{}", self.process.output());
        self.process.lines()
    }
}

#[track_caller]
fn start(pair: &Pair, program: &Path, arguments: &[&str], stop_file: &Path) -> Process {
    let port = pair.handover.port().to_string();
    let place = ["127.0.0.1", &port, stop_file.to_str().expect("a path in UTF-8")];
    Process::start(program.to_str().expect("a path in UTF-8"), &[arguments, &place].concat(), |command| {
        command.current_dir(support::root());
    })
}

#[test]
fn redis_py_on_asyncio_works_on() {
    let mut pair = Pair::builder().returning().start();
    let script = ["tests/python/asyncio_across_switches.py"];
    Program::start(&pair, &python(), &script, "rounds ").live_through_switches(&mut pair, 200);
}

/// Jobs are run and their results arrive, before, between and after switches; the worker never needs a restart.
///
/// The fault comes while the worker waits for a job: what a queue makes of an honest `UNCERTAIN` is its own affair.
#[track_caller]
fn jobs_flow(queue: &str) {
    let mut pair = Pair::builder().returning().start();
    let unused = pair.handover.folder().join("unused");
    let mut worker = start(&pair, &python(), &["tests/python/jobs.py", "worker", queue], &unused);
    let mut producer = Program::start(&pair, &python(), &["tests/python/jobs.py", "producer", queue], "result ");
    producer.expect_progress(20);
    let pause = producer.stop_file.with_extension("pause");
    std::fs::write(&pause, "").expect("a file in Handover's folder");
    assert!(producer.process.find_line(PATIENCE, |line| line == "paused").is_some(), "{}", producer.process.output());
    wait_until(PATIENCE, || pair.sessions("blocked") > 0);
    pair.fail_over();
    std::fs::remove_file(&pause).expect("it was there");
    producer.expect_progress(20);
    pair.fail_back();
    producer.expect_progress(20);
    let told = producer.finish();
    assert!(worker.exit_status().is_none(), "the worker ended:\n{}", worker.output());
    for word in ["Traceback", "ERROR", "Error", "onnection to broker"] {
        assert!(!worker.output().contains(word), "{}", worker.output());
    }
    // A job that was queued on a backend when it was left waits there.
    let working = told.iter().skip_while(|&line| line != "running");
    let given_up = working.filter(|line| line.starts_with("given up")).count();
    assert!(given_up <= 1, "{told:?}");
}

#[test]
fn a_celery_worker_works_on() {
    jobs_flow("celery");
}

#[test]
fn an_rq_worker_works_on() {
    jobs_flow("rq");
}

#[test]
fn hiredis_works_on() {
    let mut pair = Pair::builder().returning().start();
    let program = pair.handover.folder().join("hiredis");
    let source = support::root().join("tests/c/hiredis.c");
    let compiler = Command::new("cc").arg("-Wall").arg("-o").arg(&program).arg(source).arg("-lhiredis").output();
    let compiler = compiler.expect("a C compiler: ./test.sh installs it");
    assert!(compiler.status.success(), "{}", String::from_utf8_lossy(&compiler.stderr));
    let program = Program::start(&pair, &program, &[], "round ");
    program.live_through_switches(&mut pair, 50);
}

/// A connection manager reconnects by itself when it must; here it never must.
#[test]
fn the_connection_manager_of_redis_rs_works_on() {
    let mut pair = Pair::builder().returning().start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let url = format!("redis://{}/?protocol=resp3", pair.handover.address());
    let config = redis::aio::ConnectionManagerConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    let client = redis::Client::open(url).expect("a URL");
    let manager = runtime.block_on(client.get_connection_manager_with_config(config)).expect("Handover listens");
    let work = |start: i64| {
        let mut manager = manager.clone();
        async move {
            for number in start..start + 20 {
                manager.set::<_, _, ()>("k", number).await?;
                let (found, more): (i64, i64) =
                    redis::pipe().atomic().get("k").incr("k", 1).query_async(&mut manager).await?;
                assert_eq!((found, more), (number, number + 1));
            }
            redis::RedisResult::Ok(())
        }
    };
    runtime.block_on(work(0)).expect("no command fails");
    pair.fail_over();
    runtime.block_on(work(100)).expect("no command fails");
    pair.fail_back();
    runtime.block_on(work(200)).expect("no command fails");
    let connects = pair.handover.metric("handover_clients_accepted_total", &[]);
    assert_eq!(connects, 1.0, "it had to reconnect");
}

#[test]
fn fred_works_on() {
    let mut pair = Pair::builder().returning().start();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let (client, subscriber) = runtime.block_on(async {
        let connect = |version| {
            let mut config =
                fred::types::config::Config::from_url(&format!("redis://{}", pair.handover.address())).expect("a URL");
            config.version = version;
            fred::clients::Client::new(config, None, None, None)
        };
        let client = connect(fred::types::RespVersion::RESP3);
        let subscriber = connect(fred::types::RespVersion::RESP2);
        client.init().await.expect("Handover listens");
        subscriber.init().await.expect("Handover listens");
        subscriber.subscribe("news").await.expect("a subscription");
        (client, subscriber)
    });
    let mut messages = subscriber.message_rx();
    let mut work = |round: i64| {
        runtime.block_on(async {
            for number in 0..20 {
                client.set::<(), _, _>("k", number, None, None, false).await?;
                assert_eq!(client.get::<i64, _>("k").await?, number);
            }
            let pipeline = client.pipeline();
            for _ in 0..20 {
                pipeline.incr::<(), _>(format!("n:{round}")).await?;
            }
            assert_eq!(pipeline.all::<Vec<i64>>().await?, (1..=20).collect::<Vec<_>>());
            let transaction = client.multi();
            transaction.set::<(), _, _>("t", round, None, None, false).await?;
            transaction.get::<(), _>("t").await?;
            assert_eq!(transaction.exec::<(String, i64)>(true).await?, ("OK".to_owned(), round));
            client.rpush::<(), _, _>("l", "x").await?;
            assert_eq!(client.blpop::<(String, String), _>("l", 5.0).await?, ("l".to_owned(), "x".to_owned()));
            assert_eq!(client.publish::<i64, _, _>("news", round).await?, 1);
            let message = tokio::time::timeout(PATIENCE, messages.recv()).await.expect("a message").expect("a message");
            assert_eq!(message.value.as_i64(), Some(round));
            Result::<(), fred::error::Error>::Ok(())
        })
    };
    work(1).expect("no command fails");
    pair.fail_over();
    wait_for_subscription(&pair, &pair.west);
    work(2).expect("no command fails");
    pair.fail_back();
    wait_for_subscription(&pair, &pair.east);
    work(3).expect("no command fails");
}

/// Waits until the one subscription to `news` is at the server that serves: the metric may be of the time before a switch.
#[track_caller]
fn wait_for_subscription(pair: &Pair, server: &RedisServer) {
    wait_until(PATIENCE, || server.command(&["PUBSUB", "NUMSUB", "news"]).elements()[1] == Value::Integer(1));
    wait_until(PATIENCE, || pair.handover.metric("handover_subscriptions", &[("state", "confirmed")]) == 1.0);
}

/// redis-cli with a terminal before it: `script` gives it one.
struct Terminal {
    child: std::process::Child,
    input: std::process::ChildStdin,
    output: std::path::PathBuf,
}

impl Terminal {
    #[track_caller]
    fn start(pair: &Pair, arguments: &str) -> Self {
        let output = pair.handover.folder().join("terminal");
        // Without a width redis-cli asks the terminal for one, and waits for an answer.
        let command = format!("stty columns 200 rows 50; redis-cli -p {} {arguments}", pair.handover.port());
        let mut child = Command::new("script")
            .args(["--quiet", "--flush", "--return", "--command", &command])
            .arg(&output)
            .env("TERM", "xterm")
            .env("HOME", pair.handover.folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("util-linux has script");
        let input = child.stdin.take().expect("stdin is piped");
        Self { child, input, output }
    }

    /// Waits until something is shown that was not `before`.
    #[track_caller]
    fn wait_for(&self, shown: &str, before: usize) {
        let is_shown = || self.screen().get(before..).is_some_and(|new| new.contains(shown));
        assert!(holds_within(PATIENCE, is_shown), "no {shown:?}: {:?}", self.screen());
    }

    /// Types a command at the prompt; what must be shown then.
    #[track_caller]
    fn expect(&mut self, typed: &str, shown: &str) {
        // What is typed before there is a prompt is not taken as it is typed at one.
        wait_until(PATIENCE, || self.screen().ends_with("> "));
        let before = self.screen().len();
        self.input.write_all(format!("{typed}\r").as_bytes()).expect("redis-cli reads its terminal");
        self.wait_for(shown, before);
    }

    fn screen(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.output).unwrap_or_default()).into_owned()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn redis_cli_on_a_terminal_works_on() {
    let mut pair = Pair::builder().returning().start();
    let mut terminal = Terminal::start(&pair, "");
    terminal.expect("SET k east", "OK");
    terminal.expect("SELECT 3", "[3]> ");
    terminal.expect("MULTI", "(TX)> ");
    terminal.expect("INCR n", "QUEUED");
    terminal.expect("EXEC", "1) (integer) 1");
    pair.fail_over();
    terminal.expect("INCR n", "(integer) 1");
    terminal.expect("CLIENT SETNAME teller", "OK");
    pair.fail_back();
    terminal.expect("INCR n", "(integer) 2");
    terminal.expect("CLIENT GETNAME", "\"teller\"");
    terminal.expect("HELLO 3", "proto");
    terminal.expect("SUBSCRIBE news", "\"news\"");
    wait_for_subscription(&pair, &pair.east);
    pair.east.command(&["PUBLISH", "news", "from east"]);
    terminal.wait_for("\"from east\"", 0);
}

#[test]
fn redis_cli_watches_across_switches() {
    let mut pair = Pair::builder().returning().start();
    let port = pair.handover.port().to_string();
    let start = |arguments: &[&str]| Process::start("redis-cli", &[&["-p", &port], arguments].concat(), |_| {});
    let (monitor, subscriber) = (start(&["MONITOR"]), start(&["SUBSCRIBE", "news"]));
    let stat = start(&["--stat", "-i", "0.05"]);
    let latency = start(&["--latency-history", "-i", "0.1"]);
    let shows = |process: &Process, part: &str| {
        let line = process.find_line(PATIENCE, |line| line.contains(part));
        assert!(line.is_some(), "no {part:?}: {}", process.output());
    };
    shows(&monitor, "OK");
    shows(&stat, "requests");
    let mut client = pair.client();
    let mut round = |pair: &Pair, server: &RedisServer, name: &str| {
        wait_for_subscription(pair, server);
        pair.wait_for_sessions("pinned", 1);
        // What runs at the moment of a switch is not shown: so it is asked until it is.
        wait_until(PATIENCE, || {
            client.command(&["GET", name]);
            monitor.find_line(Duration::from_millis(50), |line| line.contains(name)).is_some()
        });
        assert_eq!(client.command(&["PUBLISH", "news", name]), Value::Integer(1));
        shows(&subscriber, name);
        let (before, samples) = (stat.lines().len(), latency.lines().len());
        wait_until(PATIENCE, || stat.lines().len() > before + 2 && latency.lines().len() > samples);
    };
    round(&pair, &pair.east, "one");
    pair.fail_over();
    round(&pair, &pair.west, "two");
    pair.fail_back();
    round(&pair, &pair.east, "three");
}

/// Node.js with a script of `tests/node`.
#[track_caller]
fn node_works_on(script: &str) {
    let mut pair = Pair::builder().returning().start();
    Program::start(&pair, Path::new("node"), &[script], "rounds ").live_through_switches(&mut pair, 100);
}

#[test]
#[ignore = "needs Node.js and packages of npm: tests/node/README.md"]
fn ioredis_works_on() {
    node_works_on("tests/node/ioredis.mjs");
}

#[test]
#[ignore = "needs Node.js and packages of npm: tests/node/README.md"]
fn node_redis_works_on() {
    node_works_on("tests/node/node-redis.mjs");
}

#[test]
#[ignore = "needs Node.js and packages of npm: tests/node/README.md"]
fn bullmq_works_on() {
    node_works_on("tests/node/bullmq.mjs");
}
