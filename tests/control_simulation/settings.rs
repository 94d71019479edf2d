//! The settings that a file gives, so that the simulation runs on what operators get.

use std::time::Duration;

use handover::config::{Config, Sources};
use handover::logic::failover::GroupSettings;
use handover::logic::settings::BreakerSettings;

/// What a preset gives a group.
pub fn of(preset: &str) -> GroupSettings {
    let text = format!(
        "preset = '{preset}'\n[[listener]]\nbind = '127.0.0.1:6379'\n\
         [[backend]]\nname = 'b0'\nurl = 'redis://127.0.0.1:7000'\n"
    );
    let loaded = Config::load(&Sources { text: Some(text), cores: 1, ..Sources::default() });
    let mut config = loaded.unwrap_or_else(|problems| panic!("{problems}")).config;
    let group = config.groups.remove(0);
    GroupSettings { health: group.health, detector: group.detector, breaker: group.breaker, failover: group.failover }
}

/// The same with a shorter memory, so that a minute shows relapses, failbacks and the flap guard.
pub fn hasty(preset: &str) -> GroupSettings {
    let seconds = Duration::from_secs;
    let mut settings = of(preset);
    settings.breaker = BreakerSettings { grace: seconds(4), grace_max: seconds(16) };
    settings.failover.failback_hold = seconds(4);
    settings.failover.switches_window = seconds(20);
    settings
}

/// How long one probe round may take.
pub fn round_max(settings: &GroupSettings) -> Duration {
    let health = &settings.health;
    health.timeout * health.probes + health.probes_delay * (health.probes - 1)
}

/// How long a fault that probes and traffic show may last before the active has changed, if another is good.
pub fn reaction_max(settings: &GroupSettings) -> Duration {
    let (health, round) = (&settings.health, round_max(settings));
    let by_probes = (health.interval.mul_f64(1.0 + health.jitter).max(round) + round) * health.fall;
    let clean_standby = health.standby_interval.max(health.interval).mul_f64(1.0 + health.jitter) + round;
    by_probes.max(settings.detector.hang_timeout) + clean_standby + Duration::from_secs(1)
}
