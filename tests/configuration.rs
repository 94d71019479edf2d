//! Configuration as an operator meets it: what is accepted, what is refused and in which words, what wins.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use handover::config::diff::{Effect, diff};
use handover::config::{Address, Config, Credential, Loaded, LogFormat, Replication, SessionMode, Sources};
use handover::logic::settings::{ProbeMode, RetryCeiling};

const MINIMAL: &str = include_str!("../config/minimal.toml");
const LISTENER: &str = "[[listener]]\nbind = '127.0.0.1:6379'\n";
const BACKEND: &str = "[[backend]]\nname = 'east'\nurl = 'redis://127.0.0.1:7001'\n";

fn sources(text: &str) -> Sources {
    Sources { text: Some(text.to_owned()), cores: 4, ..Sources::default() }
}

fn loaded(sources: &Sources) -> Loaded {
    match Config::load(sources) {
        Ok(loaded) => loaded,
        Err(problems) => panic!("{problems}"),
    }
}

fn config(text: &str) -> Config {
    loaded(&sources(text)).config
}

fn problems(sources: &Sources) -> Vec<String> {
    match Config::load(sources) {
        Ok(loaded) => panic!("accepted: {loaded:?}"),
        Err(problems) => problems.to_string().lines().map(str::to_owned).collect(),
    }
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.to_owned(), value.to_owned())
}

/// Each line is put before a listener and a backend that are good, and gives exactly one problem.
#[test]
fn wrong_lines_and_what_is_said_of_them() {
    for (line, expected) in [
        // Unknown keys.
        ("helth = 1", r#"unknown key "helth": did you mean "health"?"#),
        ("quite_something = 1", r#"unknown key "quite_something""#),
        ("health.intervall = '1s'", r#"health: unknown key "intervall": did you mean "interval"?"#),
        ("health = { Fall = 1 }", r#"health: unknown key "Fall": did you mean "fall"?"#),
        ("health = 5", "health = 5: must be a table"),
        ("group = 5", "group = 5: must be a table of tables"),
        // Types and ranges.
        ("preset = 'quick'", r#"preset = "quick": must be one of "default", "fast", "conservative", "redis-clients""#),
        ("runtime.workers = 0", r#"runtime.workers = 0: must be "auto" or a whole number between 1 and 1024"#),
        (
            "runtime.workers = 'many'",
            r#"runtime.workers = "many": must be "auto" or a whole number between 1 and 1024"#,
        ),
        ("health.interval = 500", "health.interval = 500: must be a string"),
        ("health.interval = '500'", r#"health.interval = "500": a unit is missing: ms, s, m or h"#),
        (
            "health.interval = 'soon'",
            r#"health.interval = "soon": must be a duration such as "500ms", "1.5s", "2m" or "1h""#,
        ),
        ("health.interval = '1ms'", r#"health.interval = "1ms": must be at least 10ms"#),
        ("health.timeout = '0s'", r#"health.timeout = "0s": must be at least 1ms"#),
        ("health.jitter = 0.6", "health.jitter = 0.6: must be between 0 and 0.5"),
        ("health.jitter = nan", "health.jitter = nan: must be between 0 and 0.5"),
        ("health.jitter = 'much'", r#"health.jitter = "much": must be a number"#),
        ("health.fall = 0", "health.fall = 0: must be at least 1"),
        ("health.fall = 1.5", "health.fall = 1.5: must be a whole number"),
        ("health.fall = '3'", r#"health.fall = "3": must be a whole number"#),
        ("health.fall = 4294967296", "health.fall = 4294967296: is too large"),
        ("health.modes = []", "health.modes = []: at least one is needed"),
        ("health.modes = 'ping'", r#"health.modes = "ping": must be a list of strings"#),
        ("health.modes = [1]", "health.modes: must be a list of strings"),
        (
            "health.modes = ['ping', 'pong']",
            r#"health.modes[1] = "pong": must be one of "ping", "echo", "role", "write", "lag", "exec""#,
        ),
        ("health.policy = 'some'", r#"health.policy = "some": must be one of "all", "majority", "any""#),
        ("health.probe_key = ''", r#"health.probe_key = "": must not be empty"#),
        ("detector.latency_factor = 0.5", "detector.latency_factor = 0.5: must be 0, or more than 1"),
        ("detector.latency_factor = -2", "detector.latency_factor = -2: must be 0, or more than 1"),
        ("detector.latency_for = '500ms'", r#"detector.latency_for = "500ms": must be at least 1s"#),
        ("detector.timeout_rate = 1.5", "detector.timeout_rate = 1.5: must be between 0 and 1"),
        ("detector.gray_window = '2s'", r#"detector.gray_window = "2s": must be at least 3s"#),
        ("detector.failure_rate = 1.1", "detector.failure_rate = 1.1: must be between 0 and 1"),
        ("failover.failback_jitter = -0.1", "failover.failback_jitter = -0.1: must be between 0 and 0.5"),
        ("failover.switches_max = 0", "failover.switches_max = 0: must be at least 1"),
        ("failover.initial = 'two'", r#"failover.initial = "two": must be one of "one", "majority", "all""#),
        ("retry.budget = 2", "retry.budget = 2: must be between 0 and 1"),
        ("retry.blocked = 'x'", r#"retry.blocked = "x": must be one of "rearm", "uncertain""#),
        ("limits.clients = 0", "limits.clients = 0: must be at least 1"),
        ("limits.held_bytes = 0", "limits.held_bytes = 0: must be at least 1"),
        (
            "limits.held_bytes = '1MB'",
            r#"limits.held_bytes = "1MB": must be a size such as "64KiB", "1MiB", "2GiB" or a number of bytes"#,
        ),
        (
            "limits.held_bytes = -1",
            r#"limits.held_bytes = -1: must be a size such as "64KiB", "1MiB", "2GiB" or a number of bytes"#,
        ),
        ("log.format = 'xml'", r#"log.format = "xml": must be one of "text", "json""#),
        ("admin.http = '9400'", r#"admin.http = "9400": the port is missing"#),
        ("admin.http = 'unix:///s'", r#"admin.http = "unix:///s": must be host:port, or "" for none"#),
        // Between keys.
        (
            "failover.hold = '700ms'",
            r#"failover.hold = "700ms": the hold must be at least 750ms, which is health.timeout and 250ms, so that a check can end within it"#,
        ),
        (
            "health.timeout = '2s'",
            r#"failover.hold = "1500ms": the hold must be at least 2250ms, which is health.timeout and 250ms, so that a check can end within it"#,
        ),
        ("detector.suspect_after = '1s'", r#"detector.suspect_after = "1s": must be less than hang_timeout (1s)"#),
        ("detector.slow_timeout = '999ms'", r#"detector.slow_timeout = "999ms": must be at least hang_timeout (1s)"#),
        ("breaker.grace_max = '59s'", r#"breaker.grace_max = "59s": must be at least grace (1m)"#),
        ("group.other.health.fall = 2", "group.other: has neither a listener nor a backend"),
        (
            "group.default.failover.state_file = '/x'",
            r#"group.default.failover.state_file = "/x": stands in [failover] only: one file serves all groups"#,
        ),
        // Checks that are not commands.
        (
            "health.modes = ['lag', 'ping']",
            r#"backend[0].health: the mode "lag" needs health.lag.username and health.lag.password_file"#,
        ),
        ("health.modes = ['exec']", r#"backend[0].health: the mode "exec" needs health.exec.command"#),
        ("health.exec = { command = '/x' }", r#"health.exec.command = "/x": must be a list of strings"#),
        (
            "health.exec.command = ['check.sh']",
            r#"health.exec.command = "check.sh": must begin with a program's absolute path"#,
        ),
        ("health.exec.mode = 'twice'", r#"health.exec.mode = "twice": must be one of "once", "stream""#),
        ("health.lag.tolerance = '0s'", r#"health.lag.tolerance = "0s": must be at least 1ms"#),
        ("health.lag.port = 65536", "health.lag.port = 65536: is too large"),
        ("health.lag.username = 'x'", "health.lag.password_file: is needed, since there is a user but no password"),
        (
            "parity = { interval = '0s', load_functions = true }",
            "parity.load_functions: needs an interval above 0s: else nobody knows what is to be loaded",
        ),
        // Commands.
        (
            "commands.deny = ['@dangrous']",
            r#"commands.deny[0] = "@dangrous": is not a category of commands: did you mean "@dangerous"?"#,
        ),
        ("commands.deny = ['@nonsense']", r#"commands.deny[0] = "@nonsense": is not a category of commands"#),
        ("commands.refuse = ['@read']", r#"commands.refuse[0] = "@read": a category can stand in "deny" only"#),
        ("commands.shared = ['@read']", r#"commands.shared[0] = "@read": a category can stand in "deny" only"#),
        ("commands.deny = ['CONFIG SET']", r#"commands.deny[0] = "CONFIG SET": a subcommand is written "config|set""#),
        ("commands.deny = ['']", r#"commands.deny[0] = "": must be a command's name, or container|subcommand"#),
        ("commands.deny = ['a|']", r#"commands.deny[0] = "a|": must be a command's name, or container|subcommand"#),
        // Not supported yet.
        (
            "failover.promote = 'promote.sh'",
            r#"failover.promote = "promote.sh": must be "never", "command" or the absolute path of a program"#,
        ),
        ("pubsub.mode = 'many'", r#"pubsub.mode = "many": must be one of "per-client", "hub""#),
        ("pubsub.on_gap = 'tell'", r#"pubsub.on_gap = "tell": must be one of "event", "push", "disconnect", "none""#),
        ("pubsub.standby = 1", "pubsub.standby = 1: must be true or false"),
        ("pubsub.lag_max = '0s'", r#"pubsub.lag_max = "0s": must be at least 1ms"#),
        ("pubsub.heartbeat = '3s'", r#"pubsub.heartbeat_lost = "3s": must be more than heartbeat (3s)"#),
        ("pubsub.publish = 'twice'", r#"pubsub.publish = "twice": must be one of "at-most-once", "at-least-once""#),
        (
            "admin.console = '0.0.0.0:9401'",
            r#"admin.console = "0.0.0.0:9401": has no password: it must be unix:///path or on loopback"#,
        ),
        ("admin.console = '127.0.0.1:9400'", r#"admin.console = "127.0.0.1:9400": is taken by admin.http already"#),
        ("identity.mode = 'user'", r#"identity.mode = "user": must be one of "open", "users", "passthrough""#),
        (
            "identity.authentication_timeout = '1ms'",
            r#"identity.authentication_timeout = "1ms": must be at least 100ms"#,
        ),
        (
            "identity.verify_interval = '61s'",
            "identity.verify_interval: must be at most 60s, within which changes of ACLs take effect",
        ),
        ("identity.mode = 'users'", r#"user: at least one is needed, since identity.mode is "users""#),
        ("user = [{ name = 'x' }]", "user[0].password_file: is missing"),
        (
            "user = [{ name = 'x y', password_file = '' }]",
            r#"user[0].name = "x y": must be made of printable characters without spaces"#,
        ),
        (
            "user = [{ name = 'x', password_file = '', allow = ['@reed'] }]",
            r#"user[0].allow[0] = "@reed": is not a category of commands: did you mean "@read"?"#,
        ),
        ("events.webhook = 'x'", r#"events.webhook = "x": must begin with https:// or http://"#),
        ("events.webhook = 'https://u:p@x/'", r#"events.webhook = "https://***@x/": takes no user and password"#),
        (
            "events.command = ['on-switch']",
            r#"events.command = "on-switch": must begin with the absolute path of a program: it is started without a shell"#,
        ),
        (
            "events.kinds = ['active_change']",
            r#"events.kinds[0] = "active_change": is not a kind of event: did you mean "active_changed"?"#,
        ),
        ("events.kinds = ['outcomes']", r#"events.kinds[0] = "outcomes": is not a kind of event"#),
        (
            "events.webhook = 'http://127.0.0.1/'\nevents.tls = { ca = 'x' }",
            "events.tls.ca: has a meaning only with a webhook that begins with https://",
        ),
    ] {
        let text = format!("{line}\n{LISTENER}{BACKEND}");
        assert_eq!(problems(&sources(&text)), [expected], "{line}");
    }
}

#[test]
fn wrong_listeners_and_what_is_said_of_them() {
    let open = "is beyond loopback, where everybody could use the backends: ask clients for passwords (identity.mode) or \
        certificates (tls with client_auth = \"required\"), or add allow_open = true if that is wanted";
    for (lines, expected) in [
        ("", "listener[0].bind: is missing".to_owned()),
        ("bind = 6379", "listener[0].bind = 6379: must be a string".to_owned()),
        ("bind = ':6379'", r#"listener[0].bind = ":6379": the host is missing"#.to_owned()),
        ("bind = '0.0.0.0:1'", format!(r#"listener[0].bind = "0.0.0.0:1": {open}"#)),
        ("bind = '[::]:1'", format!(r#"listener[0].bind = "[::]:1": {open}"#)),
        ("bind = 'redis.example:1'", format!(r#"listener[0].bind = "redis.example:1": {open}"#)),
        ("bind = '10.0.0.1:1'\nallow_open = false", format!(r#"listener[0].bind = "10.0.0.1:1": {open}"#)),
        ("bind = '[::1]:1'\nallow_open = 'yes'", r#"listener[0].allow_open = "yes": must be true or false"#.to_owned()),
        ("bind = '[::1]:1'\nmode = 0o660", "listener[0].mode: is for a Unix socket only".to_owned()),
        (
            "bind = 'unix:///s'\nmode = 0o1777",
            "listener[0].mode = 1023: must be permissions between 0o000 and 0o777".to_owned(),
        ),
        (
            "bind = '[::1]:1'\nsessions = 'own'",
            r#"listener[0].sessions = "own": must be one of "multiplexed", "dedicated""#.to_owned(),
        ),
        (
            "bind = '[::1]:1'\ngroup = 'a b'",
            r#"listener[0].group = "a b": must be made of letters, digits, -, _ and ."#.to_owned(),
        ),
        (
            "bind = '[::1]:1'\ntls = { cert = 'x' }",
            "listener[0].tls.key: is needed: the certificate's key, PEM".to_owned(),
        ),
        (
            "bind = '[::1]:1'\ntls = { cert = '/none', key = '/none' }",
            r#"listener[0].tls.cert = "/none": cannot be read: No such file or directory (os error 2)"#.to_owned(),
        ),
        (
            "bind = '[::1]:1'\nproxy_protocol = 'require'",
            "listener[0].proxy_sources: is needed with proxy_protocol = \"require\": the networks of those who may say \
             who a client is"
                .to_owned(),
        ),
        (
            "bind = '[::1]:1'\nproxy_protocol = 'require'\nproxy_sources = ['10.0.0.0/33']",
            r#"listener[0].proxy_sources[0] = "10.0.0.0/33": the number after the / must be at most 32"#.to_owned(),
        ),
        (
            "bind = '[::1]:1'\nproxy_sources = ['10.0.0.0/8']",
            "listener[0].proxy_sources: has a meaning only with proxy_protocol = \"require\"".to_owned(),
        ),
        (
            "bind = 'unix:///s'\nproxy_protocol = 'require'\nproxy_sources = ['10.0.0.0/8']",
            "listener[0].proxy_protocol: is for TCP only, not for a Unix socket".to_owned(),
        ),
        (
            "bind = '127.0.0.1:9400'",
            r#"listener[0].bind = "127.0.0.1:9400": is taken by admin.http already"#.to_owned(),
        ),
        (
            "bind = '[::1]:1'\n[[listener]]\nbind = '[0::1]:1'",
            r#"listener[1].bind = "[::1]:1": is taken by listener[0] already"#.to_owned(),
        ),
        (
            "bind = '127.0.0.1:1'\n[[listener]]\nbind = '127.0.0.1:2'\ngroup = 'other'",
            r#"listener[1]: group "other" has no backend"#.to_owned(),
        ),
    ] {
        let text = format!("{BACKEND}[[listener]]\n{lines}\n");
        assert_eq!(problems(&sources(&text)), [expected], "{lines}");
    }
}

#[test]
fn wrong_backends_and_what_is_said_of_them() {
    let url = "name = 'b'\nurl = 'redis://h'\n";
    for (lines, expected) in [
        ("url = 'redis://h'".to_owned(), "backend[1].name: is missing"),
        ("name = 'b'".to_owned(), "backend[1].url: is missing"),
        (
            "name = 'b c'\nurl = 'redis://h'".to_owned(),
            r#"backend[1].name = "b c": must be made of letters, digits, -, _ and ."#,
        ),
        (
            "name = ''\nurl = 'redis://h'".to_owned(),
            r#"backend[1].name = "": must be made of letters, digits, -, _ and ."#,
        ),
        (
            "name = 'east'\nurl = 'redis://h'".to_owned(),
            r#"backend[1].name = "east": is the name of backend[0] already"#,
        ),
        (format!("{url}weight = 0"), "backend[1].weight = 0: must be greater than 0"),
        (format!("{url}weight = -1.5"), "backend[1].weight = -1.5: must be greater than 0"),
        (format!("{url}weight = inf"), "backend[1].weight = inf: must be a finite number"),
        (format!("{url}weight = nan"), "backend[1].weight = nan: must be a finite number"),
        (format!("{url}weight = '1'"), r#"backend[1].weight = "1": must be a number"#),
        (format!("{url}wieght = 1"), r#"backend[1]: unknown key "wieght": did you mean "weight"?"#),
        (format!("{url}group = 'other'"), r#"backend[1]: group "other" has no listener"#),
        (format!("{url}connect_timeout = '0s'"), r#"backend[1].connect_timeout = "0s": must be at least 1ms"#),
        (format!("{url}grace = '0s'"), r#"backend[1].grace = "0s": must be at least 1ms"#),
        (format!("{url}health = {{ fall = 0 }}"), "backend[1].health.fall = 0: must be at least 1"),
        (
            format!("{url}health = {{ timeout = '2s' }}"),
            r#"backend[1].health.timeout = "2s": is too long for a hold of 1500ms: the hold must be at least 2250ms, which is health.timeout and 250ms, so that a check can end within it"#,
        ),
        (
            format!("{url}health_check_url = 'https://h:9443'"),
            r#"backend[1].health_check_url: is the REST address of the mode "lag", which health.modes does not have"#,
        ),
        (
            format!("{url}health_check_url = 'http://h:9443'"),
            r#"backend[1].health_check_url = "http://h:9443": must begin with https://, since a password goes there"#,
        ),
        (
            format!("{url}health_check_url = 'https://h/v1'"),
            r#"backend[1].health_check_url = "https://h/v1": takes only an address, https://host:port; the paths are those of the REST API"#,
        ),
        (
            format!("{url}health = {{ modes = ['exec'] }}"),
            r#"backend[1].health: the mode "exec" needs health.exec.command"#,
        ),
        (
            format!("{url}health_check_url = 'redis://u:p@h/1'"),
            r#"backend[1].health_check_url = "redis://***@h/1": takes only an address; user, password and database are the backend's own"#,
        ),
        (
            format!("{url}tls = {{ ca = 'x' }}"),
            "backend[1].tls.ca: has a meaning only with a url that begins with rediss://",
        ),
        (
            format!("{url}connections_max = 1"),
            "backend[1].connections_max = 1: must be at least 2, two for each worker, or 0 for no bound",
        ),
        (format!("{url}username = 'u'"), "backend[1].password_file: is needed, since there is a user but no password"),
        (
            "name = 'b'\nurl = 'redis://u@h'".to_owned(),
            "backend[1].password_file: is needed, since there is a user but no password",
        ),
        (
            "name = 'b'\nurl = 'redis://u:p@h'\nusername = 'v'".to_owned(),
            r#"backend[1].username = "v": the URL names a user already"#,
        ),
        (
            "name = 'b'\nurl = 'redis://:p@h'\npassword_file = '/x'".to_owned(),
            r#"backend[1].password_file = "/x": the URL has a password already"#,
        ),
        (
            format!("{url}password_file = '/does/not/exist'"),
            r#"backend[1].password_file = "/does/not/exist": cannot be read: No such file or directory (os error 2)"#,
        ),
        (
            "name = 'b'\nurl = 'rediss://u:p@h'\ntls = { ca = '/none' }".to_owned(),
            r#"backend[1].tls.ca = "/none": cannot be read: No such file or directory (os error 2)"#,
        ),
        (
            "name = 'b'\nurl = 'unix:///s'\ntls = { ca = '/none' }".to_owned(),
            "backend[1].tls.ca: has a meaning only with a url that begins with rediss://",
        ),
        (
            "name = 'b'\nurl = 'redis://h'\ntls = { insecure_skip_verify = true }".to_owned(),
            "backend[1].tls.insecure_skip_verify = true: does not exist, since a password would go to whoever answers: for a \
             server with a certificate of its own, name that certificate in tls.ca",
        ),
        (
            "name = 'b'\nurl = 'redis+cluster://h'".to_owned(),
            r#"backend[1].url = "redis+cluster://h": clusters (redis+cluster://) are not supported yet"#,
        ),
        (
            "name = 'b'\nurl = 'redis+sentinel://h'".to_owned(),
            r#"backend[1].url = "redis+sentinel://h": sentinels (redis+sentinel://) are not supported yet"#,
        ),
    ] {
        let text = format!("{LISTENER}{BACKEND}[[backend]]\n{lines}\n");
        assert_eq!(problems(&sources(&text)), [expected], "{lines}");
    }
}

#[test]
fn a_file_as_a_whole() {
    for (text, expected) in [
        ("", vec!["listener: at least one is needed", "backend: at least one is needed"]),
        (LISTENER, vec!["backend: at least one is needed"]),
        (BACKEND, vec!["listener: at least one is needed"]),
        (
            "[listener]\nbind = 'x'\n[[backend]]\nname = 'a'\nurl = 'redis://h'",
            vec!["listener: must be a list of tables, each begun by [[listener]]"],
        ),
        ("a = 1\nb = = 2", vec!["built-in settings:2:5: extra `=`, expected nothing"]),
    ] {
        assert_eq!(problems(&sources(text)), expected, "{text}");
    }
}

#[test]
fn all_problems_are_reported_at_once() {
    let text = "
        helth = 1
        [health]
        fall = 0
        [[listener]]
        bind = '0.0.0.0:6379'
        [[backend]]
        name = 'a'
        url = 'redis+cluster://h'
        weight = 0
    ";
    let found = problems(&sources(text));
    let starts = [
        "health.fall = 0: ",
        "listener[0].bind = ",
        "backend[0].url = ",
        "backend[0].weight = 0: must be greater than 0",
        r#"unknown key "helth""#,
    ];
    assert_eq!(found.len(), starts.len(), "{found:?}");
    for (line, start) in found.iter().zip(starts) {
        assert!(line.starts_with(start), "{line} does not start with {start}");
    }
}

#[test]
fn the_shipped_files_load() {
    let config = config(MINIMAL);
    let [group] = config.groups.as_slice() else { panic!("one group") };
    assert_eq!(group.name, "default");
    assert_eq!(group.listeners[0].bind, Address::Tcp("127.0.0.1".to_owned(), 6379));
    let backends: Vec<_> = group.backends.iter().map(|backend| (backend.name.as_str(), backend.weight)).collect();
    assert_eq!(backends, [("east", 1.0), ("west", 0.5)]);

    let demo = Sources {
        listen: vec!["127.0.0.1:0".to_owned()],
        backends: vec!["east=redis://127.0.0.1:7001,weight=1".to_owned(), "west=redis://127.0.0.1:7002".to_owned()],
        ..sources(include_str!("../config/demo.toml"))
    };
    let demo = &loaded(&demo).config.groups[0];
    assert_eq!(demo.health.interval, Duration::from_millis(200));
    assert_eq!((demo.breaker.grace, demo.failover.failback_hold), (Duration::from_secs(3), Duration::from_secs(3)));
}

#[test]
fn everything_that_can_be_said_of_listeners_and_backends() {
    let text = "
        [[listener]]
        bind = 'unix:///run/h.sock'
        mode = 0o600
        sessions = 'dedicated'
        group = 'cache'
        [[listener]]
        bind = '[::1]:6380'
        group = 'cache'
        [[backend]]
        name = 'a'
        group = 'cache'
        url = 'redis://app:p%40ss@[2001:db8::1]:7001/3'
        weight = 2
        connect_timeout = '5s'
        grace = '90s'
        health_check_url = 'redis://127.0.0.1:7100'
        health = { interval = '1s', modes = ['ping', 'role'] }
        [[backend]]
        name = 'b'
        group = 'cache'
        url = 'unix:///run/redis.sock'
        [group.cache]
        replication = 'both-ways'
        [group.cache.health]
        timeout = '400ms'
    ";
    let config = config(text);
    let [group] = config.groups.as_slice() else { panic!("one group") };
    assert_eq!((group.name.as_str(), group.replication), ("cache", Replication::BothWays));
    assert_eq!(group.retry.ceiling, RetryCeiling::ReadOnly);
    assert_eq!(group.listeners[0].bind, Address::Unix(PathBuf::from("/run/h.sock")));
    assert_eq!((group.listeners[0].mode, group.listeners[0].sessions), (0o600, SessionMode::Dedicated));
    assert_eq!((group.listeners[1].mode, group.listeners[1].sessions), (0o660, SessionMode::Multiplexed));
    let [a, b] = group.backends.as_slice() else { panic!("two backends") };
    assert_eq!((&a.address, a.database, a.weight), (&Address::Tcp("2001:db8::1".to_owned(), 7001), 3, 2.0));
    assert_eq!(a.credential, Some(Credential { username: Some("app".to_owned()), password: "p@ss".to_owned() }));
    assert_eq!(a.health_check_address, Some(Address::Tcp("127.0.0.1".to_owned(), 7100)));
    assert_eq!(a.connect_timeout, Duration::from_secs(5));
    assert_eq!(group.breaker_of(a).grace, Duration::from_secs(90));
    let own = group.health_of(a);
    assert_eq!((own.interval, own.timeout), (Duration::from_secs(1), Duration::from_millis(400)));
    assert_eq!(own.modes, [ProbeMode::Ping, ProbeMode::Role]);
    assert_eq!((&b.address, b.database), (&Address::Unix(PathBuf::from("/run/redis.sock")), 0));
    assert_eq!((b.weight, b.connect_timeout, &b.credential), (1.0, Duration::from_secs(2), &None));
    assert_eq!((group.health_of(b), group.breaker_of(b)), (&group.health, group.breaker));
}

#[test]
fn groups_keep_to_themselves() {
    let text = "
        [health]
        fall = 4
        [[listener]]
        bind = '127.0.0.1:1'
        group = 'one'
        [[listener]]
        bind = '127.0.0.1:2'
        [[backend]]
        name = 'a'
        url = 'redis://h'
        [[backend]]
        name = 'b'
        url = 'redis://h'
        group = 'one'
        [group.one]
        health.rise = 5
        failover.failback = 'never'
        retry.ceiling = 'always'
        replication = 'both-ways'
        commands.deny = ['@dangerous', 'KEYS', 'config|set']
    ";
    let config = config(text);
    let [one, default] = config.groups.as_slice() else { panic!("two groups") };
    assert_eq!((one.name.as_str(), default.name.as_str()), ("one", "default"));
    assert_eq!((one.health.fall, one.health.rise), (4, 5));
    assert_eq!((default.health.fall, default.health.rise), (4, 3));
    // A written ceiling wins over what the replication suggests.
    assert_eq!((one.retry.ceiling, default.retry.ceiling), (RetryCeiling::Always, RetryCeiling::WriteLastWins));
    assert_eq!((one.pubsub.propagates, default.pubsub.propagates), (true, false));
    assert_eq!(one.commands.deny.iter().collect::<Vec<_>>(), ["@dangerous", "config|set", "keys"]);
    assert!(default.commands.deny.is_empty());
    assert_eq!((one.backends[0].name.as_str(), default.backends[0].name.as_str()), ("b", "a"));
}

#[test]
fn flag_over_environment_over_file_over_default() {
    let text = format!("health.rise = 7\nhealth.fall = 7\nhealth.probes = 7\n{MINIMAL}");
    let mut sources = sources(&text);
    sources.environment = vec![
        pair("HANDOVER__HEALTH__FALL", "8"),
        pair("HANDOVER__HEALTH__PROBES", "8"),
        pair("HANDOVER__HEALTH__MODES", "ping, role"),
        pair("HANDOVER__HEALTH__PROBE_KEY", "123"),
        pair("HANDOVER__LIMITS__HELD_BYTES", "1048576"),
        pair("HANDOVER__RUNTIME__WORKERS", "auto"),
        pair("HANDOVER__GROUP__DEFAULT__HEALTH__JITTER", "0.1"),
        pair("HANDOVER__LOG__LEVEL", "warn"),
        pair("HANDOVERS_OTHER", "ignored"),
    ];
    sources.overrides =
        vec![pair("health.probes", "9"), pair("commands.deny", "[\"keys\"]"), pair("pubsub.standby", "false")];
    sources.log_level = Some("debug".to_owned());
    let config = loaded(&sources).config;
    let group = &config.groups[0];
    assert_eq!((group.health.rise, group.health.fall, group.health.probes), (7, 8, 9));
    assert_eq!(group.health.modes, [ProbeMode::Ping, ProbeMode::Role]);
    assert_eq!((group.health.probe_key.as_str(), group.health.jitter), ("123", 0.1));
    assert_eq!(group.commands.deny.iter().collect::<Vec<_>>(), ["keys"]);
    assert_eq!((config.limits.held_bytes_max, config.workers), (1 << 20, 2));
    assert_eq!((config.log.level, config.log.format), (tracing::Level::DEBUG, LogFormat::Text));
}

#[test]
fn problems_name_the_flag_or_variable() {
    let mut sources = sources(MINIMAL);
    sources.environment = vec![pair("HANDOVER__HEALTH__FALL", "x"), pair("HANDOVER__HELTH__FALL", "1")];
    sources.overrides = vec![
        pair("health.rise", "0"),
        pair("health.intervall", "1s"),
        pair("preset.x", "1"),
        pair("backend.weight", "1"),
        pair("a..b", "1"),
        pair("health.modes", "ping,pong"),
        pair("listener", "127.0.0.1:1"),
    ];
    sources.backends = vec!["east".to_owned(), "b=redis://h,weight=0,wieght=1".to_owned()];
    // `preset` is text only when the file has it so.
    sources.text = Some(format!("preset = 'fast'\n{MINIMAL}"));
    assert_eq!(
        problems(&sources),
        [
            "preset.x (from --set): is in something that is not a table",
            "backend.weight (from --set): is in a list, which only the file or --listen and --backend can give",
            "a..b (from --set): is not a path such as health.interval",
            "backend (from --backend): must be name=url, as in east=redis://127.0.0.1:7001,weight=1",
            r#"health.modes = "pong" (from --set): must be one of "ping", "echo", "role", "write", "lag", "exec""#,
            r#"health.fall = "x" (from HANDOVER__HEALTH__FALL): must be a whole number"#,
            r#"health.rise = "0" (from --set): must be at least 1"#,
            r#"health (from --set): unknown key "intervall": did you mean "interval"?"#,
            "listener (from --set): must be a list of tables, each begun by [[listener]]",
            r#"backend[0].weight = "0" (from --backend): must be greater than 0"#,
            r#"backend[0] (from --backend): unknown key "wieght": did you mean "weight"?"#,
            r#"unknown key "helth": did you mean "health"?"#,
        ]
    );
}

#[test]
fn listeners_and_backends_of_flags_replace_those_of_the_file() {
    let sources = Sources {
        listen: vec!["0.0.0.0:6399,allow_open=true,sessions=dedicated".to_owned(), "unix:///s,mode=0o600".to_owned()],
        backends: vec!["north=redis://127.0.0.1:7003,weight=0.25,connect_timeout=1s".to_owned()],
        ..sources(MINIMAL)
    };
    let loaded = loaded(&sources);
    let group = &loaded.config.groups[0];
    assert_eq!(group.listeners[0].bind, Address::Tcp("0.0.0.0".to_owned(), 6399));
    assert_eq!((group.listeners[0].sessions, group.listeners[1].mode), (SessionMode::Dedicated, 0o600));
    let [north] = group.backends.as_slice() else { panic!("one backend") };
    assert_eq!((north.name.as_str(), north.weight, north.connect_timeout), ("north", 0.25, Duration::from_secs(1)));
    assert_eq!(
        loaded.warnings,
        [
            "failover.state_file: neither it nor $STATE_DIRECTORY is set, so nothing survives a restart: \
             neither the last active nor epochs and breakers",
            "listener[0].bind: is beyond loopback, and clients there are asked for no password",
            r#"backend: group "default" has only one, so there is nothing to hand over to"#,
        ]
    );
}

#[test]
fn flags_that_say_nonsense() {
    for (flag, expected) in [
        ("redis://u:p@h?a=b", "must be name=url, as in east=redis://127.0.0.1:7001,weight=1"),
        ("a=redis://u:p@h,weight", "must have key=value after each comma"),
        ("a=redis://u:p@h,weight=1,weight=2", r#"gives "weight" twice"#),
    ] {
        let sources = Sources { backends: vec![flag.to_owned()], ..sources(MINIMAL) };
        assert_eq!(problems(&sources), [format!("backend (from --backend): {expected}")], "{flag}");
    }
}

#[test]
fn where_the_file_is_looked_for() {
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (directory.path().join("first.toml"), directory.path().join("second.toml"));
    let search = vec![first.clone(), second.clone()];
    let flags = Sources {
        listen: vec!["127.0.0.1:1".to_owned()],
        backends: vec!["a=redis://h".to_owned()],
        search: search.clone(),
        ..Sources::default()
    };
    let bare = Sources { search, ..Sources::default() };
    let expected = format!(
        "no configuration: expected a file at {} or {} or by -c, or --listen and --backend",
        first.display(),
        second.display()
    );
    assert_eq!(problems(&bare), [expected]);
    assert_eq!(loaded(&flags).file, None);

    fs::write(&second, format!("limits.clients = 2\n{MINIMAL}")).unwrap();
    assert_eq!(loaded(&bare).file.map(|origin| origin.path), Some(second.clone()));
    fs::write(&first, format!("limits.clients = 1\n{MINIMAL}")).unwrap();
    assert_eq!(loaded(&bare).file.map(|origin| origin.path), Some(first.clone()));
    let named = Sources { file: Some(second), ..bare };
    assert_eq!(loaded(&named).config.limits.clients_max, 2);
    // Flags that give listeners and backends need no file, but its other settings count if there is one.
    assert_eq!(loaded(&flags).config.limits.clients_max, 1);

    let missing = directory.path().join("missing.toml");
    let expected = format!("cannot read {}: No such file or directory (os error 2)", missing.display());
    assert_eq!(problems(&Sources { file: Some(missing), ..Sources::default() }), [expected]);
    fs::write(&first, "[health\n").unwrap();
    let found = problems(&Sources { file: Some(first.clone()), ..Sources::default() });
    assert!(found[0].starts_with(&format!("{}:1:8: ", first.display())), "{found:?}");
}

#[test]
fn passwords_come_from_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("password");
    let text = format!("{LISTENER}{BACKEND}username = 'app'\npassword_file = '{}'\n", path.display());
    for (content, expected) in [("secret", "secret"), ("secret\n", "secret"), ("s\r\n", "s"), ("s \n\n", "s \n")] {
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let loaded = loaded(&sources(&text));
        let credential = loaded.config.groups[0].backends[0].credential.clone().unwrap();
        assert_eq!((credential.username.as_deref(), credential.password.as_str()), (Some("app"), expected));
        assert!(!loaded.warnings.iter().any(|warning| warning.contains("password_file")), "{:?}", loaded.warnings);
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let warning = format!("backend[0].password_file: {} can be read by every user of this machine", path.display());
    assert!(loaded(&sources(&text)).warnings.contains(&warning));
    fs::write(&path, "\n").unwrap();
    assert_eq!(problems(&sources(&text)), [format!("backend[0].password_file = \"{}\": is empty", path.display())]);
}

#[test]
fn where_state_is_kept() {
    let with = |directory: &str| {
        let sources = Sources { environment: vec![pair("STATE_DIRECTORY", directory)], ..sources(MINIMAL) };
        loaded(&sources).config.state_file
    };
    assert_eq!(with("/var/lib/handover"), Some(PathBuf::from("/var/lib/handover/state.json")));
    assert_eq!(with("/var/lib/one:/var/lib/two"), Some(PathBuf::from("/var/lib/one/state.json")));
    assert_eq!(with(""), None);
    assert_eq!(config(&format!("failover.state_file = '/x'\n{MINIMAL}")).state_file, Some(PathBuf::from("/x")));
}

#[test]
fn the_deadline_leaves_room_for_the_hold() {
    let deadline = |lines: &str| config(&format!("{lines}\n{MINIMAL}")).groups[0].retry.deadline;
    assert_eq!(deadline(""), Duration::from_secs(2));
    assert_eq!(deadline("failover.hold = '4s'"), Duration::from_millis(4500));
    assert_eq!(deadline("failover.hold = '4s'\nretry.deadline = '3s'"), Duration::from_secs(3));
    let warnings = loaded(&sources(&format!("failover.hold = '4s'\nretry.deadline = '3s'\n{MINIMAL}"))).warnings;
    let warning = "retry.deadline: ends before failover.hold (4s), which then never runs out";
    assert!(warnings.iter().any(|other| other == warning), "{warnings:?}");
}

#[test]
fn a_failback_by_hand_is_warned_of() {
    let failback_warnings = |lines: &str| {
        let warnings = loaded(&sources(&format!("{lines}\n{MINIMAL}"))).warnings;
        warnings.into_iter().filter(|warning| warning.contains("failback")).collect::<Vec<_>>()
    };
    let warning = |path: &str| format!("{path}: without admin.console nobody can order it, so it acts as \"never\"");
    assert_eq!(failback_warnings("failover.failback = 'manual'"), [warning("failover.failback")]);
    // Once where it is written, not again for each group that takes it over.
    let both = "failover.failback = 'manual'\ngroup.default.failover.hold = '2s'";
    assert_eq!(failback_warnings(both), [warning("failover.failback")]);
    let own = "group.default.failover.failback = 'manual'";
    assert_eq!(failback_warnings(own), [warning("group.default.failover.failback")]);
    let by_console = "failover.failback = 'manual'\nadmin.console = '127.0.0.1:9401'";
    for other in ["", "failover.failback = 'auto'", "failover.failback = 'never'", by_console] {
        assert_eq!(failback_warnings(other), [""; 0], "{other}");
    }
}

#[test]
fn workers_follow_the_cores() {
    let workers = |cores| {
        let sources = Sources { cores, ..sources(&format!("runtime.workers = 'auto'\n{MINIMAL}")) };
        loaded(&sources).config.workers
    };
    assert_eq!([workers(0), workers(1), workers(2), workers(3), workers(8)], [1, 1, 1, 1, 4]);
}

#[test]
fn a_reload_says_what_is_live_and_what_needs_a_restart() {
    let old = config(&format!("{MINIMAL}password_file = ''\n"));
    assert_eq!(diff(&old, &old), []);
    let new = "
        log.level = 'debug'
        health.interval = '250ms'
        limits.output_bytes = '2MiB'
        [[listener]]
        bind = '127.0.0.1:6380'
        [[backend]]
        name = 'east'
        url = 'redis://:secret@127.0.0.1:7001'
        weight = 0.25
        [[backend]]
        name = 'east.two'
        url = 'redis://127.0.0.1:7003'
    ";
    let changes = diff(&old, &config(new));
    let lines: Vec<String> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        lines,
        [
            "limits.output_bytes: 1MiB → 2MiB (needs a restart)",
            "log.level: info → debug",
            "backend.east.password: none → (hidden)",
            "backend.east.weight: 1 → 0.25",
            "backend.east.two: none → 127.0.0.1:7003 in group default",
            "backend.west: 127.0.0.1:7002 in group default → none",
            "group.default: east, west → east, east.two",
            "group.default.health.interval: 500ms → 250ms",
            "listener.127.0.0.1:6379: in group default, multiplexed, mode 0o660 → none (needs a restart)",
            "listener.127.0.0.1:6380: none → in group default, multiplexed, mode 0o660 (needs a restart)",
        ]
    );
    let live: Vec<_> =
        changes.iter().filter(|change| change.effect == Effect::Live).map(|change| &change.path).collect();
    let at_once = [
        "log.level",
        "backend.east.password",
        "backend.east.weight",
        "backend.east.two",
        "backend.west",
        "group.default",
        "group.default.health.interval",
    ];
    assert_eq!(live, at_once);
}

#[test]
fn what_sessions_count_on_needs_a_restart() {
    let two = |first: &str, second: &str| config(&format!("{LISTENER}{first}{second}"));
    let (a, b) = ("[[backend]]\nname = 'a'\nurl = 'redis://h:1'\n", "[[backend]]\nname = 'b'\nurl = 'redis://h:2'\n");
    let lines = |old: &Config, new: &Config| diff(old, new).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(lines(&two(a, b), &two(b, a)), ["group.default: a, b → b, a (needs a restart)"]);
    let other_database = "[[backend]]\nname = 'a'\nurl = 'redis://h:1/5'\n";
    assert_eq!(lines(&two(a, b), &two(other_database, b)), ["backend.a.database: 0 → 5 (needs a restart)"]);
    let cursors = config(&format!("failover.scan_cursors = 'passed'\nfailover.hold = '2s'\n{LISTENER}{a}{b}"));
    let expected = [
        "group.default.failover.hold: 1500ms → 2s",
        "group.default.failover.scan_cursors: checked → passed (needs a restart)",
    ];
    let changes = lines(&two(a, b), &cursors);
    assert!(expected.iter().all(|line| changes.contains(&(*line).to_owned())), "{changes:?}");
}

#[test]
fn a_changed_password_shows_as_a_change_and_stays_hidden() {
    let with = |password: &str| config(&format!("{LISTENER}[[backend]]\nname = 'a'\nurl = 'redis://:{password}@h'\n"));
    let changes = diff(&with("first"), &with("second"));
    assert_eq!(
        changes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["backend.a.password: (hidden) → (hidden)"]
    );
}

/// No server takes more.
#[test]
fn values_are_bounded_by_what_servers_take() {
    for (written, in_force, warns) in [("512MiB", 512_usize << 20, false), ("513MiB", 512 << 20, true)] {
        let loaded = loaded(&sources(&format!("limits.value_bytes = '{written}'\n{MINIMAL}")));
        assert_eq!(loaded.config.limits.value_bytes_max, in_force);
        assert_eq!(loaded.warnings.iter().any(|warning| warning.contains("limits.value_bytes")), warns, "{written}");
    }
    assert_eq!(loaded(&sources(MINIMAL)).config.limits.value_bytes_max, 512 << 20);
}
