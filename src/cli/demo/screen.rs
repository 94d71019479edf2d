//! Standard output: a picture that is drawn over itself in a terminal, plain lines anywhere else.

use std::io::{self, IsTerminal, Stdout, Write};
use std::time::{Duration, Instant};

use super::picture::{Happening, View, frame, seconds, wait};

/// Between two frames.
const FRAME_EVERY: Duration = Duration::from_millis(200);

/// Between two lines on how things go.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// Where the demo is shown.
pub(super) struct Screen {
    out: Stdout,
    mode: Mode,
    next: Option<Instant>,
}

enum Mode {
    /// So many lines were drawn, and are to be drawn over.
    Picture {
        coloured: bool,
        drawn: usize,
    },
    Plain,
}

impl Screen {
    /// A picture if somebody watches.
    pub(super) fn new() -> Self {
        let out = io::stdout();
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        let coloured = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let mode = if out.is_terminal() && !dumb { Mode::Picture { coloured, drawn: 0 } } else { Mode::Plain };
        Self { out, mode, next: None }
    }

    /// Whether it is time to show how things stand.
    pub(super) fn is_due(&mut self, now: Instant) -> bool {
        let (period, first) = match self.mode {
            Mode::Picture { .. } => (FRAME_EVERY, now),
            // There is nothing to say of the first moment.
            Mode::Plain => (LINE_EVERY, now + LINE_EVERY),
        };
        let next = *self.next.get_or_insert(first);
        if now >= next {
            self.next = Some(now + period);
        }
        now >= next
    }

    /// Shows how things stand.
    pub(super) fn show(&mut self, view: &View) -> io::Result<()> {
        match &mut self.mode {
            Mode::Picture { coloured, drawn } => {
                let lines = frame(view, *coloured);
                let text = drawing(&lines, *drawn);
                *drawn = lines.len();
                self.out.write_all(text.as_bytes())?;
                self.out.flush()
            }
            Mode::Plain => {
                let (rate, p50, p99) = (view.pulse.rate, wait(view.pulse.p50), wait(view.pulse.p99));
                let active = view.active.as_deref().unwrap_or("nobody");
                let text = format!("{active} serves {rate} commands/s, p50 {p50}, p99 {p99}");
                self.happened(&Happening { at: view.elapsed, text })
            }
        }
    }

    /// Something happened; in the picture it is seen with the next frame.
    pub(super) fn happened(&mut self, happening: &Happening) -> io::Result<()> {
        match self.mode {
            Mode::Picture { .. } => Ok(()),
            Mode::Plain => self.print(&[format!("{:>8}  {}", seconds(happening.at), happening.text)]),
        }
    }

    /// Prints lines below everything else.
    pub(super) fn print(&mut self, lines: &[String]) -> io::Result<()> {
        if let Mode::Picture { drawn, .. } = &mut self.mode {
            // The last frame stays; the next one, if any, begins below.
            *drawn = 0;
        }
        self.out.write_all((lines.join("\n") + "\n").as_bytes())?;
        self.out.flush()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if matches!(self.mode, Mode::Picture { .. }) {
            // A terminal that is gone needs no cursor.
            let _ = self.out.write_all(SHOW_CURSOR.as_bytes()).and_then(|()| self.out.flush());
        }
    }
}

const SHOW_CURSOR: &str = "\x1b[?25h";

/// The bytes that draw lines over the `drawn` lines of the frame before: no flicker, nothing left of the old ones,
/// and in a window that is too narrow lines are cut, not wrapped.
fn drawing(lines: &[String], drawn: usize) -> String {
    let mut text = String::from("\x1b[?2026h\x1b[?25l\x1b[?7l\r");
    if drawn > 0 {
        text += &format!("\x1b[{drawn}A");
    }
    for line in lines {
        text.push_str(line);
        text.push_str("\x1b[K\n");
    }
    text + "\x1b[?7h\x1b[?2026l"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_drawn_over_the_one_before() {
        let lines = ["a".to_owned(), "b".to_owned()];
        assert!(drawing(&lines, 0).ends_with("\ra\x1b[K\nb\x1b[K\n\x1b[?7h\x1b[?2026l"));
        assert!(drawing(&lines, 2).contains("\r\x1b[2Aa\x1b[K\n"));
    }
}
