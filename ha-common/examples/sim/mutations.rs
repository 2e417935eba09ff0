//! Known bugs: each is put into a copy of the pure crate, and the simulation must find it (`cargo xtask sim --mutations`). The
//! crate itself has no switch for any of them.

/// One bug.
pub struct Mutation {
    pub name: &'static str,
    /// Below `ha-common/src`.
    pub file: &'static str,
    /// Stands in the file exactly once.
    pub text: &'static str,
    pub replacement: &'static str,
    /// What it breaks.
    pub breaks: &'static str,
}

const fn bug(
    name: &'static str,
    file: &'static str,
    text: &'static str,
    replacement: &'static str,
    breaks: &'static str,
) -> Mutation {
    Mutation { name, file, text, replacement, breaks }
}

/// All of them.
pub const ALL: &[Mutation] = &[
    bug(
        "lease-ignored",
        "wire/heartbeat.rs",
        "own.term > closed_term && now_ns < own.lease_until_ns",
        "own.term > closed_term",
        "the gate of a master that does not run stays open",
    ),
    bug(
        "fence-ignored",
        "wire/heartbeat.rs",
        "own.term > closed_term && now_ns < own.lease_until_ns",
        "now_ns < own.lease_until_ns",
        "a newer master does not close the older one's gate",
    ),
    bug(
        "superseded-unnoticed",
        "wire/heartbeat.rs",
        "            && self.term > own.term\n",
        "            && self.term > own.term + (1 << 60)\n",
        "after a cut two masters go on",
    ),
    bug(
        "heartbeat-tag-unchecked",
        "wire/heartbeat.rs",
        "if siphash24(key, &words) != body.be64(TAG * 8) {",
        "if siphash24(key, &words) == body.be64(TAG * 8) && false {",
        "anyone can speak in the peer's name",
    ),
    bug(
        "death-at-once",
        "liveness/silence.rs",
        "self.proven >= self.dead_after(now) || self.rounds >= self.rounds_max\n    }\n\n    /// Silent for as long as no",
        "self.proven >= Duration::from_micros(500) || self.rounds >= self.rounds_max\n    }\n\n    /// Silent for as long as no",
        "one unanswered round is taken for death",
    ),
    bug(
        "stale-words",
        "election/machine/vacancy.rs",
        "if now.since(report.asked) > FRESH {",
        "if now.since(report.asked) > FRESH * 1000 {",
        "words of long ago are acted upon",
    ),
    bug(
        "promise-forgotten",
        "election/machine/vacancy.rs",
        "        let since = *self.pair.vacant_since.get_or_insert(now);\n        if self.pair.has_promised(now) {",
        "        let since = *self.pair.vacant_since.get_or_insert(now);\n        if false {",
        "both nodes may take a vacant group",
    ),
    bug(
        "candidacy-unanswered",
        "election/machine/vacancy.rs",
        "Some(candidacy) if candidacy.term == report.term => Verdict::TakeOver(Cause::NoMaster),",
        "Some(_) if report.term < u64::MAX => Verdict::TakeOver(Cause::NoMaster),",
        "both candidates take the group without an answer",
    ),
    bug(
        "lapse-ignored",
        "election/machine/tenure.rs",
        "(LeaseEvent::Lapsed, _) => self.lose(now, Cause::LeaseLost, actions),",
        "(LeaseEvent::Lapsed, _) => {}",
        "a master whose lease is over goes on with it",
    ),
    bug(
        "gate-left-open",
        "election/machine/transition.rs",
        "let held = self.own_term.take().or(self.resume.take()).is_some();",
        "let held = self.resume.take().is_some();",
        "the gate is not closed when the mastership ends",
    ),
    bug(
        "announces-one-segment",
        "election/machine/transition.rs",
        "        self.announcer.start(now);\n        self.announce_all(actions);\n",
        "        actions.push(Action::Announce { member: crate::election::MemberId(0) });\n",
        "hosts on one side do not learn of a takeover",
    ),
    bug(
        "term-used-again",
        "election/lease.rs",
        "let count = (seen >> 8).saturating_add(1).min(u64::MAX >> 8);",
        "let count = (seen >> 8).max(1).min(u64::MAX >> 8);",
        "two masterships have one number",
    ),
    bug(
        "hand-over-without-flush",
        "election/machine/giving.rs",
        "None if self.health.in_sync && self.health.flushed >= giving.since => self.offer(now),",
        "None if self.health.in_sync => self.offer(now),",
        "the newest flows are not there when the group is given away",
    ),
    bug(
        "advert-digest-unchecked",
        "election/auth.rs",
        "self.digest(counter).ct_eq(digest).into()",
        "{ let _: bool = self.digest(counter).ct_eq(digest).into(); true }",
        "adverts without the password count",
    ),
    bug(
        "equal-counters-accepted",
        "election/machine/admission.rs",
        "let fresh = (last_counter, last_digest) != (counter, digest);",
        "let fresh = (last_counter, last_digest) != (counter, digest) || counter > 0;",
        "the last advert can be repeated with another interval",
    ),
    bug(
        "replay-window-ignored",
        "sync/inbox.rs",
        "if old || (sequence <= self.highest && self.bit(sequence)) {",
        "if old {",
        "a recorded frame is applied again",
    ),
    bug(
        "stale-session-believed",
        "sync/session.rs",
        "if hello.echo != self.challenge {",
        "if hello.echo == 0 && self.challenge == 0 {",
        "a recorded hello brings an ended session back",
    ),
    bug(
        "retired-session-hello-repeated",
        "sync/session.rs",
        "if header.sequence <= current.hello_sequence {",
        "if header.sequence < current.hello_sequence / 2 {",
        "a recorded hello counts as news",
    ),
    bug(
        "hello-tag-unchecked",
        "sync/seal.rs",
        "if bool::from(expected.ct_eq(tag)) { Ok(body) } else { Err(DropReason::FrameAuth) }",
        "if bool::from(expected.ct_eq(tag)) || !body.is_empty() { Ok(body) } else { Err(DropReason::FrameAuth) }",
        "anyone can speak in the peer's name on the sync link",
    ),
    bug(
        "acks-share-a-sequence",
        "sync/session.rs",
        "        self.acks_sent += 1;\n",
        "        self.acks_sent += self.acks_sent % 2 + u64::from(self.acks_sent == 0);\n",
        "a nonce is used twice",
    ),
    bug(
        "sequences-begin-anew",
        "sync/outbox/flight.rs",
        "        self.acked_base = self.sent_sequence();\n        self.rtt = Rtt::default();",
        "        self.next_sequence = 1;\n        self.acked_base = 0;\n        self.rtt = Rtt::default();",
        "a nonce is used twice after a reset",
    ),
    bug(
        "version-comparison",
        "sync/remote.rs",
        "Owner::Peer(_) if entry.is_live() => version >= entry.version(),",
        "Owner::Peer(_) if entry.is_live() => version > 0,",
        "a late frame sets a flow back",
    ),
    bug(
        "dirty-mark-lost",
        "sync/local.rs",
        "                Role::Init | Role::Backup | Role::Fault => entry.flags.set(Flags::LIVE_HERE),\n            }\n        }\n        self.mark_all(now, slot);",
        "                Role::Init | Role::Backup | Role::Fault => entry.flags.set(Flags::LIVE_HERE),\n            }\n        }\n        if slot % 7 != 3 {\n            self.mark_all(now, slot);\n        }",
        "some changes are not told",
    ),
    bug(
        "removal-untold",
        "sync/local.rs",
        "        self.mark_all(now, slot);\n        self.table.bury(slot);",
        "        self.table.bury(slot);",
        "the peer keeps flows that have ended",
    ),
    bug(
        "no-dump-after-loss",
        "sync/reconcile.rs",
        "            out.push(Action::Event(Event::EventsLost));\n        }\n        self.dump.wanted = true;",
        "            out.push(Action::Event(Event::EventsLost));\n        }",
        "what was lost with an overflow is never made good",
    ),
    bug(
        "digest-ignores-buckets",
        "sync/prove.rs",
        "fold(0, |bits, (at, (a, b))| bits | u64::from(*a != b) << at);",
        "fold(0, |bits, (at, (a, b))| bits | u64::from(*a != b && at > 64) << at);",
        "tables that differ are called proven",
    ),
    bug(
        "repair-not-begun",
        "sync/prove.rs",
        "                state.outbox.bulk.start_repair(master, self.table.slots(), buckets);",
        "                let _ = (master, buckets);",
        "what a digest has found is not put right",
    ),
    bug(
        "purge-not-done",
        "sync/purge.rs",
        "(true, true, Mode::Ftfw) => Fate::Deleted,",
        "(true, true, Mode::Ftfw) => Fate::Stays,",
        "what the master does not name stays",
    ),
    bug(
        "purge-by-anyone",
        "sync/purge.rs",
        "(true, false, _) if self.role == Role::Master => Fate::Taken,",
        "(true, false, _) if self.role == Role::Master => Fate::Deleted,",
        "a restarted backup wipes the master's table",
    ),
    bug(
        "table-unbounded",
        "sync/table.rs",
        "        if self.is_full() {\n            return None;\n        }\n        let slot",
        "        let slot",
        "the table grows beyond its bound",
    ),
    bug(
        "takeover-without-adoption",
        "sync/local.rs",
        "                Owner::Peer(_) => self.adopt(now, slot, out),\n            }",
        "                Owner::Peer(_) => {}\n            }",
        "a new master does not answer for the flows it took over",
    ),
    bug(
        "older-state-written-over-packets",
        "sync/retries.rs",
        "            self.restore_soon(now, slot, out);",
        "            self.create(now, slot, out);",
        "a copy that is to be restored is written over a newer connection",
    ),
    bug(
        "owner-not-contradicted",
        "sync/remote.rs",
        "        let takes = |state: &&mut Peer| state.up && (!self.mode.is_reliable() || state.role == Role::Master);",
        "        let takes = |state: &&mut Peer| state.up && !self.mode.is_reliable();",
        "a gift that was lost is never made good",
    ),
    bug(
        "dump-trusts-the-peer",
        "sync/remote.rs",
        "                entry.dump = listed;\n",
        "                let _ = (listed, &mut entry.dump);\n",
        "a copy that the kernel lacks is not missed",
    ),
    bug(
        "secret-not-taken",
        "sync/session.rs",
        "            current.keys = keyring.session(&self.mine, &current.identity);",
        "            let _ = keyring.session(&self.mine, &current.identity);",
        "a change of secrets parts the peers",
    ),
    bug(
        "loss-not-noticed",
        "sync/outbox.rs",
        "        self.give_up(now, table, |frame| frame.sequence + REORDER_FRAMES <= highest);\n        bulk_done",
        "        let _ = REORDER_FRAMES;\n        from = 0;\n        while let Some((next, _)) = self.flight.close(from, |frame| frame.sequence < highest) {\n            from = next;\n        }\n        bulk_done",
        "what a lost frame carried is not sent again",
    ),
    bug(
        "old-number-deleted",
        "sync/keepalive.rs",
        "        entry.id = 0;\n        out.push(Action::Update(written(entry.flow())));",
        "        out.push(Action::Update(written(entry.flow())));",
        "a copy that was made anew unnoticed is never deleted",
    ),
    bug(
        "dump-line-revives",
        "sync/remote.rs",
        "            entry.dump = generation;\n            if dumping {",
        "            let _ = generation;\n            if dumping {",
        "a line of a dump that runs turns an ended flow into this node's",
    ),
    bug(
        "orphans-unjudged",
        "sync/purge.rs",
        "                    self.orphans_due = self.orphans_due.or(Some(now + ORPHAN_AGE));",
        "                    let _ = ORPHAN_AGE;",
        "what another backup left stays on one of three nodes",
    ),
];

/// Where a mutation's text begins in its file.
///
/// # Errors
/// When it is not there exactly once.
pub fn place(mutation: &Mutation, source: &str) -> Result<usize, String> {
    let mut found = source.match_indices(mutation.text);
    match (found.next(), found.next()) {
        (Some((at, _)), None) => Ok(at),
        (None, _) => {
            Err(format!("{}: its text is not in {} (was the code changed? adapt it)", mutation.name, mutation.file))
        }
        (Some(_), Some(_)) => Err(format!("{}: its text is in {} more than once", mutation.name, mutation.file)),
    }
}
