//! The stored counts, and what is said when a count differs from them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::Command;

use crate::COMMAND;

/// What one case costs.
pub struct Count {
    pub case: String,
    /// Instructions per command, or per delivery.
    pub per_command: f64,
}

/// What the cases cost when their counts were last stored.
pub struct Bounds {
    /// Counts are of this processor and this compiler.
    built_by: String,
    counts: BTreeMap<String, f64>,
}

/// More than so much above the stored count fails …
const EXCESS_MAX: f64 = 0.05;
/// … with the compiler that the counts were stored for; another one may compile the same code to so much more.
const EXCESS_OF_COMPILER_MAX: f64 = 0.15;
/// So few instructions more are no excess, however short the case is.
const EXCESS_MIN: f64 = 5.0;
/// So much below the stored count, and the bound should follow.
const GAIN_TOLD: f64 = 0.1;

impl Bounds {
    /// Reads what is stored.
    ///
    /// # Errors
    /// Says what cannot be read, and what to do.
    pub fn load() -> Result<Self, String> {
        let path = path();
        let text = std::fs::read_to_string(&path)
            .map_err(|error| format!("reading {}: {error}; make it anew: {COMMAND} store", path.display()))?;
        let mut lines = text.lines();
        let built_by = lines.next().and_then(|line| line.strip_prefix("# ")).unwrap_or_default().to_owned();
        let counts = lines.map(|line| {
            let (case, count) = line.split_once('\t')?;
            Some((case.to_owned(), count.parse().ok()?))
        });
        let counts = counts.collect::<Option<_>>();
        let counts = counts.ok_or_else(|| format!("{} is damaged; make it anew: {COMMAND} store", path.display()))?;
        Ok(Self { built_by, counts })
    }

    /// # Errors
    /// Says which counts exceed their bounds, and what to do.
    pub fn judge(&self, counts: &[Count]) -> Result<(), String> {
        let building = built_by()?;
        if architecture(&self.built_by) != architecture(&building) {
            println!("\nNot compared: the bounds are those of {}, and this is {building}.", self.built_by);
            return Ok(());
        }
        let is_same = self.built_by == building;
        let excess_max = if is_same { EXCESS_MAX } else { EXCESS_OF_COMPILER_MAX };
        let mut problems = Vec::new();
        for Count { case, per_command } in counts {
            let Some(bound) = self.counts.get(case) else {
                problems.push(format!("{case} has no bound yet."));
                continue;
            };
            let allowed = (bound * (1.0 + excess_max)).max(bound + EXCESS_MIN);
            if *per_command > allowed {
                problems.push(format!(
                    "{case}: {per_command:.1} instructions a command, {:+.1} % of the {bound:.1} stored; at most {allowed:.1} \
                     are allowed. See where they go: {COMMAND} profile {case}",
                    change(*per_command, *bound)
                ));
            } else if *per_command < bound * (1.0 - GAIN_TOLD) {
                println!(
                    "\n{case} takes {:.0} % less than stored: store that, so that it stays so: {COMMAND} store",
                    -change(*per_command, *bound)
                );
            }
        }
        let gone = self.counts.keys().filter(|case| !counts.iter().any(|count| count.case == **case));
        problems.extend(gone.map(|case| format!("{case} is stored, but there is no such case.")));
        if !is_same {
            println!("\nThe bounds are those of {}, and this is {building}.", self.built_by);
        }
        if problems.is_empty() {
            return Ok(());
        }
        Err(format!(
            "the pure core costs more than it did:\n  {}\nIf that is the price of what was wanted, or of another \
             compiler, store the new counts and say so in the commit: {COMMAND} store",
            problems.join("\n  ")
        ))
    }
}

/// Stores counts as the bounds of the next time.
///
/// # Errors
/// Says what cannot be written.
pub fn store(counts: &[Count]) -> Result<(), String> {
    let mut text = format!("# {}\n", built_by()?);
    for Count { case, per_command } in counts {
        let _ = writeln!(text, "{case}\t{per_command:.1}");
    }
    std::fs::write(path(), text).map_err(|error| format!("writing {}: {error}", path().display()))
}

/// The counts as a table of Markdown.
pub fn table(counts: &[Count], bounds: Option<&Bounds>) -> String {
    let mut out = "| case | instructions a command | stored | change |\n|---|---|---|---|\n".to_owned();
    for Count { case, per_command } in counts {
        let stored = bounds.and_then(|bounds| bounds.counts.get(case));
        let (stored, change) = match stored {
            Some(stored) => (format!("{stored:.1}"), format!("{:+.1} %", change(*per_command, *stored))),
            None => ("–".to_owned(), "–".to_owned()),
        };
        let _ = writeln!(out, "| {case} | {per_command:.1} | {stored} | {change} |");
    }
    out
}

fn change(now: f64, before: f64) -> f64 {
    (now / before - 1.0) * 100.0
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("bounds.tsv")
}

/// `x86_64, rustc 1.95.0 …`
fn built_by() -> Result<String, String> {
    let asked = Command::new("rustc").arg("--version").output();
    let version = asked.map_err(|error| format!("asking rustc for its version: {error}"))?;
    Ok(format!("{}, {}", std::env::consts::ARCH, String::from_utf8_lossy(&version.stdout).trim()))
}

fn architecture(built_by: &str) -> &str {
    built_by.split(',').next().unwrap_or_default()
}
