//! Words for what operators and checkers did: drains, reports, pauses, drills.

use std::time::Duration;

use super::described::{empty, fates};
use super::{Details, EventKind, Happening, InFlight, Millis, Severity, State};
use crate::logic::failover::{Event, Ledger};
use crate::logic::route::BackendId;

impl Happening {
    /// An event of the decision machine that an operator or a checker caused.
    pub(super) fn of_order<'n>(event: &Event, name: impl Fn(BackendId) -> &'n str) -> Self {
        use Severity::{Info, Warning};
        let about = |backend: &BackendId, state| Details { backend: Some(name(*backend).to_owned()), state, ..empty() };
        let (began, ended) = (Some(State::Began), Some(State::Ended));
        match event {
            Event::Drained { backend } => {
                let text = format!("{} is drained", name(*backend));
                Self::new(EventKind::Drain, Warning, "backend drained", text, about(backend, began))
            }
            Event::DrainEnded { backend } => {
                let text = format!("{} is no longer drained", name(*backend));
                Self::new(EventKind::Drain, Info, "drain ended", text, about(backend, ended))
            }
            Event::Reported { backend, report } => {
                let (verdict, by, cause) = (report.verdict.to_string(), &report.reporter, &report.reason);
                let text = format!("{} is reported {verdict} for {:?} by {by}: {cause}", name(*backend), report.length);
                let (by, cause) = (Some(by.clone()), Some(cause.clone()));
                let length = Some(Millis(report.length));
                let details = Details { reason: Some(verdict), cause, by, length, ..about(backend, began) };
                Self::new(EventKind::Report, Warning, "backend reported", text, details)
            }
            Event::ReportEnded { backend, report, is_expired } => {
                let how = if *is_expired { "has expired" } else { "was taken back" };
                let text = format!("the report on {} {how}: {report}", name(*backend));
                let (verdict, by) = (report.verdict.to_string(), Some(report.reporter.clone()));
                let cause = Some(report.reason.clone());
                let details = Details { reason: Some(verdict), cause, by, ..about(backend, ended) };
                Self::new(EventKind::Report, Info, "report ended", text, details)
            }
            Event::Paused { length, writes_only } => {
                let what = if *writes_only { "the writes of clients wait" } else { "clients wait" };
                let details = Details { state: began, length: Some(Millis(*length)), ..empty() };
                Self::new(
                    EventKind::Pause,
                    Warning,
                    "clients paused",
                    format!("{what} for at most {length:?}"),
                    details,
                )
            }
            Event::Resumed { is_expired } => {
                let text = if *is_expired { "clients go on: the pause has expired" } else { "clients go on" };
                let details = Details { state: ended, ..empty() };
                Self::new(EventKind::Pause, Info, "clients resumed", text.to_owned(), details)
            }
            Event::DrillBegan { drill, length } => {
                let text = format!("a drill plays {} on {} for {length:?}", drill.fault, name(drill.backend));
                let (reason, length) = (Some(drill.fault.to_string()), Some(Millis(*length)));
                let details = Details { reason, length, ..about(&drill.backend, began) };
                Self::new(EventKind::Drill, Warning, "drill began", text, details)
            }
            Event::DrillEnded { ledger } => Self::ledger(ledger, name),
            Event::Stranded { backend } => {
                let title = "the active should be left and there is nowhere to go";
                let text = format!(
                    "{} is drained or reported down, but no other can take over: it stays active",
                    name(*backend)
                );
                Self::new(EventKind::Stranded, Severity::Error, title, text, about(backend, began))
            }
            _ => Self::new(EventKind::Stranded, Info, "unknown", String::new(), empty()),
        }
    }

    /// What a drill led to.
    fn ledger<'n>(ledger: &Ledger, name: impl Fn(BackendId) -> &'n str) -> Self {
        let Ledger { drill, length, is_cut_short, switches, to, detected_after, served_after, judged } = ledger;
        let backend = name(drill.backend);
        let cut_short = if *is_cut_short { ", cut short" } else { "" };
        let millis = |duration: &Option<Duration>| duration.unwrap_or_default().as_secs_f64() * 1e3;
        let led_to = match to {
            None => "no switch".to_owned(),
            Some(to) => format!(
                "seen after {:.1} ms, {} served after {:.1} ms, and nobody waited longer for it; switches {switches}",
                millis(detected_after),
                name(*to),
                millis(served_after)
            ),
        };
        let text = format!(
            "the drill {} on {backend} is over after {:.1} s{cut_short}: {led_to}; in flight {}: {}",
            drill.fault,
            length.as_secs_f64(),
            judged.total(),
            fates(*judged)
        );
        let details = Details {
            backend: Some(backend.to_owned()),
            to: to.map(|to| name(to).to_owned()),
            state: Some(State::Ended),
            reason: Some(drill.fault.to_string()),
            length: Some(Millis(*length)),
            detect: detected_after.map(Millis),
            after: served_after.map(Millis),
            in_flight: Some(InFlight(*judged)),
            ..empty()
        };
        Self::new(EventKind::Drill, Severity::Warning, "drill ended", text, details)
    }
}
