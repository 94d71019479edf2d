//! Real Redis servers: started on a port of their own, killed, stopped, continued and restarted at will.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::process::{Process, Signal};
use super::{PATIENCE, RawClient, ReservedPort, Value, find_on_path, holds_within, root, wait_until};

/// A running, stopped or killed server. Nothing is persisted: a restart begins empty.
pub struct RedisServer {
    port: ReservedPort,
    folder: TempDir,
    password: Option<String>,
    process: Process,
}

/// How a server is to be started.
#[derive(Default)]
pub struct RedisServerBuilder {
    password: Option<String>,
    directives: Vec<String>,
}

impl RedisServer {
    /// Starts a server without password on a free port; it answers PING when this returns.
    #[track_caller]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// For anything else.
    pub fn builder() -> RedisServerBuilder {
        RedisServerBuilder::default()
    }

    /// The TCP port, the same after every restart.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The TCP address.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The Unix socket, if it was asked for.
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// A new connection straight to it, authenticated if it has a password.
    #[track_caller]
    pub fn client(&self) -> RawClient {
        let mut client = RawClient::connect(self.address());
        if let Some(password) = &self.password {
            assert_eq!(client.command(&["AUTH", password]), Value::ok());
        }
        client
    }

    /// One command straight to it, on a connection of its own.
    #[track_caller]
    pub fn command(&self, arguments: &[&str]) -> Value {
        self.client().command(arguments)
    }

    /// SIGKILL: connections are reset or closed by the kernel, new ones refused.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGSTOP: connections stay open, new ones are accepted by the kernel, nothing is answered.
    /// It has stopped when this returns.
    #[track_caller]
    pub fn stop(&mut self) {
        self.process.signal(Signal::STOP);
        wait_until(PATIENCE, || self.process.is_stopped());
    }

    /// SIGCONT: goes on where it was stopped, with what had reached its sockets meanwhile.
    pub fn cont(&mut self) {
        self.process.signal(Signal::CONT);
    }

    /// Starts again on the same port, empty; kills the old process first if it still runs.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        self.process = launch(self.folder.path());
        self.wait_for_pong();
    }

    #[track_caller]
    fn wait_for_pong(&mut self) {
        let ready = holds_within(PATIENCE, || self.process.exit_status().is_some() || self.answers_ping());
        let status = self.process.exit_status();
        assert!(ready && status.is_none(), "redis-server did not start ({status:?}):\n{}", self.process.output());
    }

    fn answers_ping(&self) -> bool {
        let Ok(stream) = std::net::TcpStream::connect(self.address()) else { return false };
        drop(stream);
        self.command(&["PING"]) == Value::Simple("PONG".to_owned())
    }
}

impl RedisServerBuilder {
    /// `requirepass`; the harness's own commands authenticate with it.
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self.directive(&format!("requirepass {password}"))
    }

    /// An ACL user, as after `ACL SETUSER`: `"alice on >secret ~* &* +@all"`.
    pub fn user(self, rules: &str) -> Self {
        self.directive(&format!("user {rules}"))
    }

    /// Listens on [`RedisServer::socket`] too.
    pub fn unix_socket(self) -> Self {
        self.directive("unixsocket redis.sock")
    }

    /// A replica of the server at `master`.
    pub fn replica_of(self, master: SocketAddr) -> Self {
        self.directive(&format!("replicaof {} {}", master.ip(), master.port()))
    }

    /// Any other line of `redis.conf`.
    pub fn directive(mut self, line: &str) -> Self {
        self.directives.push(line.to_owned());
        self
    }

    /// Starts it; it answers PING when this returns.
    #[track_caller]
    pub fn start(self) -> RedisServer {
        let port = ReservedPort::take();
        let folder = tempfile::Builder::new().prefix("handover-redis-").tempdir().expect("a temporary folder");
        let fixed = ["bind 127.0.0.1", "save \"\"", "appendonly no", "repl-diskless-sync-delay 0", "daemonize no"];
        let mut configuration = format!("port {}\ndir {}\n", port.number(), folder.path().display());
        for line in fixed.into_iter().chain(self.directives.iter().map(String::as_str)) {
            configuration.push_str(line);
            configuration.push('\n');
        }
        std::fs::write(folder.path().join("redis.conf"), configuration).expect("a file in a fresh folder");
        let process = launch(folder.path());
        let mut server = RedisServer { port, folder, password: self.password, process };
        server.wait_for_pong();
        server
    }
}

#[track_caller]
fn launch(folder: &Path) -> Process {
    let program = server_program();
    Process::start(program.to_str().expect("a path in UTF-8"), &["redis.conf"], |command| {
        command.current_dir(folder);
    })
}

/// `$REDIS_SERVER`, else `redis-server` of the PATH, else the link that `test.sh` makes.
#[track_caller]
fn server_program() -> PathBuf {
    std::env::var_os("REDIS_SERVER")
        .map(PathBuf::from)
        .or_else(|| find_on_path("redis-server"))
        .or_else(|| Some(root().join("tests/.tools/redis-server")).filter(|path| path.exists()))
        .expect("no redis-server: run ./test.sh once, or name one in $REDIS_SERVER")
}
