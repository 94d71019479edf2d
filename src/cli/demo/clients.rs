//! The demo's clients: twenty connections that are kept from the first command to the last.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::SyncSender;
use std::thread;
use std::time::{Duration, Instant};

use super::Event;
use super::ledger::{Answer, Exchange, Fact, Kind};
use super::wire::{Connection, Reply, number, request, text};

/// The list that one client fills and another waits on.
pub(super) const QUEUE: &str = "demo:queue";

const CHANNEL: &str = "demo:news";

/// What ends the waiting of those that wait.
const END: &str = "end";

const READERS: usize = 7;

const INCREMENTERS: usize = 7;

/// Counters: one for each that increments, two for each of the two transactions.
pub(super) const COUNTERS: usize = INCREMENTERS + 4;

/// All of them: the transactions, list and channel have two each.
pub(super) const CLIENTS: usize = READERS + INCREMENTERS + 6;

const TEXTS_OF_A_READER: usize = 8;

const END_TRIES_MAX: usize = 40;

const POLL: Duration = Duration::from_millis(50);

const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// A counter's key.
pub(super) fn counter_key(index: usize) -> String {
    format!("demo:counter:{index}")
}

/// Texts that every server has; each is its own key, so that a reply shows what it is the reply to.
pub(super) fn texts() -> impl Iterator<Item = String> {
    (0..READERS).flat_map(|reader| (0..TEXTS_OF_A_READER).map(move |turn| text_of(reader, turn)))
}

fn text_of(reader: usize, turn: usize) -> String {
    format!("demo:text:{reader}:{}", turn % TEXTS_OF_A_READER)
}

/// Connects all clients and lets them work.
pub(super) fn start(address: SocketAddr, events: &SyncSender<Event>, stop: &Arc<AtomicBool>) -> io::Result<()> {
    let mut roles: Vec<Role> = (0..READERS).map(Role::Reader).collect();
    roles.extend((0..INCREMENTERS).map(Role::Incrementer));
    roles.extend([Role::TransactionInPieces, Role::TransactionWhole]);
    let (list, channel) = (Arc::<Pair>::default(), Arc::<Pair>::default());
    roles.extend([Role::Popper(Arc::clone(&list)), Role::Pusher(list)]);
    roles.extend([Role::Subscriber(Arc::clone(&channel)), Role::Publisher(channel)]);
    debug_assert_eq!(roles.len(), CLIENTS, "as the picture says");
    for role in roles {
        let connection = Connection::open(address)?;
        let (events, stop) = (events.clone(), Arc::clone(stop));
        let client = Client { address, connection: Some(connection), events, stop };
        thread::Builder::new().name("client".to_owned()).spawn(move || client.live(role))?;
    }
    Ok(())
}

/// What one who waits tells the one whom it waits for.
#[derive(Debug, Default)]
struct Pair {
    /// It listens: what is sent from now on must come.
    begun: AtomicBool,
    /// It has seen the end.
    ended: AtomicBool,
}

/// What a client does all day.
enum Role {
    Reader(usize),
    Incrementer(usize),
    TransactionInPieces,
    TransactionWhole,
    Pusher(Arc<Pair>),
    Popper(Arc<Pair>),
    Publisher(Arc<Pair>),
    Subscriber(Arc<Pair>),
}

struct Client {
    address: SocketAddr,
    connection: Option<Connection>,
    events: SyncSender<Event>,
    stop: Arc<AtomicBool>,
}

/// A command, and how to read its reply.
struct Command {
    kind: Kind,
    words: Vec<String>,
    expect: Expect,
}

/// What the reply to a command must be.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expect {
    /// This text.
    Text(String),
    /// The counter's new value.
    Count(usize),
    /// The new values of two counters.
    Counts([usize; 2]),
    /// A number, after which this element is in the list.
    Pushed(u64),
    /// The list's name and an element.
    Popped,
    /// A number of receivers of this message.
    Published(u64),
    /// Some number.
    Number,
    /// The confirmation of a subscription.
    Subscribed,
}

impl Command {
    fn new(kind: Kind, words: &[&str], expect: Expect) -> Self {
        Self { kind, words: request(words), expect }
    }
}

impl Expect {
    fn counters(&self) -> Vec<usize> {
        match self {
            Self::Count(counter) => vec![*counter],
            Self::Counts(counters) => counters.to_vec(),
            _ => Vec::new(),
        }
    }

    fn judge(&self, reply: &Reply) -> Answer {
        if let Reply::Error(error) = reply {
            return judge_error(error);
        }
        let fact = self.fact(reply);
        Answer::Reply(fact.unwrap_or_else(|| Fact::Wrong(format!("expected {self:?}, got {reply:?}"))))
    }

    fn fact(&self, reply: &Reply) -> Option<Fact> {
        match (self, reply) {
            (Self::Text(expected), reply) => (text(reply)? == *expected).then_some(Fact::Expected),
            (Self::Number, Reply::Integer(_)) => Some(Fact::Expected),
            (Self::Count(_), Reply::Integer(_)) => Some(Fact::Counted(vec![number(reply)?])),
            (Self::Counts(_), Reply::Array(values)) if values.len() == 2 => {
                values.iter().map(number).collect::<Option<_>>().map(Fact::Counted)
            }
            (Self::Pushed(element), Reply::Integer(_)) => Some(Fact::Pushed(*element)),
            (Self::Published(message), Reply::Integer(_)) => Some(Fact::Published(*message)),
            (Self::Popped, Reply::Array(pair)) => popped(pair),
            (Self::Subscribed, Reply::Array(parts)) => {
                let says = text(parts.first()?)? == "subscribe" && text(parts.get(1)?)? == CHANNEL;
                (says && number(parts.get(2)?)? == 1).then_some(Fact::Expected)
            }
            _ => None,
        }
    }
}

fn popped(pair: &[Reply]) -> Option<Fact> {
    let [list, element] = pair else { return None };
    if text(list)? != QUEUE {
        return None;
    }
    if text(element)? == END { Some(Fact::Expected) } else { number(element).map(Fact::Popped) }
}

/// Handover says in its errors whether a command may have been applied.
fn judge_error(error: &str) -> Answer {
    let word = error.split(' ').next().unwrap_or_default();
    // After a MULTI that was refused, what belongs to it is refused too.
    let refused = error.contains("not applied") || error.contains("refused until EXEC");
    match word {
        "UNCERTAIN" => Answer::Uncertain(error.to_owned()),
        "EXECABORT" => Answer::NotApplied(error.to_owned()),
        _ if refused => Answer::NotApplied(error.to_owned()),
        _ => Answer::Failed(error.to_owned()),
    }
}

impl Client {
    fn live(mut self, role: Role) {
        match role {
            Role::Reader(reader) => self.read(reader),
            Role::Incrementer(counter) => self.increment(counter),
            Role::TransactionInPieces => self.transaction_in_pieces(),
            Role::TransactionWhole => self.transaction_whole(),
            Role::Pusher(list) => self.push(&list),
            Role::Popper(list) => self.pop(&list),
            Role::Publisher(channel) => self.publish(&channel),
            Role::Subscriber(channel) => self.subscribe(&channel),
        }
        // Nobody listens any more only when the demo itself ends.
        let _ = self.events.send(Event::Left);
    }

    fn read(&mut self, reader: usize) {
        self.every(Duration::from_millis(35), |client, turn| {
            let key = text_of(reader, turn as usize);
            client.ask(&[Command::new(Kind::Read, &["GET", &key], Expect::Text(key.clone()))]);
        });
    }

    fn increment(&mut self, counter: usize) {
        let key = counter_key(counter);
        self.every(Duration::from_millis(50), |client, _| {
            client.ask(&[Command::new(Kind::Count, &["INCR", &key], Expect::Count(counter))]);
        });
    }

    fn transaction_in_pieces(&mut self) {
        let commands = transaction([INCREMENTERS, INCREMENTERS + 1]);
        self.every(Duration::from_millis(160), |client, _| {
            for command in &commands {
                let answers = client.ask(std::slice::from_ref(command));
                if matches!(answers[..], [Answer::Nothing(_)]) {
                    // What belongs to a lost connection is over.
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
        });
    }

    fn transaction_whole(&mut self) {
        let commands = transaction([INCREMENTERS + 2, INCREMENTERS + 3]);
        self.every(Duration::from_millis(160), |client, _| {
            client.ask(&commands);
        });
    }

    fn push(&mut self, list: &Pair) {
        self.every(Duration::from_millis(200), |client, turn| {
            let words = ["LPUSH", QUEUE, &turn.to_string()];
            client.ask(&[Command::new(Kind::Push, &words, Expect::Pushed(turn))]);
        });
        self.until_seen(list, &Command::new(Kind::Push, &["LPUSH", QUEUE, END], Expect::Number));
    }

    fn pop(&mut self, list: &Pair) {
        let command = [Command::new(Kind::Pop, &["BLPOP", QUEUE, "0"], Expect::Popped)];
        loop {
            match self.ask(&command)[..] {
                [Answer::Reply(Fact::Expected)] => break,
                [Answer::Reply(_)] => {}
                _ if self.stopped() => break,
                _ => thread::sleep(RETRY_PAUSE),
            }
        }
        list.ended.store(true, Relaxed);
    }

    fn publish(&mut self, channel: &Pair) {
        while !channel.begun.load(Relaxed) && !self.stopped() {
            thread::sleep(POLL);
        }
        self.every(Duration::from_millis(100), |client, turn| {
            let words = ["PUBLISH", CHANNEL, &turn.to_string()];
            client.ask(&[Command::new(Kind::Publish, &words, Expect::Published(turn))]);
        });
        self.until_seen(channel, &Command::new(Kind::Publish, &["PUBLISH", CHANNEL, END], Expect::Number));
    }

    fn subscribe(&mut self, channel: &Pair) {
        let command = [Command::new(Kind::Subscribe, &["SUBSCRIBE", CHANNEL], Expect::Subscribed)];
        loop {
            let subscribed = matches!(self.ask(&command)[..], [Answer::Reply(_)]);
            channel.begun.fetch_or(subscribed, Relaxed);
            if (subscribed && self.listen()) || self.stopped() {
                break;
            }
            thread::sleep(RETRY_PAUSE);
        }
        channel.ended.store(true, Relaxed);
    }

    /// Listens until the end was heard; false: the connection was lost before.
    fn listen(&mut self) -> bool {
        while let Some(connection) = &mut self.connection {
            let Ok(reply) = connection.receive() else { break };
            match heard(&reply) {
                Some(word) if word == END => return true,
                Some(word) => match word.parse() {
                    Ok(message) => self.tell(Event::Heard(message)),
                    Err(_) => self.tell(Event::Wrong(format!("a message that nobody sent: {word}"))),
                },
                None => self.tell(Event::Wrong(format!("expected a message, got {reply:?}"))),
            }
        }
        self.connection = None;
        false
    }

    /// Does something again and again until the demo ends.
    fn every(&mut self, period: Duration, mut something: impl FnMut(&mut Self, u64)) {
        // Not all at the same moment.
        thread::sleep(period.mul_f64(fastrand::f64()));
        let (mut turn, mut next) = (0, Instant::now());
        while !self.stopped() {
            something(self, turn);
            turn += 1;
            // What was missed is not made up for.
            next = (next + period).max(Instant::now());
            thread::sleep(next.saturating_duration_since(Instant::now()));
        }
    }

    /// Sends the end until whoever waits for it has seen it.
    fn until_seen(&mut self, pair: &Pair, end: &Command) {
        for _ in 0..END_TRIES_MAX {
            if pair.ended.load(Relaxed) {
                break;
            }
            self.ask(std::slice::from_ref(end));
            thread::sleep(POLL);
        }
    }

    fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    fn tell(&self, event: Event) {
        // Nobody listens any more only when the demo itself ends.
        let _ = self.events.send(event);
    }

    /// Sends commands in one write and takes their answers, each of which the ledger learns.
    fn ask(&mut self, commands: &[Command]) -> Vec<Answer> {
        let mut connection = match self.connection() {
            Ok(connection) => connection,
            // Not sent, so that nobody owes an answer.
            Err(error) => return vec![Answer::Nothing(error.to_string()); commands.len()],
        };
        let requests: Vec<_> = commands.iter().map(|command| command.words.clone()).collect();
        let sent_at = Instant::now();
        let mut broken = connection.send(&requests).err();
        let mut answers = Vec::new();
        for command in commands {
            let reply = match broken.take() {
                Some(error) => Err(error),
                None => connection.receive(),
            };
            let answer = match reply {
                Ok(reply) => command.expect.judge(&reply),
                Err(error) => {
                    let text = error.to_string();
                    broken = Some(error);
                    Answer::Nothing(text)
                }
            };
            let (kind, counters, answered_at) = (command.kind, command.expect.counters(), Instant::now());
            self.tell(Event::Exchange(Exchange { kind, sent_at, answered_at, counters, answer: answer.clone() }));
            answers.push(answer);
        }
        self.connection = broken.is_none().then_some(connection);
        answers
    }

    /// The connection; a new one if it was lost, which is counted.
    fn connection(&mut self) -> io::Result<Connection> {
        if let Some(connection) = self.connection.take() {
            return Ok(connection);
        }
        self.tell(Event::Reconnected);
        Connection::open(self.address)
    }
}

fn transaction(counters: [usize; 2]) -> [Command; 4] {
    let command = |words: &[&str], expect| Command::new(Kind::Transaction, words, expect);
    let queued = || Expect::Text("QUEUED".to_owned());
    [
        command(&["MULTI"], Expect::Text("OK".to_owned())),
        command(&["INCR", &counter_key(counters[0])], queued()),
        command(&["INCR", &counter_key(counters[1])], queued()),
        command(&["EXEC"], Expect::Counts(counters)),
    ]
}

/// What a message says.
fn heard(reply: &Reply) -> Option<String> {
    let Reply::Array(parts) = reply else { return None };
    let [kind, channel, message] = &parts[..] else { return None };
    (text(kind)? == "message" && text(channel)? == CHANNEL).then(|| text(message))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Reply {
        Reply::BulkString(text.to_owned().into())
    }

    fn wrong(answer: &Answer) -> bool {
        matches!(answer, Answer::Reply(Fact::Wrong(_)))
    }

    #[test]
    fn errors_say_what_became_of_the_command() {
        for (error, expected) in [
            ("UNCERTAIN handover: it may have been applied", Answer::Uncertain as fn(String) -> Answer),
            ("EXECABORT Transaction discarded", Answer::NotApplied),
            ("LOADING handover: no backend can serve; the command was not applied", Answer::NotApplied),
            ("ERR handover: refused until EXEC or DISCARD", Answer::NotApplied),
            ("LOADING Redis is loading the dataset in memory", Answer::Failed),
            ("WRONGTYPE x", Answer::Failed),
        ] {
            assert_eq!(judge_error(error), expected(error.to_owned()), "{error}");
        }
    }

    #[test]
    fn a_reply_must_be_that_of_its_command() {
        let text = Expect::Text("demo:text:1:2".to_owned());
        assert_eq!(text.judge(&bulk("demo:text:1:2")), Answer::Reply(Fact::Expected));
        assert!(wrong(&text.judge(&bulk("demo:text:1:3"))));
        assert!(wrong(&text.judge(&Reply::Null)));
        assert!(wrong(&Expect::Count(0).judge(&bulk("7"))));
        assert!(wrong(&Expect::Counts([0, 1]).judge(&Reply::Array(vec![Reply::Integer(1)]))));
        assert!(wrong(&Expect::Popped.judge(&Reply::Null)));
        assert!(wrong(&Expect::Popped.judge(&Reply::Array(vec![bulk("other"), bulk("7")]))));
    }

    #[test]
    fn facts_are_read_from_replies() {
        let pair = |first, second| Reply::Array(vec![first, second]);
        for (expect, reply, fact) in [
            (Expect::Count(3), Reply::Integer(1_000_001), Fact::Counted(vec![1_000_001])),
            (Expect::Counts([0, 1]), pair(Reply::Integer(5), Reply::Integer(6)), Fact::Counted(vec![5, 6])),
            (Expect::Pushed(4), Reply::Integer(1), Fact::Pushed(4)),
            (Expect::Published(4), Reply::Integer(0), Fact::Published(4)),
            (Expect::Popped, pair(bulk(QUEUE), bulk("9")), Fact::Popped(9)),
            (Expect::Popped, pair(bulk(QUEUE), bulk(END)), Fact::Expected),
            (
                Expect::Subscribed,
                Reply::Array(vec![bulk("subscribe"), bulk(CHANNEL), Reply::Integer(1)]),
                Fact::Expected,
            ),
        ] {
            assert_eq!(expect.judge(&reply), Answer::Reply(fact), "{expect:?}");
        }
    }

    #[test]
    fn messages_are_told_from_the_rest() {
        let message = |kind: &str, channel: &str| Reply::Array(vec![bulk(kind), bulk(channel), bulk("7")]);
        assert_eq!(heard(&message("message", CHANNEL)), Some("7".to_owned()));
        assert_eq!(heard(&message("subscribe", CHANNEL)), None);
        assert_eq!(heard(&message("message", "other")), None);
        assert_eq!(heard(&bulk("7")), None);
    }

    #[test]
    fn counters_and_texts_are_as_many_as_the_clients_use() {
        assert_eq!(texts().count(), READERS * TEXTS_OF_A_READER);
        let used = transaction([INCREMENTERS + 2, INCREMENTERS + 3]);
        assert_eq!(used[2].words, ["INCR", &counter_key(COUNTERS - 1)]);
    }
}
