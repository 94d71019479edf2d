//! The documents say what the code does: links, configuration, errors, exit codes, metrics, names.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use handover::cli::Exit;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file with this ending below a folder, as paths from the root.
fn files_below(folder: &str, ending: &str) -> Vec<String> {
    let mut found = Vec::new();
    let entries = fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    for entry in entries {
        let entry = entry.expect("a readable folder");
        let path = format!("{folder}/{}", entry.file_name().to_str().expect("names are UTF-8"));
        if entry.file_type().expect("a readable entry").is_dir() {
            found.extend(files_below(&path, ending));
        } else if path.ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Every document: its path and its text.
fn documents() -> Vec<(String, String)> {
    let mut paths: Vec<String> =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(str::to_owned).into();
    paths.extend(files_below("docs", ".md"));
    assert!(paths.iter().any(|path| path == "docs/contract.md"), "the contract is among {paths:?}");
    paths.into_iter().map(|path| (path.clone(), read(&path))).collect()
}

fn sources() -> Vec<(String, String)> {
    files_below("src", ".rs").into_iter().map(|path| (path.clone(), read(&path))).collect()
}

/// The parts of `text` between `open` and the next `close`.
fn between<'a>(text: &'a str, open: &str, close: char) -> Vec<&'a str> {
    let starts = text.match_indices(open).map(|(start, _)| start + open.len());
    starts.filter_map(|start| text[start..].find(close).map(|length| &text[start..start + length])).collect()
}

/// What stands in backticks in the text outside of code blocks.
fn code_spans(text: &str) -> Vec<String> {
    let mut prose = String::new();
    let mut in_block = false;
    for line in text.lines() {
        if line.starts_with("```") {
            in_block = !in_block;
        } else if !in_block {
            prose.push_str(line);
            prose.push('\n');
        }
    }
    prose.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Fails with everything that is wrong at once.
#[track_caller]
fn assert_none(problems: Vec<String>) {
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// The lines of a section, from its heading or bold title to the next heading of any level.
fn section<'a>(text: &'a str, title: &str) -> Vec<&'a str> {
    let lines: Vec<&str> = text.lines().skip_while(|line| *line != title).skip(1).collect();
    assert!(!lines.is_empty(), "no section {title:?}");
    lines.into_iter().take_while(|line| !line.starts_with('#')).collect()
}

/// The first cells of a section's table.
fn first_cells(lines: &[&str]) -> Vec<String> {
    let rows = lines.iter().skip_while(|line| !line.starts_with('|')).take_while(|line| line.starts_with('|'));
    rows.skip(2).filter_map(|row| row.split('|').nth(1)).map(|cell| cell.trim().to_owned()).collect()
}

/// As GitHub makes the anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
    kept.collect::<String>().replace(' ', "-")
}

#[test]
fn links_lead_somewhere() {
    let mut problems = Vec::new();
    let mut links = 0;
    for (path, text) in documents() {
        let folder = root().join(&path).parent().map(Path::to_owned).expect("a file has a folder");
        for target in between(&text, "](", ')') {
            if target.starts_with("https://") {
                continue;
            }
            links += 1;
            let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { root().join(&path) } else { folder.join(file) };
            let is_ours =
                file.canonicalize().is_ok_and(|file| file.starts_with(root().canonicalize().expect("a root")));
            if !is_ours {
                problems.push(format!("{path}: {target} does not exist here"));
            } else if !fragment.is_empty() {
                let text = fs::read_to_string(&file).expect("a link with a fragment leads to a text");
                let headings = text.lines().filter_map(|line| line.strip_prefix('#'));
                if !headings.map(|line| anchor(line.trim_start_matches('#').trim())).any(|found| found == fragment) {
                    problems.push(format!("{path}: {target}: no such heading"));
                }
            }
        }
    }
    assert!(links > 10, "only {links} links were found");
    assert_none(problems);
}

#[test]
fn the_readme_shows_the_shortest_configuration() {
    let readme = read("README.md");
    let shown = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of TOML");
    assert_eq!(shown, read("config/minimal.toml"));
}

/// The first words of Handover's own errors, from the source: they are interface.
fn refusal_words() -> BTreeSet<String> {
    let refusals = read("src/command/refusal.rs");
    // Behind it stand the texts of protocol errors, which all follow one first word.
    let (lines, _) = refusals.split_once("\nfn write_protocol_error").expect("protocol errors have a function");
    let mut words: BTreeSet<String> = between(lines, "\"", '"').into_iter().filter_map(error_word).collect();
    for (_, source) in sources().iter().filter(|(path, _)| path.starts_with("src/logic/multiplexer/")) {
        let source = source.split_whitespace().collect::<Vec<_>>().join(" ").replace("( ", "(");
        words.extend(between(&source, "Refusal::Redis(\"", '"').into_iter().filter_map(error_word));
    }
    words
}

/// The word that an error begins with.
fn error_word(text: &str) -> Option<String> {
    let (word, _) = text.split_once(' ')?;
    (word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase())).then(|| word.to_owned())
}

#[test]
fn every_error_word_is_explained() {
    let words = refusal_words();
    for known in ["LOADING", "UNAVAILABLE", "UNCERTAIN", "EXECABORT", "NOPERM", "WRONGPASS", "NOPROTO", "ERR"] {
        assert!(words.contains(known), "{known} is not found in the source any more: {words:?}");
    }
    let readme = read("README.md");
    let rows = first_cells(&section(&readme, "## Errors a client may see"));
    let explained = |word: &str| rows.iter().any(|cell| cell.starts_with(&format!("`-{word} ")));
    assert_none(
        words.iter().filter(|word| !explained(word)).map(|word| format!("README: no row for -{word}")).collect(),
    );
    let told: Vec<&str> = rows.iter().filter_map(|cell| cell.strip_prefix("`-")?.split(' ').next()).collect();
    assert_none(
        told.iter()
            .filter(|word| !words.contains(**word))
            .map(|word| format!("README: -{word} is never answered"))
            .collect(),
    );
}

#[test]
fn commands_refused_by_default_are_those_of_the_reference() {
    let reference = read("config/handover.toml");
    let line = reference.lines().find(|line| line.starts_with("#refuse = ")).expect("the default of commands.refuse");
    let readme = read("README.md").replace('\n', " ");
    let sentence = between(&readme, "Refused to everybody by default: ", '(').concat();
    let told: BTreeSet<String> = sentence.split(',').map(|name| name.trim().to_lowercase().replace(' ', "|")).collect();
    let default: BTreeSet<String> = line.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    assert_eq!(told, default);
}

#[test]
fn exit_codes_are_those_of_the_program() {
    // A variant that is added must be added here: the match says so.
    let code = |exit: Exit| match exit {
        Exit::Clean
        | Exit::Failure
        | Exit::Usage
        | Exit::CannotBind
        | Exit::Bug
        | Exit::ClientsCut
        | Exit::Configuration => (exit as u8).to_string(),
    };
    let codes =
        [Exit::Clean, Exit::Failure, Exit::Usage, Exit::CannotBind, Exit::Bug, Exit::ClientsCut, Exit::Configuration]
            .map(code);
    let readme = read("README.md");
    assert_eq!(first_cells(&section(&readme, "**Exit codes.**")), codes);
    let listed = format!("Exit codes {}.", codes.join(", "));
    assert!(read("CHANGELOG.md").contains(&listed), "CHANGELOG.md does not say {listed:?}");
}

#[test]
fn metrics_that_are_named_exist() {
    let metrics = read("src/telemetry/metrics.rs");
    let mut problems = Vec::new();
    let mut named = 0;
    for (path, text) in documents() {
        for (start, _) in text.match_indices("handover_") {
            let name: String =
                text[start..].chars().take_while(|letter| letter.is_ascii_lowercase() || *letter == '_').collect();
            if name == "handover__" {
                // The channel of events.
                continue;
            }
            named += 1;
            if !metrics.contains(&format!("\"{name}\"")) {
                problems.push(format!("{path}: there is no metric {name}"));
            }
        }
    }
    assert!(named > 10, "only {named} metrics are named");
    assert_none(problems);
}

#[test]
fn keys_that_are_named_exist() {
    let reference = read("config/handover.toml");
    // The reference shows each table's keys below its heading, each as `key = ` or `#key = `.
    let mut keys = BTreeSet::new();
    let mut table = String::new();
    for line in reference.lines() {
        let heading = line.strip_prefix('#').unwrap_or(line);
        if heading.starts_with('[') {
            table = heading.trim_matches(['[', ']']).to_owned();
        } else if let Some((key, _)) = heading.split_once(" = ").filter(|(key, _)| !key.contains(' ')) {
            keys.insert(format!("{table}.{key}"));
        }
    }
    let tables: BTreeSet<&str> = keys.iter().filter_map(|key| key.split('.').next()).collect();
    assert!(tables.contains("failover") && keys.contains("failover.hold"), "{keys:?}");
    let mut problems = Vec::new();
    for (path, text) in documents() {
        for span in code_spans(&text) {
            let word = span.split([' ', '=']).next().unwrap_or_default();
            let Some((table, key)) = word.split_once('.') else { continue };
            let is_key = !table.is_empty()
                && tables.contains(table)
                && key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            let is_file = ["rs", "md", "toml", "sh"].contains(&key);
            if is_key && !is_file && !keys.contains(word) {
                problems.push(format!("{path}: there is no key {word}"));
            }
        }
    }
    assert_none(problems);
}

#[test]
fn files_and_functions_that_are_named_exist() {
    let sources = sources();
    let before = ["fn ", "struct ", "enum ", "type ", "const ", "trait ", "mod ", "    "];
    let mut defined = BTreeSet::new();
    for (_, text) in &sources {
        for word in text.split(|letter: char| !letter.is_alphanumeric() && letter != '_') {
            let start = word.as_ptr().addr() - text.as_ptr().addr();
            if before.iter().any(|part| text[..start].ends_with(part)) {
                defined.insert(word);
            }
        }
    }
    let is_defined = |name: &str| defined.contains(name);
    let mut problems = Vec::new();
    let mut checked = (0, 0);
    for (path, text) in documents() {
        for span in code_spans(&text) {
            let is_path = ["src/", "tests/", "config/", "scripts/", "deploy/", "docs/"]
                .iter()
                .any(|folder| span.starts_with(folder));
            let is_name =
                span.contains("::") && span.bytes().all(|byte| byte.is_ascii_alphanumeric() || b":_".contains(&byte));
            if is_path && !span.contains(' ') {
                checked.0 += 1;
                if !root().join(&span).exists() {
                    problems.push(format!("{path}: {span} does not exist"));
                }
            } else if is_name {
                checked.1 += 1;
                let missing = span.split("::").find(|part| !is_defined(part));
                problems.extend(missing.map(|part| format!("{path}: {span}: the source has no {part}")));
            }
        }
    }
    assert!(checked.0 > 20 && checked.1 > 20, "only {checked:?} files and names were found");
    assert_none(problems);
}

/// What a path from the root of a file system may begin with: places of an installation, and our HTTP paths.
const ABSOLUTE: [&str; 13] = [
    "/CN=",
    "/etc/handover/",
    "/events",
    "/healthz",
    "/metrics",
    "/backends",
    "/console",
    "/why",
    "/outcomes/stream",
    "/readyz",
    "/status",
    "/run/handover/",
    "/var/lib/handover",
];

#[test]
fn no_document_knows_the_machine_it_was_written_on() {
    let mut problems = Vec::new();
    for (path, text) in documents() {
        for (index, line) in text.lines().enumerate() {
            let starts = line.match_indices('/').filter(|(start, _)| {
                let before = line[..*start].chars().next_back();
                let after = line[start + 1..].chars().next();
                before.is_none_or(|letter| " `\"'(=".contains(letter)) && after.is_some_and(char::is_alphabetic)
            });
            for (start, _) in starts {
                if !ABSOLUTE.iter().any(|allowed| line[start..].starts_with(allowed)) {
                    problems.push(format!("{path}:{}: {}", index + 1, &line[start..]));
                }
            }
            // Links are looked at elsewhere; nothing else leads upwards.
            if line.replace("](../", "](").contains("../") || line.contains("file://") {
                problems.push(format!("{path}:{}: {line}", index + 1));
            }
        }
    }
    assert_none(problems);
}

#[test]
fn decisions_are_numbered_and_complete() {
    let mut numbers = Vec::new();
    for path in files_below("docs/adr", ".md") {
        let name = path.rsplit('/').next().unwrap_or_default();
        let number: usize = name.split('-').next().and_then(|digits| digits.parse().ok()).expect("0001-name.md");
        numbers.push(number);
        let text = read(&path);
        assert!(text.starts_with(&format!("# {number}. ")), "{path}: the title does not begin with its number");
        let parts: Vec<&str> = text.lines().filter(|line| line.starts_with("## ")).collect();
        assert_eq!(parts, ["## Context", "## Decision", "## Consequences"], "{path}");
    }
    assert_eq!(numbers, (1..=numbers.len()).collect::<Vec<_>>());
}
