//! The picture in the terminal: a frame of fixed size from the state of things.

use std::time::Duration;

use super::ledger::Tally;
use super::notice::BackendStatus;
use super::sparkline::sparkline;
use super::traffic::Pulse;

/// No line is wider: one column less than terminals have.
pub(super) const WIDTH: usize = 79;

/// Events shown, the last ones.
const EVENTS_SHOWN: usize = 8;

const SPARKLINE_WIDTH: usize = 60;

/// The p50 and the p99 of a second.
pub(super) type Percentiles = (Option<Duration>, Option<Duration>);

/// All that is to be seen.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    /// Since the clients began.
    pub(super) elapsed: Duration,
    /// About how long the whole takes; `None`: until Ctrl-C.
    pub(super) length: Option<Duration>,
    /// Where clients connect to.
    pub(super) address: String,
    /// Clients that are there.
    pub(super) clients: usize,
    /// The active backend.
    pub(super) active: Option<String>,
    /// Why it is active.
    pub(super) reason: String,
    /// Every backend.
    pub(super) backends: Vec<BackendView>,
    /// The last second.
    pub(super) pulse: Pulse,
    /// The seconds before, the newest last.
    pub(super) history: Vec<Percentiles>,
    /// All commands.
    pub(super) total: Tally,
    /// Errors by their first word.
    pub(super) errors: Vec<(String, u64)>,
    /// Replies that cannot be right.
    pub(super) wrong: u64,
    /// Times that a client had to connect anew.
    pub(super) reconnects: u64,
    /// What happened, and when.
    pub(super) events: Vec<Happening>,
    /// What one can try.
    pub(super) hint: String,
}

/// A backend.
#[derive(Clone, Debug, Default)]
pub(super) struct BackendView {
    /// Its name.
    pub(super) name: String,
    /// Its weight.
    pub(super) weight: f64,
    /// Its port.
    pub(super) port: u16,
    /// Its process id; `None`: it is dead.
    pub(super) pid: Option<u32>,
    /// Its state in words, as Handover sees it.
    pub(super) state: String,
    /// Handover holds it for healthy.
    pub(super) healthy: bool,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Happening {
    /// When, since the clients began.
    pub(super) at: Duration,
    /// What.
    pub(super) text: String,
}

/// How a piece of text is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    Plain,
    Bold,
    Dim,
    Good,
    Bad,
}

/// A line in the making: never wider than [`WIDTH`].
struct Line {
    text: String,
    width: usize,
    coloured: bool,
}

impl Line {
    fn new(coloured: bool) -> Self {
        Self { text: String::new(), width: 0, coloured }
    }

    fn add(mut self, style: Style, text: &str) -> Self {
        let visible = shortened(text, WIDTH - self.width);
        self.width += visible.chars().count();
        let code = match style {
            _ if !self.coloured => None,
            Style::Plain => None,
            Style::Bold => Some("1"),
            Style::Dim => Some("2"),
            Style::Good => Some("32"),
            Style::Bad => Some("31"),
        };
        match code {
            Some(code) => self.text.push_str(&format!("\x1b[{code}m{visible}\x1b[0m")),
            None => self.text.push_str(&visible),
        }
        self
    }

    fn plain(self, text: &str) -> Self {
        self.add(Style::Plain, text)
    }

    fn dim(self, text: &str) -> Self {
        self.add(Style::Dim, text)
    }

    fn at(self, column: usize) -> Self {
        let gap = column.saturating_sub(self.width);
        self.plain(&" ".repeat(gap))
    }
}

/// The frame: always as many lines, so that the next one can be drawn over it.
pub(super) fn frame(view: &View, coloured: bool) -> Vec<String> {
    let line = || Line::new(coloured);
    let mut lines = vec![title(view, line()), line()];
    lines.push(path(view, line()));
    lines.push(line());
    for index in 0..2 {
        lines.push(view.backends.get(index).map_or_else(line, |backend| backend_line(view, backend, line())));
    }
    lines.push(line().dim(" why      ").plain(&view.reason));
    lines.push(line());
    lines.push(rates(view, line()));
    lines.push(history(view, " p50      ", |(p50, _)| *p50, line()));
    lines.push(history(view, " p99      ", |(_, p99)| *p99, line()));
    lines.push(commands(view, line()));
    lines.push(errors(view, line()));
    lines.push(line());
    let shown = &view.events[view.events.len().saturating_sub(EVENTS_SHOWN)..];
    for index in 0..EVENTS_SHOWN {
        lines.push(shown.get(index).map_or_else(line, |event| happening(event, line())));
    }
    lines.push(line().dim(&format!(" {}", view.hint)));
    lines.into_iter().map(|line| line.text).collect()
}

fn title(view: &View, line: Line) -> Line {
    let clock = match view.length {
        Some(length) => format!("{} of about {}", minutes(view.elapsed), minutes(length)),
        None => minutes(view.elapsed),
    };
    line.add(Style::Bold, " handover demo")
        .dim("   two Redis servers behind one address")
        .at(WIDTH - clock.chars().count())
        .dim(&clock)
}

fn path(view: &View, line: Line) -> Line {
    let line = line.plain(&format!(" {} clients ──▶ Handover at {} ──▶ ", view.clients, view.address));
    match &view.active {
        Some(active) => line.add(Style::Bold, active),
        None => line.add(Style::Bad, "nobody yet"),
    }
}

fn backend_line(view: &View, backend: &BackendView, line: Line) -> Line {
    let active = view.active.as_deref() == Some(&backend.name);
    let (mark, style) = if active { (" ● ", Style::Good) } else { (" ○ ", Style::Plain) };
    let process = backend.pid.map_or("killed".to_owned(), |pid| format!("pid {pid}"));
    let health = if backend.healthy { Style::Good } else { Style::Bad };
    line.add(style, mark)
        .add(if active { Style::Bold } else { Style::Plain }, &backend.name)
        .at(10)
        .dim(&format!("weight {}", backend.weight))
        .at(22)
        .dim(&format!("port {}", backend.port))
        .at(34)
        .add(if backend.pid.is_some() { Style::Dim } else { Style::Bad }, &process)
        .at(47)
        .add(health, &backend.state)
}

fn rates(view: &View, line: Line) -> Line {
    let Pulse { rate, p50, p99 } = view.pulse;
    line.dim(" now      ")
        .add(Style::Bold, &format!("{rate:>4} commands/s"))
        .plain(&format!("   p50 {}   p99 {}", wait(p50), wait(p99)))
        .dim("   of the last second")
}

fn history(view: &View, name: &str, of: fn(&Percentiles) -> Option<Duration>, line: Line) -> Line {
    let values: Vec<_> = view.history.iter().map(of).collect();
    line.dim(name).plain(&sparkline(&values, SPARKLINE_WIDTH))
}

fn commands(view: &View, line: Line) -> Line {
    let Tally { sent, answered, uncertain, not_applied, .. } = view.total;
    let text = format!("{} sent, {} answered", grouped(sent), grouped(answered));
    let line = line.dim(" commands ").plain(&text);
    let line = if uncertain > 0 { line.plain(&format!(", {uncertain} outcome unknown")) } else { line };
    if not_applied > 0 { line.plain(&format!(", {not_applied} not applied")) } else { line }
}

fn errors(view: &View, line: Line) -> Line {
    let line = line.dim(" errors   ");
    let line = if view.errors.is_empty() { line.add(Style::Good, "none") } else { line };
    let words: Vec<_> = view.errors.iter().map(|(word, count)| format!("{word} {count}")).collect();
    let line = line.add(Style::Bad, &words.join(", "));
    let style = |count: u64| if count == 0 { Style::Good } else { Style::Bad };
    line.dim("   wrong replies ")
        .add(style(view.wrong), &view.wrong.to_string())
        .dim("   reconnects ")
        .add(style(view.reconnects), &view.reconnects.to_string())
}

fn happening(event: &Happening, line: Line) -> Line {
    line.dim(&format!(" {:>6}  ", seconds(event.at))).plain(&event.text)
}

/// Why a backend is active, in words.
pub(super) fn why(reason: &str) -> String {
    match reason {
        "" => String::new(),
        "start" => "the heaviest when all began".to_owned(),
        "failback" => "the heaviest, and healthy again".to_owned(),
        "operator" => "an operator's will".to_owned(),
        fault => format!("{fault}: the one before failed"),
    }
}

/// How Handover sees a backend, in words.
pub(super) fn backend_state(status: &BackendStatus) -> String {
    let health = if status.healthy { "healthy" } else { "not healthy" };
    match status.circuit.as_str() {
        "" => "not checked yet".to_owned(),
        "closed" => health.to_owned(),
        circuit => format!("{health}, breaker {circuit}"),
    }
}

/// "12.3 s".
pub(super) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// A wait, as exact as it matters.
pub(super) fn wait(duration: Option<Duration>) -> String {
    let Some(duration) = duration else { return "-".to_owned() };
    let millis = duration.as_secs_f64() * 1000.0;
    if millis < 10.0 { format!("{millis:.2} ms") } else { format!("{millis:.0} ms") }
}

/// A number with its thousands apart.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn minutes(duration: Duration) -> String {
    format!("{}:{:02}", duration.as_secs() / 60, duration.as_secs() % 60)
}

/// At most so many characters.
fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(1)).collect();
    if most == 0 { kept } else { kept + "…" }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        View {
            elapsed: Duration::from_millis(7_300),
            length: Some(Duration::from_secs(75)),
            address: "127.0.0.1:43211".to_owned(),
            clients: 20,
            active: Some("west".to_owned()),
            reason: "the heaviest healthy one".to_owned(),
            backends: vec![
                BackendView {
                    name: "east".to_owned(),
                    weight: 1.0,
                    port: 20_001,
                    pid: None,
                    state: "unhealthy, breaker open".to_owned(),
                    healthy: false,
                },
                BackendView {
                    name: "west".to_owned(),
                    weight: 0.5,
                    port: 20_002,
                    pid: Some(4711),
                    state: "healthy".to_owned(),
                    healthy: true,
                },
            ],
            pulse: Pulse { rate: 398, p50: Some(Duration::from_micros(212)), p99: Some(Duration::from_millis(12)) },
            history: vec![(Some(Duration::from_micros(200)), Some(Duration::from_millis(12))); 70],
            total: Tally { sent: 3_120, answered: 3_119, uncertain: 1, ..Tally::default() },
            errors: vec![("UNCERTAIN".to_owned(), 1)],
            events: vec![Happening { at: Duration::from_secs(3), text: "kill -9 4710".to_owned() }],
            hint: "Ctrl-C ends the demo".to_owned(),
            ..View::default()
        }
    }

    /// What stays of a line when the colours are gone.
    fn visible(line: &str) -> String {
        let mut text = String::new();
        let mut parts = line.split("\x1b[");
        text.push_str(parts.next().unwrap());
        parts.for_each(|part| text.push_str(part.split_once('m').unwrap().1));
        text
    }

    #[test]
    fn a_frame_says_all_there_is() {
        let expected = [
            " handover demo   two Redis servers behind one address        0:07 of about 1:15",
            "",
            " 20 clients ──▶ Handover at 127.0.0.1:43211 ──▶ west",
            "",
            " ○ east   weight 1    port 20001  killed       unhealthy, breaker open",
            " ● west   weight 0.5  port 20002  pid 4711     healthy",
            " why      the heaviest healthy one",
            "",
            " now       398 commands/s   p50 0.21 ms   p99 12 ms   of the last second",
            &format!(" p50      {}", "▁".repeat(SPARKLINE_WIDTH)),
            &format!(" p99      {}", "▄".repeat(SPARKLINE_WIDTH)),
            " commands 3,120 sent, 3,119 answered, 1 outcome unknown",
            " errors   UNCERTAIN 1   wrong replies 0   reconnects 0",
            "",
            "  3.0 s  kill -9 4710",
        ];
        let frame = frame(&view(), false);
        let (above, below) = frame.split_at(expected.len());
        assert_eq!(above, expected);
        let (hint, empty) = below.split_last().unwrap();
        assert_eq!(hint, " Ctrl-C ends the demo");
        assert!(empty.len() == EVENTS_SHOWN - 1 && empty.iter().all(String::is_empty), "{empty:?}");
    }

    #[test]
    fn frames_have_one_size_whatever_they_show() {
        let mut wide = view();
        wide.reason = "x".repeat(200);
        wide.errors = (0..40).map(|number| (format!("WORD{number}"), 1)).collect();
        wide.events = (0..30).map(|_| Happening { at: Duration::from_secs(99_999), text: "é".repeat(300) }).collect();
        wide.backends[0].state = "y".repeat(200);
        wide.address = "z".repeat(100);
        let height = frame(&View::default(), true).len();
        assert!(height < 24, "{height} lines do not fit a terminal of 24");
        for (name, view) in [("wide", wide), ("usual", view()), ("empty", View::default())] {
            for coloured in [true, false] {
                let lines = frame(&view, coloured);
                assert_eq!(lines.len(), height, "{name}");
                for line in lines {
                    let width = visible(&line).chars().count();
                    assert!(width <= WIDTH, "{name}: {width} columns: {line}");
                }
            }
        }
    }

    #[test]
    fn colours_change_nothing_else() {
        let coloured: Vec<_> = frame(&view(), true).iter().map(|line| visible(line)).collect();
        assert_eq!(coloured, frame(&view(), false));
        assert!(frame(&view(), true).concat().contains("\x1b[32m"));
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(wait(None), "-");
        assert_eq!(wait(Some(Duration::from_micros(9_994))), "9.99 ms");
        assert_eq!(wait(Some(Duration::from_millis(1_234))), "1234 ms");
        assert_eq!(
            (shortened("abc", 3), shortened("abcd", 3), shortened("a", 0)),
            ("abc".into(), "ab…".into(), String::new())
        );
    }
}
