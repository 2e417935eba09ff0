//! Never two open gates; who serves on LAN and on WAN is the same node; no term is used twice. The excuses are those of
//! docs/safety.md and no others.

use crate::options::Kind;
use crate::timeline::Note;
use crate::world::World;
use ha_common::role::Role;
use ha_common::time::{Instant, earliest};
use ha_common::wire::heartbeat::{FLAG_OFFER, Standing};
use std::collections::BTreeMap;
use std::time::Duration;

/// An offer that was withdrawn may still be taken by words that are so old.
const WITHDRAWN: Duration = Duration::from_millis(30);
/// After a cut of every path is healed, or when nothing ran, one gate closes within this and two intervals.
const HEALED: Duration = Duration::from_millis(60);
/// What a path may delay and still carry words in time: two ways and a tick are less than 20 ms.
const PROMPT_MAX: Duration = Duration::from_millis(5);
/// Where CARP's timers decide: two masters that hear each other are one after some adverts, or a dispute.
const CONTACT: Duration = Duration::from_secs(4);
/// The hosts of a segment know the new master after the burst of announcements.
const ANNOUNCED: Duration = Duration::from_millis(300);
/// A loop that runs looks at its lease at every wake-up; the longest time between two is that of a long lease's renewal.
const SHUT: Duration = Duration::from_millis(500);
/// With heartbeats it wakes up all the time.
const SHUT_PAIR: Duration = Duration::from_millis(30);
/// The gate opens with the transition.
const TAKEN: Duration = Duration::from_millis(5);
const CONTACT_OVER: Duration = Duration::from_secs(12);

pub struct Gates {
    connected_since: Option<Instant>,
    /// Since when the words of the newer of two masters reach the older.
    fencing_since: Option<Instant>,
    two_since: Option<Instant>,
    /// When two gates were last open: the one that stays so announces itself again.
    two_until: Instant,
    /// When an offer last stood.
    offered_at: Option<Instant>,
    /// Since when each gate is open.
    open_since: Vec<Option<Instant>>,
    role_changed_at: Instant,
    /// Since when a loop that runs is master behind a closed gate.
    shut_since: Vec<Option<Instant>>,
    /// When each node last became master.
    mastered_at: Vec<Instant>,
    /// Since when announcements on both segments reach the hosts there.
    told_since: Option<Instant>,
    /// Who used a term; the mastership under way of each host.
    terms: BTreeMap<u64, usize>,
    current: Vec<u64>,
    pub overlap: Duration,
    pub excused: Duration,
}

impl Gates {
    pub fn new(nodes: usize) -> Self {
        Self {
            connected_since: None,
            fencing_since: None,
            two_since: None,
            two_until: Instant(0),
            offered_at: None,
            open_since: vec![None; nodes],
            role_changed_at: Instant(0),
            shut_since: vec![None; nodes],
            mastered_at: vec![Instant(0); nodes],
            told_since: None,
            terms: BTreeMap::new(),
            current: vec![0; nodes],
            overlap: Duration::ZERO,
            excused: Duration::ZERO,
        }
    }

    pub fn role_changed(&mut self, now: Instant, node: usize, to: Role) {
        self.role_changed_at = now;
        if to == Role::Master
            && let Some(at) = self.mastered_at.get_mut(node)
        {
            *at = now;
        }
    }

    /// A host that lost power remembers no term.
    pub fn forget_terms(&mut self, node: usize) {
        self.terms.retain(|_, user| *user != node);
        self.current[node] = 0;
    }
}

impl World {
    /// After everything that happens.
    pub fn observe(&mut self) {
        let now = self.now;
        self.checks.gates.connected_since =
            self.is_connected().then(|| self.checks.gates.connected_since.unwrap_or(now));
        let offers = |host: &crate::host::Host| {
            host.kernel.as_ref().is_some_and(|kernel| Standing::unpack(kernel.entry.state).has(FLAG_OFFER))
        };
        if self.hosts.iter().any(offers) {
            self.checks.gates.offered_at = Some(now);
        }
        let told = self.paths.iter().take(2).all(|path| path.loss_percent == 0);
        self.checks.gates.told_since = told.then(|| self.checks.gates.told_since.unwrap_or(now));
        let hears = self.hosts.iter().all(|host| host.health.peer_alive);
        self.checks.hears_all(now, hears);
        let mut open = 0;
        for node in 0..self.hosts.len() {
            let is_open = self.hosts[node].is_open(now);
            open += usize::from(is_open);
            self.note_gate(node, is_open);
            self.check_lease(node, is_open);
            if self.is_told_master(node) {
                self.checks.is_master(now, node);
            }
        }
        if open > 1 {
            let since = *self.checks.gates.two_since.get_or_insert(now);
            self.checks.gates.two_until = now;
            let fences = self.is_fenced_by_the_newer();
            self.checks.gates.fencing_since = fences.then(|| self.checks.gates.fencing_since.unwrap_or(now));
            self.check_two(now, now.since(since));
        } else {
            (self.checks.gates.two_since, self.checks.gates.fencing_since) = (None, None);
            self.check_apart(now);
        }
    }

    fn note_gate(&mut self, node: usize, is_open: bool) {
        let was_open = self.checks.gates.open_since[node].is_some();
        if was_open != is_open {
            self.checks.gates.open_since[node] = is_open.then_some(self.now);
            self.note(node, Note::Gate(is_open));
            if is_open && self.options.kind == Kind::Pair {
                self.check_term(node);
            }
        }
    }

    /// A gate is open within its lease and its term alone, and a loop that runs finds out soon that its gate is closed.
    fn check_lease(&mut self, node: usize, is_open: bool) {
        let now = self.now;
        let host = &self.hosts[node];
        let Some(kernel) = &host.kernel else { return };
        let local = host.local(now);
        if is_open && (local.0 >= kernel.entry.lease_until_ns || kernel.entry.term <= kernel.closed_term) {
            let late = local.since(Instant(kernel.entry.lease_until_ns));
            return self.fail(
                "lease",
                format!("the gate of node {node} is open {late:?} after its lease, or in a closed term"),
            );
        }
        let is_master = host.control.as_ref().is_some_and(|control| control.role() == Role::Master);
        let is_shut = is_master && !is_open && host.control_runs(now);
        let since = is_shut.then(|| self.checks.gates.shut_since[node].unwrap_or(now));
        self.checks.gates.shut_since[node] = since;
        let patience = if self.options.kind == Kind::Pair { SHUT_PAIR } else { SHUT };
        if since.is_some_and(|since| now.since(since) > patience) {
            self.fail("lease", format!("node {node} is master for {patience:?} behind a closed gate"));
        }
    }

    /// Heartbeats go both ways on some path without loss, and somebody sends them; or where there are none, all adverts
    /// are heard.
    fn is_connected(&self) -> bool {
        let now = self.now;
        let alive = self.hosts.iter().all(|host| host.is_alive(now));
        if self.options.kind != Kind::Pair {
            let adverts =
                |path: usize| self.paths[path].loss_percent == 0 && !self.paths[path].is_cut() && self.is_up(path);
            return alive && self.hosts.iter().all(|host| host.control_runs(now)) && adverts(0) && adverts(1);
        }
        let runs = self.hosts.iter().any(|host| host.control_runs(now));
        let understood = (0..2).all(|node| self.hosts[1 - node].accepts(self.hosts[node].heartbeat_epoch()));
        // A sudden delay that is longer than what counts as death is a false alarm (docs/safety.md, "Limits").
        let prompt = PROMPT_MAX.min(self.options.interval * (self.options.multiplier - 1) / 2);
        let carries = |path: usize| {
            let weather = &self.paths[path];
            weather.loss_percent == 0 && weather.delay_max <= prompt && !weather.is_cut() && self.is_up(path)
        };
        alive && runs && understood && (0..self.paths.len()).any(carries)
    }

    /// The newer of two masters sends probes to the very process that has the older gate, and some path carries them, whatever
    /// becomes of the answers (docs/safety.md, "Two masters after all").
    fn is_fenced_by_the_newer(&self) -> bool {
        let now = self.now;
        let term = |node: &usize| self.hosts[*node].kernel.as_ref().map_or(0, |kernel| kernel.entry.term);
        if self.options.kind != Kind::Pair {
            return false;
        }
        let Some(newer) = (0..2).max_by_key(term) else { return false };
        let (from, to) = (&self.hosts[newer], &self.hosts[1 - newer]);
        let (Some(own), Some(other)) = (&from.kernel, &to.kernel) else { return false };
        // Its probes are for the process that it heard last.
        let heard = own.replies.iter().flatten().max_by_key(|reply| reply.received);
        let is_known = heard.is_some_and(|reply| reply.report.session == other.entry.session);
        let carries = |path: usize| {
            let weather = &self.paths[path];
            weather.loss_percent == 0 && !weather.cut[newer][1 - newer] && self.is_up(path)
        };
        let is_sent = from.control_runs(now) && to.is_alive(now) && to.accepts(from.heartbeat_epoch());
        is_sent && is_known && (0..self.paths.len()).any(carries)
    }

    fn is_up(&self, path: usize) -> bool {
        self.hosts.iter().all(|host| host.link_up[path])
    }

    /// Never two open gates, but for the moment of a hand-over, and when no heartbeat can tell one of the other.
    fn check_two(&mut self, now: Instant, lasted: Duration) {
        let gates = &mut self.checks.gates;
        let since = earliest(gates.connected_since, gates.fencing_since);
        let connected = since.map(|since| now.since(since));
        let by_adverts = self.options.kind != Kind::Pair;
        let patience = if by_adverts { CONTACT } else { HEALED + self.options.interval * 4 };
        let slowest = self.paths.iter().map(|path| path.delay_max.min(PROMPT_MAX)).max().unwrap_or_default();
        let overlap_max = slowest + self.options.interval * 2 + Duration::from_millis(1);
        let offered = gates.offered_at.is_some_and(|at| now.since(at) < WITHDRAWN);
        if !by_adverts && offered && lasted < overlap_max {
            gates.overlap = gates.overlap.max(lasted);
        } else if connected.is_none_or(|connected| connected < patience) || by_adverts && lasted < CONTACT {
            gates.excused = gates.excused.max(lasted);
        } else {
            let roles: Vec<_> =
                self.hosts.iter().map(|host| host.control.as_ref().map(|control| control.role())).collect();
            self.fail(
                "two masters",
                format!(
                    "gates of two nodes open for {lasted:?}, connected for {connected:?}: {roles:?}; {:?}",
                    self.paths
                ),
            );
        }
    }

    /// The hosts on LAN and WAN send to the one node whose gate is open.
    fn check_apart(&mut self, now: Instant) {
        let gates = &self.checks.gates;
        let Some((node, since)) = gates.open_since.iter().enumerate().find_map(|(node, since)| Some((node, (*since)?)))
        else {
            return;
        };
        let told = gates.told_since.is_some_and(|told| told <= since);
        let links = self.hosts[node].link_up[0] && self.hosts[node].link_up[1];
        // A loop that does not run announces nothing.
        let runs = self.hosts[node].control_runs(now);
        // A gate that opens again after a pause of its host is no takeover: nobody announces anything.
        let taken = since.since(gates.mastered_at[node]) < TAKEN;
        let apart = self.clients.holder.iter().any(|holder| *holder != Some(node));
        // Where adverts decide, somebody who was away may take over for a moment, and the winner of the contact announces
        // itself again when it is over.
        let by_adverts = self.options.kind != Kind::Pair;
        let patience = if by_adverts { CONTACT_OVER } else { ANNOUNCED };
        // Who was not alone, and was cut off from the other, learns that when it hears the other again.
        let met = if since < gates.two_until && !by_adverts { gates.connected_since.unwrap_or(now) } else { since };
        let quiet = now.since(since.max(gates.role_changed_at).max(gates.two_until).max(met));
        if apart && taken && told && links && runs && quiet > patience + self.stalled_since(node, since) {
            self.fail(
                "apart",
                format!("node {node} serves for {:?}, and hosts send to {:?}", now.since(since), self.clients.holder),
            );
        }
    }

    /// How much of the time since then a control loop may have stood still.
    fn stalled_since(&self, node: usize, since: Instant) -> Duration {
        let host = &self.hosts[node];
        host.control_frozen_until.max(host.paused_until).since(since)
    }

    /// A term is one mastership of one node.
    fn check_term(&mut self, node: usize) {
        let Some(kernel) = &self.hosts[node].kernel else { return };
        let term = kernel.entry.term;
        let gates = &mut self.checks.gates;
        if gates.current[node] == term {
            return;
        }
        gates.current[node] = term;
        if let Some(user) = gates.terms.insert(term, node) {
            self.fail("term", format!("node {node} uses term {term:#x} of node {user} again"));
        }
    }
}
