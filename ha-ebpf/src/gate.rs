//! The gate: requests for a virtual address are let in only while this node holds a live lease on the group.

use crate::clock::now;
use crate::cursor::Cursor;
use crate::maps::{self, Row};
use crate::verdict::Verdict;
use ha_common::abi::{SelfEntry, VipKey, vip_key_v4};
use ha_common::reason::DropReason;
use ha_common::wire::heartbeat::{self, Gate};
use ha_common::wire::{arp, ipv6, ndisc};

/// Judges the ARP packet at `offset`.
#[inline(always)]
pub fn admit_arp(packet: Cursor, offset: usize, row: Row) -> Option<Verdict> {
    if maps::GATE_ON.load() == 0 {
        return None;
    }
    admit(vip_key_v4(arp::asked(packet, offset)?), row)
}

/// Judges an ICMPv6 message.
#[inline(always)]
pub fn admit_solicitation(packet: Cursor, header: &ipv6::Header<Cursor>, row: Row) -> Option<Verdict> {
    if maps::GATE_ON.load() == 0 {
        return None;
    }
    admit(ndisc::asked(packet, header)?, row)
}

#[inline(always)]
fn admit(asked: VipKey, row: Row) -> Option<Verdict> {
    if !maps::is_vip(&asked) {
        return None;
    }
    let own = maps::own()?;
    // No controller has ever spoken: it claims nothing, and there is no lease to hold it to.
    if own.session == 0 {
        return None;
    }
    match settle(&own, false, now()) {
        Settled::Known(Gate::Open) => None,
        Settled::Known(Gate::Closed | Gate::Lapsed) | Settled::Contended => {
            row.count_refusal(DropReason::LeaseClosed);
            Some(Verdict::Drop)
        }
    }
}

/// What the gate is, once that is settled for good.
pub enum Settled {
    Known(Gate),
    /// Other processors changed the fence all the time; nothing may be said now.
    Contended,
}

/// The gate at `now_ns`. A term that has lapsed, or that the peer has superseded, is closed for good before anybody
/// hears of it.
#[inline(always)]
pub fn settle(own: &SelfEntry, superseded: bool, now_ns: u64) -> Settled {
    let Some(fence) = maps::fence() else { return Settled::Contended };
    let gate = heartbeat::gate(own, fence.closed_term(), now_ns);
    let lapsed = matches!(gate, Gate::Lapsed);
    if !superseded && !lapsed {
        return Settled::Known(gate);
    }
    match fence.close(own.term) {
        None => return Settled::Contended,
        Some(false) => {}
        Some(true) if lapsed => fence.count_lapsed(),
        Some(true) => fence.count_superseded(),
    }
    Settled::Known(heartbeat::gate(own, own.term, now_ns))
}
