//! What an idle client costs Handover in memory.
//!
//! `cargo bench --bench memory -- --most 5000`
//!
//! Each client has sent a PING, a SET and a GET and then sits there, as those of a pool do.

#[path = "common/mod.rs"]
mod common;
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::Duration;

use common::{Options, resident_kib};
use support::{Handover, RawClient, RedisServer};

const STEPS: [usize; 4] = [0, 50, 1_000, 5_000];
/// What is freed late is freed by then.
const SETTLE: Duration = Duration::from_secs(1);
const DESCRIPTORS_RESERVED: usize = 100;

fn main() {
    let options = Options::parse(&["most"]);
    let most = options.get("most", 5_000).min(common::raise_open_files() - DESCRIPTORS_RESERVED);
    common::print_machine();
    let (east, west) = (RedisServer::start(), RedisServer::start());
    let handover = Handover::builder(&format!(
        "[[backend]]\nname = \"east\"\nurl = \"redis://{}\"\nweight = 2.0\n\
         [[backend]]\nname = \"west\"\nurl = \"redis://{}\"\nweight = 1.0\n",
        east.address(),
        west.address()
    ))
    .allow_warning("")
    .start();

    println!(
        "\n| idle clients | RSS KiB | KiB a client (all) | KiB a client (since the row above) |\n|---|---|---|---|"
    );
    let mut clients: Vec<RawClient> = Vec::new();
    let (mut without, mut before) = (0.0, (0, 0.0));
    for step in STEPS.into_iter().filter(|&step| step <= most) {
        clients.extend((clients.len()..step).map(|_| used_client(&handover)));
        std::thread::sleep(SETTLE);
        let resident = resident_kib(handover.pid());
        if step == 0 {
            without = resident;
        }
        let all = (resident - without) / step as f64;
        let since = (resident - before.1) / (step - before.0) as f64;
        println!(
            "| {step} | {resident:.0} | {} | {} |",
            or_dash(all),
            if step == 0 { "–".into() } else { or_dash(since) }
        );
        before = (step, resident);
    }
}

fn used_client(handover: &Handover) -> RawClient {
    let mut client = handover.client();
    for command in [&["PING"][..], &["SET", "key", "value"], &["GET", "key"]] {
        assert!(!matches!(client.command(command), support::Value::Error(_)), "{command:?} failed");
    }
    client
}

fn or_dash(kib: f64) -> String {
    if kib.is_finite() { format!("{kib:.2}") } else { "–".to_owned() }
}
