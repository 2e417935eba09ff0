//! The XDP programs of twinwall.
//!
//! One program serves every interface: what the interface is for is in a map, so that LAN and sync link may be
//! the same interface. It parses with `ha-common`'s parsers, and the daemon's socket path does as well.
#![no_std]
#![no_main]
// The verifier needs one register per packet address: see `cursor.rs`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod advert;
mod clock;
mod cursor;
#[cfg(feature = "bench")]
mod deliver;
mod fence;
mod gate;
mod heartbeat;
mod maps;
mod sync;
mod verdict;

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use cursor::Cursor;
use ha_common::abi::{InterfaceEntry, ROLE_CARP, ROLE_HEARTBEAT, ROLE_SYNC};
use ha_common::wire::{arp, carp, ethernet, heartbeat as beat, ip, ndisc, udp};
use maps::Row;
use verdict::Verdict;

/// Counts every packet of a configured interface, judges adverts and sync frames, answers heartbeats, and keeps the gate.
#[xdp]
pub fn twinwall_edge(ctx: XdpContext) -> u32 {
    edge(&ctx).unwrap_or(Verdict::Pass).action()
}

/// Does nothing: what `cargo xtask bench xdp` measures the other program against.
#[xdp]
pub fn twinwall_empty(_ctx: XdpContext) -> u32 {
    Verdict::Pass.action()
}

/// `None`: nothing that this daemon has an opinion about.
#[inline(always)]
fn edge(ctx: &XdpContext) -> Option<Verdict> {
    let interface = maps::interface(ctx.ingress_ifindex() as u32)?;
    let row = Row::of_interface(interface.slot)?;
    row.count_packet();
    let packet = Cursor::of(ctx);
    let payload = ethernet::payload(packet)?;
    match payload.ether_type {
        ethernet::TYPE_IPV4 | ethernet::TYPE_IPV6 => {
            internet(ctx, packet, ip::Header::behind(packet, payload)?, interface, row)
        }
        arp::TYPE_ARP if interface.roles & ROLE_CARP != 0 => gate::admit_arp(packet, payload.offset, row),
        beat::TYPE_HEARTBEAT if interface.roles & ROLE_HEARTBEAT != 0 => {
            Some(heartbeat::receive(ctx, packet, interface, row))
        }
        _ => None,
    }
}

#[inline(always)]
fn internet(
    ctx: &XdpContext,
    packet: Cursor,
    header: ip::Header<Cursor>,
    interface: InterfaceEntry,
    row: Row,
) -> Option<Verdict> {
    match (header.protocol(), &header) {
        (carp::PROTOCOL, _) if interface.roles & ROLE_CARP != 0 => {
            Some(advert::receive(ctx, packet, header, interface, row))
        }
        (udp::PROTOCOL, _) if interface.roles & ROLE_SYNC != 0 => {
            Some(sync::receive(ctx, packet, header, interface, row))
        }
        (ndisc::NEXT_HEADER_ICMPV6, ip::Header::V6(header)) if interface.roles & ROLE_CARP != 0 => {
            gate::admit_solicitation(packet, header, row)
        }
        _ => None,
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// bpf_ktime_get_boot_ns and the ring buffer are for GPL-compatible programs only.
#[expect(unsafe_code, reason = "the kernel finds the licence by its section")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
