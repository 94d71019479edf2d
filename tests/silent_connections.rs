//! Connections to a backend that lives, on which nothing comes any more; and clients that send urgent data.

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use support::{FakeBackend, FakeConnection, Handover, RawClient, RedisServer, Signal, Value, courtesy};

/// Answers on every connection until it is asked for `dead` on one: from then on that one takes everything in silence.
fn forgetful() -> FakeBackend {
    FakeBackend::start(|connection: &mut FakeConnection| {
        let mut is_dead = false;
        while let Some(command) = connection.read_command() {
            is_dead |= command.get(1).is_some_and(|key| key == b"dead");
            if !is_dead {
                connection.write(courtesy(&command).unwrap_or_else(|| b"$5\r\nvalue\r\n".to_vec()));
            }
        }
    })
}

/// Before the only backend; impatient.
fn before(backend: SocketAddr) -> Handover {
    let detector = "[detector]\nhang_timeout = \"200ms\"\nslow_timeout = \"600ms\"\n[health]\ninterval = \"100ms\"\n";
    let configuration = format!("{detector}[[backend]]\nname = \"only\"\nurl = \"redis://{backend}\"\n");
    let builder = Handover::builder(&configuration).allow_warning("has only one").allow_warning("backend is unhealthy");
    builder.allow_warning("no backend is healthy").allow_warning("can serve again").allow_warning("breaker").start()
}

/// All clients share it: whoever comes later is served over another, and who waited learns what is known.
#[test]
fn a_lane_to_the_only_backend_that_falls_silent_is_replaced() {
    let backend = forgetful();
    let handover = before(backend.address());
    let (mut reader, mut writer, mut later) = (handover.client(), handover.client(), handover.client());
    assert_eq!(later.command(&["GET", "key"]), Value::bulk("value"));
    reader.send_command(&["GET", "other"]);
    reader.read_reply();
    writer.send_command(&["INCR", "dead"]);
    assert!(writer.read_reply().is_error("UNCERTAIN"));
    for client in [&mut reader, &mut writer, &mut later, &mut handover.client()] {
        assert_eq!(client.command(&["GET", "key"]), Value::bulk("value"));
    }
}

#[test]
fn a_clients_own_connection_that_falls_silent_is_replaced() {
    let backend = forgetful();
    let handover = before(backend.address());
    let (mut owner, mut other) = (handover.client(), handover.client());
    owner.command(&["WATCH", "key"]);
    owner.send_command(&["INCR", "dead"]);
    // Others are heard all the while: the backend as a whole is not silent.
    let waiting = std::thread::spawn(move || (owner.read_reply(), owner));
    while !waiting.is_finished() {
        assert_eq!(other.command(&["GET", "key"]), Value::bulk("value"));
        // The pace of the other client; reading has the deadline.
        std::thread::sleep(Duration::from_millis(5));
    }
    let (reply, mut owner) = waiting.join().expect("it was answered");
    assert!(reply.is_error("UNCERTAIN"), "{reply:?}");
    assert_eq!(owner.command(&["GET", "key"]), Value::bulk("value"));
}

/// A server that was stopped for long and goes on answers what was asked before: nothing is taken for lost.
#[test]
fn the_only_backend_is_waited_for_while_it_is_stopped() {
    let mut server = RedisServer::start();
    let handover = before(server.address());
    let mut clients: Vec<RawClient> = (0..20).map(|_| handover.client()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.command(&["SET", "key", "value"]), Value::ok()));
    server.stop();
    clients.iter_mut().for_each(|client| client.send_command(&["INCR", "counter"]));
    // The length of the fault, more than twice what a connection may be silent for: there is nothing else to wait for.
    std::thread::sleep(Duration::from_millis(2000));
    server.cont();
    for client in &mut clients {
        let reply = client.read_reply();
        assert!(matches!(reply, Value::Integer(_)), "{reply:?}");
    }
    assert_eq!(handover.metric("handover_uncertain_total", &[]) as u64, 0);
}

/// A read ends where urgent data was sent, although more has come: Redis skips the byte and goes on.
#[test]
fn what_comes_behind_urgent_data_is_read() {
    let server = RedisServer::start();
    let configuration = format!("[[backend]]\nname = \"only\"\nurl = \"redis://{}\"\n", server.address());
    let mut handover = Handover::builder(&configuration).allow_warning("has only one").start();
    for _ in 0..2 {
        let mut client = handover.client();
        assert_eq!(client.command(&["SET", "key", "value"]), Value::ok());
        // So that all of it is there when it is read.
        handover.signal(Signal::STOP);
        client.send_command(&["GET", "key"]);
        client.send_urgent(b'!');
        client.send_command(&["GET", "none"]);
        handover.signal(Signal::CONT);
        client.expect("$5\r\nvalue\r\n$-1\r\n");
        assert_eq!(client.command(&["GET", "key"]), Value::bulk("value"));
    }
}
