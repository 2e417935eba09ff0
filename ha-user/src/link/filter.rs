//! Which rtnetlink events are wanted at all, decided in the kernel (classic BPF, linux/filter.h).

use super::table::RTM_DELROUTE;
use crate::route_netlink::ROUTE_PROTOCOL;
use libc::{BPF_ABS, BPF_B, BPF_H, BPF_JEQ, BPF_JMP, BPF_K, BPF_LD, BPF_RET};
use socket2::SockFilter;

const LOAD_BYTE: u16 = (BPF_LD | BPF_B | BPF_ABS) as u16;
const LOAD_HALF: u16 = (BPF_LD | BPF_H | BPF_ABS) as u16;
const JUMP_EQUAL: u16 = (BPF_JMP | BPF_JEQ | BPF_K) as u16;
const RETURN: u16 = (BPF_RET | BPF_K) as u16;
const RTM_NEWROUTE: u16 = 24;
/// Offset of `nlmsg_type` in `struct nlmsghdr`.
const TYPE_AT: u32 = 4;
/// Offset of `rtm_protocol`: 16 bytes of `struct nlmsghdr`, five of `struct rtmsg`.
const PROTOCOL_AT: u32 = 21;

/// Lets of all route messages only removals of our own routes pass. A router with a full table loses and learns
/// thousands of routes a second, which must neither wake the election's thread nor fill its queue.
pub fn no_foreign_routes() -> [SockFilter; 7] {
    // A half word is loaded as big endian, but netlink writes it in the machine's order.
    let kind = |kind: u16| u32::from(kind.to_be());
    [
        SockFilter::new(LOAD_HALF, 0, 0, TYPE_AT),
        SockFilter::new(JUMP_EQUAL, 4, 0, kind(RTM_NEWROUTE)),
        SockFilter::new(JUMP_EQUAL, 0, 2, kind(RTM_DELROUTE)),
        SockFilter::new(LOAD_BYTE, 0, 0, PROTOCOL_AT),
        SockFilter::new(JUMP_EQUAL, 0, 1, u32::from(ROUTE_PROTOCOL)),
        SockFilter::new(RETURN, 0, 0, u32::MAX),
        SockFilter::new(RETURN, 0, 0, 0),
    ]
}
