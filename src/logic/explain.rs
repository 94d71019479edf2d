//! What would happen to a command, for people who ask.

use super::settings::RetryCeiling;
use crate::command::classify::Classified;
use crate::command::retry::{self, Category, Retry};
use crate::command::table::{Class, Pinned};
use crate::resp::arguments::Arguments;

/// Explains `frame`, one whole request, in a few lines: what it is, where it travels, and what becomes of it when its
/// reply is lost.
#[must_use]
pub fn explain(frame: &[u8], classified: Classified, ceiling: RetryCeiling) -> Vec<String> {
    let retry = classified.command.map_or(Retry::UNKNOWN, |command| retry::judge(command, Arguments::new(frame)));
    let name = classified.command.map_or("not in the table", |command| command.name);
    let mut lines = vec![format!("command   {name}"), format!("travels   {}", travels(classified.class))];
    if matches!(classified.class, Class::Shared | Class::Cursor | Class::Pinned(_)) {
        lines.push(format!("category  {}", category_name(retry.category)));
        lines.push(format!("not sent  {}", if_not_sent(classified.class)));
        lines.push(format!("sent, and its reply lost  {}", fate(classified.class, retry.category, ceiling)));
        if classified.is_slow() {
            lines.push("silence   may rightly run long: judged after detector.slow_timeout".to_owned());
        }
    }
    lines
}

const fn travels(class: Class) -> &'static str {
    match class {
        Class::Shared => "on a shared connection",
        Class::Cursor => "on a shared connection; its cursor is good for this epoch only, unless they are passed",
        Class::Pinned(Pinned::Admin) => "on a connection of the client's own, which is closed afterwards",
        Class::Pinned(_) => "on a connection of the client's own",
        Class::Answered(_) => "nowhere: Handover answers it",
        Class::Refused => "nowhere: it is refused",
        Class::Closed => "nowhere: the client is disconnected",
    }
}

const fn category_name(category: Category) -> &'static str {
    match category {
        Category::Connection => "connection",
        Category::ReadOnly => "read-only",
        Category::WriteChecked => "write-checked",
        Category::WriteLastWins => "write-last-wins",
        Category::WriteAccumulating => "write-accumulating",
        Category::ServerAdmin => "server administration",
        Category::Never => "never repeated",
    }
}

const fn if_not_sent(class: Class) -> &'static str {
    match class {
        Class::Pinned(Pinned::Wait) => "refused: nobody knows where the writes before it stand",
        _ => "moved to the next active, in order",
    }
}

const fn fate(class: Class, category: Category, ceiling: RetryCeiling) -> &'static str {
    if matches!(class, Class::Pinned(Pinned::Blocking)) {
        return "armed again with the time left";
    }
    if !ceiling.permits(category) {
        return "-UNCERTAIN: it may have been applied";
    }
    match category {
        Category::WriteChecked => "repeated; -UNCERTAIN if the repeat says that nothing changed",
        _ => "repeated on the next active",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::classify::classify;

    fn lines(request: &str, ceiling: RetryCeiling) -> String {
        let words: Vec<&str> = request.split(' ').collect();
        let mut frame = bytes::BytesMut::new();
        crate::resp::encode::request(&mut frame, &words);
        explain(&frame, classify(&frame, words[0].as_bytes()), ceiling).join("\n")
    }

    #[test]
    fn it_says_where_a_command_travels_and_what_becomes_of_it() {
        let default = RetryCeiling::WriteLastWins;
        for (request, ceiling, parts) in [
            ("GET k", default, &["on a shared connection", "read-only", "lost  repeated"][..]),
            ("GET k", RetryCeiling::Never, &["lost  -UNCERTAIN"]),
            ("SET k v NX", default, &["write-checked", "if the repeat says"]),
            ("SCAN 0", default, &["on a shared connection; its cursor", "read-only", "lost  repeated"]),
            ("INCR n", default, &["write-accumulating", "lost  -UNCERTAIN"]),
            ("INCR n", RetryCeiling::Always, &["lost  repeated"]),
            ("BLPOP l 0", default, &["connection of the client's own", "armed again"]),
            ("EVAL x 0", default, &["never repeated", "slow_timeout"]),
            ("WAIT 1 0", default, &["not sent  refused", "lost  -UNCERTAIN"]),
            ("PING", default, &["Handover answers it"]),
            ("SHUTDOWN", default, &["it is refused"]),
            ("NOSUCH x", default, &["not in the table", "closed afterwards", "never repeated"]),
        ] {
            let text = lines(request, ceiling);
            assert!(parts.iter().all(|part| text.contains(part)), "{request}: {text}");
        }
        assert!(!lines("PING", default).contains("lost"));
        assert!(!lines("SHUTDOWN", default).contains("silence"), "it goes nowhere");
    }
}
