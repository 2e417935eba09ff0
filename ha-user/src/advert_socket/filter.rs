//! Classic BPF programs (linux/filter.h) that keep everything but adverts out of a socket's queue.

use libc::{BPF_ABS, BPF_B, BPF_H, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET};
use socket2::SockFilter;

const LOAD_BYTE: u16 = (BPF_LD | BPF_B | BPF_ABS) as u16;
const LOAD_HALF: u16 = (BPF_LD | BPF_H | BPF_ABS) as u16;
const JUMP_EQUAL: u16 = (BPF_JMP | BPF_JEQ | BPF_K) as u16;
const RETURN: u16 = (BPF_RET | BPF_K) as u16;
/// `SKF_AD_OFF + SKF_AD_PKTTYPE`: the packet type is read like a byte at this offset.
const PACKET_TYPE: u32 = (-0x1000i32 + 4) as u32;
const PACKET_OUTGOING: u32 = 4;
const ADVERT_PROTOCOL: u32 = ha_common::wire::carp::PROTOCOL as u32;
const IPV4: u32 = 0x0800;
const IPV6: u32 = 0x86dd;
const VLAN: u32 = 0x8100;
const SERVICE_VLAN: u32 = 0x88a8;
const IPV4_PROTOCOL: u32 = 9;
const IPV6_NEXT_HEADER: u32 = 6;
const WHOLE_PACKET: u32 = 0x4_0000;

/// Accepts incoming frames whose IPv4 protocol or IPv6 next header is 112, untagged or within one VLAN tag.
///
/// What else is wrong with them is for the parser to say, so that it is counted by name.
pub fn protocol_112() -> [SockFilter; 20] {
    const DROP: u8 = 18;
    const ACCEPT: u8 = 19;
    let load = |code: u16, offset: u32| SockFilter::new(code, 0, 0, offset);
    // Jumps are written as positions; the program wants distances from the instruction after the jump.
    let equal = |at: u8, value: u32, then: u8, otherwise: u8| {
        SockFilter::new(JUMP_EQUAL, then - at - 1, otherwise - at - 1, value)
    };
    [
        load(LOAD_BYTE, PACKET_TYPE),
        equal(1, PACKET_OUTGOING, DROP, 2),
        load(LOAD_HALF, 12),
        equal(3, IPV4, 7, 4),
        equal(4, IPV6, 9, 5),
        equal(5, VLAN, 11, 6),
        equal(6, SERVICE_VLAN, 11, DROP),
        load(LOAD_BYTE, 14 + IPV4_PROTOCOL),
        equal(8, ADVERT_PROTOCOL, ACCEPT, DROP),
        load(LOAD_BYTE, 14 + IPV6_NEXT_HEADER),
        equal(10, ADVERT_PROTOCOL, ACCEPT, DROP),
        load(LOAD_HALF, 16),
        equal(12, IPV4, 14, 13),
        equal(13, IPV6, 16, DROP),
        load(LOAD_BYTE, 18 + IPV4_PROTOCOL),
        equal(15, ADVERT_PROTOCOL, ACCEPT, DROP),
        load(LOAD_BYTE, 18 + IPV6_NEXT_HEADER),
        equal(17, ADVERT_PROTOCOL, ACCEPT, DROP),
        SockFilter::new(RETURN, 0, 0, 0),
        SockFilter::new(RETURN, 0, 0, WHOLE_PACKET),
    ]
}

/// Accepts nothing: for sockets that only send.
pub fn nothing() -> [SockFilter; 1] {
    [SockFilter::new(RETURN, 0, 0, 0)]
}
