//! What the simulated workers work by: short times and small bounds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use handover::command::policy::Policy;
use handover::logic::identity::IdentitySettings;
use handover::logic::multiplexer::{Commons, Settings};
use handover::logic::settings::{
    Clock, DetectorSettings, Failback, FailoverSettings, InitialPolicy, LatencySettings, LimitSettings, NoneHealthy,
    PubSubMode, PubSubSettings, RetryCeiling, RetrySettings,
};

pub(crate) const DRAIN: Duration = Duration::from_millis(100);
pub(crate) const OUTPUT_BYTES_MAX: usize = 8 * 1024;

pub(crate) fn settings(worker: u64, seed: u64) -> Settings {
    let milliseconds = Duration::from_millis;
    Settings {
        failover: FailoverSettings {
            hold: milliseconds(250),
            drain: DRAIN,
            failback: Failback::Manual,
            failback_hold: milliseconds(1000),
            failback_jitter: 0.0,
            switches_max: 3,
            switches_window: milliseconds(1000),
            initial: InitialPolicy::One,
            attempts: 0,
            delay: milliseconds(100),
            none_healthy: NoneHealthy::LastActive,
            checks_cursors: true,
        },
        retry: RetrySettings {
            ceiling: RetryCeiling::WriteLastWins,
            rearm_blocked: true,
            attempts: 3,
            budget: 0.1,
            deadline: milliseconds(400),
        },
        limits: LimitSettings {
            clients_max: 100,
            pins_per_backend_max: 6,
            pin_wait: milliseconds(150),
            inflight_max: 64,
            output_bytes_max: OUTPUT_BYTES_MAX,
            held_bytes_max: 1 << 20,
            value_bytes_max: 1 << 20,
            scripts_max: 100,
            script_bytes_max: 1 << 20,
        },
        detector: DetectorSettings {
            hang_timeout: milliseconds(100),
            suspect_after: milliseconds(10),
            slow_timeout: milliseconds(600),
            window: milliseconds(1000),
            failures_min: 10,
            failure_rate: 0.5,
            latency: LatencySettings::default(),
        },
        policy: Policy::default(),
        client_id_first: worker + 1,
        client_id_step: 2,
        connects_per_second: 500.0,
        commons: Arc::new(Commons::new(100, 1 << 20)),
        database: Some(0),
        pubsub: PubSubSettings {
            heartbeat: Duration::from_millis(30),
            heartbeat_lost: Duration::from_millis(120),
            standby: seed.is_multiple_of(3),
            mode: if seed.is_multiple_of(2) { PubSubMode::Hub } else { PubSubMode::PerClient },
            linger: Duration::from_millis(20),
            ..PubSubSettings::default()
        },
        clock: Clock { origin: Instant::now(), origin_unix_ms: 0 },
        identity: IdentitySettings::default(),
        users: Arc::default(),
        seed: seed ^ worker,
    }
}
