//! What a group does unless the file says otherwise: the defaults and the presets over them.

use std::time::Duration;

use super::checks::CheckSettings;
use super::section::Choices;
use super::{CommandLists, Parity, Promotion};
use crate::logic::settings::{
    BreakerSettings, DetectorSettings, Failback, FailoverSettings, HealthSettings, InitialPolicy, LatencySettings,
    LimitSettings, NoneHealthy, ProbeMode, ProbePolicy, PubSubSettings, RetryCeiling, RetrySettings,
};
use crate::resp::request::REDIS_VALUE_BYTES_MAX;

/// A named set of defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Preset {
    Default,
    /// Seconds matter more than false alarms.
    Fast,
    /// False alarms matter more than seconds.
    Conservative,
    /// What redis-py's multi-database client does.
    RedisClients,
}

pub(super) const PRESETS: &Choices<Preset> = &[
    ("default", Some(Preset::Default)),
    ("fast", Some(Preset::Fast)),
    ("conservative", Some(Preset::Conservative)),
    ("redis-clients", Some(Preset::RedisClients)),
];

/// The settings that a group may have of its own.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct GroupSettings {
    pub(super) health: HealthSettings,
    pub(super) checks: CheckSettings,
    pub(super) detector: DetectorSettings,
    pub(super) breaker: BreakerSettings,
    pub(super) failover: FailoverSettings,
    pub(super) promotion: Promotion,
    pub(super) retry: RetrySettings,
    /// Whether the file chose `retry.ceiling`, so that `replication` does not.
    pub(super) ceiling_is_written: bool,
    /// Whether the file chose `retry.deadline`, so that it does not follow `hold`.
    pub(super) deadline_is_written: bool,
    pub(super) commands: CommandLists,
    pub(super) pubsub: PubSubSettings,
    /// Whether the file chose `pubsub.propagates`, so that `replication` does not.
    pub(super) propagates_is_written: bool,
    pub(super) parity: Parity,
}

impl GroupSettings {
    pub(super) fn of(preset: Preset) -> Self {
        let mut settings = Self::defaults();
        match preset {
            Preset::Default => {}
            Preset::Fast => settings.quicken(),
            Preset::Conservative => settings.calm(),
            Preset::RedisClients => settings.follow_redis_clients(),
        }
        settings
    }

    fn defaults() -> Self {
        Self {
            health: health(),
            checks: CheckSettings::new(),
            detector: detector(),
            breaker: BreakerSettings { grace: seconds(60), grace_max: seconds(600) },
            failover: failover(),
            promotion: Promotion::default(),
            retry: RetrySettings {
                ceiling: RetryCeiling::WriteLastWins,
                rearm_blocked: true,
                attempts: 3,
                budget: 0.1,
                deadline: seconds(2),
            },
            ceiling_is_written: false,
            deadline_is_written: false,
            commands: CommandLists::default(),
            pubsub: PubSubSettings::default(),
            propagates_is_written: false,
            parity: Parity { interval: seconds(24 * 3600), loads_functions: false },
        }
    }

    fn quicken(&mut self) {
        self.health.interval = millis(100);
        self.health.timeout = millis(100);
        self.health.fall = 2;
        self.detector.hang_timeout = millis(100);
        self.breaker.grace = seconds(10);
        self.failover.failback_hold = seconds(10);
    }

    fn calm(&mut self) {
        self.health.interval = seconds(2);
        self.health.timeout = seconds(1);
        self.health.fall = 3;
        self.detector.hang_timeout = seconds(5);
    }

    fn follow_redis_clients(&mut self) {
        self.health.interval = seconds(5);
        self.health.timeout = seconds(3);
        self.health.probes = 3;
        self.health.probes_delay = millis(500);
        self.health.policy = ProbePolicy::All;
        self.detector.window = seconds(2);
        self.detector.failures_min = 1000;
        self.detector.failure_rate = 0.1;
        self.breaker.grace = seconds(60);
        self.failover.failback_hold = seconds(120);
        self.failover.attempts = 10;
        self.failover.delay = seconds(12);
        // A hold must outlast one health check, whose timeout is longer here than the default hold.
        self.failover.hold = millis(3250);
    }
}

/// Defaults of `[limits]`.
pub(super) fn limits() -> LimitSettings {
    LimitSettings {
        clients_max: 10_000,
        pins_per_backend_max: 1000,
        pin_wait: millis(500),
        inflight_max: 4096,
        output_bytes_max: 1 << 20,
        held_bytes_max: 64 << 20,
        value_bytes_max: REDIS_VALUE_BYTES_MAX,
        scripts_max: 1000,
        script_bytes_max: 16 << 20,
    }
}

fn health() -> HealthSettings {
    HealthSettings {
        modes: vec![ProbeMode::Write],
        interval: millis(500),
        timeout: millis(500),
        jitter: 0.2,
        standby_interval: seconds(2),
        accept_interval: seconds(10),
        fall: 3,
        rise: 3,
        probes: 1,
        probes_delay: millis(100),
        policy: ProbePolicy::All,
        probe_key: "handover:probe".to_owned(),
    }
}

fn detector() -> DetectorSettings {
    DetectorSettings {
        hang_timeout: seconds(1),
        suspect_after: millis(50),
        slow_timeout: seconds(6),
        window: seconds(2),
        failures_min: 5,
        failure_rate: 0.1,
        latency: LatencySettings::default(),
    }
}

fn failover() -> FailoverSettings {
    FailoverSettings {
        hold: millis(1500),
        drain: seconds(1),
        failback: Failback::Auto,
        failback_hold: seconds(60),
        failback_jitter: 0.1,
        switches_max: 3,
        switches_window: seconds(600),
        initial: InitialPolicy::One,
        attempts: 0,
        delay: seconds(1),
        none_healthy: NoneHealthy::LastActive,
        checks_cursors: true,
    }
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
