//! What a server says of itself and of what it copies, read from `INFO`.

use std::time::Duration;

/// What the backends of a group copy from each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replication {
    /// Nothing that Handover would know of.
    #[default]
    None,
    /// A master's writes go to its replicas.
    OneWay,
    /// Writes to any reach all (Active-Active).
    BothWays,
}

/// How a group uses that one of its backends replicates another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicationSettings {
    /// What the backends copy from each other.
    pub replication: Replication,
    /// A replica is promoted when it is to become the active.
    pub promotes: bool,
    /// How long a promotion may take, from the order to a clean health check.
    pub promote_timeout: Duration,
    /// A planned switch to a replica of the active waits until it has all that the active has.
    pub waits: bool,
}

impl Default for ReplicationSettings {
    fn default() -> Self {
        Self { replication: Replication::None, promotes: false, promote_timeout: Duration::from_secs(5), waits: true }
    }
}

/// What a server is in its replication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It takes writes.
    Master,
    /// It copies from another.
    Replica,
}

/// What a server says of itself, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Changes with every start of the process; empty where it is not told.
    pub run_id: String,
    /// What it is.
    pub role: Role,
    /// Names the history of writes that it is in.
    pub replication_id: String,
    /// The history that this one continues, if it continues one.
    pub second_replication_id: Option<String>,
    /// How far in that history it is, in bytes: for a replica, what it has applied.
    pub offset: u64,
    /// Keys of all databases.
    pub keys: Option<u64>,
    /// Where it copies from, as it sees it: `host:port`.
    pub replicates: Option<String>,
    /// Its link to its master is up.
    pub is_linked: bool,
    /// It receives a whole copy, so what it has is not complete.
    pub is_syncing: bool,
}

impl Facts {
    /// Reads the text of `INFO server`, `INFO replication` and `INFO keyspace`, one after another.
    /// `None`: the text says nothing of replication.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let role = match field(text, "role")? {
            "master" => Role::Master,
            "slave" => Role::Replica,
            _ => return None,
        };
        let offset = match role {
            Role::Master => "master_repl_offset",
            Role::Replica => "slave_repl_offset",
        };
        let host = field(text, "master_host").zip(field(text, "master_port"));
        Some(Self {
            run_id: field(text, "run_id").unwrap_or_default().to_owned(),
            role,
            replication_id: field(text, "master_replid")?.to_owned(),
            second_replication_id: field(text, "master_replid2").filter(|id| is_history(id)).map(str::to_owned),
            offset: field(text, offset)?.parse().ok()?,
            keys: keys(text),
            replicates: host.map(|(host, port)| format!("{host}:{port}")),
            is_linked: field(text, "master_link_status") == Some("up"),
            is_syncing: field(text, "master_sync_in_progress") == Some("1") || field(text, "loading") == Some("1"),
        })
    }

    /// Whether it is in the history of that name, or continues it.
    #[must_use]
    pub fn continues(&self, replication_id: &str) -> bool {
        self.replication_id == replication_id || self.second_replication_id.as_deref() == Some(replication_id)
    }

    /// It is a replica whose copy is whole and whose link is up.
    #[must_use]
    pub fn is_whole_replica(&self) -> bool {
        self.role == Role::Replica && self.is_linked && !self.is_syncing
    }
}

/// The line `name:value` of an `INFO` reply.
#[must_use]
pub fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Forty zeros stand for "none".
fn is_history(id: &str) -> bool {
    id.bytes().any(|byte| byte != b'0')
}

/// `# Keyspace` is there even if it lists no database; without it nothing is known.
fn keys(text: &str) -> Option<u64> {
    let (_, keyspace) = text.split_once("# Keyspace")?;
    let of_line = |line: &str| line.strip_prefix("db")?.split_once(":keys=")?.1.split(',').next()?.parse::<u64>().ok();
    Some(keyspace.lines().filter_map(of_line).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASTER: &str = "# Server\r\nrun_id:aa\r\n# Replication\r\nrole:master\r\nconnected_slaves:1\r\n\
        master_replid:d2a3\r\nmaster_replid2:0000\r\nmaster_repl_offset:140\r\n\
        # Keyspace\r\ndb0:keys=3,expires=0,avg_ttl=0\r\ndb7:keys=4,expires=1,avg_ttl=9\r\n";
    const REPLICA: &str = "# Replication\r\nrole:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:6379\r\n\
        master_link_status:up\r\nmaster_sync_in_progress:0\r\nslave_read_repl_offset:141\r\nslave_repl_offset:140\r\n\
        master_replid:d2a3\r\nmaster_replid2:beef\r\nmaster_repl_offset:999\r\n";

    #[test]
    fn a_master_tells_its_history() {
        let facts = Facts::parse(MASTER).unwrap();
        assert_eq!((facts.role, facts.run_id.as_str(), facts.offset, facts.keys), (Role::Master, "aa", 140, Some(7)));
        assert_eq!((facts.second_replication_id.as_deref(), facts.replicates.as_deref()), (None, None));
        assert!(facts.continues("d2a3") && !facts.continues("0000") && !facts.is_whole_replica());
        let empty = MASTER.replace("db0:", "xx").replace("db7:", "xx");
        assert_eq!(Facts::parse(&empty).unwrap().keys, Some(0));
    }

    #[test]
    fn a_replica_tells_what_it_has_applied_and_from_whom() {
        let facts = Facts::parse(REPLICA).unwrap();
        assert_eq!((facts.role, facts.offset, facts.keys), (Role::Replica, 140, None));
        assert_eq!(facts.replicates.as_deref(), Some("10.0.0.1:6379"));
        assert!(facts.is_whole_replica() && facts.continues("beef"));
        let down = REPLICA.replace("status:up", "status:down");
        assert!(!Facts::parse(&down).unwrap().is_whole_replica());
        let syncing = REPLICA.replace("in_progress:0", "in_progress:1");
        assert!(!Facts::parse(&syncing).unwrap().is_whole_replica());
    }

    #[test]
    fn what_is_no_such_text_says_nothing() {
        for text in ["", "role:master", "role:sentinel\r\nmaster_replid:a\r\nmaster_repl_offset:1", "\u{0}\n:\n"] {
            assert_eq!(Facts::parse(text), None, "{text}");
        }
        assert_eq!(Facts::parse(&MASTER.replace("offset:140", "offset:-1")), None);
    }
}
