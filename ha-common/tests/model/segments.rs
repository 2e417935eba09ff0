//! Two segments, each with a virtual address.

use ha_common::election::{InterfaceId, Member, Transport};
use ha_common::wire::carp::Advert;
use std::net::Ipv4Addr;

/// Number of segments, and of members: vhid 3 on segment 0 (LAN), vhid 4 on segment 1 (WAN).
pub const SEGMENTS: usize = 2;
pub const VHIDS: [u8; SEGMENTS] = [3, 4];
pub const VIPS: [Ipv4Addr; SEGMENTS] = [Ipv4Addr::new(10, 77, 0, 210), Ipv4Addr::new(10, 88, 0, 210)];
pub const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);

/// A node's own address; the order of the WAN addresses is the reverse of that of the LAN addresses, so that a tie by
/// address is won on one side and lost on the other.
pub fn address(node: usize, segment: usize) -> Ipv4Addr {
    let last = if segment == 0 { 1 + node } else { 9 - node };
    Ipv4Addr::new(10, [77, 88][segment], 0, u8::try_from(last).unwrap())
}

/// What a node puts on a segment.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub source: Ipv4Addr,
    pub advert: Advert,
}

/// The members of the group, by segment.
pub fn members() -> Vec<Member> {
    let member = |segment: usize| Member {
        vhid: VHIDS[segment],
        interface: InterfaceId(segment as u8),
        addresses: vec![VIPS[segment].into()],
        password: b"toto".to_vec().into(),
        transport: Transport::Multicast { v4: GROUP, v6: "ff02::12".parse().unwrap() },
    };
    (0..SEGMENTS).map(member).collect()
}
