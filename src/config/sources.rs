//! Where settings come from, and which wins: flag, environment, file, default.

use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::Origin;
use super::problem::{Problem, Problems};
use super::section::Notes;
use crate::files;

/// Variables that begin so are settings: `HANDOVER__HEALTH__INTERVAL=250ms`.
const VARIABLE_PREFIX: &str = "HANDOVER__";
/// The variable of systemd that `failover.state_file` falls back to.
pub(super) const STATE_DIRECTORY: &str = "STATE_DIRECTORY";
/// The variable of systemd below which the console's socket is.
pub(super) const RUNTIME_DIRECTORY: &str = "RUNTIME_DIRECTORY";
/// Where the file is looked for when none is named.
const SEARCH: [&str; 2] = ["./handover.toml", "/etc/handover/handover.toml"];

/// Everything that a configuration is made of. No `Debug`, since it may hold passwords.
#[derive(Clone, Default)]
pub struct Sources {
    /// The file that `-c` named.
    pub file: Option<PathBuf>,
    /// Text that stands for the file when none is named, as the demo's settings do.
    pub text: Option<String>,
    /// Where the file is looked for when neither is given; the first that exists is taken.
    pub search: Vec<PathBuf>,
    /// `--set path=value`, as (path, value).
    pub overrides: Vec<(String, String)>,
    /// `--log-level`.
    pub log_level: Option<String>,
    /// `--listen ADDRESS[,key=value…]`; if there is any, the file's listeners do not count.
    pub listen: Vec<String>,
    /// `--backend name=url[,key=value…]`; if there is any, the file's backends do not count.
    pub backends: Vec<String>,
    /// The process's environment, as far as it matters here.
    pub environment: Vec<(String, String)>,
    /// Cores of this machine, for `runtime.workers = "auto"`.
    pub cores: usize,
}

impl Sources {
    /// What the process itself brings: its environment, its machine, the usual places of the file.
    /// This is the only place that reads them.
    #[must_use]
    pub fn of_process() -> Self {
        let wanted =
            |name: &str| name.starts_with(VARIABLE_PREFIX) || [STATE_DIRECTORY, RUNTIME_DIRECTORY].contains(&name);
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let name = name.into_string().ok().filter(|name| wanted(name))?;
            Some((name, value.to_string_lossy().into_owned()))
        });
        Self {
            search: SEARCH.iter().map(PathBuf::from).collect(),
            environment: variables.collect(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            ..Self::default()
        }
    }

    /// The value of a variable, if it is set and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        let found = self.environment.iter().find(|(variable, _)| variable == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// All sources as one table; whatever did not come from the file has its origin noted.
    pub(super) fn merged(&self, notes: &mut Notes) -> Result<(Option<Origin>, Table), Problems> {
        let (path, mut table) = self.base()?;
        let mut variables: Vec<_> = self.environment.iter().collect();
        variables.sort();
        for (name, value) in variables {
            if let Some(key) = name.strip_prefix(VARIABLE_PREFIX) {
                put(&mut table, &key.to_lowercase().replace("__", "."), value, name, notes);
            }
        }
        for (key, value) in &self.overrides {
            put(&mut table, key, value, "--set", notes);
        }
        if let Some(level) = &self.log_level {
            put(&mut table, "log.level", level, "--log-level", notes);
        }
        replace_list(&mut table, "listener", &self.listen, listener_of_flag, "--listen", notes);
        replace_list(&mut table, "backend", &self.backends, backend_of_flag, "--backend", notes);
        Ok((path, table))
    }

    fn base(&self) -> Result<(Option<Origin>, Table), Problems> {
        if let Some(path) = &self.file {
            return read_file(path);
        }
        if let Some(text) = &self.text {
            return Ok((None, parse(text, "built-in settings")?));
        }
        if let Some(path) = self.search.iter().find(|path| path.exists()) {
            return read_file(path);
        }
        if !self.listen.is_empty() && !self.backends.is_empty() {
            return Ok((None, Table::new()));
        }
        let places: Vec<_> = self.search.iter().map(|path| format!("{} or ", path.display())).collect();
        let message =
            format!("no configuration: expected a file at {}by -c, or --listen and --backend", places.concat());
        Err(Problems::whole(message))
    }
}

fn read_file(path: &Path) -> Result<(Option<Origin>, Table), Problems> {
    let text =
        files::read_text(path).map_err(|error| Problems::whole(format!("cannot read {}: {error}", path.display())))?;
    let table = parse(&text, &path.display().to_string())?;
    Ok((Some(Origin { path: path.to_owned(), digest: super::save::digest(&text) }), table))
}

fn parse(text: &str, name: &str) -> Result<Table, Problems> {
    text.parse::<Table>().map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |last| last.chars().count()) + 1;
        Problems::whole(format!("{name}:{line}:{column}: {}", error.message().replace('\n', ", ")))
    })
}

/// Puts text at a dotted path, over whatever the file has there.
fn put(table: &mut Table, path: &str, value: &str, origin: &str, notes: &mut Notes) {
    let mut problem = |message: &str| {
        let origin = Some(origin.to_owned());
        notes.problems.push(Problem { path: path.to_owned(), value: None, origin, message: message.to_owned() });
    };
    if path.split('.').any(str::is_empty) {
        return problem("is not a path such as health.interval");
    }
    let (parents, key) = path.rsplit_once('.').map_or((None, path), |(parents, key)| (Some(parents), key));
    let mut inner = table;
    for parent in parents.into_iter().flat_map(|parents| parents.split('.')) {
        match inner.entry(parent).or_insert_with(|| Value::Table(Table::new())) {
            Value::Table(next) => inner = next,
            Value::Array(_) => return problem("is in a list, which only the file or --listen and --backend can give"),
            _ => return problem("is in something that is not a table"),
        }
    }
    inner.insert(key.to_owned(), Value::String(value.to_owned()));
    notes.origins.insert(path.to_owned(), origin.to_owned());
}

fn replace_list(
    table: &mut Table,
    key: &str,
    flags: &[String],
    read: impl Fn(&str) -> Result<Table, String>,
    origin: &str,
    notes: &mut Notes,
) {
    if flags.is_empty() {
        return;
    }
    let mut items = Vec::new();
    for flag in flags {
        match read(flag) {
            Ok(item) => {
                notes.origins.insert(format!("{key}[{}]", items.len()), origin.to_owned());
                items.push(Value::Table(item));
            }
            Err(message) => {
                let origin = Some(origin.to_owned());
                notes.problems.push(Problem { path: key.to_owned(), value: None, origin, message });
            }
        }
    }
    table.insert(key.to_owned(), Value::Array(items));
}

/// `ADDRESS[,key=value…]`
fn listener_of_flag(flag: &str) -> Result<Table, String> {
    let (address, options) = flag.split_once(',').map_or((flag, None), |(address, options)| (address, Some(options)));
    table_of_flag([("bind", address)], options)
}

/// `name=url[,key=value…]`
fn backend_of_flag(flag: &str) -> Result<Table, String> {
    let (target, options) = flag.split_once(',').map_or((flag, None), |(target, options)| (target, Some(options)));
    match target.split_once('=') {
        Some((name, url)) if !name.contains("://") => table_of_flag([("name", name), ("url", url)], options),
        _ => Err("must be name=url, as in east=redis://127.0.0.1:7001,weight=1".to_owned()),
    }
}

fn table_of_flag<const N: usize>(first: [(&str, &str); N], options: Option<&str>) -> Result<Table, String> {
    let mut table: Table = first.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
    for option in options.into_iter().flat_map(|options| options.split(',')) {
        let (key, value) = option.split_once('=').ok_or("must have key=value after each comma")?;
        if table.insert(key.to_owned(), Value::from(value)).is_some() {
            return Err(format!("gives \"{key}\" twice"));
        }
    }
    Ok(table)
}
