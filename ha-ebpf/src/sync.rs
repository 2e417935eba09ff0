//! The sync link: check the frame header before the socket sees the datagram, and count per peer.

use crate::clock::now;
use crate::cursor::Cursor;
use crate::maps::{self, Row};
use crate::verdict::Verdict;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::debug;
use ha_common::abi::{COUNT_FRAMES, InterfaceEntry, stream_index};
use ha_common::reason::DropReason;
use ha_common::wire::frame::{self, Header};
use ha_common::wire::genuine::Admission;
use ha_common::wire::ip;
use ha_common::wire::ipv4::Payload;

/// Judges one UDP packet; whatever is not for the sync socket passes uncounted.
#[inline(always)]
pub fn receive(
    ctx: &XdpContext,
    packet: Cursor,
    header: ip::Header<Cursor>,
    interface: InterfaceEntry,
    row: Row,
) -> Verdict {
    judge(ctx, packet, header, interface, row).err().unwrap_or(Verdict::Pass)
}

/// The payload of an admitted frame; `None`: the packet is not for the sync socket.
///
/// # Errors
/// What becomes of a frame that is refused, and counted.
#[inline(always)]
pub fn judge(
    ctx: &XdpContext,
    packet: Cursor,
    header: ip::Header<Cursor>,
    interface: InterfaceEntry,
    row: Row,
) -> Result<Option<Payload>, Verdict> {
    let link = maps::link(interface.link).filter(|link| link.admits_destination(&header));
    let payload = link.and_then(|_| frame::datagram(packet, &header, maps::SYNC_PORT.load()));
    let Some(payload) = payload else { return Ok(None) };
    match admit(packet, &header, interface.link, payload) {
        Ok(()) => {
            row.count(COUNT_FRAMES);
            Ok(Some(payload))
        }
        Err(reason) => {
            row.count_refusal(reason);
            debug!(ctx, "sync frame refused: reason {}", reason as u32);
            Err(if reason.is_passed_on() { Verdict::Pass } else { Verdict::Drop })
        }
    }
}

#[inline(always)]
fn admit(packet: Cursor, ip: &ip::Header<Cursor>, link: u16, payload: Payload) -> Result<(), DropReason> {
    let header = Header::read(packet, payload)?;
    if !header.is_for(maps::SYNC_NODE.load()) {
        return Err(DropReason::FrameTarget);
    }
    let peer = maps::peer(link, header.sender).ok_or(DropReason::FrameSender)?;
    if !peer.admits_source(ip) {
        return Err(DropReason::FrameSender);
    }
    let key = maps::stamp_key(header.key_epoch).ok_or(DropReason::FrameKeyEpoch)?;
    if let Some(session) = maps::session(header.sender) {
        match session.judge(&header, frame::is_stamped(packet, payload, key))? {
            Admission::Free => {}
            Admission::Limited { bucket } => {
                if !maps::take_turn(bucket, now()) {
                    return Err(DropReason::FrameRate);
                }
            }
        }
    }
    if let Some(stream) = maps::stream(stream_index(header.sender, header.kind)) {
        stream.observe(header.kind, header.session, header.sequence, payload.len as u64);
    }
    Ok(())
}
