//! Index and MTU of an interface in this network namespace.

use crate::route_netlink::{RouteSocket, attributes};
use netlink_packet_core::{Emitable, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use std::io;

const RTM_NEWLINK: u16 = 16;
/// Length of `struct ifinfomsg`.
const IFINFOMSG_LEN: usize = 16;
const IFLA_MTU: u16 = 4;

/// The interface's index.
///
/// # Errors
/// ENODEV when there is none of this name.
pub fn index(name: &str) -> io::Result<u32> {
    let any_socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::DGRAM, None)?;
    Ok(rustix::net::netdevice::name_to_index(&any_socket, name)?)
}

/// The interface's MTU in bytes; `None` when there is no such interface.
pub fn mtu(name: &str) -> Option<usize> {
    let mut socket = RouteSocket::open(0).ok()?;
    let mut link = LinkMessage::default();
    link.attributes.push(LinkAttribute::IfName(name.to_owned()));
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(RouteNetlinkMessage::GetLink(link)));
    message.finalize();
    let mut request = vec![0; message.buffer_len()];
    message.emit(&mut request);
    socket.send(&request).ok()?;
    let answer = socket.receive().ok()??.find(|message| message.kind == RTM_NEWLINK)?;
    let (_, value) = attributes(answer.payload, IFINFOMSG_LEN).find(|(kind, _)| *kind == IFLA_MTU)?;
    usize::try_from(u32::from_ne_bytes(*value.first_chunk()?)).ok()
}
