//! TLS and mutual TLS on both sides, against real servers, and what must never be told to whoever cannot be verified.

mod support;

use std::process::{Command, Output};

use support::{
    Authority, Certificate, Eavesdropper, Handover, HandoverBuilder, PATIENCE, RawClient, RedisServer, ReservedPort,
    Signal, TlsClient, Value, python, shown, wait_until,
};

const PASSWORD: &str = "a-password-that-nobody-else-may-hear";
const TIMES: &str = r#"
    [health]
    interval = "100ms"
    standby_interval = "100ms"
    timeout = "2s"
    [breaker]
    grace = "1m"
    [failover]
    hold = "5s"
    failback = "never"
"#;

/// A Redis server that takes TLS with a client's certificate only, beside its plain port for the test itself.
struct SecureServer {
    server: RedisServer,
    port: ReservedPort,
}

impl SecureServer {
    fn start(authority: &Authority, name: &str) -> Self {
        let port = ReservedPort::take();
        let own = authority.sign(name);
        let server = RedisServer::builder()
            .password(PASSWORD)
            .directive(&format!("tls-port {}", port.number()))
            .directive(&format!("tls-cert-file {}", shown(&own.cert)))
            .directive(&format!("tls-key-file {}", shown(&own.key)))
            .directive(&format!("tls-ca-cert-file {}", shown(&authority.ca())))
            .directive("tls-auth-clients yes")
            .start();
        Self { server, port }
    }

    fn backend(&self, name: &str, weight: f64, authority: &Authority, own: &Certificate) -> String {
        format!(
            "[[backend]]\nname = \"{name}\"\nurl = \"rediss://:{PASSWORD}@{}\"\nweight = {weight:?}\n\
             tls = {{ ca = {:?}, {} }}\n",
            self.port.address(),
            authority.ca(),
            own.toml()
        )
    }
}

fn listener(authority: &Authority, certificate: &Certificate, client_auth: &str) -> String {
    let ca = if client_auth == "none" { String::new() } else { format!(", ca = {:?}", authority.ca()) };
    let tls = format!("{{ {}{ca}, client_auth = \"{client_auth}\" }}", certificate.toml());
    format!("[[listener]]\nbind = \"127.0.0.1:0\"\ntls = {tls}\n")
}

fn plain_backend(server: &RedisServer) -> String {
    format!("[[backend]]\nname = \"plain\"\nurl = \"redis://{}\"\n", server.address())
}

/// Handover before one server only.
fn alone(configuration: &str) -> HandoverBuilder {
    Handover::builder(configuration).expect_warning("has only one, so there is nothing to hand over to")
}

/// A Handover with a TLS listener before one plain server.
fn with_listener(authority: &Authority, client_auth: &str) -> (RedisServer, Handover) {
    let server = RedisServer::start();
    let listener = listener(authority, &authority.sign("handover"), client_auth);
    let handover = alone(&format!("{listener}{}{TIMES}", plain_backend(&server))).start();
    (server, handover)
}

fn bulk(bytes: impl AsRef<[u8]>) -> Value {
    Value::Bulk(bytes.as_ref().to_vec())
}

fn ok() -> Value {
    Value::Simple("OK".to_owned())
}

#[test]
fn sessions_survive_a_failover_with_mutual_tls_on_both_sides() {
    let authority = Authority::new();
    let (mut east, west) = (SecureServer::start(&authority, "east"), SecureServer::start(&authority, "west"));
    let own = authority.sign("handover");
    let configuration = listener(&authority, &own, "required")
        + &east.backend("east", 2.0, &authority, &own)
        + &west.backend("west", 1.0, &authority, &own)
        + &TIMES.replace("hold =", "initial = \"all\"\n    hold =");
    let handover = Handover::builder(&configuration)
        .allow_warning("backend is unhealthy")
        .expect_warning("switched")
        .allow_warning("workers did not acknowledge a switch in time")
        .start();
    let config = authority.client_config(Some(&authority.sign("client")));
    let connect = || TlsClient::connect(handover.address(), &config).expect("hands are shaken");

    let (mut client, mut subscriber, mut blocked) = (connect(), connect(), connect());
    assert_eq!(client.command(&["SET", "k", "v"]), ok());
    assert_eq!(east.server.command(&["GET", "k"]), bulk("v"));
    assert_eq!(client.command(&["MULTI"]), ok());
    assert_eq!(client.command(&["INCR", "n"]), Value::Simple("QUEUED".to_owned()));
    assert_eq!(client.command(&["EXEC"]), Value::Array(vec![Value::Integer(1)]));
    let confirmed = Value::Array(vec![bulk("subscribe"), bulk("news"), Value::Integer(1)]);
    assert_eq!(subscriber.command(&["SUBSCRIBE", "news"]), confirmed);
    blocked.send_command(&["BLPOP", "list", "30"]);
    wait_until(PATIENCE, || handover.metric("handover_sessions", &[("mode", "blocked")]) > 0.0);

    east.server.kill();
    wait_until(PATIENCE, || handover.metric("handover_backend_active", &[("backend", "west")]) > 0.0);
    assert_eq!(client.command(&["SET", "k", "w"]), ok());
    assert_eq!(west.server.command(&["GET", "k"]), bulk("w"));
    assert_eq!(client.command(&["PUBLISH", "news", "moved"]), Value::Integer(1));
    assert_eq!(subscriber.read_reply(), Value::Array(vec![bulk("message"), bulk("news"), bulk("moved")]));
    assert_eq!(client.command(&["RPUSH", "list", "x"]), Value::Integer(1));
    assert_eq!(blocked.read_reply(), Value::Array(vec![bulk("list"), bulk("x")]));
}

#[test]
fn a_planned_switch_unblocks_over_tls() {
    let authority = Authority::new();
    let (mut east, west) = (SecureServer::start(&authority, "east"), SecureServer::start(&authority, "west"));
    let own = authority.sign("handover");
    let times = TIMES
        .replace("grace = \"1m\"", "grace = \"50ms\"")
        .replace("failback = \"never\"", "failback = \"auto\"\nfailback_hold = \"50ms\"\nswitches_max = 100");
    let configuration = listener(&authority, &own, "none")
        + &east.backend("east", 2.0, &authority, &own)
        + &west.backend("west", 1.0, &authority, &own)
        + &times;
    let handover = Handover::builder(&configuration)
        .allow_warning("backend is unhealthy")
        .allow_warning("switched")
        .allow_warning("planned switch called off")
        .start();
    let is_active = |name| handover.metric("handover_backend_active", &[("backend", name)]) > 0.0;
    for backend in ["east", "west"] {
        handover.expect_metric("handover_backend_up", &[("backend", backend)], 1.0);
    }
    east.server.kill();
    wait_until(PATIENCE, || is_active("west"));
    let config = authority.client_config(None);
    let mut client = TlsClient::connect(handover.address(), &config).expect("hands are shaken");
    client.send_command(&["BLPOP", "list", "30"]);
    wait_until(PATIENCE, || handover.metric("handover_sessions", &[("mode", "blocked")]) > 0.0);

    east.server.restart();
    wait_until(PATIENCE, || is_active("east"));
    // Whoever still waited on the old server would see nothing of this.
    assert_eq!(east.server.command(&["RPUSH", "list", "x"]), Value::Integer(1));
    assert_eq!(client.read_reply(), Value::Array(vec![bulk("list"), bulk("x")]));
}

#[test]
fn whoever_cannot_be_verified_hears_no_password() {
    let (authority, stranger, impostor) = (Authority::new(), Authority::named("a stranger"), Authority::new());
    let good = RedisServer::start();
    let of_another_name = authority.sign_for("name", "other.test", 2049);
    let cases = [
        ("expired", Eavesdropper::start(&authority.sign_for("expired", "127.0.0.1", 2024)), "expired on 2024-01-01"),
        ("named", Eavesdropper::start(&of_another_name), "is for another name: 127.0.0.1 was expected"),
        ("unknown", Eavesdropper::start(&stranger.sign("stranger")), "is signed by nobody who is trusted here"),
        (
            "impostor",
            Eavesdropper::start(&impostor.sign("impostor")),
            "is signed by another authority of the same name",
        ),
    ];
    let mut configuration = plain_backend(&good) + TIMES;
    for (name, server, _) in &cases {
        configuration += &format!(
            "[[backend]]\nname = \"{name}\"\nurl = \"rediss://:{PASSWORD}@{}\"\nweight = 9.0\ntls = {{ ca = {:?} }}\n",
            server.address(),
            authority.ca()
        );
    }
    // The same server under the name that it has, to show that the name alone was wrong, and what would be heard.
    let named = Eavesdropper::start(&of_another_name);
    configuration += &format!(
        "[[backend]]\nname = \"right\"\nurl = \"rediss://:{PASSWORD}@{}\"\nweight = 0.1\n\
         tls = {{ ca = {:?}, server_name = \"other.test\" }}\n",
        named.address(),
        authority.ca()
    );
    let handover = Handover::builder(&configuration).allow_warning("backend is unhealthy").start();
    for (name, server, cause) in &cases {
        let told = handover
            .wait_for_log(|line| line.message() == "backend is unhealthy" && line.field("backend") == *name, PATIENCE);
        assert!(told.text.contains(cause), "{name}: {told:?}");
        wait_until(PATIENCE, || handover.http_get("/status").body.contains(cause));
        wait_until(PATIENCE, || server.connections() >= 3);
        assert_eq!(String::from_utf8_lossy(&server.heard()), "", "{name}");
    }
    wait_until(PATIENCE, || String::from_utf8_lossy(&named.heard()).contains(PASSWORD));
}

#[test]
fn a_server_that_speaks_without_tls_hears_no_password_and_the_cause_is_told() {
    let authority = Authority::new();
    let (plain, good) = (RedisServer::start(), RedisServer::start());
    let secure = SecureServer::start(&authority, "east");
    let configuration = plain_backend(&good)
        + &TIMES.replace("\"2s\"", "\"200ms\"")
        + &format!(
            "[[backend]]\nname = \"deaf\"\nurl = \"rediss://:{PASSWORD}@{}\"\nweight = 9.0\ntls = {{ ca = {:?} }}\n",
            plain.address(),
            authority.ca()
        )
        + &format!(
            "[[backend]]\nname = \"strict\"\nurl = \"rediss://:{PASSWORD}@{}\"\nweight = 9.0\ntls = {{ ca = {:?} }}\n",
            secure.port.address(),
            authority.ca()
        );
    let handover = Handover::builder(&configuration)
        .allow_warning("backend is unhealthy")
        // So short a timeout may pass for the good one, too.
        .allow_warning("no backend is healthy")
        .allow_warning("a backend can serve again")
        .start();
    // Redis waits for the end of a line in our hello, or finds one and complains.
    handover.wait_for_log(|line| line.field("backend") == "deaf" && line.message() == "backend is unhealthy", PATIENCE);
    // Whatever a busy machine made of the first attempt.
    wait_until(PATIENCE, || handover.http_get("/status").body.contains("asks for a certificate"));
}

#[test]
fn certificates_are_renewed_while_clients_stay() {
    let authority = Authority::new();
    let (_server, mut handover) = with_listener(&authority, "none");
    let config = authority.client_config(None);
    let address = handover.address();
    let connect = || TlsClient::connect(address, &config).expect("hands are shaken");
    let mut client = connect();
    let before = client.server_certificate();
    let expiry = |handover: &Handover| {
        handover.metric("handover_certificate_expiry_timestamp_seconds", &[("certificate", "own")])
    };
    let expiry_before = expiry(&handover);

    authority.sign_for("handover", "127.0.0.1", 2048);
    handover.signal(Signal::HUP);
    wait_until(PATIENCE, || connect().server_certificate() != before);
    let renewed = connect().server_certificate();
    assert_eq!(client.command(&["SET", "k", "v"]), ok());
    wait_until(PATIENCE, || expiry(&handover) < expiry_before);

    handover.expect_warning("new certificates cannot be used");
    authority.write("handover", &std::fs::read_to_string(authority.ca()).unwrap(), "no key");
    let result = |result| handover.metric("handover_certificate_reloads_total", &[("result", result)]);
    wait_until(PATIENCE, || result("bad") > 0.0);
    assert_eq!(connect().server_certificate(), renewed);
    assert_eq!(client.command(&["GET", "k"]), bulk("v"));

    // Without a signal too.
    authority.sign_for("handover", "127.0.0.1", 2046);
    wait_until(PATIENCE, || connect().server_certificate() != renewed);
    wait_until(PATIENCE, || result("good") >= 2.0);
    assert_eq!(client.command(&["GET", "k"]), bulk("v"));
}

#[test]
fn only_certified_clients_pass_where_that_is_required() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (_server, handover) = with_listener(&authority, "required");
    handover.allow_warning("a client was closed before its first command");
    let ping = |own: Option<&Certificate>| {
        let mut client = TlsClient::connect(handover.address(), &authority.client_config(own))?;
        // The server's refusal may come only after the client's own handshake is done.
        client.send_command(&["PING"]);
        client.try_read_reply()
    };
    assert_eq!(ping(Some(&authority.sign("client"))).unwrap(), Value::Simple("PONG".to_owned()));
    ping(None).unwrap_err();
    ping(Some(&stranger.sign("client"))).unwrap_err();
    ping(Some(&authority.sign_for("late", "127.0.0.1", 2024))).unwrap_err();
    let refused = || handover.metric("handover_entries_refused_total", &[("reason", "tls")]);
    wait_until(PATIENCE, || refused() >= 3.0);
    let told = |line: &support::LogLine| line.text.contains("no certificate was shown, and one is required");
    handover.wait_for_log(told, PATIENCE);

    let (_server, optional) = with_listener(&authority, "optional");
    optional.allow_warning("a client was closed before its first command");
    let connect = |own: Option<&Certificate>| {
        let mut client = TlsClient::connect(optional.address(), &authority.client_config(own))?;
        client.send_command(&["PING"]);
        client.try_read_reply()
    };
    connect(None).unwrap();
    connect(Some(&authority.sign("client"))).unwrap();
    connect(Some(&stranger.sign("client"))).unwrap_err();
    wait_until(PATIENCE, || optional.metric("handover_entries_refused_total", &[("reason", "tls")]) >= 1.0);
}

#[test]
fn what_is_no_tls_is_closed_at_the_first_byte_and_silence_in_time() {
    let authority = Authority::new();
    let (_server, handover) = with_listener(&authority, "none");
    handover.expect_warning("speaks without TLS to a TLS listener");
    handover.allow_warning("a client was closed before its first command");
    let refused = |reason| handover.metric("handover_entries_refused_total", &[("reason", reason)]);
    let mut silent = RawClient::connect(handover.address());
    let mut halting = RawClient::connect(handover.address());
    halting.send(b"\x16\x03\x01");
    let mut clear = RawClient::connect(handover.address());
    clear.send(b"*");
    clear.expect_end();
    wait_until(PATIENCE, || refused("no_tls") >= 1.0);
    // A balancer that looks whether somebody listens is nothing to be told of.
    drop(RawClient::connect(handover.address()));
    wait_until(PATIENCE, || refused("gone") >= 1.0);
    silent.expect_end();
    halting.expect_end();
    wait_until(PATIENCE, || refused("late") >= 2.0);
    assert_eq!(handover.metric("handover_clients_accepted_total", &[]), 0.0);
    let mut client = TlsClient::connect(handover.address(), &authority.client_config(None)).expect("hands are shaken");
    assert_eq!(client.command(&["PING"]), Value::Simple("PONG".to_owned()));
}

#[test]
fn much_goes_both_ways_and_slow_readers_get_everything() {
    let authority = Authority::new();
    let secure = SecureServer::start(&authority, "east");
    let own = authority.sign("handover");
    // A server may take long for so much, and is not to be called silent for it.
    let patient = "[detector]\nhang_timeout = \"8s\"\nslow_timeout = \"9s\"\n";
    let backend = secure.backend("east", 1.0, &authority, &own);
    let configuration = listener(&authority, &own, "none") + &backend + TIMES + patient;
    let handover = alone(&configuration).start();
    let mut client = TlsClient::connect(handover.address(), &authority.client_config(None)).expect("hands are shaken");
    let value: Vec<u8> = (0..8 << 20).map(|index: u32| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert_eq!(client.command(&[b"SET".as_slice(), b"large", &value]), ok());
    assert_eq!(client.command(&["GET", "large"]), bulk(&value));
    let part = &value[..200_000];
    assert_eq!(client.command(&[b"SET".as_slice(), b"part", part]), ok());
    for _ in 0..100 {
        client.send_command(&["GET", "part"]);
        client.send_command(&["INCR", "n"]);
    }
    // More waits now than sockets and limits take.
    let mut other = TlsClient::connect(handover.address(), &authority.client_config(None)).expect("hands are shaken");
    assert_eq!(other.command(&["PING"]), Value::Simple("PONG".to_owned()));
    for count in 1..=100 {
        assert_eq!(client.read_reply(), bulk(part));
        assert_eq!(client.read_reply(), Value::Integer(count));
    }
    client.send_command(&["QUIT"]);
    assert_eq!(client.read_reply(), ok());
    client.try_read_reply().unwrap_err();
}

#[track_caller]
fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
    output
}

#[test]
fn clients_of_others_shake_hands() {
    let authority = Authority::new();
    let (_server, handover) = with_listener(&authority, "required");
    let own = authority.sign("client");
    let (ca, cert, key) = (shown(&authority.ca()), shown(&own.cert), shown(&own.key));
    let port = handover.port().to_string();
    let secure = ["-p", &port, "--tls", "--cacert", &ca, "--cert", &cert, "--key", &key];
    let said = run("redis-cli", &[&secure, ["SET", "k", "v"].as_slice()].concat());
    assert_eq!(String::from_utf8_lossy(&said.stdout), "OK\n");

    let script = format!(
        r#"
import redis
for protocol in (2, 3):
    client = redis.Redis(host="127.0.0.1", port={port}, ssl=True, ssl_ca_certs={ca:?}, ssl_certfile={cert:?}, ssl_keyfile={key:?},
                         protocol=protocol, socket_timeout=10)
    assert client.get("k") == b"v"
    with client.pipeline() as pipe:
        pipe.watch("k")
        pipe.multi()
        pipe.incr("n")
        pipe.get("k")
        assert pipe.execute()[1] == b"v"
"#
    );
    run(&python().display().to_string(), &["-c", &script]);
}

/// A Handover that believes PROXY headers from 127.0.0.0/8, or from elsewhere only.
fn behind_a_balancer(sources: &str, tls: &str) -> (RedisServer, HandoverBuilder) {
    let server = RedisServer::start();
    let configuration = format!(
        "[[listener]]\nbind = \"127.0.0.1:0\"\nproxy_protocol = \"require\"\nproxy_sources = [{sources:?}]\n{tls}{}",
        plain_backend(&server)
    );
    (server, alone(&configuration))
}

#[track_caller]
fn address_of(reply: Value) -> String {
    let Value::Bulk(line) = reply else { panic!("{reply:?}") };
    let line = String::from_utf8(line).expect("addresses are text");
    line.split(' ')
        .filter(|field| field.starts_with("addr=") || field.starts_with("laddr="))
        .collect::<Vec<_>>()
        .join(" ")
}

const VERSION_2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x10\xc0\x00\x02\x01\xc6\x33\x64\x07\xdc\x04\x18\xeb\x03\x00\x01\x00";

#[test]
fn the_client_behind_a_balancer_is_seen() {
    let (_server, builder) = behind_a_balancer("127.0.0.0/8", "");
    let handover = builder.start();
    for (header, expected) in [
        (
            b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 6379\r\n".as_slice(),
            "addr=192.0.2.1:56324 laddr=198.51.100.7:6379",
        ),
        (b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n", "addr=[2001:db8::1]:1 laddr=[2001:db8::2]:2"),
        (VERSION_2, "addr=192.0.2.1:56324 laddr=198.51.100.7:6379"),
    ] {
        let mut client = handover.client();
        // In two pieces, with the command right behind it.
        client.send(&header[..5]);
        client.send([&header[5..], b"*2\r\n$6\r\nCLIENT\r\n$4\r\nINFO\r\n"].concat());
        assert_eq!(address_of(client.read_reply()), expected);
    }
    let mut checked = handover.client();
    checked.send(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00*2\r\n$6\r\nCLIENT\r\n$4\r\nINFO\r\n");
    let seen = address_of(checked.read_reply());
    assert!(seen.starts_with("addr=127.0.0.1:"), "{seen}");
}

#[test]
fn who_sends_no_header_or_may_not_is_closed() {
    let (_server, builder) = behind_a_balancer("127.0.0.0/8", "");
    let handover = builder.start();
    handover.expect_warning("its PROXY header is neither version 1 nor version 2");
    let mut client = handover.client();
    client.send(b"*1\r\n$4\r\nPING\r\n");
    client.expect_end();
    wait_until(PATIENCE, || handover.metric("handover_entries_refused_total", &[("reason", "proxy_header")]) >= 1.0);

    let (_server, builder) = behind_a_balancer("192.0.2.0/24", "");
    let handover = builder.start();
    handover.expect_warning("its address is not in proxy_sources");
    let mut client = handover.client();
    client.send(b"PROXY TCP4 192.0.2.1 198.51.100.7 1 2\r\n*1\r\n$4\r\nPING\r\n");
    client.expect_end();
    wait_until(PATIENCE, || handover.metric("handover_entries_refused_total", &[("reason", "proxy_source")]) >= 1.0);
}

#[test]
fn tls_comes_behind_the_proxy_header() {
    let authority = Authority::new();
    let tls = format!("tls = {{ {} }}\n", authority.sign("handover").toml());
    let (_server, builder) = behind_a_balancer("127.0.0.1", &tls);
    let handover = builder.start();
    let config = authority.client_config(None);
    let mut client = TlsClient::connect_after(handover.address(), VERSION_2, &config).expect("hands are shaken");
    assert_eq!(address_of(client.command(&["CLIENT", "INFO"])), "addr=192.0.2.1:56324 laddr=198.51.100.7:6379");
}

/// What `handover check` says of a file.
fn check(text: &str) -> String {
    let sources = handover::config::Sources {
        text: Some(text.to_owned()),
        environment: vec![("STATE_DIRECTORY".to_owned(), "/var/lib/handover".to_owned())],
        ..handover::config::Sources::default()
    };
    let found = handover::cli::check::finding(&sources);
    found.output + &found.errors
}

#[test]
fn check_reads_the_files_and_says_which_does_not_fit() {
    let authority = Authority::new();
    let (own, other) = (authority.sign("own"), authority.sign("other"));
    let (ca, cert, key) = (shown(&authority.ca()), shown(&own.cert), shown(&own.key));
    let backend = "[[backend]]\nname = \"a\"\nurl = \"redis://h\"\n";
    let of_listener =
        |tls: &str| check(&format!("[[listener]]\nbind = \"0.0.0.0:6390\"\ntls = {{ {tls} }}\n{backend}"));
    let good = of_listener(&format!("cert = {cert:?}, key = {key:?}, ca = {ca:?}, client_auth = \"required\""));
    assert!(good.contains("listener 0.0.0.0:6390, TLS\n"), "{good}");
    for (tls, expected) in [
        (format!("cert = {cert:?}, key = {key:?}, ca = {ca:?}, client_auth = \"optional\""), "is beyond loopback"),
        (
            format!("cert = {cert:?}, key = {key:?}, ca = {ca:?}"),
            "tls.client_auth: must be \"optional\" or \"required\"",
        ),
        (format!("cert = {cert:?}, key = {key:?}, client_auth = \"required\""), "tls.ca: is needed"),
        (format!("cert = {cert:?}, key = {:?}", other.key), "is not the key of the certificate in tls.cert"),
        (format!("cert = {key:?}, key = {key:?}"), "has no certificate (PEM)"),
        (format!("cert = {cert:?}, key = {cert:?}"), "has no private key (PEM, without a passphrase)"),
    ] {
        let said = of_listener(&tls);
        assert!(said.contains(expected), "{tls}: {said}");
    }
    let old = authority.sign_for("old", "x", 2024);
    let said = of_listener(&format!("{}, ca = {ca:?}, client_auth = \"required\"", old.toml()));
    assert!(said.contains("warning: listener[0].tls.cert: expired on 2024-01-01"), "{said}");

    let listener = "[[listener]]\nbind = \"127.0.0.1:6390\"\n";
    for (lines, expected) in [
        (
            format!("url = \"rediss://h\"\ntls = {{ ca = {ca:?}, {} }}", own.toml()),
            "backend a at h:6379, TLS, weight 1",
        ),
        (format!("url = \"rediss://h\"\ntls = {{ ca = {ca:?}, cert = {cert:?} }}"), "tls.key: is needed"),
        (format!("url = \"rediss://h\"\ntls = {{ ca = {key:?} }}"), "has no certificate (PEM)"),
        (
            format!("url = \"rediss://h\"\nhealth_check_url = \"redis://h\"\ntls = {{ ca = {ca:?} }}"),
            "health_check_url: must begin with rediss://",
        ),
    ] {
        let said = check(&format!("{listener}[[backend]]\nname = \"a\"\n{lines}\n"));
        assert!(said.contains(expected), "{lines}: {said}");
    }
}

#[test]
fn the_commands_of_the_readme_make_certificates_that_work() {
    let readme = std::fs::read_to_string(support::root().join("README.md")).unwrap();
    let section = readme.split("\n## TLS\n").nth(1).expect("a section on TLS");
    let commands = section.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("its commands");
    let folder = tempfile::tempdir().unwrap();
    let made = Command::new("sh").args(["-ec", commands]).current_dir(folder.path()).output().expect("a shell");
    assert!(made.status.success(), "{made:?}");
    let file = |name: &str| shown(&folder.path().join(name));
    let port = ReservedPort::take();
    let server = RedisServer::builder()
        .directive(&format!("tls-port {}", port.number()))
        .directive(&format!("tls-cert-file {}", file("redis.crt")))
        .directive(&format!("tls-key-file {}", file("redis.key")))
        .directive(&format!("tls-ca-cert-file {}", file("ca.crt")))
        .start();
    let shown_files = section.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("its file");
    let configuration = shown_files
        .replace(":6390", ":0")
        .replace("rediss://:password@127.0.0.1:7443", &format!("rediss://{}", port.address()));
    let mut configuration = configuration;
    for name in ["handover.crt", "handover.key", "ca.crt"] {
        configuration = configuration.replace(&format!("\"{name}\""), &format!("{:?}", file(name)));
    }
    let handover = alone(&configuration).start();
    let (ca, cert, key) = (file("ca.crt"), file("client.crt"), file("client.key"));
    let at = handover.port().to_string();
    let said =
        run("redis-cli", &["-p", &at, "--tls", "--cacert", &ca, "--cert", &cert, "--key", &key, "SET", "k", "v"]);
    assert_eq!(String::from_utf8_lossy(&said.stdout), "OK\n");
    assert_eq!(server.command(&["GET", "k"]), bulk("v"));
}
