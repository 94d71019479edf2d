//! What Handover answers itself is made only as fast as it is read.

use super::*;

/// Takes so many bytes of what a client has to read at a time, until there is nothing more; returns all of it, and how
/// much stood there at most.
fn read_slowly(bench: &mut Bench, client: SessionKey, bytes: usize) -> (String, usize) {
    let (mut all, mut most) = (Vec::new(), 0);
    loop {
        let output = bench.multiplexer.client_output(client);
        most = most.max(output.len());
        if output.is_empty() {
            return (String::from_utf8(all).unwrap(), most);
        }
        let taken = output[..output.len().min(bytes)].to_vec();
        bench.multiplexer.on_client_written(client, taken.len(), bench.now);
        bench.settle();
        all.extend(taken);
    }
}

/// Names a client, and answers that with OK.
fn named(bench: &mut Bench, name: &str) -> SessionKey {
    let client = bench.client();
    assert_eq!(bench.ask(client, &format!("CLIENT SETNAME {name}")), "+OK\r\n");
    client
}

#[test]
fn a_burst_is_answered_as_it_is_read() {
    let name = "n".repeat(300);
    for (read_bytes, ends) in [(1, false), (99, true), (5000, false)] {
        let mut bench = Bench::new();
        let client = named(&mut bench, &name);
        let mut burst = frame("CLIENT GETNAME").repeat(500);
        burst.extend(b"CLIENT GETNAME\r\n".repeat(500));
        bench.multiplexer.on_client_bytes(client, &burst, bench.now);
        bench.settle();
        assert!(bench.multiplexer.client_output(client).len() < 1400);
        assert!(!bench.multiplexer.wants_client_bytes(client));
        if ends {
            bench.multiplexer.on_client_end(client, bench.now);
            bench.settle();
            assert_eq!(bench.closed, []);
        }
        let (heard, most) = read_slowly(&mut bench, client, read_bytes);
        assert_eq!(heard, format!("$300\r\n{name}\r\n").repeat(1000));
        assert!(most < 1400, "{most} bytes");
        match ends {
            true => assert_eq!(bench.closed, [(client, CloseReason::ClientClosed)]),
            false => assert!(bench.multiplexer.wants_client_bytes(client)),
        }
    }
}

#[test]
fn a_burst_of_every_kind_is_answered_in_order() {
    let name = "n".repeat(1500);
    let lines = ["CLIENT GETNAME", "GET a", "CLIENT ID", "GET a", "CLIENT GETNAME", "PING", "GET a"];
    let replies = format!("$1500\r\n{name}\r\n$1\r\n1\r\n:7\r\n$1\r\n1\r\n$1500\r\n{name}\r\n+PONG\r\n$1\r\n1\r\n");
    for (read_bytes, ends, splits) in [(100, false, 1), (100_000, true, 1), (700, true, 97), (50_000, false, 13)] {
        let mut bench = Bench::new();
        let client = named(&mut bench, &name);
        let burst: Vec<u8> = lines.iter().flat_map(|line| frame(line)).collect::<Vec<u8>>().repeat(50);
        for read in burst.chunks(burst.len().div_ceil(splits)) {
            bench.multiplexer.on_client_bytes(client, read, bench.now);
            bench.settle();
        }
        if ends {
            bench.multiplexer.on_client_end(client, bench.now);
        }
        let (mut all, mut idle) = (String::new(), 0);
        while idle < 3 {
            let session = bench.multiplexer.sessions.get(client);
            let links: usize = bench.multiplexer.links.iter().map(|(_, link)| link.runs().len()).sum();
            assert!(session.is_none_or(|session| session.due <= 8) && links <= 20, "{links} replies wait");
            let (heard, most) = read_slowly(&mut bench, client, read_bytes);
            assert!(most < 4000, "{most} bytes");
            idle = if heard.is_empty() && !bench.serve() { idle + 1 } else { 0 };
            all += &heard;
        }
        assert!(all == replies.repeat(50), "{} of {} bytes", all.len(), replies.len() * 50);
        assert_eq!(bench.closed.len(), usize::from(ends));
    }
}

#[test]
fn answers_behind_a_slow_reply_are_not_made_in_advance() {
    let mut bench = Bench::new();
    let client = named(&mut bench, &"n".repeat(4000));
    bench.say(client, &["GET a"]);
    let lane = bench.lane();
    bench.multiplexer.on_client_bytes(client, &frame("CLIENT INFO").repeat(1000), bench.now);
    assert_eq!(bench.multiplexer.links.get(lane).unwrap().runs().len(), 2, "one answer waits, and no more");
    let other = bench.client();
    bench.say(other, &["GET a"]);
    bench.multiplexer.on_client_bytes(other, &frame("CLIENT ID").repeat(1000), bench.now);
    assert!(bench.multiplexer.sessions.get(other).unwrap().due <= 8);
    while bench.serve() {}
    let (heard, _) = read_slowly(&mut bench, client, 1 << 20);
    assert_eq!(heard.matches("id=7 ").count(), 1000);
    let (heard, _) = read_slowly(&mut bench, other, 1 << 20);
    assert_eq!(heard, format!("$1\r\n1\r\n{}", ":8\r\n".repeat(1000)));
}

#[test]
fn names_have_a_bound() {
    let (longest, longer) = ("n".repeat(4096), "n".repeat(4097));
    let refusal = "-ERR handover: a name or attribute of a client is at most 4096 bytes long; this one has 4097\r\n";
    for command in ["CLIENT SETNAME", "CLIENT SETINFO lib-name", "CLIENT SETINFO LIB-VER", "HELLO 3 SETNAME"] {
        let mut bench = Bench::new();
        let client = bench.client();
        assert_eq!(bench.ask(client, &format!("{command} {longer}")), refusal, "{command}");
        assert_eq!(bench.ask(client, "CLIENT GETNAME"), "$-1\r\n");
        assert!(!bench.ask(client, &format!("{command} {longest}")).starts_with('-'), "{command}");
    }
}
