//! The proof that a peer holds this node's flows: sums by bucket, exchanged all the time.
//!
//! A digest stands for everything that was told in frames up to its own; flows that still wait to be sent are left out, by
//! bucket. The receiver compares only when it has every frame before the digest and none after it, so both sides look at the same moment.
//! Sixty-four groups of buckets are compared first, the buckets of a differing group then, and the flows of differing
//! buckets are sent again by a transfer of these buckets alone ([`super::bulk`]), whose end also removes what should not be there.

use super::capabilities::Capabilities;
use super::digest::{Buckets, GROUPS, Sums};
use super::engine::Engine;
use super::table::{Owner, Table};
use super::{Action, Event, PeerId};
use crate::proto::{self, change::Kind};
use crate::time::Instant;
use core::time::Duration;

/// From one proof to the next.
const INTERVAL: Duration = Duration::from_millis(250);
/// A digest that nobody has answered by then is asked anew.
const ANSWER_MAX: Duration = Duration::from_millis(250);
/// When the peer could not tell, or too much is moving.
const RETRY: Duration = Duration::from_millis(10);
/// Pauses between repairs, doubling while they do not help.
const REPAIR_PAUSE_MIN: Duration = Duration::from_millis(100);
const REPAIR_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Whether a repair has helped, or something else has, is asked within this.
const RECHECK_MAX: Duration = Duration::from_secs(1);
/// With more flows waiting to be sent a digest would cost more than it can prove.
pub(super) const MOVING_MAX: usize = 8192;

/// A digest on its way.
struct Asked {
    at: Instant,
    group: u32,
}

/// What the proving side has found out, ever.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub equal: u64,
    pub different: u64,
    pub unknown: u64,
    pub repairs: u64,
}

/// Proves this node's flows to one peer.
pub(super) struct Prover {
    round: u32,
    /// 0: all groups, else the buckets of this group minus one.
    group: u32,
    due: Instant,
    asked: Option<Asked>,
    /// Groups that differ and are still to be looked into.
    suspects: u64,
    found: Buckets,
    pause: Duration,
    /// No repair before this.
    repair_from: Instant,
    /// When the digest was sent that the peer last found equal in everything.
    pub proven_at: Option<Instant>,
    /// Buckets known to differ.
    pub differing: u32,
    pub counters: Counters,
}

impl Prover {
    pub fn new() -> Self {
        Self {
            round: 0,
            group: 0,
            due: Instant(0),
            asked: None,
            suspects: 0,
            found: Buckets::default(),
            pause: REPAIR_PAUSE_MIN,
            repair_from: Instant(0),
            proven_at: None,
            differing: 0,
            counters: Counters::default(),
        }
    }

    pub fn poll_at(&self) -> Instant {
        self.asked.as_ref().map_or(self.due, |asked| asked.at + ANSWER_MAX)
    }

    /// The next digest, if one is due: over `sums`, without the buckets that are `moving` (`None`: too many to tell).
    pub fn ask(
        &mut self,
        now: Instant,
        sums: &Sums,
        moving: impl FnOnce() -> Option<Buckets>,
    ) -> Option<proto::Digest> {
        if now < self.poll_at() {
            return None;
        }
        if self.asked.take().is_some() {
            self.restart(now);
        }
        let Some(moving) = moving() else {
            self.due = now + RETRY;
            return None;
        };
        self.round = self.round.wrapping_add(1);
        self.asked = Some(Asked { at: now, group: self.group });
        let digest = match self.group.checked_sub(1) {
            None => proto::Digest {
                round: self.round,
                group: 0,
                sums: words(&sums.groups(&moving)),
                moving: words(moving.words()),
            },
            Some(group) => proto::Digest {
                round: self.round,
                group: self.group,
                sums: words(&sums.buckets(group as usize, &moving)),
                moving: words(&[moving.word(group as usize)]),
            },
        };
        Some(digest)
    }

    /// Takes the peer's answer. The buckets to send again, when some are known to differ.
    pub fn on_answer(&mut self, now: Instant, answer: &proto::DigestAnswer) -> Option<Buckets> {
        if answer.round != self.round {
            return None;
        }
        let asked = self.asked.take_if(|asked| asked.group == answer.group)?;
        if answer.unknown {
            self.counters.unknown += 1;
            self.due = now + RETRY;
            return None;
        }
        match asked.group.checked_sub(1) {
            None if answer.differs == 0 => {
                self.counters.equal += 1;
                self.proven_at = Some(asked.at);
                self.differing = 0;
                (self.pause, self.repair_from) = (REPAIR_PAUSE_MIN, now);
                self.due = now + INTERVAL;
                None
            }
            None => {
                self.counters.different += 1;
                self.suspects = answer.differs;
                self.differing = answer.differs.count_ones() * GROUPS as u32;
                self.found = Buckets::default();
                self.next_suspect(now)
            }
            Some(group) => {
                self.found.set_word(group as usize, answer.differs);
                self.next_suspect(now)
            }
        }
    }

    fn next_suspect(&mut self, now: Instant) -> Option<Buckets> {
        if self.suspects != 0 {
            self.group = self.suspects.trailing_zeros() + 1;
            self.suspects &= self.suspects - 1;
            self.due = now;
            return None;
        }
        let found = core::mem::take(&mut self.found);
        self.restart(now);
        self.differing = found.count();
        if self.differing == 0 {
            // It was a change under way that no bucket shows any more.
            return None;
        }
        self.due = now + self.pause.min(RECHECK_MAX);
        if now < self.repair_from {
            return None;
        }
        self.counters.repairs += 1;
        self.repair_from = now + self.pause;
        self.pause = (self.pause * 2).min(REPAIR_PAUSE_MAX);
        Some(found)
    }

    fn restart(&mut self, now: Instant) {
        self.group = 0;
        self.suspects = 0;
        self.due = now + RETRY;
    }
}

impl Engine {
    /// Puts a digest of this node's flows into the peer's outbox when one is due.
    pub(super) fn run_proof(&mut self, now: Instant, index: usize) {
        let Self { peers, table, .. } = self;
        let Some(peer) = peers.get_mut(index).filter(|peer| peer.is_proving()) else { return };
        let Some(sums) = table.sums(Owner::Local) else { return };
        let outbox = &peer.outbox;
        if let Some(digest) = peer.prover.ask(now, sums, || outbox.moving(table)) {
            peer.outbox.note(Kind::Digest(digest));
        }
    }

    /// The peer tells the sums of its flows: are they those of the copies here?
    pub(super) fn on_digest(&mut self, peer: PeerId, sequence: u64, digest: &proto::Digest) -> bool {
        let Some(state) = self.peers.get_mut(usize::from(peer.0)) else { return true };
        let Some(mut answer) = compare(&self.table, peer, digest) else { return false };
        if !state.inbox.is_latest(sequence) || !state.inbox.is_complete(state.wanted) {
            (answer.unknown, answer.differs) = (true, 0);
        }
        state.outbox.note(Kind::DigestAnswer(answer));
        true
    }

    pub(super) fn on_digest_answer(
        &mut self,
        now: Instant,
        peer: PeerId,
        answer: &proto::DigestAnswer,
        out: &mut Vec<Action>,
    ) {
        let master = self.role == crate::role::Role::Master;
        let recent = self.transfer_classes();
        let Some(state) = self.peers.get_mut(usize::from(peer.0)) else { return };
        // Another transfer may have begun since the digest was sent: it repairs as well.
        if let Some(buckets) = state.prover.on_answer(now, answer).filter(|_| state.outbox.bulk.is_done()) {
            out.push(Action::Event(Event::TablesDiffer { peer, buckets: buckets.count() }));
            if state.can(Capabilities::PARTIAL) {
                state.outbox.bulk.start_repair(master, self.table.slots(), buckets);
            } else {
                // It would take the end of a transfer of some buckets for that of all.
                state.start_bulk(master, &self.table, recent);
            }
        }
    }
}

/// What differs between a peer's digest and the copies here; `None` when the digest is no digest.
fn compare(table: &Table, peer: PeerId, digest: &proto::Digest) -> Option<proto::DigestAnswer> {
    let theirs = array(&digest.sums)?;
    let sums = table.sums(Owner::Peer(peer))?;
    let ours = match digest.group.checked_sub(1) {
        None => sums.groups(&Buckets::from_words(array(&digest.moving)?)),
        Some(group) => {
            let group = usize::try_from(group).ok().filter(|&group| group < GROUPS)?;
            let mut moving = Buckets::default();
            match digest.moving.as_slice() {
                [] => {}
                [word] => moving.set_word(group, *word),
                _ => return None,
            }
            sums.buckets(group, &moving)
        }
    };
    let differs = ours.iter().zip(theirs).enumerate().fold(0, |bits, (at, (a, b))| bits | u64::from(*a != b) << at);
    Some(proto::DigestAnswer { round: digest.round, group: digest.group, differs, unknown: false })
}

/// All zeros need not be sent.
fn words(words: &[u64]) -> Vec<u64> {
    if words.iter().all(|&word| word == 0) { Vec::new() } else { words.to_vec() }
}

fn array(words: &[u64]) -> Option<[u64; GROUPS]> {
    if words.is_empty() { Some([0; GROUPS]) } else { words.try_into().ok() }
}

#[cfg(test)]
mod tests {
    use super::super::table::tests::{flow, table};
    use super::*;

    const NOW: Instant = Instant(10_000_000_000);

    /// Owner and holder of some flows; `spoil` makes the holder's copy differ.
    fn pair(flows: u32, spoil: impl Fn(&mut Table)) -> [Table; 2] {
        let [mut owner, mut holder] = [table(100_000), table(100_000)];
        for n in 0..flows {
            owner.insert(&flow(n), Owner::Local, u64::from(n)).unwrap();
            holder.insert(&flow(n), Owner::Peer(PeerId(0)), u64::from(n)).unwrap();
        }
        spoil(&mut holder);
        [owner, holder]
    }

    /// Lets the owner ask until it is told equal, or knows what to send again.
    fn prove(prover: &mut Prover, [owner, holder]: &[Table; 2], moving: &Buckets) -> Option<Buckets> {
        let mut now = NOW;
        for _ in 0..100 {
            now = now.max(prover.poll_at());
            let sums = owner.sums(Owner::Local).unwrap();
            let digest = prover.ask(now, sums, || Some(moving.clone())).unwrap();
            let answer = compare(holder, PeerId(0), &digest).unwrap();
            let buckets = prover.on_answer(now, &answer);
            if buckets.is_some() || prover.proven_at.is_some() {
                return buckets;
            }
        }
        panic!("no end");
    }

    /// Equal tables are proven by one exchange. A missing flow, one too many and an old version are each found in exactly
    /// their bucket, whatever else is equal.
    #[test]
    fn differences_are_found_in_their_buckets() {
        let mut prover = Prover::new();
        assert_eq!(prove(&mut prover, &pair(5000, |_| {}), &Buckets::default()), None);
        assert_eq!((prover.counters.equal, prover.differing), (1, 0));
        let tables = pair(5000, |holder| {
            holder.remove(holder.find(&flow(7).key).unwrap());
            holder.insert(&flow(6000), Owner::Peer(PeerId(0)), 1).unwrap();
            holder.set_version(holder.find(&flow(9).key).unwrap(), 8);
            holder.set_absent(holder.find(&flow(11).key).unwrap(), true);
        });
        let mut expected = Buckets::default();
        for n in [7, 6000, 9, 11] {
            let holder = table(1).bucket_of(&flow(n).key);
            expected.set(holder);
        }
        let mut prover = Prover::new();
        assert_eq!(prove(&mut prover, &tables, &Buckets::default()), Some(expected.clone()));
        assert_eq!(prover.differing, expected.count());
        // What is still to be sent proves nothing either way.
        assert_eq!(prove(&mut Prover::new(), &tables, &expected), None);
    }

    /// An answer to another question, a repeated one and one that could not tell change nothing; silence asks anew.
    #[test]
    fn answers_are_matched() {
        let [owner, _] = pair(10, |_| {});
        let sums = owner.sums(Owner::Local).unwrap();
        let mut prover = Prover::new();
        let digest = prover.ask(NOW, sums, || Some(Buckets::default())).unwrap();
        assert_eq!(prover.ask(NOW, sums, || Some(Buckets::default())), None);
        let answer = |round, group, unknown| proto::DigestAnswer { round, group, differs: 0, unknown };
        prover.on_answer(NOW, &answer(digest.round + 1, 0, false));
        prover.on_answer(NOW, &answer(digest.round, 3, false));
        assert_eq!(prover.proven_at, None);
        prover.on_answer(NOW, &answer(digest.round, 0, true));
        assert_eq!((prover.proven_at, prover.poll_at()), (None, NOW + RETRY));
        let later = prover.ask(NOW + RETRY, sums, || Some(Buckets::default())).unwrap();
        prover.on_answer(NOW, &answer(digest.round, 0, false));
        assert_eq!(prover.proven_at, None);
        let again = prover.ask(NOW + RETRY + ANSWER_MAX, sums, || Some(Buckets::default())).unwrap();
        assert!(later.round != again.round);
        prover.on_answer(NOW + SECOND, &answer(again.round, 0, false));
        assert_eq!(prover.proven_at, Some(NOW + RETRY + ANSWER_MAX));
        prover.on_answer(NOW + SECOND, &answer(again.round, 0, false));
        assert_eq!(prover.counters.equal, 1);
    }

    /// Repairs that do not help become rare, but that the tables are equal at last is found soon.
    #[test]
    fn useless_repairs_back_off() {
        let tables = pair(100, |holder| holder.remove(holder.find(&flow(7).key).unwrap()));
        let mut prover = Prover::new();
        let (mut now, mut repairs) = (NOW, Vec::new());
        let ask = |prover: &mut Prover, now, [owner, holder]: &[Table; 2]| {
            let digest = prover.ask(now, owner.sums(Owner::Local).unwrap(), || Some(Buckets::default())).unwrap();
            prover.on_answer(now, &compare(holder, PeerId(0), &digest).unwrap()).is_some()
        };
        while now < NOW + SECOND * 200 {
            now = now.max(prover.poll_at());
            if ask(&mut prover, now, &tables) {
                repairs.push(now);
            }
        }
        let pauses: Vec<_> = repairs.windows(2).map(|pair| pair[1].since(pair[0])).collect();
        assert!(pauses.first().is_some_and(|first| *first < SECOND), "{pauses:?}");
        assert!(pauses.last().is_some_and(|last| *last >= REPAIR_PAUSE_MAX && *last < REPAIR_PAUSE_MAX + SECOND * 2));
        // By something else than a repair.
        let equal = pair(100, |_| {});
        let end = now + RECHECK_MAX + RETRY * 2;
        while prover.proven_at.is_none() {
            now = now.max(prover.poll_at());
            assert!(now <= end && !ask(&mut prover, now, &equal));
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    /// Digests of another shape are refused, not read past their end.
    #[test]
    fn malformed_digests_are_refused() {
        let [_, holder] = pair(1, |_| {});
        let refused = |digest: proto::Digest| compare(&holder, PeerId(0), &digest).is_none();
        assert!(refused(proto::Digest { sums: vec![1; 63], ..proto::Digest::default() }));
        assert!(refused(proto::Digest { moving: vec![1], ..proto::Digest::default() }));
        assert!(refused(proto::Digest { group: 65, ..proto::Digest::default() }));
        assert!(refused(proto::Digest { group: 64, moving: vec![1; 2], ..proto::Digest::default() }));
        assert!(!refused(proto::Digest { group: 64, moving: vec![1], ..proto::Digest::default() }));
    }
}
