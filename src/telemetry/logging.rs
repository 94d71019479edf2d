//! The log: lines to stderr that never make anybody wait. What cannot be written at once is dropped and counted.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing::{Level, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::fmt::time::FormatTime;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, fmt as layers, reload};

use crate::config::{Log, LogFormat};
use crate::lifecycle::panic_text;
use crate::logic::utc::write_utc;

/// Lines that wait for a slow reader of the log before further ones are dropped.
pub const LINES_MAX: usize = 8192;

/// The log in force. Dropping it writes what still waits, for at most a second.
#[derive(Debug)]
pub struct Logging {
    level: reload::Handle<LevelFilter, Registry>,
    dropped: LinesDropped,
    _writes_the_rest: WorkerGuard,
}

impl Logging {
    /// Sends everything that the process logs, panics included, to stderr from now on.
    ///
    /// # Errors
    /// Something else took the log before.
    pub fn install(log: Log) -> Result<Self, tracing::dispatcher::SetGlobalDefaultError> {
        let stderr = io::stderr();
        let colours = stderr.is_terminal();
        let (subscriber, logging) = build(log, stderr, colours, LINES_MAX);
        tracing::subscriber::set_global_default(subscriber)?;
        // The standard hook would write to stderr itself, and a blocked pipe would block the thread that panicked.
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            tracing::error!(place, panic = panic_text(panic.payload()), "a thread panicked");
        }));
        Ok(logging)
    }

    /// Changes the least severe level that is written.
    pub fn set_level(&self, level: Level) {
        if let Err(error) = self.level.reload(LevelFilter::from_level(level)) {
            tracing::warn!(%error, "cannot change the log level");
        }
    }

    /// The count of lines that were dropped, for the metrics.
    #[must_use]
    pub fn dropped(&self) -> LinesDropped {
        self.dropped.clone()
    }
}

/// Counts lines that nobody will read.
#[derive(Clone, Debug, Default)]
pub struct LinesDropped {
    unqueued: Option<ErrorCounter>,
    unwritten: Arc<AtomicU64>,
}

impl LinesDropped {
    /// Since the start: found the queue full, or could not be written.
    #[must_use]
    pub fn total(&self) -> u64 {
        let unqueued = self.unqueued.as_ref().map_or(0, ErrorCounter::dropped_lines);
        self.unwritten.load(Relaxed) + u64::try_from(unqueued).unwrap_or(u64::MAX)
    }
}

fn build(
    log: Log,
    sink: impl Write + Send + 'static,
    colours: bool,
    lines_max: usize,
) -> (impl Subscriber + Send + Sync, Logging) {
    let unwritten = Arc::new(AtomicU64::new(0));
    let sink = CountsFailures { sink, failures: unwritten.clone() };
    let (writer, guard) =
        NonBlockingBuilder::default().lossy(true).buffered_lines_limit(lines_max).thread_name("log").finish(sink);
    let dropped = LinesDropped { unqueued: Some(writer.error_counter()), unwritten };
    let (filter, level) = reload::Layer::new(LevelFilter::from_level(log.level));
    let lines = layers::layer().with_timer(UtcMillis).with_target(false).with_writer(writer);
    let lines = match log.format {
        LogFormat::Text => lines.with_ansi(colours).fmt_fields(debug_fn(write_field).delimited(" ")).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
    };
    let subscriber = Registry::default().with(filter).with(lines);
    (subscriber, Logging { level, dropped, _writes_the_rest: guard })
}

/// One field of a text line; the message stands without its name.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn fmt::Debug) -> fmt::Result {
    let mut line = OneLine(writer);
    match field.name() {
        "message" => write!(line, "{value:?}"),
        name => write!(line, "{name}={value:?}"),
    }
}

/// Escapes control characters: what a peer sent can neither pass for a line of its own nor move a terminal's cursor.
struct OneLine<'w, W>(&'w mut W);

impl<W: fmt::Write> fmt::Write for OneLine<'_, W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            if letter.is_control() {
                write!(self.0, "{}", letter.escape_default())?
            } else {
                self.0.write_char(letter)?
            }
        }
        Ok(())
    }
}

/// Counts the lines that the sink refused, for the thread that writes them keeps silent about it.
struct CountsFailures<W> {
    sink: W,
    failures: Arc<AtomicU64>,
}

impl<W: Write> Write for CountsFailures<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        // Taken whole or given up: the caller would only repeat the rest of the same line.
        if self.sink.write_all(line).is_err() {
            self.failures.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

/// `2026-11-21T03:00:00.123Z`.
struct UtcMillis;

impl FormatTime for UtcMillis {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        write_utc(writer, since_epoch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Mutex, mpsc};

    const TEXT: Log = Log { level: Level::INFO, format: LogFormat::Text };

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(log: Log, colours: bool, what: impl FnOnce(&Logging)) -> Vec<String> {
        let page = Page::default();
        let (subscriber, logging) = build(log, page.clone(), colours, 100);
        tracing::subscriber::with_default(subscriber, || what(&logging));
        drop(logging);
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_text_line_reads_time_level_message_fields() {
        let lines = logged(TEXT, false, |_| tracing::warn!(backend = "east", epoch = 7, "switched"));
        let [line] = lines.as_slice() else { panic!("one line, not {lines:?}") };
        let (time, rest) = line.split_at(24);
        assert_eq!(rest, "  WARN switched backend=\"east\" epoch=7");
        assert!(
            time.starts_with("20") && time.ends_with('Z') && &time[10..11] == "T" && &time[19..20] == ".",
            "{time}"
        );
    }

    #[test]
    fn colours_only_when_asked_for() {
        let line = |colours| logged(TEXT, colours, |_| tracing::info!("m")).concat();
        assert!(line(true).contains('\u{1b}'));
        assert!(!line(false).contains('\u{1b}'));
    }

    #[test]
    fn a_json_line_is_one_flat_object() {
        let log = Log { format: LogFormat::Json, ..TEXT };
        let lines = logged(log, true, |_| tracing::info!(backend = "east", cause = "a\nb", "lost"));
        let [line] = lines.as_slice() else { panic!("one line, not {lines:?}") };
        let object: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(object["level"], "INFO");
        assert_eq!(object["message"], "lost");
        assert_eq!(object["backend"], "east");
        assert_eq!(object["cause"], "a\nb");
        assert!(object["timestamp"].as_str().unwrap().ends_with('Z'));
    }

    #[test]
    fn what_a_peer_sent_cannot_forge_a_line_or_move_the_cursor() {
        let cause = "gone\n2026-01-01T00:00:00.000Z  INFO all is well\r\u{1b}[2J";
        let lines = logged(TEXT, false, |_| tracing::info!(%cause, "lost"));
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(
            lines[0].ends_with("cause=gone\\n2026-01-01T00:00:00.000Z  INFO all is well\\r\\u{1b}[2J"),
            "{lines:?}"
        );
    }

    #[test]
    fn the_level_changes_while_running() {
        let lines = logged(TEXT, false, |logging| {
            tracing::debug!("one");
            logging.set_level(Level::DEBUG);
            tracing::debug!("two");
            logging.set_level(Level::ERROR);
            tracing::warn!("three");
            tracing::error!("four");
        });
        let words: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').next_back()).collect();
        assert_eq!(words, ["two", "four"]);
    }

    /// Says when a write began, then waits until the other side of `release` is gone.
    struct Blocked {
        began: mpsc::Sender<()>,
        release: mpsc::Receiver<()>,
    }

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.began.send(());
            let _ = self.release.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_blocked_pipe_blocks_nobody_and_what_is_dropped_is_counted() {
        let (began, writing) = mpsc::channel();
        let (hold, release) = mpsc::channel();
        let (subscriber, logging) = build(TEXT, Blocked { began, release }, false, 10);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("is being written");
            writing.recv().unwrap();
            for _ in 0..25 {
                tracing::info!("10 of these wait, 15 are dropped");
            }
        });
        assert_eq!(logging.dropped().total(), 15);
        drop(hold);
    }

    #[test]
    fn a_closed_pipe_hurts_nobody_and_is_counted() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
        let (subscriber, logging) = build(TEXT, Closed, false, 10);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info!("one");
            tracing::info!("two");
        });
        let dropped = logging.dropped();
        drop(logging);
        assert_eq!(dropped.total(), 2);
    }
}
