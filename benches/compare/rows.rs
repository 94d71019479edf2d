//! What is measured: rows of the table of targets, each with the shapes of load that it is about.

use std::sync::Arc;

use crate::common::Options;
use crate::figures::Shape;
use crate::load::{Group, Rhythm};
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
const ROWS: &str = "throughput,latency,cores,pins,tls";

/// One shape of load and who is measured with it.
pub struct Cell {
    pub shape: Shape,
    pub is_paced: bool,
    kind: Kind,
    is_tls: bool,
    /// Empty: every system.
    systems: &'static [&'static str],
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
        let mut cells = Vec::new();
        for row in rows.split(',').filter(|row| *row != "none") {
            cells.extend(cells_of(row, options));
        }
        let systems = options.get("systems", String::new());
        Self {
            cells,
            rounds: options.get("rounds", if is_quick { 3 } else { 7 }),
            seconds: options.get("seconds", if is_quick { 0.25 } else { 0.5 }),
            systems: (!systems.is_empty()).then_some(systems),
        }
    }

    /// The names of the systems that any cell wants.
    pub fn systems(&self, has_other: bool) -> Vec<String> {
        let all = ["direct", "handover", "workers-2", "haproxy", "nutcracker", "envoy", "envoy-tcp"];
        let wanted: Vec<String> = match &self.systems {
            Some(names) => names.split(',').map(str::to_owned).collect(),
            None => all.iter().map(|name| (*name).to_owned()).collect(),
        };
        let other = has_other.then(|| "other".to_owned()).filter(|other| !wanted.contains(other));
        let is_used = |name: &String| self.cells.iter().any(|cell| cell.is_done_by(name));
        wanted.into_iter().chain(other).filter(is_used).collect()
    }
}

impl Cell {
    fn new(row: &str, kind: Kind, (clients, pipeline, bytes): (usize, usize, usize)) -> Self {
        let shape = Shape { row: row.to_owned(), work: kind.name().to_owned(), clients, pipeline, bytes };
        Self { shape, is_paced: false, kind, is_tls: false, systems: &[] }
    }

    fn only(self, systems: &'static [&'static str]) -> Self {
        Self { systems, ..self }
    }

    fn paced(mut self) -> Self {
        self.shape.work.push_str(" at half load");
        Self { is_paced: true, ..self }
    }

    fn with_tls(mut self) -> Self {
        self.shape.work.push_str(" with TLS");
        Self { is_tls: true, ..self }
    }

    /// Whether that system is measured with it.
    pub fn is_done_by(&self, system: &str) -> bool {
        if self.systems.is_empty() { system != "workers-2" } else { self.systems.contains(&system) }
    }

    /// The clients, for one system.
    pub fn groups(&self, system: &System, backends: &Backends, rhythm: Rhythm) -> Result<Vec<Group>, String> {
        let Shape { clients, pipeline, bytes, .. } = self.shape;
        let address = if self.is_tls { system.tls_address } else { Some(system.address) };
        let address = address.ok_or_else(|| "no TLS".to_owned())?;
        let tls = self.is_tls.then(|| Arc::clone(&backends.client_config));
        Ok(vec![Group { address, clients, works: self.kind.works(clients, pipeline, bytes), rhythm, tls }])
    }
}

fn cells_of(row: &str, options: &Options) -> Vec<Cell> {
    let with_pins: &[&str] = &["direct", "handover", "other", "haproxy", "envoy-tcp"];
    match row {
        "throughput" => {
            let kinds = kinds(options);
            shapes(options).flat_map(|shape| kinds.iter().map(move |&kind| Cell::new(row, kind, shape))).collect()
        }
        "latency" => vec![Cell::new(row, Kind::Get, (1, 1, 64)), Cell::new(row, Kind::Mixed, (50, 1, 64)).paced()],
        "cores" => {
            let systems: &[&str] = &["direct", "handover", "workers-2", "other"];
            [(50, 1, 64), (500, 1, 64), (50, 16, 64)]
                .into_iter()
                .map(|shape| Cell::new(row, Kind::Mixed, shape).only(systems))
                .collect()
        }
        "pins" => [Kind::Transaction, Kind::BlockingPop, Kind::Script]
            .into_iter()
            .map(|kind| Cell::new(row, kind, (50, 1, 64)).only(with_pins))
            .collect(),
        "tls" => [1, 16]
            .into_iter()
            .flat_map(|pipeline| [Kind::Set, Kind::Get].map(|kind| Cell::new(row, kind, (50, pipeline, 64))))
            .map(|cell| cell.with_tls().only(&["handover", "other", "haproxy"]))
            .collect(),
        _ => panic!("--rows {row}: there are {ROWS}, and none"),
    }
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
