//! The tables.

use crate::figures::{Figures, OTHERS_MAX, Shape};
use crate::targets;

impl Shape {
    /// As a person says it.
    pub fn title(&self) -> String {
        let size = if self.bytes < 1_024 { format!("{} B", self.bytes) } else { format!("{} KiB", self.bytes / 1_024) };
        let clients = if self.clients == 1 { "1 client".to_owned() } else { format!("{} clients", self.clients) };
        format!("{} {size}, {clients}, pipeline {}", self.work, self.pipeline)
    }
}

/// What the table of rates shows, or what is only kept.
const OF_RATES: [&str; 19] = [
    "rate",
    "rate_0",
    "rate_1",
    "rate_2",
    "pace",
    "p50_us",
    "p99_us",
    "p999_us",
    "proxy_us",
    "redis_us",
    "load_us",
    "proxy_cores",
    "redis_cores",
    "load_cores",
    "others",
    "kib_before",
    "kib_with_clients",
    "proxy",
    "redis",
];

/// Everything measured, then the targets.
pub fn print(figures: &Figures) {
    println!(
        "\nMedians of the rounds in which others used at most {OTHERS_MAX} cores, or of all if these were too few."
    );
    for row in figures.rows() {
        println!("\n### {row}");
        let shapes = figures.shapes(&row);
        let is_special = |shape: &&Shape| figures.names(shape).iter().any(|name| !OF_RATES.contains(&name.as_str()));
        let has_rate = |shape: &&Shape| figures.names(shape).iter().any(|name| name == "rate");
        print_rates(figures, &shapes.iter().filter(has_rate).collect::<Vec<_>>());
        print_special(figures, &shapes.iter().filter(is_special).collect::<Vec<_>>());
    }
    targets::print(figures);
}

fn print_rates(figures: &Figures, shapes: &[&Shape]) {
    if shapes.is_empty() {
        return;
    }
    println!(
        "\n| load | system | commands/s | of direct | CPU µs a command: proxy | Redis | load | p50 ms | p99 ms \
         | p99.9 ms | cores: proxy | Redis | load | others | rounds |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for shape in shapes {
        for system in figures.systems(shape) {
            print_system(figures, shape, &system);
        }
    }
}

/// What is no rate, by its own names.
fn print_special(figures: &Figures, shapes: &[&Shape]) {
    if shapes.is_empty() {
        return;
    }
    println!("\n| what | system | found | rounds |\n|---|---|---|---|");
    for shape in shapes {
        for system in figures.systems(shape) {
            let names = figures.names(shape).into_iter().filter(|name| !OF_RATES.contains(&name.as_str()));
            let shown = |name: String| Some(format!("{name} {:.2}", figures.value(shape, &system, &name)?));
            let found: Vec<String> = names.filter_map(shown).collect();
            let all = figures.counts(shape, &system).1;
            println!("| {} × {} | {system} | {} | {all} |", shape.clients, shape.work, found.join(", "));
        }
    }
}

fn print_system(figures: &Figures, shape: &Shape, system: &str) {
    let value = |name: &str, digits: usize| number(figures.value(shape, system, name), digits);
    let ms = |name: &str| number(figures.value(shape, system, name).map(|us| us / 1e3), 3);
    let ratio = number(figures.ratio(shape, system, "rate", "direct"), 2);
    let (kept, all) = figures.counts(shape, system);
    let proxy = |name: &str| if system == "direct" { "–".to_owned() } else { value(name, 2) };
    println!(
        "| {} | {system} | {} | {ratio} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {kept}/{all} |",
        shape.title(),
        value("rate", 0),
        proxy("proxy_us"),
        value("redis_us", 2),
        value("load_us", 2),
        ms("p50_us"),
        ms("p99_us"),
        ms("p999_us"),
        proxy("proxy_cores"),
        value("redis_cores", 2),
        value("load_cores", 2),
        value("others", 2),
    );
}

/// A dash when there is none.
pub fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("–".to_owned(), |value| format!("{value:.digits$}"))
}
