//! The route: what a switch does to connections and sessions; and what time does to those who wait.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::link::{Inspect, Link, LinkState, Profile, Role, RunKind};
use super::session::{BrokenEnd, CloseReason, Pending, Transaction, Wait};
use super::{
    BackendId, DialOutcome, INPUT_BYTES_MAX, LANES_MAX, Lane, LinkKey, Multiplexer, Output, Report, SessionKey,
};
use crate::command::refusal::Refusal;
use crate::command::table::{Answered, Class, Pinned};
use crate::logic::judged::Judged;
use crate::logic::route::{Availability, Phase, Route};
use crate::resp::arguments::Arguments;
use crate::resp::encode::Protocol;
use crate::resp::request::Scan;
use crate::resp::{encode, inline};

/// A reader that lets others wait behind its replies for so long is closed.
const SLOW_READER_MAX: Duration = Duration::from_secs(1);
/// A lane that carried something proves its order at least so often.
const SENTINEL_INTERVAL: Duration = Duration::from_secs(1);
/// Between two attempts to open a lane: the first, and the most that doubling leads to.
const REDIAL_DELAY: Duration = Duration::from_millis(10);
const REDIAL_DELAY_MAX: Duration = Duration::from_secs(1);
/// Before the end of a planned switch's drain, blocked commands that could not be unblocked are left to the cut.
const BLOCKED_GRACE: Duration = Duration::from_millis(100);

/// What the supervisor reads of one backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VitalSigns {
    /// When a byte last came.
    pub heard_at: Option<Instant>,
    /// Since when a wholly written request has waited.
    pub waiting_since: Option<Instant>,
    /// That request may legally run long.
    pub waiting_slow: bool,
    /// Replies so far.
    pub successes: u64,
    /// Failures so far.
    pub failures: u64,
}

impl Multiplexer {
    /// The supervisor published a route. Sockets must have been read empty before.
    pub fn on_route(&mut self, route: Route, now: Instant) {
        let old = std::mem::replace(&mut self.route, route);
        if self.route.pause != old.pause {
            self.join_pauses();
        }
        if let (Phase::Hold { .. }, false) = (old.phase, self.is_holding()) {
            self.restart_hold_clock(now);
        }
        if self.route.epoch != old.epoch {
            self.activate(&old, now);
        } else if self.route.abandoned_since != old.abandoned_since {
            self.lose_abandoned_links(now);
        }
        // A watcher may skip values: the next switch can have begun already.
        match self.route.phase {
            Phase::Cut { attempt, .. } => self.cut(attempt, now),
            Phase::Hold { .. } => self.check_drained(),
            Phase::Serve => self.advance_waiting(now),
        }
        self.advance_settled(now);
    }

    /// A planned switch is under way.
    pub(super) const fn is_holding(&self) -> bool {
        matches!(self.route.phase, Phase::Hold { .. })
    }

    /// The clock of held commands stood still during a planned switch.
    fn restart_hold_clock(&mut self, now: Instant) {
        for &key in &self.waiting {
            if let Some((_, since)) = self.sessions.get_mut(key).and_then(|session| session.wait.as_mut()) {
                *since = now;
            }
        }
    }

    /// Stops writing to the active, judges what is unanswered there, and says so.
    fn cut(&mut self, attempt: u64, now: Instant) {
        self.abandon_links(now);
        self.outputs.push_back(Output::Report(Report::Stopped(attempt)));
    }

    /// Ends every connection to the active that carries commands or subscriptions.
    fn abandon_links(&mut self, now: Instant) {
        for key in self.links.keys() {
            let is_of_active = |link: &Link| match link.role {
                Role::Standby => false,
                // Those to another backend stand by.
                Role::Subscription(_) => Some(link.backend) == self.route.active,
                _ => true,
            };
            if self.links.get(key).is_some_and(is_of_active) {
                self.outputs.push_back(Output::CloseLink { link: key, reset: true });
                self.judge_link(key, now);
            }
        }
    }

    /// Ends the connections to the active that have been silent for so long that they are lost. What may rightly run long
    /// is waited for.
    fn lose_abandoned_links(&mut self, now: Instant) {
        let Some(since) = self.route.abandoned_since else { return };
        for key in self.links.keys() {
            let is_lost = |link: &Link| {
                Some(link.backend) == self.route.active
                    && link.waiting_since.is_some_and(|waiting_since| waiting_since <= since)
                    && !self.is_slow(&link.front_frame())
            };
            if self.links.get(key).is_some_and(is_lost) {
                self.lose_link(key, "no reply, although probes are answered", now);
            }
        }
    }

    /// Serves in a new epoch.
    fn activate(&mut self, old: &Route, now: Instant) {
        // Each reply looks it up.
        if let Some(place) = self.backends.iter().position(|(id, _)| Some(*id) == self.route.active) {
            self.backends.swap(0, place);
        }
        self.raise_publish_barrier(now);
        self.continuity += u64::from(old.active.is_some());
        // After a planned switch nothing is due but blocked commands that could not be unblocked. Subscriptions
        // are read from the old backend until the new one has confirmed them.
        for key in self.links.keys() {
            let Some(link) = self.links.get(key) else { continue };
            let is_kept = match link.role {
                Role::Standby => Some(link.backend) == self.route.active,
                // One that does not deliver yet never will: it would stand in the way of the next.
                Role::Subscription(session) => {
                    let delivers = old.active == Some(link.backend)
                        && self.sessions.get(session).is_some_and(|session| session.subscription_link() == Some(key));
                    delivers || self.is_promoted_standby(session, key)
                }
                Role::Lane | Role::Pin(_) | Role::Verification => false,
            };
            if !is_kept {
                let reset = link.client_requests() > 0 || link.is_uploading();
                self.outputs.push_back(Output::CloseLink { link: key, reset });
                self.judge_link(key, now);
            }
        }
        self.promote_standbys(now);
        self.move_all_withheld(now);
        self.move_identities(now);
        let judged = std::mem::take(&mut self.judged);
        self.outputs.push_back(Output::Report(Report::Activated { epoch: self.route.epoch, judged }));
        self.move_subscriptions(now);
    }

    /// Lanes that were kept warm become the lanes; those that were not are opened.
    fn promote_standbys(&mut self, now: Instant) {
        let epoch = self.route.epoch;
        let in_use = self.profiles_in_use();
        let mut profiles: Vec<Profile> =
            self.lanes.drain(..).map(|lane| lane.profile).filter(|profile| in_use.contains(profile)).collect();
        if profiles.is_empty() {
            profiles.extend(self.profile_of_newcomers());
        }
        for standby in std::mem::take(&mut self.standbys) {
            let Some(link) = standby.link.and_then(|key| self.links.get_mut(key)) else { continue };
            link.role = Role::Lane;
            link.epoch = epoch;
            self.lanes.push(standby);
        }
        for profile in profiles {
            if !self.lanes.iter().any(|lane| lane.profile == profile) {
                self.open_lane(profile, now);
            }
        }
    }

    /// What the sessions' commands need, and what a fresh one will.
    fn profiles_in_use(&self) -> HashSet<Profile> {
        let authenticated =
            self.sessions.iter().filter(|(_, session)| session.access.is_authenticated && !session.is_reader());
        authenticated.map(|(_, session)| session.profile).chain(self.profile_of_newcomers()).collect()
    }

    fn is_unused(&self, lane: &Lane, in_use: &HashSet<Profile>) -> bool {
        !in_use.contains(&lane.profile)
            && !self.is_being_asked(lane)
            && lane.link.and_then(|key| self.links.get(key)).is_none_or(Link::is_idle)
    }

    /// Makes room for another lane: those that nobody uses any more are closed.
    pub(super) fn close_unused_lanes(&mut self) {
        let in_use = self.profiles_in_use();
        let lanes = std::mem::take(&mut self.lanes);
        let (unused, used): (Vec<Lane>, _) = lanes.into_iter().partition(|lane| self.is_unused(lane, &in_use));
        self.lanes = used;
        for link in unused.into_iter().filter_map(|lane| lane.link) {
            self.close_link(link, false);
        }
        let lanes = &self.lanes;
        let unused_standbys: Vec<LinkKey> = self
            .standbys
            .iter()
            .filter(|standby| !lanes.iter().any(|lane| lane.profile == standby.profile))
            .filter_map(|standby| standby.link)
            .collect();
        self.standbys.retain(|standby| lanes.iter().any(|lane| lane.profile == standby.profile));
        unused_standbys.into_iter().for_each(|link| self.close_link(link, false));
    }

    /// The active said that it does not have this database, or this protocol.
    pub(super) fn is_profile_refused(&self, backend: BackendId, profile: Profile) -> bool {
        self.backend(backend).is_some_and(|record| {
            let no_database =
                record.database_refused.as_ref().is_some_and(|(lowest, _)| profile.database >= Some(*lowest));
            let no_select = profile.database.is_some() && record.select_refusal(profile.identity).is_some();
            no_database || no_select || (profile.protocol == Protocol::Resp3 && record.resp3_refused.is_some())
        })
    }

    /// The same, or the identity may not run the ECHO that a lane needs.
    fn is_lane_refused(&self, backend: BackendId, profile: Profile) -> bool {
        self.is_profile_refused(backend, profile)
            || self.backend(backend).is_some_and(|record| record.echo_refused.contains(&profile.identity))
    }

    /// Begins to open a lane, unless there are too many, or the active cannot have it.
    pub(super) fn open_lane(&mut self, profile: Profile, now: Instant) {
        let Some(active) = self.route.active.filter(|_| self.is_serving()) else { return };
        if self.is_lane_refused(active, profile) {
            return;
        }
        if !self.lanes.iter().any(|lane| lane.profile == profile) {
            if self.lanes.len() >= LANES_MAX {
                self.close_unused_lanes();
            }
            if self.lanes.len() >= LANES_MAX {
                return;
            }
            self.lanes.push(Lane { profile, link: None, failures: 0, retry_at: None });
        }
        let link = self.dial(active, profile, Role::Lane, now);
        if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.profile == profile) {
            lane.link = Some(link);
        }
    }

    /// Opening a connection has come to something. False: nobody wants it any more, and it must be closed.
    pub fn on_dialled(&mut self, key: LinkKey, outcome: DialOutcome, now: Instant) -> bool {
        let Some(link) = self.links.get_mut(key) else { return false };
        let (backend, role, profile) = (link.backend, link.role, link.profile);
        let is_proven = matches!(outcome, DialOutcome::Ready { .. });
        let takes_groups = matches!(outcome, DialOutcome::Ready { takes_groups: true, .. });
        match outcome {
            DialOutcome::RefusedIdentity(reply) => {
                self.on_identity_refused(key, backend, role, profile.identity, reply, now);
                false
            }
            DialOutcome::RefusedSelect(reply) => {
                let record = self.record(backend);
                if record.select_refusal(profile.identity).is_none() {
                    record.select_refused.push((profile.identity, reply));
                }
                self.forget_refused(key, role, now);
                false
            }
            DialOutcome::Unproven { .. } if matches!(role, Role::Lane | Role::Standby) => {
                self.on_echo_refused(key, backend, role, profile.identity, now);
                false
            }
            // What ends the script must get through on a pin, which the fence proves before anybody else has it.
            DialOutcome::Busy { .. } if !matches!(role, Role::Pin(_)) => {
                self.on_dialled(key, DialOutcome::Failed("the server is busy with a script".to_owned()), now)
            }
            DialOutcome::Ready { client_id, server, .. }
            | DialOutcome::Unproven { client_id, server }
            | DialOutcome::Busy { client_id, server } => {
                link.state = LinkState::Ready;
                link.client_id = client_id;
                link.takes_groups = takes_groups;
                let record = self.record(backend);
                record.server = server.or_else(|| record.server.take());
                record.heard_at = Some(now);
                self.outputs.push_back(Output::Report(Report::Connected(backend)));
                self.note_accepted(backend, profile.identity, now);
                if role == Role::Verification {
                    if is_proven {
                        self.note_proven(backend, profile.identity);
                    }
                    self.remove_link(key);
                    return false;
                }
                self.on_link_ready(key, role, now);
                true
            }
            DialOutcome::RefusedDatabase(reply) => {
                let database = profile.database.unwrap_or_default();
                let known = self.record(backend).database_refused.take();
                let lowest = known.map_or(database, |(known, _)| known.min(database));
                self.record(backend).database_refused = Some((lowest, reply));
                self.forget_refused(key, role, now);
                false
            }
            DialOutcome::RefusedProtocol(reply) => {
                self.record(backend).resp3_refused = Some(reply);
                self.forget_refused(key, role, now);
                false
            }
            DialOutcome::Failed(cause) => {
                self.record(backend).failures += 1;
                self.outputs.push_back(Output::Report(Report::ConnectFailed { backend, cause }));
                self.on_dial_failed(key, role, now);
                false
            }
        }
    }

    fn on_link_ready(&mut self, key: LinkKey, role: Role, now: Instant) {
        match role {
            Role::Lane => {
                // A connection that was lost without a switch is no part of the next one.
                if self.is_serving() {
                    self.judged = Judged::default();
                }
                self.advance_waiting(now);
            }
            Role::Pin(Some(session)) => {
                self.set_up(session, key, now);
                self.monitor_again(session, key, now);
                self.advance_session(session, now);
            }
            Role::Standby | Role::Pin(None) | Role::Verification => {}
            Role::Subscription(session) => self.on_subscription_ready(session, key, now),
        }
        self.advance_settled(now);
    }

    /// The server will not have this database or protocol: whoever asked for it hears so.
    fn forget_refused(&mut self, key: LinkKey, role: Role, now: Instant) {
        self.on_dial_failed(key, role, now);
        // What is asked for in vain takes no lane's place.
        let active = self.route.active;
        let refused: Vec<Profile> = self
            .lanes
            .iter()
            .map(|lane| lane.profile)
            .filter(|&profile| active.is_some_and(|active| self.is_profile_refused(active, profile)))
            .collect();
        self.lanes.retain(|lane| lane.link.is_some() || !refused.contains(&lane.profile));
        self.standbys.retain(|lane| lane.link.is_some() || role != Role::Standby);
        self.advance_waiting(now);
        self.advance_settled(now);
    }

    pub(super) fn on_dial_failed(&mut self, key: LinkKey, role: Role, now: Instant) {
        let identity = self.remove_link(key).map(|link| link.profile.identity);
        match role {
            Role::Lane | Role::Standby => {
                self.retry_lane_later(key, now);
            }
            Role::Pin(Some(session)) => {
                if let Some(pin) = self.sessions.get_mut(session).and_then(|session| session.pin.as_mut()) {
                    pin.link = None;
                }
            }
            Role::Pin(None) => {}
            Role::Verification => self.postpone_verification(identity, now),
            Role::Subscription(session) => self.on_subscription_failed(session, key, now),
        }
    }

    /// The lane's connection is gone before it carried anything: the next attempt waits a little longer.
    pub(super) fn retry_lane_later(&mut self, key: LinkKey, now: Instant) {
        let spread = 0.5 + (self.next_random() % 1024) as f64 / 1024.0;
        for lane in self.lanes.iter_mut().chain(&mut self.standbys).filter(|lane| lane.link == Some(key)) {
            let delay = REDIAL_DELAY.saturating_mul(1 << lane.failures.min(7)).min(REDIAL_DELAY_MAX);
            lane.link = None;
            lane.failures += 1;
            lane.retry_at = Some(now + delay.mul_f64(spread));
        }
    }

    /// Says that nothing is in flight any more, once in an attempt at a planned switch.
    pub(super) fn check_drained(&mut self) {
        let Phase::Hold { attempt, .. } = self.route.phase else { return };
        if self.in_flight == 0 && self.drained != Some(attempt) {
            self.drained = Some(attempt);
            self.outputs.push_back(Output::Report(Report::Drained(attempt)));
        }
    }

    /// Time passed. Call it every few milliseconds while [`Self::is_waiting`], else a few times a second.
    pub fn on_tick(&mut self, now: Instant) {
        self.end_leavers(now);
        self.release_idle_pins(now);
        self.trim_pool(now);
        self.reopen_pins(now);
        self.follow_targets(now);
        self.reopen_lanes(now);
        self.keep_standbys(now);
        self.send_sentinels(now);
        self.close_slow_readers(now);
        self.unblock(now);
        self.keep_circles(now);
        self.reopen_subscriptions(now);
        self.beat_subscriptions(now);
        self.keep_subscription_standbys(now);
        self.close_slow_subscribers(now);
        self.lift_publish_barrier(now);
        self.end_pause(now);
        self.keep_identities(now);
        self.advance_waiting(now);
        self.expire_held(now);
        self.feed_starved();
        self.advance_settled(now);
        // What suspicion kept back goes once the silence has ended otherwise than by a byte.
        for key in self.links.keys() {
            self.mark_link_to_write(key);
        }
    }

    fn reopen_lanes(&mut self, now: Instant) {
        let due: Vec<Profile> = self
            .lanes
            .iter()
            .filter(|lane| lane.link.is_none() && lane.retry_at.is_none_or(|at| at <= now))
            .map(|lane| lane.profile)
            .collect();
        due.into_iter().for_each(|profile| self.open_lane(profile, now));
    }

    /// For every profile in use one proven lane stays open to the backend that would be next.
    fn keep_standbys(&mut self, now: Instant) {
        let Some(standby) = self.route.standby.filter(|&standby| Some(standby) != self.route.active) else {
            return self.drop_standbys(None);
        };
        self.drop_standbys(Some(standby));
        let profiles: Vec<Profile> = self.lanes.iter().map(|lane| lane.profile).collect();
        for profile in profiles {
            if !self.is_lane_refused(standby, profile) && !self.standbys.iter().any(|lane| lane.profile == profile) {
                self.standbys.push(Lane { profile, link: None, failures: 0, retry_at: None });
            }
        }
        for index in 0..self.standbys.len() {
            let lane = &self.standbys[index];
            if lane.link.is_none() && lane.retry_at.is_none_or(|at| at <= now) {
                let link = self.dial(standby, lane.profile, Role::Standby, now);
                self.standbys[index].link = Some(link);
            }
        }
    }

    /// Closes standby lanes that lead to another backend than this one.
    fn drop_standbys(&mut self, keep: Option<BackendId>) {
        let links: Vec<LinkKey> = self.standbys.iter().filter_map(|lane| lane.link).collect();
        for key in links {
            if self.links.get(key).is_some_and(|link| Some(link.backend) != keep) {
                self.standbys.retain(|lane| lane.link != Some(key));
                self.close_link(key, false);
            }
        }
        if keep.is_none() {
            self.standbys.clear();
        }
    }

    fn send_sentinels(&mut self, now: Instant) {
        for key in self.links.keys() {
            let Some(link) = self.links.get(key) else { continue };
            let is_old = now.saturating_duration_since(link.sentinel.0) >= SENTINEL_INTERVAL;
            let is_used = match link.role {
                Role::Lane => link.sentinel.1 > 0,
                Role::Standby => link.is_idle(),
                Role::Pin(_) | Role::Subscription(_) | Role::Verification => false,
            };
            if link.state == LinkState::Ready && is_old && is_used {
                self.send_echo(key, now);
            }
        }
    }

    /// Closes clients that do not read while others wait behind their replies.
    fn close_slow_readers(&mut self, now: Instant) {
        for key in self.links.keys() {
            let Some(link) = self.links.get(key) else { continue };
            let Some((reader, since)) = link.paused else { continue };
            let is_other = |session: SessionKey| session != reader;
            // A planned switch waits for what is in flight, and everybody for the switch.
            let holds_switch =
                self.is_holding() && !matches!(link.role, Role::Subscription(_)) && link.client_requests() > 0;
            let others_wait = holds_switch
                || link.runs().iter().any(|run| run.session.is_some_and(is_other))
                || self.others_want_room(key, reader);
            if others_wait && now.saturating_duration_since(since) >= SLOW_READER_MAX {
                self.remove_session(reader, CloseReason::SlowReader);
                if let Some(link) = self.links.get_mut(key)
                    && link.paused.take().is_some()
                {
                    self.outputs.push_back(Output::ResumeLink(key));
                }
            }
        }
    }

    /// Blocked commands are unblocked for a planned switch, again and again until they answer.
    fn unblock(&mut self, now: Instant) {
        let Phase::Hold { attempt, until, .. } = self.route.phase else { return };
        let mut blocked = 0;
        for key in self.links.keys() {
            let Some(link) = self.links.get_mut(key) else { continue };
            if link.front().is_some_and(|run| run.kind.may_block()) {
                blocked += link.unanswered();
                if let Some(client_id) = link.client_id {
                    link.unblocked = true;
                    self.outputs.push_back(Output::Unblock { backend: link.backend, client_id });
                }
            }
        }
        let is_late = now + BLOCKED_GRACE >= until;
        if is_late && blocked > 0 && self.in_flight == blocked && self.drained != Some(attempt) {
            self.drained = Some(attempt);
            self.outputs.push_back(Output::Report(Report::Drained(attempt)));
        }
    }

    /// Refuses what was held for too long.
    fn expire_held(&mut self, now: Instant) {
        if self.is_holding() {
            return;
        }
        let is_at_rate = !self.connects.has_some(now);
        for key in self.waiting.clone() {
            let Some(session) = self.sessions.get(key) else { continue };
            // A reader has nobody to tell; its clients' commands are held until it is served.
            let Some((what, since)) = session.wait.filter(|_| !session.is_reader()) else { continue };
            if matches!(what, Wait::Due | Wait::Answer | Wait::Confirmation | Wait::Pause | Wait::Login) {
                continue;
            }
            let held = now.saturating_duration_since(since);
            let awaits_replay = session.awaits_replay();
            let lacks_pin = session.pin.as_ref().is_some_and(|pin| pin.link.is_none());
            let lacks_own = lacks_pin || session.lacks_subscription_link();
            let awaits_own = what == Wait::Pin && self.is_serving();
            let is_capped = awaits_own && lacks_own && held >= self.settings.limits.pin_wait;
            if is_capped && !self.may_open_own(lacks_pin) {
                if awaits_replay {
                    self.expire_replay(key);
                    continue;
                }
                self.refuse_held(key, Some(Refusal::PinLimit), now);
                continue;
            }
            let is_served = what == Wait::Room && self.has_lane(session.profile);
            let hold = match self.route.availability {
                Availability::Refusing => Duration::ZERO,
                // Its turn comes: connections of clients' own are opened at a bounded rate.
                Availability::Healthy | Availability::Degraded if awaits_own && is_at_rate => {
                    self.settings.retry.deadline
                }
                Availability::Healthy | Availability::Degraded => self.settings.failover.hold,
            };
            if what == Wait::Verdict && held >= hold {
                // No verdict came in time: the backend's own word goes to the client, which may go on.
                self.pass_withheld(key, now);
            } else if awaits_replay && held >= hold {
                self.expire_replay(key);
            } else if !is_served && held >= hold {
                self.refuse_held(key, None, now);
            }
        }
    }

    /// No connection came in time that a transaction could be replayed on.
    fn expire_replay(&mut self, key: SessionKey) {
        if let Some(session) = self.sessions.get_mut(key) {
            session.wait = None;
        }
        self.give_up_replay(key);
    }

    /// A lane that is open, though it may be full.
    fn has_lane(&self, profile: Profile) -> bool {
        self.is_serving()
            && self.lanes.iter().filter(|lane| lane.profile == profile).any(|lane| {
                lane.link.and_then(|key| self.links.get(key)).is_some_and(|link| link.state == LinkState::Ready)
            })
    }

    /// Answers everything that a session has waiting: as not applied, where that is true.
    pub(super) fn refuse_held(&mut self, key: SessionKey, refusal: Option<Refusal>, now: Instant) {
        if self.refuse_begun_upload(key, now) {
            return;
        }
        self.pass_withheld(key, now);
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.wait = None;
        // What was sent is about to be answered "uncertain", and a client may repeat the whole burst after LOADING.
        let is_uncertain = |pending: &Pending| matches!(pending, Pending::Send { sent: true, read_only: false, .. });
        session.burst_answered |= session.pending.iter().any(is_uncertain);
        // What clients repeat by themselves would come back at once while nothing is held.
        let must_give_up = session.burst_answered || self.route.availability == Availability::Refusing;
        let refusal = refusal.unwrap_or(if must_give_up { Refusal::Unavailable } else { Refusal::Loading });
        while let Some(pending) = self.sessions.get_mut(key).and_then(|session| session.pending.pop_front()) {
            self.refuse_pending(key, pending, &refusal, now);
        }
        self.end_refused_skipped(key);
        self.refuse_input(key, &refusal, now);
        if let Some(session) = self.sessions.get_mut(key) {
            session.drop_idle_pin();
        }
        self.update_reading(key);
        self.finish_if_done(key);
    }

    fn refuse_pending(&mut self, key: SessionKey, pending: Pending, refusal: &Refusal, now: Instant) {
        match pending {
            Pending::Answer(reply) => self.answer(key, |out| out.extend_from_slice(&reply), now),
            Pending::Send { commands, dropped, sent, read_only, kind, .. } => {
                let refusal = if sent && !read_only { &Refusal::Uncertain } else { refusal };
                for _ in dropped..commands {
                    self.refuse(key, refusal, now);
                }
                self.note_refused_transaction(key, &kind);
            }
        }
    }

    /// After a refused MULTI or WATCH nothing may run until its EXEC.
    pub(super) fn note_refused_transaction(&mut self, key: SessionKey, kind: &RunKind) {
        let queuing = match kind {
            RunKind::Inspect(Inspect::Multi) => true,
            RunKind::Inspect(Inspect::Watch) => false,
            _ => return,
        };
        if let Some(session) = self.sessions.get_mut(key) {
            session.transaction = Transaction::Broken { queuing, end: BrokenEnd::Refused };
        }
    }

    /// Refuses every whole request that was read.
    fn refuse_input(&mut self, key: SessionKey, refusal: &Refusal, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let input = std::mem::take(&mut session.input);
        let mut position = 0;
        while let Some(session) = self.sessions.get_mut(key).filter(|session| session.ending.is_none()) {
            let rest = &input[position..];
            let (bytes, class) = match session.scanner.scan(rest) {
                Scan::Incomplete => {
                    position += self.refuse_waiting_upload(key, rest, refusal);
                    break;
                }
                Scan::Invalid(_) => {
                    // What it is worth saying is said when it is looked at again.
                    session.scanner.reset();
                    break;
                }
                Scan::Nothing { bytes } | Scan::Inline { line_bytes: 0, bytes } => (bytes, None),
                Scan::Inline { line_bytes, bytes } => (bytes, self.inline_class(&rest[..line_bytes])),
                Scan::Frame(frame) => {
                    let class = self.policy_of(key).apply(&rest[..frame.bytes], frame.name(rest)).class;
                    (frame.bytes, Some(class))
                }
            };
            if class == Some(Class::Answered(Answered::ClientReply)) {
                // It needs no backend, and its client counts on it: it is looked at as ever, with what stands behind it.
                self.settled.push(key);
                break;
            }
            if let Some(class) = class {
                self.refuse_request(key, class, refusal, now);
                self.end_refused(key);
            }
            position += bytes;
        }
        if let Some(session) = self.sessions.get_mut(key).filter(|session| session.ending.is_none()) {
            session.input = BytesMut::from(&input[position..]);
            if session.upload.is_none() {
                session.scanner.reset();
                if session.input.len() >= INPUT_BYTES_MAX {
                    // As much as is held: its rest is read only once it was looked at.
                    self.settled.push(key);
                }
            }
        }
    }

    /// What an inline request is; none when it has no words, or quotes that do not match.
    fn inline_class(&self, line: &[u8]) -> Option<Class> {
        let words = inline::split(line)?;
        let mut frame = BytesMut::new();
        encode::request(&mut frame, &words);
        words.first().map(|name| self.settings.policy.apply(&frame, name).class)
    }

    fn refuse_request(&mut self, key: SessionKey, class: Class, refusal: &Refusal, now: Instant) {
        let broken =
            self.sessions.get(key).is_some_and(|session| matches!(session.transaction, Transaction::Broken { .. }));
        match class {
            Class::Answered(Answered::Quit) => {
                self.answer(key, |out| encode::simple(out, "OK"), now);
                self.end(key, CloseReason::Quit);
            }
            Class::Pinned(Pinned::Exec | Pinned::Discard) if broken => {
                if let Some(session) = self.sessions.get_mut(key) {
                    session.leave_transaction();
                }
                self.refuse(key, &Refusal::TransactionRefused, now);
            }
            _ => {
                self.refuse(key, refusal, now);
                match class {
                    Class::Pinned(Pinned::Multi) => {
                        self.note_refused_transaction(key, &RunKind::Inspect(Inspect::Multi))
                    }
                    Class::Pinned(Pinned::Watch) => {
                        self.note_refused_transaction(key, &RunKind::Inspect(Inspect::Watch))
                    }
                    _ => {}
                }
            }
        }
    }

    /// What the supervisor reads of a backend.
    #[must_use]
    pub fn vital_signs(&self, backend: BackendId) -> VitalSigns {
        let record = self.backend(backend);
        let waiting = self
            .links
            .iter()
            .filter(|(_, link)| link.backend == backend)
            .filter_map(|(_, link)| link.waiting_since.map(|since| (since, link)))
            .min_by_key(|(since, _)| *since);
        VitalSigns {
            heard_at: record.and_then(|record| record.heard_at),
            waiting_since: waiting.map(|(since, _)| since),
            waiting_slow: waiting.is_some_and(|(_, link)| self.is_slow(&link.front_frame())),
            successes: record.map_or(0, |record| record.successes),
            failures: record.map_or(0, |record| record.failures),
        }
    }

    fn is_slow(&self, frame: &Bytes) -> bool {
        let name = Arguments::new(frame).next().unwrap_or_default();
        self.settings.policy.apply(frame, name).is_slow()
    }
}
