//! Real Redis servers: found, started, filled, killed, started again, and counted out at the end.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use socket2::{Domain, Socket, Type};

use super::clients::{COUNTERS, QUEUE, counter_key, texts};
use super::ledger::{Life, Memory};
use super::process::{Folder, Process, Starter, on_path};
use super::wire::{Connection, Reply, loopback, number, request, text};

const START_TIMEOUT: Duration = Duration::from_secs(10);

const POLL: Duration = Duration::from_millis(5);

const STARTS_MAX: usize = 5;

/// A server, dead or alive, with its port.
pub(super) struct Server {
    /// Its name as a backend.
    pub(super) name: &'static str,
    /// Its port, always the same.
    pub(super) port: u16,
    /// Its present life, or the last one.
    pub(super) life: Life,
    process: Process,
    /// Holds the port.
    _held: Option<Socket>,
}

/// Finds a Redis server.
pub(super) fn program(folder: &Folder) -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("REDIS_SERVER") {
        let named = PathBuf::from(named);
        let found = if named.components().count() == 1 { on_path(&named.to_string_lossy()) } else { None };
        let found = found.or_else(|| std::path::absolute(&named).ok());
        return found
            .filter(|path| path.is_file())
            .ok_or_else(|| anyhow!("there is no program at {}, which $REDIS_SERVER names", named.display()));
    }
    if let Some(found) = on_path("redis-server") {
        return Ok(found);
    }
    let Some(same) = on_path("redis-check-rdb") else {
        bail!(
            "the demo needs a Redis server, and there is no redis-server on the PATH\n\
             install one (Debian, Ubuntu: apt install redis-tools; macOS: brew install redis),\n\
             or name one: REDIS_SERVER=/path/to/redis-server handover demo"
        );
    };
    // The same program: it is a server if its name says so.
    let link = folder.path.join("redis-server");
    std::os::unix::fs::symlink(&same, &link).with_context(|| format!("cannot make a link to {}", same.display()))?;
    Ok(link)
}

impl Server {
    /// Starts one on a free port.
    pub(super) fn start(
        starter: &Starter,
        program: &Path,
        folder: &Folder,
        name: &'static str,
        life: Life,
    ) -> Result<Self> {
        let mut last = anyhow!("no port was tried");
        // Where a port cannot be held, somebody may take it in between.
        for _ in 0..STARTS_MAX {
            let (port, held) = take_port().context("there is no free port on 127.0.0.1")?;
            match launch(starter, program, folder, port, life) {
                Ok(process) => return Ok(Self { name, port, life, process, _held: held }),
                Err(error) => last = error,
            }
        }
        Err(last).with_context(|| format!("cannot start the Redis server for {name} ({})", program.display()))
    }

    /// Starts it again on its port, in a new life.
    pub(super) fn restart(&mut self, starter: &Starter, program: &Path, folder: &Folder, life: Life) -> Result<()> {
        self.process.kill();
        self.process = launch(starter, program, folder, self.port, life)
            .with_context(|| format!("cannot start the Redis server for {} again", self.name))?;
        self.life = life;
        Ok(())
    }

    /// kill -9.
    pub(super) fn kill(&mut self) {
        self.process.kill();
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// It has not ended.
    pub(super) fn lives(&mut self) -> bool {
        self.process.lives()
    }

    /// What stands in its memory, read past Handover; `None`: it is dead.
    pub(super) fn memory(&mut self) -> Result<Option<Memory>> {
        if !self.lives() {
            return Ok(None);
        }
        let memory = read_memory(self.port, self.life);
        memory.map(Some).with_context(|| format!("cannot read what {} has", self.name))
    }
}

/// Takes a port by a socket that never listens: a server can share it, and while it is dead nobody else gets it.
fn take_port() -> io::Result<(u16, Option<Socket>)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&loopback(0).into())?;
    let address = socket.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    // Elsewhere a server cannot share it; there, a port that was free a moment ago has to do.
    let held = cfg!(target_os = "linux").then_some(socket);
    Ok((address.port(), held))
}

fn launch(starter: &Starter, program: &Path, folder: &Folder, port: u16, life: Life) -> Result<Process> {
    let mut process = starter.start(program, |command| {
        command
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .args(["--daemonize", "no", "--logfile", ""])
            .current_dir(&folder.path)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
    })?;
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        let lives = process.lives();
        match greet(port, process.pid()).and_then(|mut connection| fill(&mut connection, life)) {
            Ok(()) => return Ok(process),
            Err(error) if !lives => return Err(error).with_context(|| format!("it ended at once (port {port})")),
            Err(error) if Instant::now() > deadline => return Err(error).context("it does not answer"),
            Err(_) => std::thread::sleep(POLL),
        }
    }
}

/// Connects to the server of that process: on its port may be somebody else's, which is to be left alone.
fn greet(port: u16, pid: u32) -> io::Result<Connection> {
    let mut connection = Connection::open(loopback(port))?;
    let info = connection.ask(&[request(&["INFO", "server"])])?;
    match info.first().and_then(text).and_then(|info| process_id(&info)) {
        Some(found) if found == pid => Ok(connection),
        _ => Err(io::Error::other(format!("another server answers on port {port}"))),
    }
}

/// Gives a server what the clients expect to find.
fn fill(connection: &mut Connection, life: Life) -> io::Result<()> {
    let counters = (0..COUNTERS).map(|index| (counter_key(index), life.zero().to_string()));
    let all = texts().map(|text| (text.clone(), text)).chain(counters);
    let requests: Vec<_> = all.map(|(key, value)| request(&["SET", &key, &value])).collect();
    let replies = connection.ask(&requests)?;
    let error = replies.iter().find_map(|reply| if let Reply::Error(error) = reply { Some(error) } else { None });
    error.map_or(Ok(()), |error| Err(io::Error::other(error.to_string())))
}

fn process_id(info: &str) -> Option<u32> {
    info.lines().find_map(|line| line.strip_prefix("process_id:"))?.trim().parse().ok()
}

fn read_memory(port: u16, life: Life) -> Result<Memory> {
    let mut connection = Connection::open(loopback(port))?;
    let gets: Vec<_> = (0..COUNTERS).map(|index| request(&["GET", &counter_key(index)])).collect();
    let values = connection.ask(&gets)?;
    let count = |reply: &Reply| number(reply).and_then(|value| value.checked_sub(life.zero()));
    let counters: Option<Vec<u64>> = values.iter().map(count).collect();
    let counters = counters.context("a counter is missing, or smaller than it was at the start")?;
    let queue = connection.ask(&[request(&["LRANGE", QUEUE, "0", "-1"])])?;
    let Some(Reply::Array(elements)) = queue.first() else { bail!("the list cannot be read") };
    // The element that ends the demo is a word.
    let queued = elements.iter().filter(|element| number(element).is_some()).count() as u64;
    Ok(Memory { counters, queued })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_id_is_found() {
        assert_eq!(process_id("# Server\r\nredis_version:7\r\nprocess_id:4711\r\ntcp_port:1\r\n"), Some(4711));
        assert_eq!(process_id("# Server\r\n"), None);
    }
}
