//! Walks a parsed file, table by table: what is taken is checked, what is wrong is noted, what is left is unknown.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use toml::{Table, Value};

use super::address::without_password;
use super::problem::Problem;
use super::values::{format_duration, parse_duration, parse_size, size_of};

/// The names a key may take, each with its meaning; `None`: planned, and refused until it works.
pub(super) type Choices<T> = [(&'static str, Option<T>)];

/// What was found so far, over all tables.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<String>,
    /// Paths whose value came from a flag or a variable, and from which.
    pub(super) origins: BTreeMap<String, String>,
    /// Every path that was asked for and can be written: the schema, as far as this file led to it.
    pub(super) keys: BTreeSet<String>,
}

impl Notes {
    /// Notes a problem at `path`.
    pub(super) fn problem(&mut self, path: &str, value: Option<String>, message: impl Into<String>) {
        let origin = self.origin(path).cloned();
        self.problems.push(Problem { path: path.to_owned(), value, origin, message: message.into() });
    }

    /// Notes something that is allowed and may surprise.
    pub(super) fn warn(&mut self, path: &str, message: &str) {
        self.warnings.push(format!("{path}: {message}"));
    }

    /// The flag or variable that gave `path`, or the whole table that it is in.
    fn origin(&self, path: &str) -> Option<&String> {
        let table = path.rsplit_once('.').map_or("", |(table, _)| table);
        self.origins.get(path).or_else(|| self.origins.get(table))
    }
}

/// One table of the file. Keys are taken out of it; [`Section::finish`] refuses the rest.
pub(super) struct Section<'n> {
    path: String,
    table: Table,
    known: Vec<&'static str>,
    pub(super) notes: &'n mut Notes,
}

impl<'n> Section<'n> {
    pub(super) fn new(path: String, table: Table, notes: &'n mut Notes) -> Self {
        Self { path, table, known: Vec::new(), notes }
    }

    /// The path of `key` in this table.
    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Notes a problem at `key`.
    pub(super) fn problem(&mut self, key: &str, value: Option<String>, message: impl Into<String>) {
        let path = self.path_of(key);
        self.notes.problem(&path, value, message);
    }

    /// Reads `key` with `parse`; `None` if it is not there, or wrong, which is noted.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.take(key)?;
        match parse(&value) {
            Ok(parsed) => Some(parsed),
            Err(message) => {
                self.problem(key, shown(&value), message);
                None
            }
        }
    }

    /// The same for a string.
    pub(super) fn text<T>(&mut self, key: &'static str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        self.parsed(key, |value| value.as_str().ok_or_else(|| "must be a string".to_owned()).and_then(parse))
    }

    /// The same for a string that has to be there.
    pub(super) fn required<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        if !self.has(key) {
            self.take(key);
            self.problem(key, None, "is missing");
            return None;
        }
        self.text(key, parse)
    }

    /// A duration of at least `least`.
    pub(super) fn duration(&mut self, key: &'static str, least: Duration, into: &mut Duration) {
        let read = self.text(key, |text| {
            let duration = parse_duration(text)?;
            if duration < least {
                return Err(format!("must be at least {}", format_duration(least)));
            }
            Ok(duration)
        });
        *into = read.unwrap_or(*into);
    }

    /// A whole number of at least `least`.
    pub(super) fn count<T: TryFrom<i64> + Copy>(&mut self, key: &'static str, least: u32, into: &mut T) {
        let from_text = self.overridden(key);
        let read = self.parsed(key, |value| {
            let number = plain(value, from_text);
            let number = number.as_integer().ok_or("must be a whole number")?;
            if number < i64::from(least) {
                return Err(format!("must be at least {least}"));
            }
            T::try_from(number).map_err(|_| "is too large".to_owned())
        });
        *into = read.unwrap_or(*into);
    }

    /// Bytes, at least `least`.
    pub(super) fn size(&mut self, key: &'static str, least: usize, into: &mut usize) {
        let read = self.parsed(key, |value| {
            let bytes = match value {
                Value::Integer(bytes) => size_of(*bytes)?,
                other => parse_size(other.as_str().unwrap_or_default())?,
            };
            if bytes < least { Err(format!("must be at least {least}")) } else { Ok(bytes) }
        });
        *into = read.unwrap_or(*into);
    }

    /// A number that `check` accepts.
    pub(super) fn number(&mut self, key: &'static str, check: impl FnOnce(f64) -> Result<(), String>, into: &mut f64) {
        let from_text = self.overridden(key);
        let read = self.parsed(key, |value| {
            let number = match plain(value, from_text) {
                Value::Integer(number) => number as f64,
                Value::Float(number) => number,
                _ => return Err("must be a number".to_owned()),
            };
            check(number).map(|()| number)
        });
        *into = read.unwrap_or(*into);
    }

    /// A share between 0 and `most`.
    pub(super) fn share(&mut self, key: &'static str, most: f64, into: &mut f64) {
        let check = |number: f64| {
            if (0.0..=most).contains(&number) { Ok(()) } else { Err(format!("must be between 0 and {most}")) }
        };
        self.number(key, check, into);
    }

    /// How many times something may grow; 0 for never mind.
    pub(super) fn factor(&mut self, key: &'static str, into: &mut f64) {
        let check = |number: f64| match number == 0.0 || (number > 1.0 && number.is_finite()) {
            true => Ok(()),
            false => Err("must be 0, or more than 1".to_owned()),
        };
        self.number(key, check, into);
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str) -> Option<bool> {
        let from_text = self.overridden(key);
        self.parsed(key, |value| plain(value, from_text).as_bool().ok_or_else(|| "must be true or false".to_owned()))
    }

    /// One of several names; says whether it was written.
    pub(super) fn choice<T: Copy>(&mut self, key: &'static str, choices: &Choices<T>, into: &mut T) -> bool {
        let read = self.text(key, |text| chosen(text, choices));
        *into = read.unwrap_or(*into);
        read.is_some()
    }

    /// A list of strings, each read by `parse`; `None` if one of them is wrong.
    /// A flag or variable may separate them by commas.
    pub(super) fn list<T>(&mut self, key: &'static str, parse: impl Fn(&str) -> Result<T, String>) -> Option<Vec<T>> {
        let from_text = self.overridden(key);
        let path = self.path_of(key);
        let value = self.take(key)?;
        let Some(items) = items(&value, from_text) else {
            self.problem(key, shown(&value), "must be a list of strings");
            return None;
        };
        let mut read = Vec::new();
        for (index, item) in items.iter().enumerate() {
            match parse(item) {
                Ok(item) => read.push(item),
                Err(message) => {
                    // The text of a flag or variable is one piece: its origin stands at the list's own path.
                    let place = if from_text { path.clone() } else { format!("{path}[{index}]") };
                    self.notes.problem(&place, Some(format!("\"{item}\"")), message);
                }
            }
        }
        (read.len() == items.len()).then_some(read)
    }

    /// A key that may not be here; `why` is a sentence for whoever wrote it.
    pub(super) fn refused(&mut self, key: &'static str, why: &str) {
        let _: Option<()> = self.parsed(key, |_| Err(why.to_owned()));
        let path = self.path_of(key);
        self.notes.keys.remove(&path);
    }

    /// Something about this table as a whole that is no mistake, but seldom meant.
    pub(super) fn warn(&mut self, message: &str) {
        self.notes.warn(&self.path, message);
    }

    /// Whether `key` is written.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The table `key`, empty if it is not there.
    pub(super) fn child<R>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'_>) -> R) -> R {
        let path = self.path_of(key);
        let table = self.take(key).map_or_else(Table::new, |value| self.table_of(key, value, "must be a table"));
        self.notes.keys.remove(&path);
        let mut child = Section::new(path, table, self.notes);
        let result = read(&mut child);
        child.finish();
        result
    }

    /// The tables in the table `key`, each by the name that the file chose.
    pub(super) fn named(&mut self, key: &'static str, mut read: impl FnMut(&str, &mut Section<'_>)) {
        let Some(value) = self.take(key) else { return };
        let path = self.path_of(key);
        self.notes.keys.remove(&path);
        for (name, value) in self.table_of(key, value, "must be a table of tables") {
            let path = format!("{path}.{name}");
            let Value::Table(table) = value else {
                self.notes.problem(&path, shown(&value), "must be a table");
                continue;
            };
            let mut child = Section::new(path, table, self.notes);
            read(&name, &mut child);
            child.finish();
        }
    }

    /// The tables of the list `key`, in the file's order.
    pub(super) fn each(&mut self, key: &'static str, mut read: impl FnMut(usize, &mut Section<'_>)) {
        let Some(value) = self.take(key) else { return };
        let path = self.path_of(key);
        self.notes.keys.remove(&path);
        let Value::Array(items) = value else {
            self.problem(key, None, format!("must be a list of tables, each begun by [[{key}]]"));
            return;
        };
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{path}[{index}]");
            let Value::Table(table) = item else {
                self.notes.problem(&path, shown(&item), "must be a table");
                continue;
            };
            let mut child = Section::new(path, table, self.notes);
            read(index, &mut child);
            child.finish();
        }
    }

    /// Refuses every key that nobody asked for.
    pub(super) fn finish(self) {
        for key in self.table.keys() {
            let hint =
                closest(key, &self.known).map_or_else(String::new, |known| format!(": did you mean \"{known}\"?"));
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            let origin = self.notes.origin(&path).cloned();
            let message = format!("unknown key \"{key}\"{hint}");
            self.notes.problems.push(Problem { path: self.path.clone(), value: None, origin, message });
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.notes.keys.insert(self.path_of(key));
        self.table.remove(key)
    }

    fn table_of(&mut self, key: &str, value: Value, message: &str) -> Table {
        match value {
            Value::Table(table) => table,
            other => {
                self.problem(key, shown(&other), message);
                Table::new()
            }
        }
    }

    /// Whether `key` is the plain text of a flag or variable, which says no type.
    fn overridden(&self, key: &str) -> bool {
        self.notes.origin(&self.path_of(key)).is_some()
    }
}

/// The meaning of `text` among `choices`.
pub(super) fn chosen<T: Copy>(text: &str, choices: &Choices<T>) -> Result<T, String> {
    match choices.iter().find(|(name, _)| *name == text) {
        Some((_, Some(meaning))) => Ok(*meaning),
        Some((_, None)) => Err("is not supported yet".to_owned()),
        None => {
            let names: Vec<_> = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect();
            Err(format!("must be one of {}", names.join(", ")))
        }
    }
}

/// The known name that `name` was most likely meant to be.
/// What was probably meant by `name`, if anything that is known comes near it.
#[must_use]
pub fn closest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let edits_max = (name.chars().count() / 3).max(1);
    let distances = known.iter().map(|known| (strsim::damerau_levenshtein(name, known), *known));
    distances.filter(|(edits, _)| *edits <= edits_max).min_by_key(|(edits, _)| *edits).map(|(_, known)| known)
}

/// A value as a message may show it: passwords masked, tables and lists left out.
pub(super) fn shown(value: &Value) -> Option<String> {
    match value {
        Value::Table(_) | Value::Array(_) => None,
        Value::String(text) => Some(Value::String(without_password(text)).to_string()),
        other => Some(other.to_string()),
    }
}

/// The typed value of text that a flag or variable gave; the value itself where it came from the file.
fn plain(value: &Value, from_text: bool) -> Value {
    match value {
        Value::String(text) if from_text => text.trim().parse().unwrap_or_else(|_| value.clone()),
        other => other.clone(),
    }
}

fn items(value: &Value, from_text: bool) -> Option<Vec<String>> {
    match value {
        Value::String(text) if from_text && !text.trim_start().starts_with('[') => {
            Some(text.split(',').map(|item| item.trim().to_owned()).filter(|item| !item.is_empty()).collect())
        }
        value => match plain(value, from_text) {
            Value::Array(items) => items.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            _ => None,
        },
    }
}
