//! What is measured: rows of the table of targets, each with the shapes of load that it is about.

use std::sync::Arc;

use crate::common::Options;
use crate::figures::Shape;
use crate::load::{Group, Rhythm};
use crate::special::Special;
use crate::systems::{Backends, System};
use crate::work::Kind;

/// 64 bytes unless said: clients, pipeline, bytes.
const THROUGHPUT: [(usize, usize, usize); 8] = [
    (50, 1, 64),
    (500, 1, 64),
    (2_000, 1, 64),
    (50, 16, 64),
    (50, 64, 64),
    (50, 1, 1_024),
    (50, 16, 1_024),
    (50, 16, 16_384),
];
const ROWS: &str = "throughput,latency,cores,memory,pins,mixed,tls,burst,switch,features,growth";
/// Those that everybody is measured with.
const EVERYBODY: [&str; 7] = ["direct", "handover", "other", "haproxy", "nutcracker", "envoy", "envoy-tcp"];

/// One shape of load and who is measured with it.
pub struct Cell {
    pub shape: Shape,
    pub task: Task,
    systems: Vec<&'static str>,
}

/// How a cell is measured.
#[derive(Clone, PartialEq)]
pub enum Task {
    /// Groups of clients, by their kinds of work.
    Load {
        groups: Vec<(Kind, usize)>,
        is_paced: bool,
        is_tls: bool,
    },
    Special(Special),
}

/// Everything that a run measures.
pub struct Plan {
    pub cells: Vec<Cell>,
    pub rounds: usize,
    pub seconds: f64,
    systems: Option<String>,
}

impl Plan {
    /// What the command line asks for; without any cell, what was measured before is only shown.
    pub fn of(options: &Options) -> Self {
        let is_quick = options.get("quick", "no".to_owned()) != "no";
        let rows = options.get("rows", ROWS.to_owned());
        let cells = rows.split(',').filter(|row| *row != "none").flat_map(|row| cells_of(row, options)).collect();
        let systems = options.get("systems", String::new());
        Self {
            cells,
            rounds: options.get("rounds", if is_quick { 3 } else { 7 }),
            seconds: options.get("seconds", if is_quick { 0.25 } else { 0.5 }),
            systems: (!systems.is_empty()).then_some(systems),
        }
    }

    /// Whether a system was asked for, or none was.
    pub fn wants(&self, system: &str) -> bool {
        self.systems.as_ref().is_none_or(|wanted| wanted.split(',').any(|name| name == system))
    }

    /// The systems that stay for the whole run: those of any load.
    pub fn systems(&self) -> Vec<&'static str> {
        let mut systems = Vec::new();
        for cell in self.cells.iter().filter(|cell| !matches!(cell.task, Task::Special(_))) {
            for &system in &cell.systems {
                if !systems.contains(&system) && self.wants(system) {
                    systems.push(system);
                }
            }
        }
        systems
    }
}

impl Cell {
    fn load(row: &str, kind: Kind, (clients, pipeline, bytes): (usize, usize, usize)) -> Self {
        let shape = Shape { row: row.to_owned(), work: kind.name().to_owned(), clients, pipeline, bytes };
        let task = Task::Load { groups: vec![(kind, clients)], is_paced: false, is_tls: false };
        Self { shape, task, systems: EVERYBODY.to_vec() }
    }

    fn special(row: &str, special: Special, clients: usize, systems: &[&'static str]) -> Self {
        let shape = Shape { row: row.to_owned(), work: special.name().to_owned(), clients, pipeline: 1, bytes: 64 };
        Self { shape, task: Task::Special(special), systems: systems.to_vec() }
    }

    fn only(self, systems: &[&'static str]) -> Self {
        Self { systems: systems.to_vec(), ..self }
    }

    fn named(mut self, work: &str) -> Self {
        self.shape.work = work.to_owned();
        self
    }

    fn paced(mut self) -> Self {
        self.shape.work.push_str(" at half load");
        if let Task::Load { is_paced, .. } = &mut self.task {
            *is_paced = true;
        }
        self
    }

    fn with_tls(mut self) -> Self {
        self.shape.work.push_str(" with TLS");
        if let Task::Load { is_tls, .. } = &mut self.task {
            *is_tls = true;
        }
        self
    }

    fn with(mut self, kind: Kind, clients: usize) -> Self {
        self.shape.clients += clients;
        if let Task::Load { groups, .. } = &mut self.task {
            groups.push((kind, clients));
        }
        self
    }

    /// Connections that it needs.
    pub fn sockets(&self) -> usize {
        if self.task == Task::Special(Special::Channels) { 1 } else { self.shape.clients }
    }

    /// The systems that are measured with it.
    pub fn systems(&self) -> &[&'static str] {
        &self.systems
    }

    /// Whether steps go out at moments fixed in advance.
    pub fn is_paced(&self) -> bool {
        matches!(self.task, Task::Load { is_paced: true, .. })
    }

    /// The clients, for one system; none for what isn't a load.
    pub fn groups(&self, system: &System, backends: &Backends, rhythm: Rhythm) -> Result<Vec<Group>, String> {
        let Task::Load { groups, is_tls, .. } = &self.task else { return Ok(Vec::new()) };
        let address = if *is_tls { system.tls_address } else { Some(system.address) };
        let address = address.ok_or_else(|| "no TLS".to_owned())?;
        let tls = is_tls.then(|| Arc::clone(&backends.client_config));
        let group = |&(kind, clients): &(Kind, usize)| {
            let works = kind.works(clients, self.shape.pipeline, self.shape.bytes);
            Group { address, clients, works, rhythm, tls: tls.clone() }
        };
        Ok(groups.iter().map(group).collect())
    }
}

fn cells_of(row: &str, options: &Options) -> Vec<Cell> {
    let ours = ["handover", "other"];
    match row {
        "throughput" => {
            let kinds = kinds(options);
            shapes(options).flat_map(|shape| kinds.iter().map(move |&kind| Cell::load(row, kind, shape))).collect()
        }
        "latency" => vec![Cell::load(row, Kind::Get, (1, 1, 64)), Cell::load(row, Kind::Mixed, (50, 1, 64)).paced()],
        "cores" => [(50, 1, 64), (500, 1, 64), (50, 16, 64)]
            .map(|shape| Cell::load(row, Kind::Mixed, shape).only(&["direct", "handover", "workers-2"]))
            .into(),
        "memory" => vec![
            Cell::special(row, Special::Idle, 10_000, &["handover", "other", "nutcracker", "envoy"]),
            Cell::special(
                row,
                Special::Idle,
                2_000,
                &["handover", "other", "haproxy", "nutcracker", "envoy", "envoy-tcp"],
            ),
            Cell::special(row, Special::LargeValue, 1, &["handover", "other", "haproxy"]),
        ],
        "pins" => [Kind::Transaction, Kind::BlockingPop, Kind::Script]
            .map(|kind| {
                Cell::load(row, kind, (50, 1, 64)).only(&["direct", "handover", "other", "haproxy", "envoy-tcp"])
            })
            .into(),
        "mixed" => mixed(row).map(|cell| cell.only(&["direct", "handover", "other"])).into(),
        "tls" => [1, 16]
            .into_iter()
            .flat_map(|pipeline| [Kind::Set, Kind::Get].map(|kind| Cell::load(row, kind, (50, pipeline, 64))))
            .map(|cell| cell.with_tls().only(&["handover", "other", "haproxy"]))
            .collect(),
        "burst" => vec![Cell::special(row, Special::Burst, 10_000, &["direct", "handover", "other"])],
        "switch" => vec![
            Cell::special(row, Special::PlannedSwitch, 10_000, &ours),
            Cell::special(row, Special::ForcedSwitch, 10_000, &ours),
            Cell::special(row, Special::PinnedSwitch, 500, &ours),
        ],
        "features" => [(50, 1, 64), (50, 16, 64)]
            .map(|shape| Cell::load(row, Kind::Mixed, shape).only(&["bare", "all-on"]))
            .into(),
        "growth" => growth(row),
        _ => panic!("--rows {row}: there are {ROWS}, and none"),
    }
}

/// Each kind of work alone, then both with subscribers beside them.
fn mixed(row: &str) -> [Cell; 3] {
    let both = Cell::load(row, Kind::Mixed, (90, 1, 64)).with(Kind::Transaction, 10).with(Kind::Subscriber, 1_000);
    [
        Cell::load(row, Kind::Mixed, (100, 1, 64)),
        Cell::load(row, Kind::Transaction, (100, 1, 64)),
        both.named("90 SET+GET, 10 MULTI, 1,000 subscribers"),
    ]
}

fn growth(row: &str) -> Vec<Cell> {
    let clients = [50, 500, 2_000, 10_000];
    let mut cells: Vec<Cell> =
        clients.map(|clients| Cell::load(row, Kind::Get, (clients, 1, 64)).only(&["handover", "other"])).into();
    let backends = [1, 16].map(|pipeline| Cell::load(row, Kind::Mixed, (50, pipeline, 64)));
    cells.extend(backends.map(|cell| cell.only(&["backends-1", "backends-16"])));
    cells.extend([1, 10_000, 1_000_000].map(|channels| Cell::special(row, Special::Channels, channels, &["hub"])));
    cells
}

fn kinds(options: &Options) -> Vec<Kind> {
    let kind = |name: &str| match name {
        "set" => Kind::Set,
        "get" => Kind::Get,
        "mixed" => Kind::Mixed,
        _ => panic!("--kinds {name}: there are set, get and mixed"),
    };
    options.get("kinds", "set,get".to_owned()).split(',').map(kind).collect()
}

/// Those of the targets, or every combination of what is given.
fn shapes(options: &Options) -> impl Iterator<Item = (usize, usize, usize)> {
    let list = |name: &str, otherwise: &str| -> Vec<usize> {
        let given = options.get(name, otherwise.to_owned());
        given.split(',').map(|number| number.parse().unwrap_or_else(|_| panic!("--{name} {number}?"))).collect()
    };
    let is_given = ["clients", "pipelines", "bytes"].iter().any(|name| !options.get(name, String::new()).is_empty());
    let (clients, pipelines, bytes) = (list("clients", "50"), list("pipelines", "1"), list("bytes", "64"));
    let mut shapes = if is_given { Vec::new() } else { THROUGHPUT.to_vec() };
    if is_given {
        for &clients in &clients {
            for &pipeline in &pipelines {
                shapes.extend(bytes.iter().map(|&bytes| (clients, pipeline, bytes)));
            }
        }
    }
    shapes.into_iter()
}
