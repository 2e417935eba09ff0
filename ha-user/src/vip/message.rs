//! The rtnetlink request of one address or route, and how its acknowledgement reads.

use super::Operand;
use crate::route_netlink::{Message, ROUTE_PROTOCOL};
use ha_common::election::VipState;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressHeader, AddressMessage, AddressScope};
use netlink_packet_route::route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;
use std::net::IpAddr;

/// Metric of our IPv6 default route: below the 1024 of router advertisements and static routes, because two IPv6
/// routes of one metric would be merged into a multipath route.
pub const ROUTE_METRIC_V6: u32 = 112;

const NLMSG_ERROR: u16 = 2;
/// `MAX_ERRNO` (include/linux/err.h).
const ERRNO_MAX: i32 = 4095;

/// Appends the acknowledged request that brings `operand` into `state` to `datagram`.
pub fn append(operand: &Operand, state: VipState, ifindex: u32, sequence: u32, datagram: &mut Vec<u8>) {
    let (flags, request) = match operand {
        Operand::Address { address, prefix_len, label, .. } => {
            let message = address_message(*address, *prefix_len, label.as_deref(), state, ifindex);
            match state {
                VipState::Present => (NLM_F_CREATE | NLM_F_EXCL, RouteNetlinkMessage::NewAddress(message)),
                VipState::Absent => (0, RouteNetlinkMessage::DelAddress(message)),
            }
        }
        Operand::DefaultRoute { gateway, .. } => {
            let message = route_message(*gateway, ifindex);
            match state {
                // Without EXCL and APPEND the route goes in front of an administrator's of the same metric
                // (net/ipv4/fib_trie.c, fib_table_insert), which is in force again when ours is gone.
                VipState::Present => (NLM_F_CREATE, RouteNetlinkMessage::NewRoute(message)),
                VipState::Absent => (0, RouteNetlinkMessage::DelRoute(message)),
            }
        }
    };
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    message.header.sequence_number = sequence;
    message.finalize();
    let start = datagram.len();
    datagram.resize(start + message.buffer_len().next_multiple_of(4), 0);
    if let Some(space) = datagram.get_mut(start..) {
        message.serialize(space);
    }
}

/// The sequence number an acknowledgement answers, and its verdict; `None` for any other message.
pub fn acknowledgement(message: &Message<'_>) -> Option<(u32, Result<(), Errno>)> {
    if message.kind != NLMSG_ERROR {
        return None;
    }
    let code = i32::from_ne_bytes(*message.payload.first_chunk()?);
    // A number that is no errno would be a breach of the library's contract; the kernel sends none.
    let errno =
        |number: i32| if (1..=ERRNO_MAX).contains(&number) { Errno::from_raw_os_error(number) } else { Errno::IO };
    let result = if code == 0 { Ok(()) } else { Err(errno(code.saturating_neg())) };
    Some((message.sequence, result))
}

fn address_message(
    address: IpAddr,
    prefix_len: u8,
    label: Option<&str>,
    state: VipState,
    ifindex: u32,
) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header = AddressHeader {
        family: family(address),
        prefix_len,
        scope: AddressScope::Universe,
        index: ifindex,
        ..AddressHeader::default()
    };
    message.attributes.push(AddressAttribute::Local(address));
    match state {
        VipState::Present => {
            message.attributes.push(AddressAttribute::Address(address));
            message.attributes.extend(label.map(|label| AddressAttribute::Label(label.to_owned())));
            if address.is_ipv6() {
                // The master must answer at once: the election has just proven that nobody else does.
                message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
        }
        // IPv4 without IFA_ADDRESS and label finds the address under any prefix length, so that a leftover of an
        // earlier configuration goes as well (net/ipv4/devinet.c, inet_rtm_deladdr).
        VipState::Absent => {}
    }
    message
}

fn route_message(gateway: IpAddr, ifindex: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(gateway),
        table: RouteHeader::RT_TABLE_MAIN,
        protocol: RouteProtocol::Other(ROUTE_PROTOCOL),
        scope: RouteScope::Universe,
        kind: RouteType::Unicast,
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Gateway(gateway.into()), RouteAttribute::Oif(ifindex)];
    if gateway.is_ipv6() {
        message.attributes.push(RouteAttribute::Priority(ROUTE_METRIC_V6));
    }
    message
}

fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha_common::election::InterfaceId;
    use netlink_packet_core::NetlinkPayload;

    const SEQUENCE: u32 = 7;

    fn bytes(operand: &Operand, state: VipState) -> Vec<u8> {
        let mut datagram = Vec::new();
        append(operand, state, 5, SEQUENCE, &mut datagram);
        datagram
    }

    fn decoded(operand: &Operand, state: VipState) -> NetlinkMessage<RouteNetlinkMessage> {
        NetlinkMessage::deserialize(&bytes(operand, state)).unwrap()
    }

    /// The request to add the README's LAN address, byte for byte as linux/if_addr.h has it.
    #[test]
    fn address_request_has_label_and_prefix() {
        let operand = Operand::Address {
            interface: InterfaceId(0),
            address: [10, 77, 1, 210].into(),
            prefix_len: 24,
            label: Some("eth0:tw".into()),
        };
        let mut expected = vec![52, 0, 0, 0, 20, 0, 5, 6, 7, 0, 0, 0, 0, 0, 0, 0];
        expected.extend([2, 24, 0, 0, 5, 0, 0, 0]);
        expected.extend([8, 0, 2, 0, 10, 77, 1, 210]);
        expected.extend([8, 0, 1, 0, 10, 77, 1, 210]);
        expected.extend([12, 0, 3, 0]);
        expected.extend(b"eth0:tw\0");
        assert_eq!(bytes(&operand, VipState::Present), expected);
    }

    /// A deletion names the address alone, so that a leftover with another prefix length or label is found too.
    #[test]
    fn deletion_names_the_address_alone() {
        let address = [10, 77, 1, 210].into();
        let operand = Operand::Address { interface: InterfaceId(0), address, prefix_len: 24, label: None };
        let message = decoded(&operand, VipState::Absent);
        assert_eq!(message.header.flags, NLM_F_REQUEST | NLM_F_ACK);
        let NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelAddress(message)) = message.payload else {
            panic!("not a deletion: {message:?}")
        };
        assert_eq!(message.attributes, [AddressAttribute::Local(address)]);
    }

    /// IPv6 addresses skip duplicate detection and never carry a label.
    #[test]
    fn ipv6_skips_duplicate_detection() {
        let address = "fd00::d2".parse().unwrap();
        let operand = Operand::Address { interface: InterfaceId(0), address, prefix_len: 64, label: None };
        let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(message)) =
            decoded(&operand, VipState::Present).payload
        else {
            panic!("not an addition")
        };
        assert!(message.attributes.contains(&AddressAttribute::Flags(AddressFlags::Nodad)));
        assert_eq!(message.header.prefix_len, 64);
    }

    /// Routes carry our protocol number in both directions: that is how ours is told from the administrator's.
    #[test]
    fn routes_carry_our_protocol() {
        for (gateway, metric) in [("10.77.2.129", None), ("fd00::1", Some(ROUTE_METRIC_V6))] {
            let operand = Operand::DefaultRoute { interface: InterfaceId(1), gateway: gateway.parse().unwrap() };
            for state in [VipState::Present, VipState::Absent] {
                let message = match decoded(&operand, state).payload {
                    NetlinkPayload::InnerMessage(
                        RouteNetlinkMessage::NewRoute(message) | RouteNetlinkMessage::DelRoute(message),
                    ) => message,
                    other => panic!("not a route: {other:?}"),
                };
                assert_eq!(message.header.protocol, RouteProtocol::Other(ROUTE_PROTOCOL));
                assert_eq!((message.header.table, message.header.destination_prefix_length), (254, 0));
                assert!(message.attributes.contains(&RouteAttribute::Oif(5)));
                let found = message.attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Priority(metric) => Some(*metric),
                    _ => None,
                });
                assert_eq!(found, metric);
            }
        }
    }

    /// An acknowledgement's code is a negative errno or zero; other messages and short ones are none. A code that no errno
    /// has is an error as well.
    #[test]
    fn acknowledgements_are_read() {
        let with = |kind, payload: &[u8]| acknowledgement(&Message { kind, flags: 0, sequence: SEQUENCE, payload });
        assert_eq!(with(NLMSG_ERROR, &0i32.to_ne_bytes()), Some((SEQUENCE, Ok(()))));
        assert_eq!(with(NLMSG_ERROR, &(-17i32).to_ne_bytes()), Some((SEQUENCE, Err(Errno::EXIST))));
        for code in [i32::MIN, -4096, 1] {
            assert_eq!(with(NLMSG_ERROR, &code.to_ne_bytes()), Some((SEQUENCE, Err(Errno::IO))));
        }
        assert_eq!(with(NLMSG_ERROR, &[1, 2, 3]), None);
        assert_eq!(with(20, &0i32.to_ne_bytes()), None);
    }
}
