//! What operators may say, for HELP: how it is written, what it does, and an example.

use crate::config::closest;

/// A verb, or one form of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    /// How to write it.
    pub(super) form: &'static str,
    /// What it does.
    pub(super) about: &'static str,
    /// As one would say it.
    pub(super) example: &'static str,
}

const fn form(form: &'static str, about: &'static str, example: &'static str) -> Form {
    Form { form, about, example }
}

/// All of them, in the order in which they are read.
pub(super) const FORMS: &[Form] = &[
    form("STATUS", "every group and backend: weight, health, circuit, what is wanted of it, last check", "STATUS"),
    form("WHY", "why the active is active, and why the heavier ones are not", "WHY"),
    form("SHOW <backend>", "one backend with its last checks", "SHOW west"),
    form("EVENTS [<count>]", "the latest changes, with what became of the commands in flight", "EVENTS 20"),
    form(
        "SUBSCRIBE events|outcomes …",
        "each change as it happens, or what each second brings, as JSON; on the console only",
        "SUBSCRIBE events",
    ),
    form("UNSUBSCRIBE [events|outcomes …]", "end that", "UNSUBSCRIBE"),
    form(
        "EXPLAIN <command> [<argument> …]",
        "where a command travels, and what a failover does with it",
        "EXPLAIN INCR n",
    ),
    form(
        "SIMULATE kill|hang|readonly <backend>",
        "what such a fault would lead to now; nothing is touched",
        "SIMULATE kill west",
    ),
    form(
        "SWITCH <backend> [FORCE]",
        "make it active: planned, nothing is lost; FORCE does not wait and takes an unhealthy one",
        "SWITCH west",
    ),
    form(
        "STAY <backend> FOR <time>",
        "keep it active for a time, as long as it works; switches to it if need be",
        "STAY west FOR 2h",
    ),
    form("STAY END", "end the stay", "STAY END"),
    form(
        "DRAIN <backend>",
        "take it out of service: a planned switch away, and never active until UNDRAIN",
        "DRAIN west",
    ),
    form("UNDRAIN <backend>", "end the drain", "UNDRAIN west"),
    form("BAN <backend> FOR <time>", "never make it active, for a time", "BAN west FOR 30m"),
    form("UNBAN <backend>", "end the ban", "UNBAN west"),
    form(
        "WEIGHT <backend> <number>",
        "change its weight, until the file says another; SAVE writes it into the file",
        "WEIGHT west 2.5",
    ),
    form(
        "ADD <name> <url> [WEIGHT <number>] [PASSWORD_FILE <path>]",
        "another backend, until it is removed; one with a password in its URL only until the next start",
        "ADD north redis://10.0.0.7 WEIGHT 2",
    ),
    form(
        "REMOVE <backend> [FORCE]",
        "take it out of its group; the active is left by a planned switch first, or with FORCE at once",
        "REMOVE west",
    ),
    form(
        "REPORT <backend> DOWN|DRAIN|WEIGHT <number> FOR <time> [AS <checker>] REASON <words>",
        "a checker's verdict, for a time: DOWN leaves it at once, DRAIN in a planned switch",
        "REPORT west DOWN FOR 30s AS disk-watch REASON the disk is full",
    ),
    form(
        "REPORT <backend> UP [AS <checker>]",
        "the same checker's earlier report holds no longer",
        "REPORT west UP AS disk-watch",
    ),
    form(
        "PAUSE [WRITES] [FOR <time>]",
        "clients wait, connected, for 60s if no time is given; their hold time stands still",
        "PAUSE WRITES FOR 20s",
    ),
    form("RESUME", "clients go on", "RESUME"),
    form(
        "DRILL kill|hang|readonly|slow <backend> [BY <delay>] FOR <time> [FORCE]",
        "play a fault in Handover's own sockets, never at the backend; answers with the ledger at the end",
        "DRILL kill west FOR 30s",
    ),
    form("DRILL END", "end the drill", "DRILL END"),
    form("RELOAD", "read the configuration again, as at SIGHUP; answers with what changed, or what is wrong", "RELOAD"),
    form("SAVE", "write what was changed at run time into the configuration's file", "SAVE"),
    form(
        "HELP [<verb>], COMMANDS [<verb>]",
        "this list, or one verb of it; redis-cli keeps HELP to itself",
        "COMMANDS SWITCH",
    ),
    form("PING, HELLO [2|3], QUIT", "as Redis", "PING"),
    form("… GROUP <name>", "behind a command: which group, where there are several", "WHY GROUP eu"),
];

/// The first words of all forms.
fn verbs() -> Vec<&'static str> {
    let mut verbs: Vec<&str> =
        FORMS.iter().filter_map(|form| form.form.split([' ', ',']).next()).filter(|verb| *verb != "…").collect();
    verbs.extend(["COMMANDS", "HELLO", "QUIT"]);
    verbs.dedup();
    verbs
}

fn forms_of(verb: &str) -> Vec<&'static Form> {
    let is_named = |form: &&Form| form.form.split([' ', ',']).any(|word| word == verb) && !form.form.starts_with('…');
    FORMS.iter().filter(is_named).collect()
}

/// The answer to HELP, a line each.
///
/// # Errors
/// There is no such verb.
pub(super) fn help(verb: Option<&str>) -> Result<Vec<String>, String> {
    let Some(verb) = verb else {
        let mut lines: Vec<String> = FORMS.iter().map(|form| format!("{:42} {}", form.form, form.about)).collect();
        lines.push("times are 500ms, 30s, 10m or 2h".to_owned());
        return Ok(lines);
    };
    let forms = forms_of(&verb.to_ascii_uppercase());
    if forms.is_empty() {
        return Err(unknown(verb));
    }
    let lines = forms.iter().flat_map(|form| {
        [form.form.to_owned(), format!("    {}", form.about), format!("    for example: {}", form.example)]
    });
    Ok(lines.collect())
}

/// What is said of a verb that was written wrongly, or of one that does not exist.
pub(super) fn usage(verb: &str) -> String {
    let forms = forms_of(verb);
    let Some(first) = forms.first() else { return unknown(verb) };
    let written: Vec<&str> = forms.iter().map(|form| form.form).collect();
    format!("usage: {}; for example: {}", written.join(", or "), first.example)
}

fn unknown(verb: &str) -> String {
    let hint = closest(&verb.to_ascii_uppercase(), &verbs());
    let hint = hint.map_or_else(String::new, |verb| format!("; did you mean {verb}?"));
    format!("unknown command '{verb}'{hint}; HELP lists what there is")
}
