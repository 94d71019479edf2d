//! What happens when: the demo's plot.

use std::time::{Duration, Instant};

/// A pause of the plot is never shorter, so that there is something to see.
const PAUSE_MIN: Duration = Duration::from_secs(1);

/// … and this long when nobody says how long the demo is to last.
const PAUSE_DEFAULT: Duration = Duration::from_secs(3);

/// About how long the failback takes once the server is back: grace and failback_hold of config/demo.toml.
const RETURN_EXPECTED: Duration = Duration::from_secs(5);

/// What takes longer than this does not happen any more.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is to be done now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    /// Kill the active server.
    Kill,
    /// Start the killed one again.
    Restart,
    /// The plot is over.
    End,
    /// What should have happened did not.
    GiveUp(&'static str),
}

/// What the plot depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen<'a> {
    /// The active backend.
    pub(super) active: Option<&'a str>,
    /// The last upheaval has settled.
    pub(super) settled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scene {
    Opening { since: Instant },
    WarmUp { until: Instant },
    Killed { at: Instant },
    Away { until: Instant },
    Returning { since: Instant },
    Home { until: Instant },
    Over,
}

/// Where the plot is.
#[derive(Debug)]
pub(super) struct Script {
    favourite: &'static str,
    started: Instant,
    ends_at: Option<Instant>,
    pause: Duration,
    scene: Scene,
}

impl Script {
    /// The plot, in which `favourite` is the heaviest backend.
    pub(super) fn new(favourite: &'static str, seconds: Option<u64>, now: Instant) -> Self {
        // A day is long enough for a demo, and no arithmetic with instants overflows.
        let whole = seconds.map(|seconds| Duration::from_secs(seconds.min(86_400)));
        let pause = whole.map_or(PAUSE_DEFAULT, |whole| whole.saturating_sub(RETURN_EXPECTED) / 3).max(PAUSE_MIN);
        let ends_at = whole.map(|whole| now + whole);
        Self { favourite, started: now, ends_at, pause, scene: Scene::Opening { since: now } }
    }

    /// About how long the whole takes.
    pub(super) fn length(&self) -> Duration {
        let expected = 3 * self.pause + RETURN_EXPECTED;
        self.ends_at.map_or(expected, |end| expected.max(end - self.started))
    }

    /// What is to be done now, if anything.
    pub(super) fn step(&mut self, now: Instant, seen: Seen<'_>) -> Option<Act> {
        let home = seen.active == Some(self.favourite);
        let (scene, act) = match self.scene {
            Scene::Opening { .. } if home => (Scene::WarmUp { until: now + self.pause }, None),
            Scene::Opening { since } => return self.give_up(since, now, "no server became active"),
            Scene::WarmUp { until } if now >= until => (Scene::Killed { at: now }, Some(Act::Kill)),
            Scene::Killed { .. } if seen.active.is_some() && !home => (Scene::Away { until: now + self.pause }, None),
            Scene::Killed { at } => return self.give_up(at, now, "no failover after the kill"),
            Scene::Away { until } if now >= until && seen.settled => {
                (Scene::Returning { since: now }, Some(Act::Restart))
            }
            Scene::Returning { .. } if home => {
                let until = self.ends_at.map_or(now + self.pause, |end| end.max(now + PAUSE_MIN));
                (Scene::Home { until }, None)
            }
            Scene::Returning { since } => return self.give_up(since, now, "no failback after the restart"),
            Scene::Home { until } if now >= until && seen.settled => (Scene::Over, Some(Act::End)),
            unchanged => (unchanged, None),
        };
        self.scene = scene;
        act
    }

    fn give_up(&mut self, since: Instant, now: Instant, what: &'static str) -> Option<Act> {
        if now.saturating_duration_since(since) < PATIENCE {
            return None;
        }
        self.scene = Scene::Over;
        Some(Act::GiveUp(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays with servers that need a second to fail over and five to fail back; says what is done when.
    fn play(seconds: Option<u64>) -> Vec<(u64, Act)> {
        let start = Instant::now();
        let mut script = Script::new("east", seconds, start);
        let (mut acts, mut active, mut change) = (Vec::new(), None, Some((1, "east")));
        for second in 0..200 {
            if let Some((at, name)) = change
                && at == second
            {
                active = Some(name);
                change = None;
            }
            let seen = Seen { active, settled: change.is_none() };
            let Some(act) = script.step(start + Duration::from_secs(second), seen) else { continue };
            acts.push((second, act));
            match act {
                Act::Kill => change = Some((second + 1, "west")),
                Act::Restart => change = Some((second + 5, "east")),
                Act::End | Act::GiveUp(_) => {}
            }
        }
        acts
    }

    #[test]
    fn the_plot_takes_as_long_as_it_was_told_to() {
        assert_eq!(play(None), [(4, Act::Kill), (8, Act::Restart), (16, Act::End)]);
        assert_eq!(play(Some(8)), [(2, Act::Kill), (4, Act::Restart), (10, Act::End)]);
        assert_eq!(play(Some(65)), [(21, Act::Kill), (42, Act::Restart), (65, Act::End)]);
        assert_eq!(play(Some(0)), [(2, Act::Kill), (4, Act::Restart), (10, Act::End)]);
    }

    #[test]
    fn patience_ends() {
        let start = Instant::now();
        let late = start + PATIENCE;
        let none = Seen { active: None, settled: true };
        let east = Seen { active: Some("east"), settled: true };
        let west = Seen { active: Some("west"), settled: true };
        let mut script = Script::new("east", None, start);
        assert_eq!(script.step(start, none), None);
        assert_eq!(script.step(late, none), Some(Act::GiveUp("no server became active")));
        assert_eq!(script.step(late, east), None, "once is enough");

        let mut script = Script::new("east", None, start);
        script.step(start, east);
        assert_eq!(script.step(late, east), Some(Act::Kill));
        assert_eq!(script.step(late + PATIENCE, east), Some(Act::GiveUp("no failover after the kill")));

        let mut script = Script::new("east", None, start);
        script.step(start, east);
        assert_eq!(script.step(late, east), Some(Act::Kill));
        script.step(late, west);
        assert_eq!(script.step(late + PATIENCE, west), Some(Act::Restart));
        assert_eq!(script.step(late + 2 * PATIENCE, west), Some(Act::GiveUp("no failback after the restart")));
    }

    #[test]
    fn the_next_scene_waits_until_the_last_has_settled() {
        let start = Instant::now();
        let mut script = Script::new("east", None, start);
        script.step(start, Seen { active: Some("east"), settled: true });
        assert_eq!(script.step(start + PATIENCE, Seen { active: Some("east"), settled: true }), Some(Act::Kill));
        script.step(start + PATIENCE, Seen { active: Some("west"), settled: false });
        let much_later = start + 2 * PATIENCE;
        assert_eq!(script.step(much_later, Seen { active: Some("west"), settled: false }), None);
        assert_eq!(script.step(much_later, Seen { active: Some("west"), settled: true }), Some(Act::Restart));
    }
}
