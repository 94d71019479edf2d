//! Holds the command table equal to its data, to the contract's classes, and to a running server.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use handover::command::table::{self, AclCategories, Answered, Class, Command, Flags, Pinned};

const TSV: &str = include_str!("../src/command/commands.tsv");

/// The rows of the committed data, by column.
fn rows() -> Vec<BTreeMap<&'static str, &'static str>> {
    let mut lines = TSV.lines().filter(|line| !line.starts_with('#'));
    let header: Vec<&str> = lines.next().unwrap().split('\t').collect();
    let row = |line: &'static str| {
        let fields: Vec<&str> = line.split('\t').collect();
        assert_eq!(fields.len(), header.len(), "{line}");
        header.iter().copied().zip(fields).collect()
    };
    lines.map(row).collect()
}

/// `pinned:field-sets`, `WriteLastWins`, `Pinned(FieldSets)` without what tells the spellings apart.
fn letters(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphabetic).map(|letter| letter.to_ascii_lowercase()).collect()
}

fn set_of(field: &str) -> BTreeSet<&str> {
    field.split(',').filter(|name| *name != "-").collect()
}

#[test]
fn the_code_says_what_the_data_says() {
    let rows = rows();
    assert_eq!(rows.len(), table::all().len());
    for (row, command) in rows.iter().zip(table::all()) {
        let name = command.name;
        assert_eq!(row["name"], name);
        assert_eq!(row["arity"], command.arity.to_string(), "{name}");
        assert_eq!(set_of(row["flags"]), command.flags.names().collect(), "{name}");
        assert_eq!(set_of(row["categories"]), command.categories.names().collect(), "{name}");
        let keys = (row["first_key"], row["last_key"], row["step"]);
        let (first, last, step) = command.keys;
        assert_eq!(keys, (&*first.to_string(), &*last.to_string(), &*step.to_string()), "{name}");
        assert_eq!(letters(row["class"]), letters(&format!("{:?}", command.class)), "{name}");
        assert_eq!(letters(row["retry"]), letters(&format!("{:?}", command.retry)), "{name}");
        assert_eq!(row["blind"], u8::from(command.blind).to_string(), "{name}");
        assert_eq!(row["slow"], u8::from(command.slow).to_string(), "{name}");
    }
}

#[test]
fn every_name_stands_once() {
    let mut seen = BTreeSet::new();
    for command in table::all() {
        assert!(seen.insert(command.name), "{} stands twice", command.name);
        assert_eq!(command.name, command.name.to_ascii_lowercase());
    }
}

#[test]
fn subcommands_stand_in_their_container() {
    let of_containers: Vec<&str> =
        table::all().iter().flat_map(Command::subcommands).map(|command| command.name).collect();
    let with_a_bar: Vec<&str> =
        table::all().iter().map(|command| command.name).filter(|name| name.contains('|')).collect();
    assert_eq!(of_containers, with_a_bar);
    for container in table::all().iter().filter(|command| command.is_container()) {
        for subcommand in container.subcommands() {
            assert_eq!(subcommand.name.split_once('|').unwrap().0, container.name);
        }
    }
}

#[test]
fn key_positions_are_possible() {
    for command in table::all() {
        let (first, last, step) = command.keys;
        let words = command.arity.unsigned_abs();
        if first == 0 {
            assert_eq!((last, step), (0, 0), "{}", command.name);
            continue;
        }
        let name_words = 1 + i16::from(command.name.contains('|'));
        // A key that may be left out (SUNSUBSCRIBE) comes right after the words that may not.
        let first_max = if command.arity < 0 { words } else { words - 1 };
        assert!(i16::from(first) >= name_words && u16::try_from(first).unwrap() <= first_max, "{}", command.name);
        assert!(step >= 1 && (last >= first || last < 0), "{}", command.name);
    }
}

/// The shared class of the contract in its own words: no such flag, not of a connection; and what it names.
#[test]
fn a_lane_takes_what_leaves_nothing_behind_and_nothing_else() {
    const NAMED_SHARED: [&str; 5] = ["echo", "acl|cat", "acl|genpass", "publish", "spublish"];
    const SHARED_FAMILIES: [&str; 2] = ["pubsub", "command"];
    const BLOCK_BY_OPTION: [&str; 3] = ["xread", "xreadgroup", "ts.read"];
    const STATEFUL: Flags = Flags::NOSCRIPT.and(Flags::BLOCKING).and(Flags::PUBSUB).and(Flags::ADMIN);
    const NAMED_ELSEWHERE: [&str; 19] = [
        "acl",
        "client",
        "cluster",
        "config",
        "slowlog",
        "latency",
        "memory",
        "commandlog",
        "hotkeys",
        "backup",
        "script",
        "function",
        "module",
        "himport",
        "migrate",
        "swapdb",
        "replicaof",
        "slaveof",
        "failover",
    ];
    for command in table::all().iter().filter(|command| command.class != Class::Closed) {
        let family = command.name.split('|').next().unwrap();
        let leaves_state = command.flags.has(STATEFUL) || command.categories.has(AclCategories::CONNECTION);
        let named = NAMED_SHARED.contains(&command.name) || SHARED_FAMILIES.contains(&family);
        let expected =
            named || BLOCK_BY_OPTION.contains(&command.name) || (!leaves_state && !NAMED_ELSEWHERE.contains(&family));
        assert_eq!(command.class == Class::Shared, expected, "{} is {:?}", command.name, command.class);
    }
}

#[test]
fn the_refused_are_those_of_the_contract() {
    const REFUSED: [&str; 12] = [
        "debug",
        "failover",
        "migrate",
        "module",
        "psync",
        "replconf",
        "replicaof",
        "script|debug",
        "shutdown",
        "slaveof",
        "swapdb",
        "sync",
    ];
    let refused: BTreeSet<&str> = table::all()
        .iter()
        .filter(|command| command.class == Class::Refused && !command.name.starts_with("module|"))
        .map(|command| command.name)
        .collect();
    assert_eq!(refused, REFUSED.into());
}

#[test]
fn each_answer_of_our_own_has_one_command() {
    let mut by_answer: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for command in table::all() {
        if let Class::Answered(answered) = command.class {
            by_answer.entry(format!("{answered:?}")).or_default().push(command.name);
        }
    }
    let cluster = by_answer.remove(&format!("{:?}", Answered::Cluster)).unwrap();
    let outside = ["asking", "readonly", "readwrite"];
    assert!(cluster.iter().all(|name| name.split('|').next() == Some("cluster") || outside.contains(name)));
    for (answer, names) in &by_answer {
        assert_eq!(names.len(), 1, "{answer}: {names:?}");
        assert_eq!(letters(answer), letters(names[0]));
    }
    assert_eq!(by_answer.len(), 29);
}

#[test]
fn every_blocking_command_blocks_on_a_pin_or_looks_for_its_option() {
    for command in table::all().iter().filter(|command| command.flags.has(Flags::BLOCKING)) {
        let expected = match command.name {
            "wait" | "waitaof" => Class::Pinned(Pinned::Wait),
            "xread" | "xreadgroup" | "ts.read" => Class::Shared,
            _ => Class::Pinned(Pinned::Blocking),
        };
        assert_eq!(command.class, expected, "{}", command.name);
    }
}

/// What came with Redis 7.4 to 8.10 and Valkey 8.0 to 9.1, and what is done with it at a fault. A category that is too
/// safe costs a repeat; one that is not safe enough, data.
#[test]
fn commands_of_newer_servers_are_known_and_judged_on_the_safe_side() {
    use handover::command::retry::Category;
    const READS: &str = "httl hpttl hexpiretime hpexpiretime digest vsim vcard vdim vemb vgetattr vinfo vismember \
        vlinks vrandmember vrange sdiffcard sunioncard arget arlen json.get ft.search ft.aggregate ts.range ts.nrange \
        bf.exists cf.exists cms.query topk.list tdigest.quantile clusterscan";
    const CHECKED: &str = "delex delifeq";
    const LAST_WINS: &str = "hexpire hpexpire hexpireat hpexpireat hpersist hgetex hsetex msetex";
    const ACCUMULATING: &str = "hgetdel increx xdelex xackdel xnack xcfgset vadd vrem vsetattr json.numincrby \
        json.arrappend json.set ts.add ts.incrby bf.add bf.insert cf.add cf.del cms.incrby topk.add tdigest.add lmovem \
        arinsert arset";
    for (category, names) in [
        (Category::ReadOnly, READS),
        (Category::WriteChecked, CHECKED),
        (Category::WriteLastWins, LAST_WINS),
        (Category::WriteAccumulating, ACCUMULATING),
    ] {
        for name in names.split_whitespace() {
            let command = table::find_full(name).unwrap_or_else(|| panic!("{name} is not in the table"));
            assert_eq!(command.retry, category, "{name}");
            assert_eq!(command.class, Class::Shared, "{name}");
            assert_eq!(command.flags.has(Flags::WRITE), category != Category::ReadOnly, "{name}");
            assert!(!command.blind, "{name}");
        }
    }
    let own = "commandlog|get client|capa client|import-source script|show cluster|slot-stats hotkeys|start backup|start \
               himport|set blmovem";
    for name in own.split_whitespace() {
        let command = table::find_full(name).unwrap_or_else(|| panic!("{name} is not in the table"));
        assert_ne!(command.class, Class::Shared, "{name}");
    }
}

#[test]
fn the_running_server_has_no_command_that_the_table_lacks() {
    let server = Server::start();
    let names = server.command_names();
    assert!(names.len() > 300, "COMMAND named only {}", names.len());
    let missing: Vec<&String> = names.iter().filter(|name| table::find_full(name).is_none()).collect();
    assert!(missing.is_empty(), "not in the table, run scripts/command-table.py: {missing:?}");
}

/// A server on a Unix socket in a folder of its own, ended with the test.
struct Server {
    process: Child,
    folder: tempfile::TempDir,
}

impl Server {
    /// Debian's redis-tools has the server under the name of a tool; elsewhere it has its own.
    fn start() -> Self {
        let programs = ["/usr/bin/redis-server", "/usr/local/bin/redis-server", "/usr/bin/redis-check-rdb"];
        let program = programs.into_iter().find(|program| Path::new(program).exists());
        let program = program.expect("a Redis server is needed: install redis-tools or redis-server");
        let folder = tempfile::tempdir().unwrap();
        let server = folder.path().join("redis-server");
        symlink(program, &server).unwrap();
        let process = Process::new(server)
            .args(["--port", "0", "--save", "", "--unixsocket"])
            .arg(folder.path().join("socket"))
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, folder }
    }

    fn connect(&self) -> redis::Connection {
        let url = format!("redis+unix://{}", self.folder.path().join("socket").display());
        let client = redis::Client::open(url).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match client.get_connection() {
                Ok(connection) => return connection,
                Err(error) => assert!(Instant::now() < deadline, "the server did not start: {error}"),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Every command and subcommand of the server.
    fn command_names(&self) -> Vec<String> {
        let entries: Vec<redis::Value> = redis::cmd("COMMAND").query(&mut self.connect()).unwrap();
        entries.into_iter().flat_map(names_of_entry).collect()
    }
}

/// An entry of `COMMAND`: its name first, the entries of its subcommands tenth.
fn names_of_entry(entry: redis::Value) -> Vec<String> {
    let redis::Value::Array(fields) = entry else { panic!("COMMAND answered {entry:?}") };
    let mut names = vec![redis::from_redis_value::<String>(fields[0].clone()).unwrap()];
    if let Some(redis::Value::Array(subcommands)) = fields.get(9) {
        names.extend(subcommands.iter().cloned().flat_map(names_of_entry));
    }
    names
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
