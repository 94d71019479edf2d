//! Where records get their number and time, and from where every way out reads them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast::{self, error::RecvError};
use tokio_util::sync::CancellationToken;

use crate::logic::record::{Details, EventRecord, Happening, Millis, Moment, SCHEMA, Severity};
use crate::telemetry::counters::{EventCounters, Way};

/// Records that a reader may be behind, and those that are kept for readers to come.
pub const RECORDS_MAX: usize = 256;
/// Of the first number of a process, so that it is beyond those of an earlier one.
const NUMBERS_PER_MS: u64 = 1000;

/// Takes records and hands them out. Clones are the same hub.
#[derive(Clone, Debug)]
pub struct EventHub {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    kept: Mutex<Kept>,
    sender: broadcast::Sender<Arc<EventRecord>>,
    stopping: CancellationToken,
    counters: Arc<EventCounters>,
}

#[derive(Debug)]
struct Kept {
    /// The first number of this process.
    first_id: u64,
    next_id: u64,
    /// The latest, oldest first.
    records: VecDeque<Arc<EventRecord>>,
}

impl EventHub {
    /// Nothing has happened yet. Readers end when `stopping` is cancelled.
    #[must_use]
    pub fn new(counters: Arc<EventCounters>, stopping: CancellationToken) -> Self {
        let first_id = now().0.saturating_mul(NUMBERS_PER_MS);
        let kept = Mutex::new(Kept { first_id, next_id: first_id, records: VecDeque::new() });
        let (sender, _) = broadcast::channel(RECORDS_MAX);
        Self { shared: Arc::new(Shared { kept, sender, stopping, counters }) }
    }

    /// Hands out what happened, and writes its line to the log. Never waits.
    pub fn tell(&self, group: Option<&str>, epoch: Option<u64>, happening: Happening) -> Arc<EventRecord> {
        let record = self.publish(group, epoch, happening);
        log(&record);
        record
    }

    /// The same without a line in the log.
    pub fn publish(&self, group: Option<&str>, epoch: Option<u64>, happening: Happening) -> Arc<EventRecord> {
        let kind = happening.kind;
        let group = group.map(str::to_owned);
        let mut kept = self.kept();
        let record = Arc::new(EventRecord { schema: SCHEMA, id: kept.next_id, at: now(), group, epoch, happening });
        kept.next_id += 1;
        if kept.records.len() >= RECORDS_MAX {
            kept.records.pop_front();
        }
        kept.records.push_back(record.clone());
        // Under the lock, so that a reader who begins meanwhile gets it once. Nobody reading is no error.
        let _ = self.shared.sender.send(record.clone());
        drop(kept);
        self.shared.counters.kind(kind).add(1);
        record
    }

    /// Reads what happens from now on.
    #[must_use]
    pub fn subscribe(&self, way: Way) -> Reader {
        self.reader(way, |_| VecDeque::new(), None)
    }

    /// Reads what happened after the record of that number, as far as it is kept, and what happens from now on.
    #[must_use]
    pub fn resume(&self, way: Way, after: u64) -> Reader {
        self.reader(way, |records| records.iter().filter(|record| record.id > after).cloned().collect(), Some(after))
    }

    fn reader(
        &self,
        way: Way,
        select: impl FnOnce(&VecDeque<Arc<EventRecord>>) -> VecDeque<Arc<EventRecord>>,
        after: Option<u64>,
    ) -> Reader {
        let kept = self.kept();
        let backlog = select(&kept.records);
        let oldest = backlog.front().map_or(kept.next_id, |record| record.id);
        // Numbers of an earlier process say nothing about how many there were.
        let lost = after.map(|after| after.saturating_add(1)).filter(|&next| next >= kept.first_id);
        let lost = lost.map_or(0, |next| oldest.saturating_sub(next));
        let receiver = self.shared.sender.subscribe();
        let (stopping, counters) = (self.shared.stopping.clone(), self.shared.counters.clone());
        let mut reader = Reader { way, last_id: oldest - 1 - lost, lost: 0, backlog, receiver, stopping, counters };
        reader.lose(lost);
        reader
    }

    /// The latest records, oldest first, at most [`RECORDS_MAX`].
    #[must_use]
    pub fn latest(&self) -> Vec<Arc<EventRecord>> {
        self.kept().records.iter().cloned().collect()
    }

    /// Whether somebody reads.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.shared.sender.receiver_count() > 0
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> &Arc<EventCounters> {
        &self.shared.counters
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.shared.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One reader's place.
#[derive(Debug)]
pub struct Reader {
    way: Way,
    /// The number of the last record that was given out or lost.
    last_id: u64,
    /// Gone, and not told of yet.
    lost: u64,
    backlog: VecDeque<Arc<EventRecord>>,
    receiver: broadcast::Receiver<Arc<EventRecord>>,
    stopping: CancellationToken,
    counters: Arc<EventCounters>,
}

impl Reader {
    /// The next record; a record of kind `lost` where some are gone. `None`: the process ends.
    /// Nothing is missed when this is cancelled.
    pub async fn next(&mut self) -> Option<Arc<EventRecord>> {
        loop {
            if self.lost > 0 {
                return Some(self.tell_lost());
            }
            if let Some(record) = self.backlog.pop_front() {
                self.last_id = record.id;
                return Some(record);
            }
            let received = tokio::select! {
                biased;
                () = self.stopping.cancelled() => return None,
                received = self.receiver.recv() => received,
            };
            match received {
                Ok(record) => {
                    self.last_id = record.id;
                    return Some(record);
                }
                Err(RecvError::Lagged(records)) => self.lose(records),
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// Counts a record that was read and could not be handed on.
    pub fn dropped(&self) {
        self.counters.dropped(self.way).add(1);
    }

    fn lose(&mut self, records: u64) {
        self.lost += records;
        self.counters.dropped(self.way).add(records);
    }

    /// Has the number of the last record that is gone, so that reading can be resumed behind it.
    fn tell_lost(&mut self) -> Arc<EventRecord> {
        let lost = std::mem::take(&mut self.lost);
        self.last_id += lost;
        let (group, epoch, happening) = (None, None, Happening::lost(lost));
        Arc::new(EventRecord { schema: SCHEMA, id: self.last_id, at: now(), group, epoch, happening })
    }
}

fn now() -> Moment {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Moment(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// One line: what a record has is a field, what it has not is left out.
fn log(record: &EventRecord) {
    let Happening { severity, title, details, .. } = &record.happening;
    let Details { backend, from, to, state, reason, cause, by, weight, missing, backends, .. } = &**details;
    let group = record.group.as_deref();
    let judged = details.in_flight.map(|in_flight| in_flight.0);
    let micros = |time: Option<Millis>| time.map(|time| time.0.as_micros() as u64);
    let millis = |time: Option<Millis>| time.map(|time| time.0.as_millis() as u64);
    // Who reads a switch wants to see where it began, even at the start.
    let from = from.as_deref().or(judged.map(|_| "none"));
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                group,
                backend = backend.as_deref(),
                from,
                to = to.as_deref(),
                state = state.map(|state| state.label()),
                reason = reason.as_deref(),
                cause = cause.as_deref(),
                by = by.as_deref(),
                weight = *weight,
                missing = *missing,
                changes = details.changes.as_ref().map(Vec::len),
                backends = backends.as_ref().map(|names| names.join(", ")),
                length_ms = millis(details.length),
                after_ms = millis(details.after),
                retry_in_ms = millis(details.retry_in),
                epoch = judged.and(record.epoch),
                detect_us = micros(details.detect),
                switch_us = micros(details.switch),
                in_flight = judged.map(|judged| judged.total()),
                moved = judged.map(|judged| judged.moved),
                repeated = judged.map(|judged| judged.repeated),
                rearmed = judged.map(|judged| judged.rearmed),
                uncertain = judged.map(|judged| judged.uncertain).or(details.failed.map(|failed| failed.uncertain)),
                not_applied =
                    judged.map(|judged| judged.not_applied).or(details.failed.map(|failed| failed.not_applied)),
                aborted = judged.map(|judged| judged.aborted).or(details.failed.map(|failed| failed.aborted)),
                gone = judged.map(|judged| judged.gone).or(details.failed.map(|failed| failed.gone)),
                refused = details.failed.map(|failed| failed.refused),
                event_id = record.id,
                "{title}"
            )
        };
    }
    match severity {
        Severity::Debug => line!(debug),
        Severity::Info => line!(info),
        Severity::Warning => line!(warn),
        Severity::Error => line!(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::logic::record::EventKind;

    fn hub() -> EventHub {
        EventHub::new(Arc::default(), CancellationToken::new())
    }

    fn tell(hub: &EventHub, times: usize) -> Vec<u64> {
        (0..times).map(|_| hub.publish(Some("default"), Some(1), Happening::lost(7)).id).collect()
    }

    async fn read(reader: &mut Reader) -> (u64, Option<u64>) {
        let record = reader.next().await.expect("a record");
        let is_from_reader = record.group.is_none();
        (record.id, record.happening.details.lost.filter(|_| is_from_reader))
    }

    #[tokio::test]
    async fn every_reader_gets_every_record_in_order() {
        let hub = hub();
        let (mut one, mut other) = (hub.subscribe(Way::Console), hub.subscribe(Way::Http));
        let ids = tell(&hub, RECORDS_MAX);
        assert!(ids.windows(2).all(|pair| pair[1] == pair[0] + 1), "{ids:?}");
        for id in ids {
            assert_eq!((read(&mut one).await, read(&mut other).await), ((id, None), (id, None)));
        }
        assert_eq!(hub.counters().kind(EventKind::Lost).get(), RECORDS_MAX as u64);
    }

    #[tokio::test]
    async fn a_slow_reader_loses_the_oldest_and_is_told_how_many() {
        let hub = hub();
        let mut slow = hub.subscribe(Way::Webhook);
        let ids = tell(&hub, RECORDS_MAX + 5);
        assert_eq!(read(&mut slow).await, (ids[4], Some(5)));
        assert_eq!(read(&mut slow).await, (ids[5], None));
        assert_eq!(hub.counters().dropped(Way::Webhook).get(), 5);
        assert_eq!(hub.latest().len(), RECORDS_MAX);
    }

    #[tokio::test]
    async fn reading_goes_on_where_it_was() {
        let hub = hub();
        let ids = tell(&hub, RECORDS_MAX + 5);
        let mut near = hub.resume(Way::Http, ids[RECORDS_MAX + 3]);
        let mut far = hub.resume(Way::Http, ids[1]);
        let mut ahead = hub.resume(Way::Http, ids[RECORDS_MAX + 4]);
        drop(hub.resume(Way::Http, u64::MAX));
        let mut stranger = hub.resume(Way::Http, 17);
        assert_eq!(read(&mut near).await, (ids[RECORDS_MAX + 4], None));
        assert_eq!(read(&mut far).await, (ids[4], Some(3)), "three are not kept any more");
        assert_eq!(read(&mut far).await, (ids[5], None));
        assert_eq!(read(&mut stranger).await, (ids[5], None), "of an earlier process: all that is kept");
        let next = tell(&hub, 1)[0];
        assert_eq!((read(&mut near).await, read(&mut ahead).await), ((next, None), (next, None)));
    }

    #[tokio::test]
    async fn a_stop_ends_readers_and_a_new_process_counts_on() {
        let stop = CancellationToken::new();
        let hub = EventHub::new(Arc::default(), stop.clone());
        let mut reader = hub.subscribe(Way::Console);
        let last = tell(&hub, 1)[0];
        stop.cancel();
        assert_eq!(reader.next().await, None);
        std::thread::sleep(std::time::Duration::from_millis(2));
        let another = EventHub::new(Arc::default(), CancellationToken::new());
        assert!(tell(&another, 1)[0] > last);
    }
}
