//! Cursors and scripts on their way to another backend.

use super::*;

#[test]
fn a_scan_in_flight_moves_only_from_its_start() {
    let page = |cursor: u64| format!("*2\r\n${}\r\n{cursor}\r\n*0\r\n", cursor.to_string().len());
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["SCAN 0"]);
    let lane = bench.lane();
    assert_eq!(bench.written(lane), ["SCAN 0"]);
    bench.reply(lane, &page(17));
    let marked = (2 << 44) | 17;
    assert_eq!(bench.heard(client), page(marked));
    let next = format!("SCAN {marked}");
    bench.say(client, &[&next]);
    assert_eq!(bench.written(lane), ["SCAN 17"]);
    // Without a switch it means what it meant.
    bench.lose(lane);
    bench.pass(ms(100));
    let lane = bench.lane();
    assert_eq!(bench.written(lane), ["SCAN 17"]);
    bench.switch(1);
    assert!(bench.heard(client).starts_with("-ERR handover: cursor is not valid on this backend"));
    assert!(bench.ask(client, &next).starts_with("-ERR handover: cursor is not valid on this backend"));
    let lane = bench.lane();
    assert!(bench.written(lane).is_empty());
    bench.say(client, &["SCAN 0"]);
    bench.written(lane);
    bench.switch(0);
    let lane = bench.lane();
    assert_eq!(bench.written(lane), ["SCAN 0"]);
    bench.reply(lane, &page(0));
    assert_eq!((bench.heard(client), bench.multiplexer.in_flight()), (page(0), 0));
}

#[test]
fn a_script_is_loaded_before_its_call_and_after_it_was_missed() {
    const DIGEST: &str = "11f6ad8ec52a2984abaafd7c3b516503785c2072";
    const MISSED: &str = "-NOSCRIPT No matching script. Please use EVAL.\r\n";
    let loaded = format!("$40\r\n{DIGEST}\r\n");
    let call = format!("EVALSHA {DIGEST} 0");
    let mut bench = Bench::new();
    let client = bench.client();
    bench.say(client, &["SCRIPT LOAD x"]);
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["SCRIPT LOAD x"]);
    bench.reply(pin, &loaded);
    assert_eq!(bench.heard(client), loaded);
    bench.say(client, &[&call, &call]);
    assert_eq!(bench.written(pin), ["SCRIPT LOAD x", &call, &call]);
    bench.reply(pin, &format!("{loaded}:1\r\n:2\r\n"));
    assert_eq!(bench.heard(client), ":1\r\n:2\r\n");
    // Dropped behind our back: loaded and called once more, and only once.
    bench.say(client, &[&call]);
    assert_eq!(bench.written(pin), [call.as_str()]);
    bench.reply(pin, MISSED);
    assert_eq!((bench.heard(client), bench.multiplexer.in_flight()), (String::new(), 1));
    assert_eq!(bench.written(pin), ["SCRIPT LOAD x", &call]);
    bench.reply(pin, &format!("-ERR no memory\r\n{MISSED}"));
    assert_eq!((bench.heard(client), bench.multiplexer.in_flight()), (MISSED.to_owned(), 0));
    // Another word of the script's own is no miss, and with more behind it the call would come too late.
    bench.say(client, &[&call]);
    bench.written(pin);
    bench.reply(pin, "-NOSCRIPT of my own\r\n");
    assert_eq!(bench.heard(client), "-NOSCRIPT of my own\r\n");
    bench.say(client, &[&call, "EVAL y 0"]);
    bench.written(pin);
    bench.reply(pin, MISSED);
    assert_eq!(bench.heard(client), MISSED);
    bench.reply(pin, ":5\r\n");
    // Not sent yet when the connection is lost: on the next one its script stands before it.
    bench.say(client, &[&call]);
    bench.switch(1);
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["SCRIPT LOAD x", &call]);
    bench.reply(pin, &format!("{loaded}:6\r\n"));
    assert_eq!(bench.heard(client), ":5\r\n:6\r\n");
    // It is known to be there until a connection is lost: whoever comes back may be another process.
    bench.say(client, &[&call]);
    assert_eq!(bench.written(pin), [call.as_str()]);
    bench.reply(pin, ":7\r\n");
    assert_eq!(bench.heard(client), ":7\r\n");
    bench.lose(pin);
    bench.say(client, &[&call]);
    let pin = bench.pin();
    assert_eq!(bench.written(pin), ["SCRIPT LOAD x", &call]);
}
