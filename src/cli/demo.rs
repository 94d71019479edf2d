//! `handover demo`: two real Redis servers, twenty clients, a kill, and an account of what the clients saw.
//!
//! What is to be thought through is pure and tested on its own: the plot (`script`), the bookkeeping (`ledger`,
//! `traffic`), reading Handover's words (`notice`), and everything that is shown (`picture`, `sparkline`, `report`).
//! The rest starts and ends processes (`process`, `server`, `subject`), sends commands (`wire`, `clients`) and draws
//! (`screen`). `stage` alone owns the state: all others send it events.

mod clients;

mod ledger;
mod notice;
mod picture;
mod process;
mod report;
mod screen;
mod script;
mod server;
mod sparkline;
mod stage;
mod subject;
mod traffic;
mod wire;

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use anyhow::{Context as _, Result};

use self::ledger::Exchange;
use self::notice::{Notice, Status};
use self::stage::Stage;
use super::Exit;
use crate::lifecycle::Signals;

/// Events that wait for the stage; whoever has one more waits too. Twenty clients need seconds to fill it.
const EVENTS_MAX: usize = 4096;

/// What the stage learns.
enum Event {
    /// A command has its answer.
    Exchange(Exchange),
    /// The subscriber heard a message.
    Heard(u64),
    /// A client got something that nobody may send.
    Wrong(String),
    /// A client had to connect anew.
    Reconnected,
    /// A client has finished.
    Left,
    /// Handover logged something.
    Notice(Notice),
    /// Handover's state, now.
    Status(Status),
    /// Handover's log ended, and so did it.
    HandoverEnded,
    /// Ctrl-C, or another signal to stop.
    Interrupt,
}

/// Plays the demo; `keep`: leaves everything running at its end, until interrupted.
///
/// Blocks. To be called on the main thread, outside of any runtime: the kernel kills the demo's children when the
/// thread that started them dies.
#[must_use]
pub fn demo(keep: bool, seconds: Option<u64>) -> Exit {
    play(keep, seconds).unwrap_or_else(|error| {
        eprintln!("handover demo: {error:#}");
        Exit::Failure
    })
}

fn play(keep: bool, seconds: Option<u64>) -> Result<Exit> {
    let (events, inbox) = sync_channel(EVENTS_MAX);
    listen_for_signals(events.clone()).context("cannot listen for signals")?;
    Stage::set(keep, seconds, events, inbox)?.play()
}

/// From here on Ctrl-C is an event, so that the children are ended in order.
fn listen_for_signals(events: SyncSender<Event>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let mut signals = {
        let _context = runtime.enter();
        Signals::install()?
    };
    let waiting = move || {
        runtime.block_on(async {
            loop {
                signals.next().await;
                if events.send(Event::Interrupt).is_err() {
                    break;
                }
            }
        });
    };
    thread::Builder::new().name("signals".to_owned()).spawn(waiting)?;
    Ok(())
}
