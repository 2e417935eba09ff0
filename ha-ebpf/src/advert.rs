//! CARP on the LAN and WAN: judge, count, and hand well-formed adverts for known VHIDs to the daemon.

use crate::clock::now;
use crate::cursor::Cursor;
use crate::maps::{self, Row};
use crate::verdict::Verdict;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use ha_common::abi::{AdvertRecord, COUNT_ADVERTS, InterfaceEntry};
use ha_common::reason::DropReason;
use ha_common::wire::advert::{self, Heard, Refusal};
use ha_common::wire::bytes::Window;
use ha_common::wire::ip;

/// Judges one message of protocol 112 that came in on `interface`.
#[inline(always)]
pub fn receive(
    ctx: &XdpContext,
    packet: Cursor,
    header: ip::Header<Cursor>,
    interface: InterfaceEntry,
    row: Row,
) -> Verdict {
    match advert::inspect(packet, header) {
        Ok(heard) => hand_over(ctx, &heard, interface, row),
        Err(refusal) => refuse(ctx, refusal, interface, row),
    }
}

#[inline(always)]
fn hand_over(ctx: &XdpContext, heard: &Heard<Cursor>, interface: InterfaceEntry, row: Row) -> Verdict {
    let vhid = heard.vhid();
    let Some(member) = maps::member(interface.slot, vhid) else {
        return refuse(ctx, Refusal { reason: DropReason::VhidUnknown, vhid: Some(vhid) }, interface, row);
    };
    row.count(COUNT_ADVERTS);
    if let Some(member_row) = Row::of_member(member) {
        member_row.count(COUNT_ADVERTS);
    }
    let Some(mut entry) = maps::reserve_advert() else {
        return refuse(ctx, Refusal { reason: DropReason::RingFull, vhid: Some(vhid) }, interface, row);
    };
    entry.write(AdvertRecord {
        received_ns: now(),
        source: heard.ip.source(),
        destination: heard.ip.destination(),
        carp: heard.carp.words(0),
        slot: interface.slot as u8,
        member: member as u8,
        family: if heard.ip.is_v6() { 6 } else { 4 },
        reserved: 0,
    });
    // Flags 0: the daemon is woken only when it has read everything before (`ebpf` section 1).
    entry.submit(0);
    Verdict::Pass
}

/// Counts a refusal for the interface, and for the member that it names if there is one.
#[inline(always)]
fn refuse(ctx: &XdpContext, refusal: Refusal, interface: InterfaceEntry, row: Row) -> Verdict {
    row.count_refusal(refusal.reason);
    let vhid = refusal.vhid.unwrap_or(0);
    if let Some(member) = maps::member(interface.slot, vhid)
        && let Some(member_row) = Row::of_member(member)
    {
        member_row.count_refusal(refusal.reason);
    }
    debug!(ctx, "advert refused: interface {} vhid {} reason {}", interface.slot, vhid, refusal.reason as u32);
    if refusal.reason.is_passed_on() { Verdict::Pass } else { Verdict::Drop }
}
