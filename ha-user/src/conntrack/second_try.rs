//! Most refusals of a conntrack request have a second try that fits (`ctnetlink` sections 7, 9 and 20).

use super::encode::{self, UpdateParts};
use super::encode_extra::helper_at_creation;
use super::write::{Conflict, Outcome, Write};
use super::writer::{CreateParts, Operation, Slot, Step};
use ha_common::sync::flow::{Extra, Flow, status};
use ha_common::sync::is_tcp_set_back;

pub(super) enum Next {
    Done,
    Step(Step),
    Failed(i32),
}

pub(super) fn first_step(write: &Write) -> Step {
    match write {
        Write::Create(_) => Step::Create(CreateParts::ALL),
        Write::Update(flow) => Step::Update(UpdateParts::of(flow)),
        Write::Delete { .. } => Step::Delete,
        Write::Relax(_) => Step::Relax,
        Write::Expect { .. } => Step::Expect,
        Write::Unexpect { .. } => Step::Unexpect,
        Write::Fetch(_) => Step::Fetch,
    }
}

/// The second try that fits an error.
pub(super) fn after_error(slot: &Slot, write: &Write) -> Next {
    if slot.errno == 0 {
        return Next::Done;
    }
    let (made, parts) = (slot.made, slot.parts);
    let extra = match write {
        Write::Create(flow) | Write::Update(flow) => flow.extra.as_deref(),
        Write::Delete { .. } | Write::Relax(_) | Write::Expect { .. } | Write::Unexpect { .. } | Write::Fetch(_) => {
            None
        }
    };
    match (slot.operation, slot.errno) {
        (Operation::Create, libc::EEXIST) => Next::Step(Step::Look),
        // A module with a conntrack extension was loaded just now.
        (Operation::Create, libc::EAGAIN) => Next::Step(Step::Create(made)),
        // The master may have had to be replaced, earlier in this batch.
        (Operation::Create, libc::ENOENT) if made.first && extra.is_some_and(|extra| extra.master.is_some()) => {
            Next::Step(Step::Create(CreateParts { first: false, ..made }))
        }
        // This kernel has no such helper: the flow lives without, and announces nothing here.
        (Operation::Create, libc::EOPNOTSUPP) if made.helper && extra.is_some_and(|extra| extra.helper.is_some()) => {
            Next::Step(Step::Create(CreateParts { helper: false, ..made }))
        }
        // The entry in the way has gone meanwhile. What an update alone finds missing may have ended: the engine decides.
        (Operation::Update, libc::ENOENT) if matches!(write, Write::Create(_)) => {
            Next::Step(Step::Create(CreateParts::ALL))
        }
        // An entry that was made without its master.
        (Operation::Update, libc::EBUSY) if parts.status && parts.expected => {
            Next::Step(Step::Update(UpdateParts { expected: false, ..parts }))
        }
        (Operation::Update, libc::ENOSPC) if parts.labels && extra.is_some_and(|extra| extra.labels.is_some()) => {
            Next::Step(Step::Update(UpdateParts { labels: false, ..parts }))
        }
        // The entry has status bits that the flow lacks: it is newer in this respect.
        (Operation::Update, libc::EBUSY) if parts.status => {
            Next::Step(Step::Update(UpdateParts { status: false, ..parts }))
        }
        (Operation::Update, libc::EPERM) if parts.timeout => {
            Next::Step(Step::Update(UpdateParts { timeout: false, ..parts }))
        }
        (Operation::Update, libc::EAGAIN) => Next::Step(Step::Update(parts)),
        (
            Operation::Create
            | Operation::Update
            | Operation::Delete
            | Operation::Get
            | Operation::Fetch
            | Operation::Expect
            | Operation::Unexpect,
            _,
        ) => Next::Failed(slot.errno),
    }
}

/// What to do about the entry that stands in the way of a flow (`ctnetlink` section 7).
pub(super) fn resolve(
    write: &Write,
    found: Option<&Flow>,
    conflict: Conflict,
    sink: &mut impl FnMut(Outcome<'_>),
) -> Next {
    let Write::Create(flow) = write else { return Next::Done };
    // It went away meanwhile.
    let Some(live) = found else { return Next::Step(Step::Create(CreateParts::ALL)) };
    let same_key = live.key == flow.key;
    let fits = same_key && same_translation(live, flow) && same_birth(live, flow);
    let has_traffic = conflict == Conflict::KeepLive && live.status & status::SEEN_REPLY != 0;
    // Packets made it while the creation was under way: what they made is newer.
    if fits && has_traffic {
        sink(Outcome::Kept(live));
        return Next::Done;
    }
    if fits && !is_tcp_set_back(live, flow) {
        return Next::Step(Step::Update(UpdateParts::of(flow)));
    }
    if has_traffic {
        sink(Outcome::Kept(live));
        return Next::Failed(libc::EEXIST);
    }
    if !same_key {
        sink(Outcome::Removed(live));
    }
    Next::Step(Step::Replace { key: live.key, id: live.id })
}

/// The live entry rewrites packets exactly as the flow wants it. The tuples alone do not say: an entry may have a
/// translated reply tuple and no NAT set up (`ctnetlink` section 8).
fn same_translation(live: &Flow, flow: &Flow) -> bool {
    live.reply == flow.reply
        && (live.status & status::SRC_NAT != 0) == encode::is_source_nat(flow)
        && (live.status & status::DST_NAT != 0) == encode::is_destination_nat(flow)
}

/// The live entry has what only a new one can be given: the helper and the direction of its zone.
fn same_birth(live: &Flow, flow: &Flow) -> bool {
    let wanted = helper_at_creation(flow);
    let (live, flow) = (live.extra.as_deref(), flow.extra.as_deref());
    let direction = |extra: Option<&Extra>| extra.map(|extra| extra.zone_direction).unwrap_or_default();
    direction(live) == direction(flow) && (wanted.is_none() || wanted == live.and_then(|live| live.helper.as_deref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conntrack::write::Outcome;
    use ha_common::sync::flow::{FlowKey, Tuple};

    fn flow(status: u32, mark: u32) -> Flow {
        let original = Tuple {
            source: [10, 0, 0, 1].into(),
            destination: [192, 0, 2, 1].into(),
            protocol: 17,
            source_port: 4000,
            destination_port: 53,
        };
        let key = FlowKey { original, zone: 0 };
        Flow { key, reply: original.inverse(), status, timeout: 30, mark, tcp: None, id: 7, extra: None }
    }

    /// A master's creation that meets an entry with traffic leaves it, and tells of it; over one without traffic, and by a standby, it
    /// is written.
    #[test]
    fn a_creation_gives_way_to_traffic_on_a_master() {
        let (live, idle) = (flow(status::SEEN_REPLY, 2), flow(0, 2));
        let create = Write::Create(flow(status::SEEN_REPLY, 1));
        let resolved = |found: &Flow, conflict| {
            let mut kept = 0;
            let next = resolve(&create, Some(found), conflict, &mut |outcome| {
                kept += u32::from(matches!(outcome, Outcome::Kept(_)));
            });
            (matches!(next, Next::Done), matches!(next, Next::Step(Step::Update(_))), kept)
        };
        assert_eq!(resolved(&live, Conflict::KeepLive), (true, false, 1));
        for (found, conflict) in [(&idle, Conflict::KeepLive), (&live, Conflict::Replace)] {
            assert_eq!(resolved(found, conflict), (false, true, 0));
        }
    }

    /// An update that finds nothing is told of, and makes nothing; a creation whose place has become free meanwhile is tried anew.
    #[test]
    fn an_update_makes_no_entry() {
        let slot = Slot {
            write: 0,
            operation: Operation::Update,
            made: CreateParts::ALL,
            parts: UpdateParts::ALL,
            errno: libc::ENOENT,
            found: None,
        };
        assert!(matches!(after_error(&slot, &Write::Update(flow(0, 1))), Next::Failed(libc::ENOENT)));
        assert!(matches!(after_error(&slot, &Write::Create(flow(0, 1))), Next::Step(Step::Create(_))));
    }
}
