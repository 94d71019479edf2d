//! Clients and names that are a burden: many that say little, and backends whose names lead nowhere.

mod support;

use support::{Handover, PATIENCE, RawClient, RedisServer, Value, wait_until};

const SLOW_CLIENTS: usize = 3000;
/// A busy machine lets the server wait, too, which is not to be called silent for it.
const PATIENT: &str = "detector.hang_timeout = '8s'\ndetector.slow_timeout = '9s'\nhealth.timeout = '5s'\n\
    failover.hold = '6s'\n";
/// Sockets, sessions and tasks of a build that is not optimised.
const CLIENT_BYTES_MAX: usize = 32 * 1024;

fn resident_bytes(handover: &Handover) -> usize {
    let text = std::fs::read_to_string(format!("/proc/{}/statm", handover.pid())).expect("it runs");
    let pages: usize = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("resident pages");
    pages * 4096
}

fn configuration(backends: &[(&str, String)]) -> String {
    let backend = |(name, url): &(&str, String)| format!("[[backend]]\nname = \"{name}\"\nurl = \"redis://{url}\"\n");
    PATIENT.to_owned() + &backends.iter().map(backend).collect::<String>()
}

#[test]
fn thousands_of_clients_that_send_a_byte_at_a_time_cost_little_and_hold_nobody_up() {
    let server = RedisServer::start();
    let handover = Handover::builder(&configuration(&[("only", server.address().to_string())]))
        .allow_warning("has only one")
        .start();
    let mut prompt = handover.client();
    assert_eq!(prompt.command(&["SET", "key", "value"]), Value::ok());
    let before = resident_bytes(&handover);
    let mut slow: Vec<RawClient> = (0..SLOW_CLIENTS).map(|_| handover.client()).collect();
    let request = b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n";
    for byte in &request[..request.len() - 1] {
        slow.iter_mut().for_each(|client| client.send([*byte]));
        assert_eq!(prompt.command(&["GET", "key"]), Value::bulk("value"));
    }
    wait_until(PATIENCE, || handover.metric("handover_clients", &[]) as usize == SLOW_CLIENTS + 1);
    let each = resident_bytes(&handover).saturating_sub(before) / SLOW_CLIENTS;
    assert!(each <= CLIENT_BYTES_MAX, "{each} bytes for each slow client");
    for client in &mut slow {
        client.send(&request[request.len() - 1..]);
        assert_eq!(client.read_reply(), Value::bulk("value"));
    }
}

#[test]
fn a_backend_whose_name_leads_nowhere_holds_nobody_up() {
    let server = RedisServer::start();
    let good = format!("localhost:{}", server.port());
    let handover = Handover::builder(&configuration(&[("nowhere", "name.invalid:6379".to_owned()), ("good", good)]))
        .allow_warning("backend is unhealthy")
        .start();
    let mut client = handover.client();
    assert_eq!(client.command(&["SET", "key", "value"]), Value::ok());
    assert_eq!(server.command(&["GET", "key"]), Value::bulk("value"));
}
