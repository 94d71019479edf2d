//! Streams on their way: to Handover and straight to a server, and what came back compared.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::frame::Frame;
use super::grammar::Words;
use super::random::Random;
use super::rules::{self, name_of};
use super::support::{PATIENCE, encode};

/// What one client sends, with how it is cut.
#[derive(Clone)]
pub(crate) struct Stream {
    pub(crate) commands: Vec<Words>,
    /// Commands after which the client waits for all its replies.
    pub(crate) waits: BTreeSet<usize>,
    /// Seeds what the bytes look like; `None`: whole frames in one piece.
    pub(crate) cut: Option<u64>,
    pub(crate) ending: Ending,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Ending {
    /// PING, and nothing comes after its reply.
    Ping,
    /// QUIT, and the connection ends.
    Quit,
    /// Bytes that are no request: an error in the same words, and the connection ends.
    Nonsense(&'static [u8]),
}

/// What differed, and in which command.
pub(crate) struct Difference {
    pub(crate) command: usize,
    pub(crate) text: String,
}

/// One command on its way.
struct Sent {
    words: Words,
    /// What the server gets instead.
    direct: Words,
    is_refused: bool,
    /// … inside a transaction, whose commands are all refused from there on.
    is_refused_in_transaction: bool,
    /// Of RESP2, where it may say little.
    is_of_subscriber: bool,
    replies: Replies,
}

#[derive(Clone, Copy, PartialEq)]
enum Replies {
    One,
    /// A confirmation for each of so many channels, or one error.
    Confirmations(usize),
    /// A confirmation for each channel there is, then the reply to a PING of ours.
    All,
}

/// How long a reply that never comes is waited for while a failure shrinks.
const SHRINKING_PATIENCE: Duration = Duration::from_secs(2);
const SEPARATOR: &[u8] = b"that-was-all";

/// What is known of a session without asking.
#[derive(Default)]
struct Session {
    in_transaction: bool,
    resp3: bool,
    subscribed: [BTreeSet<Vec<u8>>; 3],
}

impl Session {
    fn is_subscriber(&self) -> bool {
        !self.resp3 && self.subscribed.iter().any(|set| !set.is_empty())
    }

    fn send(&mut self, words: &Words) -> Sent {
        let is_refused = rules::is_refused(words, self.in_transaction) || self.would_leave_resp3(words);
        let is_of_subscriber = self.is_subscriber();
        let mut sent = Sent {
            words: words.clone(),
            direct: if is_refused { vec![b"NOSUCHCOMMAND".to_vec()] } else { words.clone() },
            is_refused,
            is_refused_in_transaction: is_refused && self.in_transaction,
            is_of_subscriber,
            replies: Replies::One,
        };
        if is_refused {
            return sent;
        }
        let name = name_of(words);
        match name.as_str() {
            "multi" if words.len() == 1 && !self.is_subscriber() => self.in_transaction = true,
            "exec" | "discard" if words.len() == 1 && !self.is_subscriber() => self.in_transaction = false,
            "reset" if words.len() == 1 => *self = Self::default(),
            "hello" if !self.is_subscriber() => self.hello(words),
            _ => {}
        }
        let kinds = ["subscribe", "psubscribe", "ssubscribe", "unsubscribe", "punsubscribe", "sunsubscribe"];
        if let Some(kind) = kinds.iter().position(|kind| *kind == name).filter(|_| !self.in_transaction) {
            sent.replies = if words.len() > 1 { Replies::Confirmations(words.len() - 1) } else { Replies::All };
            self.subscribe(kind, &words[1..]);
            if kind < 3 && words.len() == 1 {
                sent.replies = Replies::One;
            }
        }
        sent
    }

    fn subscribe(&mut self, kind: usize, channels: &[Vec<u8>]) {
        let set = &mut self.subscribed[kind % 3];
        match (kind < 3, channels) {
            (true, _) => set.extend(channels.iter().cloned()),
            (false, []) => set.clear(),
            (false, _) => set.retain(|channel| !channels.contains(channel)),
        }
    }

    /// Not done for a subscriber (contract, section 3).
    fn would_leave_resp3(&self, words: &Words) -> bool {
        let mut later = Self { resp3: self.resp3, ..Self::default() };
        if name_of(words) == "hello" {
            later.hello(words);
        }
        later.resp3 != self.resp3 && self.resp3 && self.subscribed.iter().any(|set| !set.is_empty())
    }

    fn hello(&mut self, words: &Words) {
        let is_good = |options: &[Vec<u8>]| match options {
            [] => true,
            [option, name] => option.eq_ignore_ascii_case(b"SETNAME") && name.iter().all(u8::is_ascii_graphic),
            [option, user, _] => option.eq_ignore_ascii_case(b"AUTH") && user == b"default",
            _ => false,
        };
        if words.len() > 1 && is_good(&words[2..]) {
            match words[1].as_slice() {
                b"2" => self.resp3 = false,
                b"3" => self.resp3 = true,
                _ => {}
            }
        }
    }
}

/// One connection, and what came on it.
struct Side {
    socket: TcpStream,
    received: Vec<u8>,
    frames: Vec<Frame>,
    messages: Vec<Frame>,
    ended: bool,
}

impl Side {
    fn connect(address: SocketAddr, patience: Duration) -> Self {
        let socket = TcpStream::connect(address).unwrap_or_else(|error| panic!("cannot connect to {address}: {error}"));
        socket.set_nodelay(true).expect("an open socket");
        socket.set_read_timeout(Some(patience)).expect("a positive bound");
        socket.set_write_timeout(Some(PATIENCE)).expect("a positive bound");
        Self { socket, received: Vec::new(), frames: Vec::new(), messages: Vec::new(), ended: false }
    }

    fn send(&mut self, bytes: &[u8]) {
        // A side that has closed too soon shows in what it replied.
        self.socket.write_all(bytes).ok();
    }

    /// More bytes; false when none came in time.
    fn read(&mut self) -> bool {
        let mut buffer = [0; 64 * 1024];
        match self.socket.read(&mut buffer) {
            Ok(0) => self.ended = true,
            Ok(bytes) => self.received.extend_from_slice(&buffer[..bytes]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
            Err(_) => self.ended = true,
        }
        let mut start = 0;
        while let Some((frame, bytes)) = Frame::parse(&self.received[start..]) {
            start += bytes;
            if is_message(&frame) { self.messages.push(frame) } else { self.frames.push(frame) }
        }
        self.received.drain(..start);
        true
    }

    /// Reads until every command has its replies, or the connection ends, or nothing comes any more.
    fn read_replies(&mut self, sent: &[Sent]) {
        while split(sent, &self.frames).len() < sent.len() && !self.ended && self.read() {}
    }

    fn read_messages(&mut self, count: usize) {
        while self.messages.len() < count && !self.ended && self.read() {}
    }

    fn read_to_end(&mut self) {
        while !self.ended && self.read() {}
    }
}

fn is_message(frame: &Frame) -> bool {
    let kinds: [&[u8]; 3] = [b"message", b"pmessage", b"smessage"];
    matches!(frame.items(), [kind, _, _] | [kind, _, _, _] if kinds.contains(&kind.text()))
}

fn is_confirmation(frame: &Frame) -> bool {
    matches!(frame.items(), [kind, _, _] if kind.text().ends_with(b"subscribe"))
}

/// The replies of each command, as far as they are all there.
fn split<'a>(sent: &[Sent], frames: &'a [Frame]) -> Vec<&'a [Frame]> {
    let (mut groups, mut rest) = (Vec::new(), frames);
    for command in sent {
        let count = match command.replies {
            Replies::Confirmations(count) if rest.first().is_some_and(is_confirmation) => count,
            Replies::One | Replies::Confirmations(_) => 1,
            Replies::All => {
                let is_separator = |frame: &Frame| {
                    frame.text() == SEPARATOR || frame.items().last().is_some_and(|last| last.text() == SEPARATOR)
                };
                match rest.iter().position(is_separator) {
                    Some(index) => index + 1,
                    None => break,
                }
            }
        };
        if count > rest.len() {
            break;
        }
        let (group, later) = rest.split_at(count);
        groups.push(group);
        rest = later;
    }
    groups
}

/// Where streams go.
pub(crate) struct Servers {
    pub(crate) handover: SocketAddr,
    pub(crate) direct: SocketAddr,
    /// Behind Handover.
    pub(crate) backend: SocketAddr,
}

struct Client<'a> {
    stream: &'a Stream,
    random: Option<Random>,
    sent: Vec<Sent>,
    session: Session,
    proxied: Side,
    direct: Side,
    /// Commands that were sent already.
    next: usize,
    pieces: Vec<Vec<u8>>,
}

impl Servers {
    /// Both sides as if fresh.
    fn clean(&self) {
        for address in [self.backend, self.direct] {
            let mut side = Side::connect(address, PATIENCE);
            let commands = [
                "FLUSHALL",
                "SCRIPT FLUSH",
                "FUNCTION FLUSH",
                "ACL DELUSER user1",
                "CONFIG SET hash-max-listpack-entries 128",
                "CONFIG SET maxmemory-policy noeviction",
                "CONFIG SET slowlog-max-len 128",
            ];
            for command in commands {
                side.send(&encode(&command.split(' ').collect::<Vec<_>>()));
            }
            while side.frames.len() < commands.len() {
                assert!(side.read() && !side.ended, "no reply of the server");
            }
        }
    }

    /// Streams of several clients side by side: the first difference, and whose it is.
    pub(crate) fn compare(&self, streams: &[Stream], order: u64, patience: Duration) -> Option<(usize, Difference)> {
        self.clean();
        let mut order = Random::new(order);
        let mut clients: Vec<Client<'_>> = streams
            .iter()
            .map(|stream| Client {
                stream,
                random: stream.cut.map(Random::new),
                sent: Vec::new(),
                session: Session::default(),
                proxied: Side::connect(self.handover, patience),
                direct: Side::connect(self.direct, patience),
                next: 0,
                pieces: Vec::new(),
            })
            .collect();
        while clients.iter().any(|client| client.next < client.stream.commands.len()) {
            clients.iter_mut().for_each(Client::write_until_wait);
            // The pieces of all in any order.
            while let Some(count) =
                Some(clients.iter().filter(|client| !client.pieces.is_empty()).count()).filter(|count| *count > 0)
            {
                let chosen = order.below(count);
                let client =
                    clients.iter_mut().filter(|client| !client.pieces.is_empty()).nth(chosen).expect("counted");
                let piece = client.pieces.remove(0);
                client.proxied.send(&piece);
            }
            for client in &mut clients {
                client.proxied.read_replies(&client.sent);
                client.direct.read_replies(&client.sent);
            }
        }
        for (number, client) in clients.iter_mut().enumerate() {
            client.end();
            if let Some(difference) = client.difference() {
                return Some((number, difference));
            }
        }
        None
    }
}

impl Client<'_> {
    /// Commands up to the next wait, as pieces for Handover; whole to the server.
    fn write_until_wait(&mut self) {
        let (mut proxied, mut direct) = (Vec::new(), Vec::new());
        while let Some(words) = self.stream.commands.get(self.next) {
            if rules::is_left_out(words, self.session.in_transaction) {
                self.next += 1;
                continue;
            }
            let sent = self.session.send(words);
            proxied.extend(written(&sent.words, self.random.as_mut()));
            direct.extend(encode(&sent.direct));
            if sent.replies == Replies::All {
                let separator = encode(&[b"PING".as_slice(), SEPARATOR]);
                proxied.extend_from_slice(&separator);
                direct.extend_from_slice(&separator);
            }
            self.sent.push(sent);
            self.next += 1;
            if self.stream.waits.contains(&(self.next - 1)) {
                break;
            }
        }
        self.direct.send(&direct);
        self.pieces = match &mut self.random {
            Some(random) => cut(&proxied, random),
            None => vec![proxied],
        };
    }

    fn end(&mut self) {
        let last: Words = match self.stream.ending {
            Ending::Ping => vec![b"PING".to_vec(), b"the-end".to_vec()],
            Ending::Quit => vec![b"QUIT".to_vec()],
            Ending::Nonsense(bytes) => {
                for side in [&mut self.proxied, &mut self.direct] {
                    side.send(bytes);
                    side.read_to_end();
                }
                return;
            }
        };
        let bytes = encode(&last);
        self.sent.push(self.session.send(&last));
        for side in [&mut self.direct, &mut self.proxied] {
            side.send(&bytes);
            side.read_replies(&self.sent);
        }
        let messages = self.direct.messages.len();
        self.proxied.read_messages(messages);
        if self.stream.ending == Ending::Quit {
            self.proxied.read_to_end();
            self.direct.read_to_end();
        }
    }

    fn difference(&self) -> Option<Difference> {
        let (got, wanted) = (split(&self.sent, &self.proxied.frames), split(&self.sent, &self.direct.frames));
        let mut queue: Vec<&Words> = Vec::new();
        let mut is_refused_to_its_end = false;
        for (command, sent) in self.sent.iter().enumerate() {
            let different = |text: String| Some(Difference { command, text });
            let (Some(got), Some(wanted)) = (got.get(command), wanted.get(command)) else {
                let (got, wanted) = (got.len(), wanted.len());
                return different(format!("replies ended: got {got}, {:?}, want {wanted}", self.proxied.frames.last()));
            };
            is_refused_to_its_end |= sent.is_refused_in_transaction;
            let is_consequence = is_refused_to_its_end && got[0].line.starts_with(b"-ERR handover: refused until EXEC");
            if let Some(text) = compared(sent, got, wanted, &queue).filter(|_| !is_consequence) {
                return different(text);
            }
            is_refused_to_its_end &= !matches!(name_of(&sent.words).as_str(), "exec" | "discard" | "reset");
            match wanted.first() {
                Some(frame) if frame.line == b"+QUEUED" => queue.push(&sent.words),
                _ if matches!(name_of(&sent.words).as_str(), "exec" | "discard" | "reset") => queue.clear(),
                _ => {}
            }
        }
        let rest = |side: &Side| {
            let taken: usize = split(&self.sent, &side.frames).iter().map(|group| group.len()).sum();
            let mut rest = side.frames[taken..].to_vec();
            // The words after it are Handover's own where it is stricter.
            rest.iter_mut()
                .filter(|frame| frame.line.starts_with(b"-ERR Protocol error"))
                .for_each(|frame| frame.line.truncate(19));
            (rest, in_known_order(&side.messages), side.ended, side.received.clone())
        };
        let (got, wanted) = (rest(&self.proxied), rest(&self.direct));
        let command = self.sent.len();
        (got != wanted)
            .then(|| Difference { command, text: format!("after everything:\n got {got:?}\nwant {wanted:?}") })
    }
}

/// One message that fits several patterns comes in the order of a table whose seed is the server's own.
fn in_known_order(messages: &[Frame]) -> Vec<Frame> {
    let mut messages = messages.to_vec();
    let is_same = |one: &Frame, other: &Frame| {
        one.items().len() == 4 && one.items()[2..] == other.items()[2.min(other.items().len())..]
    };
    for same in messages.chunk_by_mut(is_same) {
        same.sort();
    }
    messages
}

fn compared(sent: &Sent, got: &[Frame], wanted: &[Frame], queue: &[&Words]) -> Option<String> {
    let (first_got, first_wanted) = (&got[0], &wanted[0]);
    if sent.is_refused {
        let line = first_got.line.as_slice();
        let words: [&[u8]; 3] = [b"-ERR handover: ", b"-ERR Can't execute", b"-ERR wrong number of arguments"];
        let is_own = words.iter().any(|words| line.starts_with(words));
        return (!is_own).then(|| format!(" got {first_got:?}\nwant a refusal by name"));
    }
    if rules::is_said_otherwise(&sent.words, sent.is_of_subscriber, first_got, first_wanted) {
        return None;
    }
    let is_transaction = name_of(&sent.words) == "exec" && first_wanted.items().len() == queue.len();
    let normal = |frames: &[Frame]| -> Vec<Frame> {
        let mut frames: Vec<Frame> = frames.to_vec();
        if is_transaction && frames[0].items().len() == queue.len() {
            for (item, words) in frames[0].items_mut().iter_mut().zip(queue) {
                *item = rules::normal(words, item.clone());
            }
        } else if sent.replies == Replies::All {
            // The channels of an UNSUBSCRIBE of everything come in any order; their counts do not.
            let mut channels: Vec<Frame> = frames.iter().filter_map(|frame| frame.items().get(1).cloned()).collect();
            channels.sort();
            for (frame, channel) in frames.iter_mut().zip(channels).filter(|(frame, _)| is_confirmation(frame)) {
                frame.items_mut()[1] = channel;
            }
        } else {
            frames = frames.into_iter().map(|frame| rules::normal(&sent.words, frame)).collect();
        }
        frames
    };
    let (got, wanted) = (normal(got), normal(wanted));
    (got != wanted).then(|| format!(" got {got:?}\nwant {wanted:?}"))
}

/// A command as a frame, or inline; now and then with something before it that is no request.
fn written(words: &Words, random: Option<&mut Random>) -> Vec<u8> {
    let Some(random) = random else { return encode(words) };
    let mut bytes = Vec::new();
    if random.chance(2) {
        bytes.extend_from_slice(random.one(&["\r\n", "*0\r\n", "*-1\r\n", "\n"]).as_bytes());
    }
    let length: usize = words.iter().map(Vec::len).sum();
    if !random.chance(10) || length > 1000 {
        bytes.extend(encode(words));
        return bytes;
    }
    for word in words {
        let is_plain =
            !word.is_empty() && word.iter().all(|byte| byte.is_ascii_alphanumeric() || b"_:-+.".contains(byte));
        if is_plain {
            bytes.extend_from_slice(word);
        } else {
            let quoted: String = word.iter().fold(String::new(), |mut text, byte| {
                write!(text, "\\x{byte:02x}").expect("a string takes everything");
                text
            });
            bytes.extend_from_slice(format!("\"{quoted}\"").as_bytes());
        }
        bytes.extend_from_slice(if random.chance(20) { b" \t " } else { b" " });
    }
    bytes.extend_from_slice(if random.chance(50) { b"\r\n" } else { b"\n" });
    bytes
}

fn cut(bytes: &[u8], random: &mut Random) -> Vec<Vec<u8>> {
    let longest = [1 + bytes.len(), 200, 20, 3][random.below(4)].max(bytes.len() / 60);
    let (mut pieces, mut rest) = (Vec::new(), bytes);
    while !rest.is_empty() {
        let (piece, later) = rest.split_at((1 + random.below(longest)).min(rest.len()));
        pieces.push(piece.to_vec());
        rest = later;
    }
    pieces
}

/// The commands of a stream, one a line.
pub(crate) fn shown(stream: &Stream) -> String {
    let mut text = String::new();
    for (index, command) in stream.commands.iter().enumerate() {
        let words: Vec<String> = command.iter().map(|word| shortened(word)).collect();
        writeln!(text, "  {index:2} {}", words.join(" ")).expect("a string takes everything");
    }
    text
}

fn shortened(word: &[u8]) -> String {
    match word.len() {
        0 => "\"\"".to_owned(),
        1..400 => word.escape_ascii().to_string(),
        length => format!("{}… ({length} bytes)", word[..20].escape_ascii()),
    }
}

/// A stream with as few commands as still make a difference.
pub(crate) fn smallest(servers: &Servers, stream: &Stream) -> Option<(Stream, Difference)> {
    let differs = |stream: &Stream| {
        servers.compare(std::slice::from_ref(stream), 0, SHRINKING_PATIENCE).map(|(_, difference)| difference)
    };
    let plain = Stream { cut: None, ..stream.clone() };
    let (mut smallest, mut difference) = [plain, stream.clone()]
        .into_iter()
        .find_map(|stream| differs(&stream).map(|difference| (stream, difference)))?;
    let mut index = smallest.commands.len();
    while index > 0 {
        index -= 1;
        let mut shorter = smallest.clone();
        shorter.commands.remove(index);
        shorter.waits = shorter.waits.iter().map(|wait| if *wait > index { wait - 1 } else { *wait }).collect();
        if let Some(found) = differs(&shorter) {
            (smallest, difference) = (shorter, found);
        }
    }
    Some((smallest, difference))
}
