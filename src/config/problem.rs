//! What is wrong with a configuration: every problem at once, each with its path in the file.

use std::fmt;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where in the file (`backend[1].weight`, counted from 0); empty for the file as a whole.
    pub path: String,
    /// What was written there, as TOML; passwords are masked.
    pub value: Option<String>,
    /// The flag or variable that it came from, if not from the file.
    pub origin: Option<String>,
    /// What is wrong with it.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.path)?;
        if let Some(value) = &self.value {
            write!(formatter, " = {value}")?;
        }
        if let Some(origin) = &self.origin {
            let gap = if self.path.is_empty() { "" } else { " " };
            write!(formatter, "{gap}(from {origin})")?;
        }
        if !self.path.is_empty() || self.origin.is_some() {
            formatter.write_str(": ")?;
        }
        formatter.write_str(&self.message)
    }
}

/// Everything that is wrong with a configuration, one line each. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.list))]
pub struct Problems {
    /// The problems, roughly in the order of the file.
    pub list: Vec<Problem>,
}

impl Problems {
    /// The only problem: one of the file as a whole.
    pub(super) fn whole(message: String) -> Self {
        Self { list: vec![Problem { path: String::new(), value: None, origin: None, message }] }
    }
}

fn lines(list: &[Problem]) -> String {
    list.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
