//! The state machine of the group (carp-wire §8, with the group as the unit).
//!
//! - `member.rs`, `admission.rs`: one VHID by itself: digest, counter, who is heard.
//! - `hear.rs`: what an advert means to each role.
//! - `silence.rs`: what the absence of adverts means, and the claim.
//! - `preempt.rs`: when a better node takes over from a living master.
//! - `transition.rs`: the ways into and out of MASTER, with their actions in order.
//! - `contact.rs`: a master that hears another one.
//!
//! Between two nodes that hear each other's heartbeats the adverts of the peer decide nothing; docs/safety.md has the
//! argument that their gates are never open at the same time:
//!
//! - `pair.rs`, `rank.rs`: the peer's words, terms and promises; who of the two should have the group.
//! - `vacancy.rs`: when a backup takes over, and on what grounds.
//! - `wish.rs`, `giving.rs`: hand-overs, from both sides.
//! - `tenure.rs`, `damper.rs`: the lease and its loss; who loses the group too often.

mod admission;
mod contact;
mod damper;
mod giving;
mod hear;
mod member;
mod pair;
mod preempt;
mod rank;
mod silence;
mod tenure;
mod transition;
mod vacancy;
mod wish;

#[cfg(test)]
mod tests;

use super::announce::Announcer;
use super::claim::{CLAIM_INTERVAL, Claim};
use super::compare::Interval;
use super::prng::Prng;
use super::timers::{ATTENTION, STEP_DOWN_HOLD_MIN, Timing};
use super::{Action, Cause, Command, Config, Input, InterfaceId, LinkState, MemberId, Stats, Wait};
use crate::role::{Role, SyncHealth};
use crate::time::{Instant, earliest};
use contact::{Contact, Yielded};
use damper::Damper;
use giving::Giving;
use member::{Heard, Member};
use pair::Pair;
use preempt::Preemption;
use silence::Hold;

/// The election of one group on one node.
pub struct Election {
    config: Config,
    timing: Timing,
    prng: Prng,
    /// The latest time seen: time does not run backwards.
    now: Instant,
    role: Role,
    /// After [`Command::Stop`] nothing happens any more.
    stopped: bool,
    members: Vec<Member>,
    health: SyncHealth,
    pair: Pair,
    /// MASTER: the number of this mastership.
    own_term: Option<u64>,
    /// INIT: the mastership to go on with once all links are known to be up.
    resume: Option<u64>,
    /// This process was master.
    mastered: bool,
    maintenance: bool,
    demotion: u16,
    damper: Damper,
    /// After [`Command::Stop`], until everything is done.
    stopping: bool,
    giving: Option<Giving>,
    /// MASTER: no hand-over by itself before this, because the last one failed.
    retry_from: Instant,
    /// BACKUP after a hand-over: the addresses are kept until then.
    linger_until: Option<Instant>,
    /// The operator wants the group on this node since then.
    asked_since: Option<Instant>,
    /// BACKUP: why this node asks its peer for the group.
    wanted: Option<Cause>,
    /// An operator waits for somebody to take the group after a forced step-down.
    stepped_down: Option<Instant>,
    /// A peer that is ready goes first until then: the lease was lost.
    stands_back_until: Option<Instant>,
    wait: Option<Wait>,
    /// A twinwall peer was alive in the life of this process: the other node is not a foreign one.
    peer_seen: bool,
    announcer: Announcer,
    /// BACKUP: no takeover for a while.
    hold: Option<Hold>,
    preemption: Preemption,
    claim: Claim,
    contact: Option<Contact>,
    /// MASTER: the last advert of another one, which may be the peer's.
    suspect: Option<(usize, Heard)>,
    /// The last contact that this node lost.
    yielded: Option<Yielded>,
    stats: Stats,
}

impl Election {
    /// An election in INIT. `seed` decides everything random. At most 256 members are used.
    pub fn new(config: Config, seed: u64) -> Self {
        let ids = (0..=u8::MAX).map(MemberId);
        let members: Vec<Member> = ids.zip(&config.members).map(|(id, member)| Member::new(id, member)).collect();
        let mut election = Self {
            timing: Timing::of(&config),
            prng: Prng::new(seed),
            now: Instant(0),
            role: Role::Init,
            stopped: false,
            health: SyncHealth::default(),
            pair: Pair::new(config.term_seen.max(config.resume.unwrap_or(0))),
            own_term: None,
            resume: config.resume.filter(|term| *term >= config.term_seen),
            mastered: config.resume.is_some(),
            maintenance: config.maintenance,
            demotion: 0,
            damper: Damper::new(config.damping),
            stopping: false,
            giving: None,
            retry_from: Instant(0),
            linger_until: None,
            asked_since: None,
            wanted: None,
            stepped_down: None,
            stands_back_until: None,
            wait: None,
            peer_seen: false,
            announcer: Announcer::new(&config.announce_burst, config.announce_refresh),
            hold: None,
            preemption: Preemption::default(),
            claim: Claim::default(),
            contact: None,
            suspect: None,
            yielded: None,
            stats: Stats {
                refused: vec![[0; crate::reason::DropReason::COUNT]; members.len()],
                heard: vec![None; members.len()],
                faults: vec![None; members.len()],
                silent: vec![false; members.len()],
                ..Stats::default()
            },
            members,
            config,
        };
        election.publish();
        election
    }

    /// Takes one input at `now` and appends what must be done to `actions`, in order. A `now` before the last one
    /// counts as the last one.
    pub fn handle(&mut self, now: Instant, input: Input<'_>, actions: &mut Vec<Action>) {
        if self.stopped {
            return;
        }
        let now = now.max(self.now);
        self.note_absence(now);
        self.now = now;
        let transitions = self.stats.transitions;
        match input {
            Input::Timer => self.on_timer(now, actions),
            Input::Advert(advert) => self.on_advert(now, advert, actions),
            Input::Link { interface, state } => self.on_link(now, interface, state, actions),
            Input::Sync(health) => self.on_sync(now, health, actions),
            Input::Peer(sight) => self.on_peer(now, sight, actions),
            Input::Lease(event) => self.on_lease(now, event, actions),
            Input::Demotion(total) => self.demotion = total,
            Input::Command(Command::Stop) => self.stop(now, actions),
            Input::Command(Command::HandOver { force }) => self.hand_over(now, force, actions),
            Input::Command(Command::Want) => self.ask(now, actions),
            Input::Command(Command::Maintenance(on)) => self.maintain(now, on, actions),
        }
        // One transition an input: what follows from a role is decided at the next.
        if self.stats.transitions == transitions {
            self.decide(now, actions);
        }
        self.settle_wish(now, actions);
        self.end_linger(now, actions);
        self.settle_stop(now, actions);
        self.publish();
    }

    /// What follows from the peer's words and from the time, whatever the input was.
    fn decide(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.wait = None;
        match self.role {
            Role::Init | Role::Fault => self.wanted = None,
            Role::Backup => {
                self.wish(now);
                self.look_for_vacancy(now, actions);
            }
            Role::Master => {
                self.look_for_rival(now, actions);
                if self.role == Role::Master {
                    self.judge_suspect(now, actions);
                }
                if self.role == Role::Master {
                    self.drive_hand_over(now, actions);
                }
            }
        }
    }

    /// When [`Input::Timer`] is wanted next; `None`: only after another input. A time that has passed means now.
    pub fn poll_at(&self) -> Option<Instant> {
        if self.stopped {
            return None;
        }
        let members = self.members.iter().map(|member| earliest(member.deadline, member.advert_at));
        let group = [
            self.announcer.poll_at(),
            self.hold.map(|hold| hold.until),
            self.claim.poll_at(),
            self.contact.map(|contact| contact.quiet_at),
            self.linger_until,
            self.giving_poll_at(),
            self.asked_since.map(|since| since + self.asking_max()),
            // A controller that is looked at this often can tell when it was away.
            self.pair.is_watched.then(|| self.now + ATTENTION),
            self.pair.blind_until,
        ];
        // The end of time is where additions saturate; waiting for it would be a busy loop.
        members.chain(group).fold(None, earliest).filter(|at| *at < Instant(u64::MAX))
    }

    /// After [`Command::Stop`]: everything is done, the loop may end.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Counters and present state, up to date after every [`Self::handle`].
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    fn on_timer(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.pair.blind_until.is_some_and(|until| until <= now) {
            self.pair.blind_until = None;
            self.judge_what_waited(now, actions);
        }
        match self.role {
            Role::Init | Role::Fault => {}
            Role::Backup => self.look_for_silence(now, actions),
            Role::Master => self.keep_mastering(now, actions),
        }
    }

    /// What a master does by the clock: adverts, announcements, the ends of a contact and of a claim.
    fn keep_mastering(&mut self, now: Instant, actions: &mut Vec<Action>) {
        self.claim.on_timer(now);
        for index in 0..self.members.len() {
            let due = self.members.get(index).and_then(|member| member.advert_at);
            if due.is_some_and(|at| at <= now) {
                self.advertise(now, index, actions);
            }
        }
        let contact_over = self.contact.is_some_and(|contact| contact.quiet_at <= now);
        if contact_over {
            self.end_contact(now, actions);
        }
        if self.announcer.due(now) {
            self.announce_all(actions);
        }
    }

    fn on_link(&mut self, now: Instant, interface: InterfaceId, state: LinkState, actions: &mut Vec<Action>) {
        for member in self.members.iter_mut().filter(|member| member.interface == interface) {
            member.link = Some(state);
        }
        let known = self.members.iter().all(|member| member.link.is_some());
        let healthy = self.members.iter().all(|member| member.fault().is_none());
        match (self.role, healthy) {
            _ if self.stopping => {}
            (Role::Init, true) => match self.resume {
                Some(term) => self.resume_mastering(now, term, actions),
                None => self.leave(now, Role::Backup, Cause::Start, actions),
            },
            (Role::Init, false) if known => self.leave(now, Role::Fault, Cause::LinkDown, actions),
            (Role::Backup | Role::Master, false) => self.leave(now, Role::Fault, Cause::LinkDown, actions),
            (Role::Fault, true) => self.leave(now, Role::Backup, Cause::LinkUp, actions),
            (Role::Init | Role::Fault, false) | (Role::Backup | Role::Master, true) => {}
        }
    }

    fn on_sync(&mut self, now: Instant, health: SyncHealth, actions: &mut Vec<Action>) {
        self.health = health;
        self.peer_seen |= health.peer_alive;
        match self.role {
            // Whether a partly silent peer is a twinwall node decides whether to take over from it.
            Role::Backup => self.take_over_if_silent(now, actions),
            Role::Init | Role::Master | Role::Fault => {}
        }
    }

    /// Gives the mastership away and stays out for long enough that the peer has it; if nobody takes it, this node
    /// takes it back. Preemption is suspended, for else the better node would undo the operator's wish at once.
    fn step_down(&mut self, now: Instant, actions: &mut Vec<Action>) {
        match self.role {
            Role::Master => {
                self.leave(now, Role::Backup, Cause::StepDown, actions);
                self.stepped_down = Some(now);
                self.hold = Some(Hold { until: now + self.timing.master_down.max(STEP_DOWN_HOLD_MIN) });
                self.preemption.suspend();
            }
            Role::Init | Role::Backup | Role::Fault => {}
        }
    }

    /// What this node advertises now.
    fn interval(&self) -> Interval {
        if self.claim.is_active() { CLAIM_INTERVAL } else { self.configured_interval() }
    }

    fn configured_interval(&self) -> Interval {
        let advskew = rank::advertised_skew(&self.config, self.demotion);
        Interval { advbase: u16::from(self.config.advbase), advskew }
    }

    /// Sends the advert of one member and plans the next.
    fn advertise(&mut self, now: Instant, index: usize, actions: &mut Vec<Action>) {
        let interval = self.interval();
        let Some(member) = self.members.get_mut(index) else { return };
        self.stats.adverts_sent += member.send(interval, &mut self.prng, actions);
        // From the due time, so that the period does not drift; from now, if that would be in the past again.
        let next = member.advert_at.unwrap_or(now) + self.timing.advert;
        member.advert_at = Some(if next > now { next } else { now + self.timing.advert });
    }

    fn announce_all(&self, actions: &mut Vec<Action>) {
        actions.extend(self.members.iter().map(|member| Action::Announce { member: member.id }));
    }

    /// Brings the present state in [`Stats`] up to date.
    fn publish(&mut self) {
        self.stats.role = self.role;
        self.stats.claiming = self.claim.is_active();
        self.stats.lease = self.lease();
        self.stats.term = self.own_term.or(self.resume).unwrap_or(self.pair.term);
        self.stats.standing = self.standing(self.now);
        self.stats.hand_over = self.hand_over_in_progress();
        self.stats.wait = self.wait;
        self.stats.linger_until = self.linger_until;
        self.stats.damped_until = self.damper.until(self.now);
        self.stats.maintenance = self.maintenance;
        self.stats.demotion = self.demotion;
        self.preemption.publish(&mut self.stats);
        let mut silent_members = 0;
        for (member, (fault, silent)) in
            self.members.iter().zip(self.stats.faults.iter_mut().zip(self.stats.silent.iter_mut()))
        {
            *fault = member.fault();
            *silent = member.silence.is_some();
            silent_members += usize::from(*silent);
        }
        self.stats.partial_silence = silent_members > 0 && silent_members < self.members.len();
    }
}
