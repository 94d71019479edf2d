//! Carries out what the machine orders of a replica: waiting until it has everything, and its promotion.

use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use redis_protocol::resp2::types::OwnedFrame;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::channels::BackendId;
use crate::config::{Address, Backend, Promote};
use crate::control::checks::command::{append_command, dial, printable, read_replies};
use crate::control::checks::program::{PASSED, Running};
use crate::control::now;
use crate::logic::failover::PromotionOrder;
use crate::logic::replication::{Facts, Role, field};
use crate::net::stream::Stream;
use crate::tls;

/// Between two questions how far a replica is.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// For one answer on a connection that stands.
const REPLY_MAX: Duration = Duration::from_secs(1);

/// What it takes to speak to one backend.
#[derive(Clone)]
pub(super) struct Server {
    pub(super) backend: Backend,
    pub(super) tls: Option<tls::Client>,
}

/// Does one order, and says how it went.
pub(super) async fn carry_out(
    order: PromotionOrder,
    to: Server,
    from: Option<Server>,
    by: Promote,
) -> (BackendId, Result<(), String>) {
    (order.backend, attempt(order, &to, from.as_ref(), &by).await)
}

async fn attempt(order: PromotionOrder, to: &Server, from: Option<&Server>, by: &Promote) -> Result<(), String> {
    if let (Some(limit), Some(from)) = (order.catch_up, from) {
        in_time(limit, catch_up(from, to)).await?;
    }
    let Some(limit) = order.promote else { return Ok(()) };
    match (by, from) {
        (Promote::Never, _) => Ok(()),
        (Promote::Program(path), _) => run(path, to, limit).await,
        (Promote::Command, None) => in_time(limit, take_over(to)).await,
        (Promote::Command, Some(from)) => hand_over(from, to, limit).await,
    }
}

async fn in_time(limit: Duration, work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    let late = || Err(format!("not done within {limit:?}"));
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| late())
}

/// Waits until the replica has applied all that its master had when this began.
async fn catch_up(from: &Server, to: &Server) -> Result<(), String> {
    let (mut master, mut replica) = (Conversation::open(from).await?, Conversation::open(to).await?);
    let wanted = master.facts().await?;
    loop {
        let now = replica.facts().await?;
        if now.continues(&wanted.replication_id) && !now.is_syncing && now.offset >= wanted.offset {
            return Ok(());
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// Forced: the replica is a master from now on, whatever its master does. Twice does no harm.
async fn take_over(to: &Server) -> Result<(), String> {
    let mut replica = Conversation::open(to).await?;
    accepted("REPLICAOF NO ONE", replica.ask(&["REPLICAOF", "NO", "ONE"]).await?)
}

/// Planned: the master itself lets no write in, waits for its replica, and becomes its replica.
async fn hand_over(from: &Server, to: &Server, limit: Duration) -> Result<(), String> {
    let deadline = now() + limit;
    let (mut master, mut replica) = (Conversation::open(from).await?, Conversation::open(to).await?);
    // Else the only replica that the master sees online may be another one.
    if !replica.facts().await?.is_whole_replica() {
        return Err("it is no replica with a whole copy and a link to its master now".to_owned());
    }
    let (host, port) = seen_by(&master.info().await?, &to.backend.address)?;
    let limit_ms = limit.as_millis().max(1).to_string();
    let reply = master.ask(&["FAILOVER", "TO", &host, &port, "TIMEOUT", &limit_ms]).await?;
    accepted("FAILOVER", reply)?;
    while now() < deadline {
        if replica.facts().await?.role == Role::Master {
            return Ok(());
        }
        let info = master.info().await?;
        let is_over = field(&info, "master_failover_state").is_none_or(|state| state == "no-failover");
        if is_over && field(&info, "role") == Some("master") {
            return Err("the master gave it up: see its log".to_owned());
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
    // It may have ended at this very moment; then there is nothing to end.
    let _ = master.ask(&["FAILOVER", "ABORT"]).await?;
    if replica.facts().await?.role == Role::Master {
        return Ok(());
    }
    Err(format!("not done within {limit:?}"))
}

/// The replica's address as its master sees it, which need not be ours.
fn seen_by(info: &str, address: &Address) -> Result<(String, String), String> {
    let part = |line: &str, name: &str| {
        let mut parts = line.split(',');
        parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('=').map(str::to_owned))
    };
    let lines =
        info.lines().filter_map(|line| line.strip_prefix("slave")?.split_once(':').map(|(_, rest)| rest.trim()));
    let online = lines.filter(|line| part(line, "state").as_deref() == Some("online"));
    let replicas: Vec<_> = online.filter_map(|line| part(line, "ip").zip(part(line, "port"))).collect();
    let is_same = |(host, port): &&(String, String)| match address {
        Address::Tcp(ours, our_port) => ours == host && our_port.to_string() == *port,
        Address::Unix(_) => false,
    };
    let same_port = |(_, port): &&(String, String)| match address {
        Address::Tcp(_, our_port) => our_port.to_string() == *port,
        Address::Unix(_) => false,
    };
    let only = |found: Vec<&(String, String)>| if let [one] = found.as_slice() { Some((*one).clone()) } else { None };
    only(replicas.iter().filter(is_same).collect())
        .or_else(|| only(replicas.iter().filter(same_port).collect()))
        .or_else(|| only(replicas.iter().collect()))
        .ok_or_else(|| format!("the master has {} replicas online and none with this address", replicas.len()))
}

/// `program NAME ADDRESS`; it ends with 0 once the backend is a master. When its time is over, it and all that it started
/// are ended.
async fn run(path: &Path, to: &Server, limit: Duration) -> Result<(), String> {
    let program = path.display();
    let mut command = Command::new(path);
    command.arg(&to.backend.name).arg(to.backend.address.to_string());
    // As with health checks: passwords may be among our own variables.
    command.env_clear().envs(PASSED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let child = command.spawn().map_err(|error| format!("cannot start {program}: {error}"))?;
    let mut running = Running { child };
    match tokio::time::timeout(limit, running.child.wait()).await {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(format!("{program} ended with {status}")),
        Ok(Err(error)) => Err(format!("{program}: {error}")),
        Err(_) => Err(format!("{program} did not end within {limit:?} and was killed")),
    }
}

fn accepted(what: &str, reply: OwnedFrame) -> Result<(), String> {
    match reply {
        OwnedFrame::SimpleString(_) => Ok(()),
        OwnedFrame::Error(line) => Err(format!("{what} refused: {}", printable(&line))),
        _ => Err(format!("unexpected reply to {what}")),
    }
}

/// One connection to a server, one command at a time.
struct Conversation {
    socket: Stream,
    name: String,
}

impl Conversation {
    async fn open(server: &Server) -> Result<Self, String> {
        let Server { backend, tls } = server;
        let dialled = tokio::time::timeout(backend.connect_timeout, dial(&backend.address, tls.as_ref())).await;
        let socket = dialled
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| format!("cannot connect to {}: {error}", backend.name))?;
        let mut conversation = Self { socket, name: backend.name.clone() };
        if let Some(credential) = &backend.credential {
            let username = credential.username.as_deref();
            let words: Vec<&str> = ["AUTH"].into_iter().chain(username).chain([credential.password.as_str()]).collect();
            accepted("AUTH", conversation.ask(&words).await?)?;
        }
        Ok(conversation)
    }

    async fn ask(&mut self, words: &[&str]) -> Result<OwnedFrame, String> {
        let mut bytes = Vec::with_capacity(128);
        append_command(&mut bytes, words);
        let exchange = async {
            self.socket.write_all(&bytes).await.map_err(|error| error.to_string())?;
            self.socket.flush().await.map_err(|error| error.to_string())?;
            read_replies(&mut self.socket, 1).await.map_err(|error| error.to_string())
        };
        let (mut replies, _) = match tokio::time::timeout(REPLY_MAX, exchange).await {
            Ok(exchanged) => exchanged.map_err(|error| format!("{}: {error}", self.name))?,
            Err(_) => return Err(format!("{}: no reply within {REPLY_MAX:?}", self.name)),
        };
        replies.pop().ok_or_else(|| format!("{}: no reply", self.name))
    }

    async fn info(&mut self) -> Result<String, String> {
        match self.ask(&["INFO", "replication"]).await? {
            OwnedFrame::BulkString(text) => Ok(String::from_utf8_lossy(&text).into_owned()),
            OwnedFrame::Error(line) => Err(format!("INFO refused: {}", printable(&line))),
            _ => Err("unexpected reply to INFO".to_owned()),
        }
    }

    async fn facts(&mut self) -> Result<Facts, String> {
        Facts::parse(&self.info().await?).ok_or_else(|| format!("{} does not say what it replicates", self.name))
    }
}

/// What the supervisor waits for beside all else; one at a time, as the machine orders one at a time.
pub(super) type Promoting = std::pin::Pin<Box<dyn Future<Output = (BackendId, Result<(), String>)> + Send>>;

/// The outcome of the order that is being carried out; never, if none is.
pub(super) async fn outcome(promoting: &mut Option<Promoting>) -> (BackendId, Result<(), String>) {
    match promoting {
        Some(order) => {
            let outcome = order.await;
            *promoting = None;
            outcome
        }
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_named_as_its_master_sees_it() {
        let info = "connected_slaves:3\r\nslave0:ip=10.0.0.2,port=6379,state=online,offset=14,lag=0\r\n\
            slave1:ip=10.0.0.3,port=6379,state=online,offset=14,lag=1\r\n\
            slave2:ip=10.0.0.4,port=7000,state=wait_bgsave,offset=0,lag=0\r\n";
        let tcp = |host: &str, port| Address::Tcp(host.to_owned(), port);
        let seen = |address: &Address| seen_by(info, address).map(|(host, port)| format!("{host}:{port}"));
        assert_eq!(seen(&tcp("10.0.0.3", 6379)).as_deref(), Ok("10.0.0.3:6379"));
        assert!(seen(&tcp("replica.example", 6379)).is_err(), "two have this port");
        assert!(seen(&tcp("10.0.0.4", 7000)).is_err(), "it is not online");
        let one = info.replace("port=6379,state=online,offset=14,lag=1", "port=6380,state=online");
        let seen = |address: &Address| seen_by(&one, address).map(|(host, port)| format!("{host}:{port}"));
        assert_eq!(seen(&tcp("replica.example", 6380)).as_deref(), Ok("10.0.0.3:6380"));
        let only = "slave0:ip=10.0.0.2,port=6379,state=online,offset=14,lag=0\r\n";
        assert!(seen_by(only, &Address::Unix("/run/redis.sock".into())).is_ok());
    }
}
