//! Two other ways of an admitted sync frame to userspace, for `cargo xtask bench sync-rx` alone: past the network stack into
//! an AF_XDP socket, and as a copy in a ring buffer. What is checked and counted before is the same as in production.

use crate::cursor::Cursor;
use crate::maps::{self, Row};
use crate::sync;
use crate::verdict::Verdict;
use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::generated::bpf_xdp_load_bytes;
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{RingBuf, XskMap};
use aya_ebpf::programs::XdpContext;
use ha_common::abi::{InterfaceEntry, ROLE_SYNC};
use ha_common::wire::ipv4::Payload;
use ha_common::wire::{ethernet, ip, udp};

/// Receive queues that may have an AF_XDP socket.
const QUEUES: u32 = 8;
/// Bytes of the ring unless the loader says otherwise.
const RING_BYTES: u32 = 4 << 20;
/// Payloads of at most so many bytes take a short record: the size of a reservation must be known to the verifier.
const SHORT_BYTES: usize = 248;
/// The UDP payload of a packet on Ethernet.
const LONG_BYTES: usize = 1472;

/// By receive queue.
#[map]
static SOCKETS: XskMap = XskMap::with_max_entries(QUEUES, 0);
#[map]
static FRAMES: RingBuf = RingBuf::with_byte_size(RING_BYTES, 0);

/// A record of the ring: how many of its bytes are the frame's.
#[repr(C)]
struct Record<const N: usize> {
    len: u64,
    bytes: [u8; N],
}

/// As `twinwall_edge` for sync frames, but they go to the AF_XDP socket of their queue; without one they are dropped.
#[xdp]
pub fn bench_af_xdp(ctx: XdpContext) -> u32 {
    match admitted(&ctx) {
        Ok(_) => {
            let queue = ctx.rx_queue_index();
            SOCKETS.redirect(queue, u64::from(xdp_action::XDP_DROP)).unwrap_or_else(|action| action)
        }
        Err(verdict) => verdict.action(),
    }
}

/// As `twinwall_edge` for sync frames, but they are copied into the ring; what does not fit is dropped.
#[xdp]
pub fn bench_ring_buffer(ctx: XdpContext) -> u32 {
    match admitted(&ctx) {
        Ok(payload) => {
            if payload.len <= SHORT_BYTES {
                copy::<SHORT_BYTES>(&ctx, payload);
            } else {
                copy::<LONG_BYTES>(&ctx, payload);
            }
            Verdict::Drop.action()
        }
        Err(verdict) => verdict.action(),
    }
}

/// The payload of a frame that production lets through.
///
/// # Errors
/// What becomes of any other packet.
#[inline(always)]
fn admitted(ctx: &XdpContext) -> Result<Payload, Verdict> {
    let Some((packet, header, interface, row)) = sync_packet(ctx) else { return Err(Verdict::Pass) };
    sync::judge(ctx, packet, header, interface, row)?.ok_or(Verdict::Pass)
}

#[inline(always)]
fn sync_packet(ctx: &XdpContext) -> Option<(Cursor, ip::Header<Cursor>, InterfaceEntry, Row)> {
    let interface = maps::interface(ctx.ingress_ifindex() as u32)?;
    let row = Row::of_interface(interface.slot)?;
    row.count_packet();
    let packet = Cursor::of(ctx);
    let payload = ethernet::payload(packet)?;
    match payload.ether_type {
        ethernet::TYPE_IPV4 | ethernet::TYPE_IPV6 => {}
        _ => return None,
    }
    let header = ip::Header::behind(packet, payload)?;
    if header.protocol() != udp::PROTOCOL || interface.roles & ROLE_SYNC == 0 {
        return None;
    }
    Some((packet, header, interface, row))
}

/// Copies a payload of at most `N` bytes into the ring. Where there is no room, nothing is: userspace sees the difference
/// between what was admitted and what arrived.
#[inline(always)]
#[expect(unsafe_code, reason = "a kernel helper writes into the reserved record")]
fn copy<const N: usize>(ctx: &XdpContext, payload: Payload) {
    let len = payload.len;
    if len == 0 || len > N {
        return;
    }
    let Some(mut entry) = FRAMES.reserve::<Record<N>>(0) else { return };
    let record = entry.as_mut_ptr();
    // SAFETY: the record is reserved memory of this size, and `len` was compared with the N bytes that follow.
    let failed = unsafe {
        (&raw mut (*record).len).write(len as u64);
        bpf_xdp_load_bytes(ctx.as_ptr().cast(), payload.offset as u32, (&raw mut (*record).bytes).cast(), len as u32)
    };
    if failed == 0 {
        // Flags 0: the reader is woken only when it has read everything before.
        entry.submit(0);
    } else {
        entry.discard(0);
    }
}
