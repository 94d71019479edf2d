//! Two servers behind one Handover, and switches between them on command.

use super::{
    Cut, Handover, HandoverBuilder, LogLine, PATIENCE, RawClient, RedisServer, RedisServerBuilder, Relay, wait_until,
};

/// `east` (weight 2, behind a relay) and `west` (weight 1); both live on across switches, so that each can be asked
/// afterwards what was applied there.
pub struct Pair {
    /// First, so that it ends first.
    pub handover: Handover,
    /// Handover's only way to `east`.
    pub relay: Relay,
    /// Active at the start.
    pub east: RedisServer,
    /// Active after a fault.
    pub west: RedisServer,
}

/// How a pair is to be started.
pub struct PairBuilder {
    east: RedisServerBuilder,
    west: RedisServerBuilder,
    east_user: String,
    west_user: String,
    extra: String,
    returns: bool,
}

impl Pair {
    /// Starts both servers, and Handover on `east`, which is never returned to.
    #[track_caller]
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// For anything else.
    pub fn builder() -> PairBuilder {
        PairBuilder {
            east: RedisServer::builder(),
            west: RedisServer::builder(),
            east_user: String::new(),
            west_user: String::new(),
            extra: String::new(),
            returns: false,
        }
    }

    /// A client of Handover.
    #[track_caller]
    pub fn client(&self) -> RawClient {
        self.handover.client()
    }

    /// A forced switch: every connection to `east` is reset, new ones are refused; `west` serves when this returns.
    #[track_caller]
    pub fn fail_over(&mut self) {
        self.break_east();
        self.wait_for("west");
    }

    /// The fault alone.
    #[track_caller]
    pub fn break_east(&mut self) {
        self.relay.refuse();
        self.relay.cut(Cut::Reset);
    }

    /// A planned switch: `east` can be reached again and is returned to.
    #[track_caller]
    pub fn fail_back(&mut self) {
        self.relay.listen();
        self.wait_for("east");
    }

    /// Waits until this backend serves.
    #[track_caller]
    pub fn wait_for(&self, backend: &str) {
        self.wait_for_status(|group| group["active"] == backend && group["phase"] == "serve");
    }

    #[track_caller]
    fn wait_for_status(&self, holds: impl Fn(&serde_json::Value) -> bool) {
        wait_until(PATIENCE, || {
            let status: serde_json::Value =
                serde_json::from_str(&self.handover.http_get("/status").body).expect("the status is JSON");
            holds(&status["groups"][0])
        });
    }

    /// Waits until so many sessions are in a mode: `shared`, `pinned`, `subscribed`, `blocked`.
    #[track_caller]
    pub fn wait_for_sessions(&self, mode: &str, count: usize) {
        wait_until(PATIENCE, || self.sessions(mode) == count);
    }

    /// How many sessions are in a mode.
    #[track_caller]
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    pub fn sessions(&self, mode: &str) -> usize {
        self.handover.metric("handover_sessions", &[("mode", mode)]) as usize
    }

    /// Planned switches that were called off so far for something that did not drain. (Those for a late probe say only
    /// that the machine is busy.)
    pub fn called_off(&self) -> Vec<LogLine> {
        let is_not_drained = |line: &LogLine| {
            line.message() == "planned switch called off" && line.text.contains("still in flight after the drain time")
        };
        self.handover.log().into_iter().filter(is_not_drained).collect()
    }
}

impl PairBuilder {
    /// Failback is automatic and quick.
    pub fn returning(mut self) -> Self {
        self.returns = true;
        self
    }

    /// More configuration: tables other than `[health]`, `[failover]`, `[breaker]` and `[[backend]]`.
    pub fn configuration(mut self, toml: &str) -> Self {
        self.extra.push_str(toml);
        self.extra.push('\n');
        self
    }

    /// Changes both servers.
    pub fn servers(mut self, change: impl Fn(RedisServerBuilder) -> RedisServerBuilder) -> Self {
        self.east = change(self.east);
        self.west = change(self.west);
        self
    }

    /// Changes `west`.
    pub fn west(mut self, change: impl FnOnce(RedisServerBuilder) -> RedisServerBuilder) -> Self {
        self.west = change(self.west);
        self
    }

    /// Starts everything; `east` serves and `west` is known to be healthy when this returns.
    #[track_caller]
    pub fn start(self) -> Pair {
        let (east, west) = (self.east.start(), self.west.start());
        let relay = Relay::start(east.address());
        let (failback, pause) = if self.returns { ("auto", "50ms") } else { ("never", "1m") };
        let configuration = format!(
            r#"{}
            [health]
            interval = "100ms"
            standby_interval = "100ms"
            timeout = "2s"
            [breaker]
            grace = "{pause}"
            [failover]
            initial = "all"
            hold = "5s"
            drain = "2s"
            failback = "{failback}"
            failback_hold = "{pause}"
            switches_max = 100
            [[backend]]
            name = "east"
            url = "redis://{}{}"
            weight = 2.0
            [[backend]]
            name = "west"
            url = "redis://{}{}"
            weight = 1.0
            "#,
            self.extra,
            self.east_user,
            relay.address(),
            self.west_user,
            west.address()
        );
        let builder: HandoverBuilder = Handover::builder(&configuration)
            .allow_warning("backend is unhealthy")
            .allow_warning("switched")
            // On a machine that runs many tests at once a probe may be late; the failback is tried again.
            .allow_warning("planned switch called off")
            .allow_warning("a backend can serve again");
        let pair = Pair { handover: builder.start(), relay, east, west };
        pair.wait_for_status(|group| group["standby"] == "west");
        pair
    }
}
