//! The XDP programs of twinwall.
//!
//! One program serves every interface: what the interface is for is in a map, so that LAN and sync link may be
//! the same interface. It parses with `ha-common`'s parsers, and the daemon's socket path does as well.
#![no_std]
#![no_main]
// The verifier needs one register per packet address: see `cursor.rs`.
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

mod advert;
mod cursor;
mod maps;
mod sync;
mod verdict;

use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use cursor::Cursor;
use ha_common::abi::{ROLE_CARP, ROLE_SYNC};
use ha_common::wire::{carp, ip, udp};
use maps::Row;
use verdict::Verdict;

/// Counts every packet of a configured interface, and judges adverts and sync frames.
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
    let header = ip::Header::of_frame(packet)?;
    match header.protocol() {
        carp::PROTOCOL if interface.roles & ROLE_CARP != 0 => {
            Some(advert::receive(ctx, packet, header, interface, row))
        }
        udp::PROTOCOL if interface.roles & ROLE_SYNC != 0 => Some(sync::receive(ctx, packet, header, row)),
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
