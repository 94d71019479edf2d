//! What commands go through: nothing, Handover in several forms, and other proxies, each with one thread for the data.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use tempfile::TempDir;

use crate::support::{self, Authority, Certificate, Handover, Process, RedisServer, ReservedPort, holds_within};

const START_MAX: Duration = Duration::from_secs(10);
/// Connections to Redis from everybody.
const REDIS_CLIENTS_MAX: u32 = 18_000;
/// Connections to Handover; the peers get theirs in their own configurations.
const CLIENTS_MAX: u32 = 12_000;
const NAMES: &str = "direct, handover, workers-2, bare, all-on, backends-1, backends-16, hub, other, haproxy, nutcracker, \
                     envoy, envoy-tcp";
/// Backends beside the active one.
const STANDBY_ONLY: usize = 1;
const ONE_WORKER: &str = "[runtime]\nworkers = 1\n";
/// Without HTTP, console, probes in the measured time, and what the detector can do without.
const BARE: &str = "[runtime]\nworkers = 1\n[admin]\nhttp = \"\"\nconsole = \"\"\n\
                    [health]\ninterval = \"1h\"\nstandby_interval = \"1h\"\n\
                    [detector]\nlatency_factor = 0.0\ntimeout_rate = 0.0\n";
const HUB: &str = "[runtime]\nworkers = 1\n[pubsub]\nmode = \"hub\"\n";
/// How often the metrics are fetched where everything is on.
const SCRAPE_INTERVAL: Duration = Duration::from_secs(1);

/// Redis, its standby, and an authority whose certificates the proxies show.
pub struct Backends {
    pub redis: RedisServer,
    pub standby: RedisServer,
    /// What a client with TLS trusts.
    pub client_config: Arc<ClientConfig>,
    certificate: Certificate,
    /// Its folder has the files.
    _authority: Authority,
}

/// Something that speaks the protocol at an address.
pub struct System {
    pub name: String,
    pub address: SocketAddr,
    pub tls_address: Option<SocketAddr>,
    /// The proxy's process; the direct connection has none.
    pub pid: Option<u32>,
    running: Running,
}

#[expect(dead_code, reason = "held until the end, when dropping ends the processes")]
enum Running {
    Nothing,
    Handover(Box<Handover>, Vec<RedisServer>),
    Peer(Process, Vec<ReservedPort>, TempDir),
}

impl Backends {
    pub fn start() -> Self {
        let redis = || RedisServer::builder().directive(&format!("maxclients {REDIS_CLIENTS_MAX}")).start();
        let authority = Authority::new();
        let certificate = authority.sign("proxy");
        let client_config = authority.client_config(None);
        Self { redis: redis(), standby: redis(), client_config, certificate, _authority: authority }
    }

    pub fn version(&self) -> String {
        let information = self.redis.command(&["INFO", "server"]).text();
        let line = information.lines().find_map(|line| line.strip_prefix("redis_version:"));
        line.unwrap_or("?").trim().to_owned()
    }
}

impl System {
    /// Starts what has that name on the command line; `Err` says why it is left out.
    pub fn start(name: &str, backends: &Backends, other: Option<&str>) -> Result<Self, String> {
        match name {
            "direct" => Ok(Self::direct(backends)),
            "handover" => Ok(Self::handover(name, backends, &support::program(), ONE_WORKER, STANDBY_ONLY)),
            "workers-2" => {
                Ok(Self::handover(name, backends, &support::program(), "[runtime]\nworkers = 2\n", STANDBY_ONLY))
            }
            "bare" => Ok(Self::handover(name, backends, &support::program(), BARE, STANDBY_ONLY)),
            "all-on" => Ok(Self::handover(name, backends, &support::program(), ONE_WORKER, STANDBY_ONLY).scraped()),
            "backends-1" => Ok(Self::handover(name, backends, &support::program(), ONE_WORKER, 0)),
            "backends-16" => Ok(Self::handover(name, backends, &support::program(), ONE_WORKER, 15)),
            "hub" => Ok(Self::handover(name, backends, &support::program(), HUB, STANDBY_ONLY)),
            "other" => {
                let program = other.ok_or("no program given with --program")?;
                Ok(Self::handover(name, backends, program, ONE_WORKER, STANDBY_ONLY))
            }
            "haproxy" => Self::haproxy(backends, &program_of("haproxy")?),
            "nutcracker" => Self::nutcracker(backends, &program_of("nutcracker")?),
            "envoy" => Self::envoy(name, backends, &program_of("envoy")?, REDIS_FILTER),
            "envoy-tcp" => Self::envoy(name, backends, &program_of("envoy")?, TCP_FILTER),
            _ => Err(format!("no such system; there are {NAMES}")),
        }
    }

    fn direct(backends: &Backends) -> Self {
        let address = backends.redis.address();
        Self { name: "direct".to_owned(), address, tls_address: None, pid: None, running: Running::Nothing }
    }

    /// With so many more backends than the one that is active.
    fn handover(name: &str, backends: &Backends, program: &str, settings: &str, others: usize) -> Self {
        let more: Vec<RedisServer> = (1..others).map(|_| RedisServer::start()).collect();
        let standbys = std::iter::once(&backends.standby).chain(&more).take(others);
        let backend = |name: &str, address: SocketAddr, weight: f64| {
            format!("[[backend]]\nname = \"{name}\"\nurl = \"redis://{address}\"\nweight = {weight:.1}\n")
        };
        let names = std::iter::once("west".to_owned()).chain((2..).map(|number| format!("west-{number}")));
        let standbys: String =
            standbys.zip(names).map(|(server, name)| backend(&name, server.address(), 1.0)).collect();
        let configuration = format!(
            "{settings}\n[limits]\nclients = {CLIENTS_MAX}\npin_wait = \"10s\"\n\
             [[listener]]\nbind = \"127.0.0.1:0\"\n[[listener]]\nbind = \"127.0.0.1:0\"\ntls = {{ {} }}\n{}{standbys}",
            backends.certificate.toml(),
            backend("east", backends.redis.address(), 2.0),
        );
        let handover = Handover::builder(&configuration).program(program).allow_warning("").start();
        Self {
            name: name.to_owned(),
            address: handover.address(),
            tls_address: handover.addresses().get(1).copied(),
            pid: Some(handover.pid()),
            running: Running::Handover(Box::new(handover), more),
        }
    }

    /// Its metrics are fetched every second, for as long as it runs.
    fn scraped(self) -> Self {
        if let Some(handover) = self.running_handover() {
            let address = handover.http_address();
            std::thread::spawn(move || {
                while fetch_metrics(address).is_ok() {
                    std::thread::sleep(SCRAPE_INTERVAL);
                }
            });
        }
        self
    }

    /// Handover's own process, if it is that.
    pub fn running_handover(&self) -> Option<&Handover> {
        match &self.running {
            Running::Handover(handover, _) => Some(handover),
            Running::Nothing | Running::Peer(..) => None,
        }
    }

    fn haproxy(backends: &Backends, program: &str) -> Result<Self, String> {
        let (port, tls_port) = (ReservedPort::take(), ReservedPort::take());
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let pair = folder.path().join("pair.pem");
        let pem = [&backends.certificate.cert, &backends.certificate.key].map(|file| read(file)).concat();
        write(&pair, &pem)?;
        let configuration = format!(
            "global\n  nbthread 1\n  maxconn 9000\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  \
             timeout server 1h\nlisten redis\n  bind {}\n  bind {} ssl crt {}\n  server east {} check\n",
            port.address(),
            tls_port.address(),
            pair.display(),
            backends.redis.address()
        );
        let file = folder.path().join("haproxy.cfg");
        write(&file, &configuration)?;
        let process = Process::start(program, &["-db", "-f", text(&file)], |_| {});
        Self::peer("haproxy", process, vec![port, tls_port], folder)
    }

    fn nutcracker(backends: &Backends, program: &str) -> Result<Self, String> {
        let (port, statistics) = (ReservedPort::take(), ReservedPort::take());
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let file = folder.path().join("nutcracker.yml");
        let configuration = format!(
            "bench:\n  listen: {}\n  redis: true\n  hash: fnv1a_64\n  distribution: ketama\n  backlog: 1024\n  \
             servers:\n   - {}:1\n",
            port.address(),
            backends.redis.address()
        );
        write(&file, &configuration)?;
        // Its statistics have a port of their own, which can't be left out.
        let statistics_port = statistics.number().to_string();
        drop(statistics);
        let log = folder.path().join("log");
        let arguments = ["-c", text(&file), "-a", "127.0.0.1", "-s", &statistics_port, "-o", text(&log)];
        let process = Process::start(program, &arguments, |_| {});
        Self::peer("nutcracker", process, vec![port], folder)
    }

    fn envoy(name: &str, backends: &Backends, program: &str, filter: &str) -> Result<Self, String> {
        let port = ReservedPort::take();
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let file = folder.path().join("envoy.json");
        let endpoint = |address: SocketAddr| {
            format!(r#"{{"socket_address":{{"address":"{}","port_value":{}}}}}"#, address.ip(), address.port())
        };
        let configuration = ENVOY
            .replace("LISTEN", &endpoint(port.address()))
            .replace("REDIS", &endpoint(backends.redis.address()))
            .replace("FILTER", filter);
        write(&file, &configuration)?;
        let arguments = ["-c", text(&file), "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"];
        let process = Process::start(program, &arguments, |_| {});
        Self::peer(name, process, vec![port], folder)
    }

    /// Returns when it can be connected to. Its first port is plain, its second one TLS.
    fn peer(name: &str, process: Process, ports: Vec<ReservedPort>, folder: TempDir) -> Result<Self, String> {
        let address = ports[0].address();
        if !holds_within(START_MAX, || TcpStream::connect(address).is_ok()) {
            return Err(format!("it does not listen; it said: {}", process.output()));
        }
        Ok(Self {
            name: name.to_owned(),
            address,
            tls_address: ports.get(1).map(ReservedPort::address),
            pid: Some(process.pid()),
            running: Running::Peer(process, ports, folder),
        })
    }
}

fn fetch_metrics(address: SocketAddr) -> std::io::Result<usize> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    stream.read_to_end(&mut Vec::new())
}

/// Asks `peers.sh`, which gets what is missing.
fn program_of(peer: &str) -> Result<String, String> {
    let script = support::root().join("benches/peers.sh");
    let line = crate::common::first_line(Command::new(script).arg(peer));
    match line.split_once(' ') {
        Some((_, program)) if program.starts_with('/') => Ok(program.to_owned()),
        _ => Err(line),
    }
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

fn write(file: &Path, content: &str) -> Result<(), String> {
    std::fs::write(file, content).map_err(|error| format!("{}: {error}", file.display()))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder's path is UTF-8")
}

const ENVOY: &str = r#"{
  "static_resources": {
    "listeners": [{ "address": LISTEN, "filter_chains": [{ "filters": [FILTER] }] }],
    "clusters": [{
      "name": "redis", "type": "STATIC", "connect_timeout": "5s",
      "circuit_breakers": { "thresholds": [{
        "max_connections": 1000000, "max_pending_requests": 1000000, "max_requests": 1000000
      }] },
      "load_assignment": {
        "cluster_name": "redis",
        "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": REDIS } }] }]
      }
    }]
  }
}"#;

const REDIS_FILTER: &str = r#"{
  "name": "envoy.filters.network.redis_proxy",
  "typed_config": {
    "@type": "type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy",
    "stat_prefix": "redis", "settings": { "op_timeout": "20s" },
    "prefix_routes": { "catch_all_route": { "cluster": "redis" } }
  }
}"#;

const TCP_FILTER: &str = r#"{
  "name": "envoy.filters.network.tcp_proxy",
  "typed_config": {
    "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    "stat_prefix": "tcp", "cluster": "redis"
  }
}"#;
