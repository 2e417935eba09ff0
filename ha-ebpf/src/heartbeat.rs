//! Heartbeats of the peer: its probes are answered in the driver path, its answers to ours are taken down.

use crate::clock::now;
use crate::cursor::Cursor;
use crate::gate::{self, Settled};
use crate::maps::{self, Row};
use crate::verdict::Verdict;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use ha_common::abi::{COUNT_PROBES, COUNT_REPLIES, InterfaceEntry};
use ha_common::reason::DropReason;
use ha_common::wire::bytes::{Packet, Window};
use ha_common::wire::ethernet;
use ha_common::wire::heartbeat::{Heartbeat, Kind, WORDS};

/// Where a heartbeat's frame says for whom and from whom it is.
const ADDRESSES_LEN: usize = 12;

/// Judges a frame of the heartbeats' EtherType; whatever is none of ours passes uncounted.
#[inline(always)]
pub fn receive(ctx: &XdpContext, packet: Cursor, interface: InterfaceEntry, row: Row) -> Verdict {
    if maps::HEARTBEAT_ON.load() == 0 {
        return Verdict::Pass;
    }
    let judged = match Heartbeat::read(packet, maps::heartbeat_key) {
        None => return Verdict::Pass,
        Some(Err(reason)) => Err(reason),
        Some(Ok(heard)) => {
            if heard.sender != maps::HEARTBEAT_PEER.load() || heard.target != maps::HEARTBEAT_NODE.load() {
                Err(DropReason::HeartbeatSender)
            } else {
                match heard.kind {
                    Kind::Probe => answer(packet, &heard, interface, row),
                    Kind::Reply => take(packet, &heard, interface, row),
                }
            }
        }
    };
    judged.unwrap_or_else(|reason| {
        row.count_refusal(reason);
        debug!(ctx, "heartbeat refused: interface {} reason {}", interface.slot, reason as u32);
        Verdict::Drop
    })
}

/// Turns the frame around. What the probe says closes this node's gate first, if it must: the answer tells the truth.
#[inline(always)]
fn answer(packet: Cursor, probe: &Heartbeat, interface: InterfaceEntry, row: Row) -> Result<Verdict, DropReason> {
    let Some(own) = maps::own() else { return Ok(Verdict::Drop) };
    let now = now();
    let Settled::Known(gate) = gate::settle(&own, probe.supersedes(&own), now) else { return Ok(Verdict::Drop) };
    // Under the secret that the peer used: it holds that.
    let Some(key) = maps::heartbeat_key(probe.key_epoch) else { return Err(DropReason::HeartbeatKeyEpoch) };
    let words = probe.answer(&own, gate, now).seal(key);
    let Some(addresses) = packet.window::<ADDRESSES_LEN>(0) else { return Err(DropReason::HeartbeatLength) };
    let Some(body) = packet.window::<{ WORDS * 8 }>(ethernet::HEADER_LEN) else {
        return Err(DropReason::HeartbeatLength);
    };
    let prober: [u16; 3] = addresses.words(6);
    addresses.set_words(0, prober);
    addresses.set_words(6, interface.mac_words());
    body.set_be64s(words);
    row.count(COUNT_PROBES);
    Ok(Verdict::Answer)
}

/// Takes the peer's answer down for the controller, which looks at its next tick: nobody is woken.
#[inline(always)]
fn take(packet: Cursor, reply: &Heartbeat, interface: InterfaceEntry, row: Row) -> Result<Verdict, DropReason> {
    let Some(own) = maps::own() else { return Ok(Verdict::Drop) };
    if own.session == 0 || reply.session != own.session || u16::from(reply.path) != interface.path {
        return Err(DropReason::HeartbeatStale);
    }
    let Some(path) = maps::path(reply.path) else { return Err(DropReason::HeartbeatStale) };
    let Some(addresses) = packet.window::<ADDRESSES_LEN>(0) else { return Err(DropReason::HeartbeatLength) };
    if !path.take(reply, now(), u64::from(addresses.be16(6)) << 32 | u64::from(addresses.be32(8))) {
        return Err(DropReason::HeartbeatStale);
    }
    row.count(COUNT_REPLIES);
    Ok(Verdict::Drop)
}
