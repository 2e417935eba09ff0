//! Whole Ethernet frames of one EtherType in and out of one interface (AF_PACKET).

use anyhow::{Context, Result};
use libc::{AF_PACKET, sockaddr_ll};
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};
use std::io;

/// A non-blocking socket of the calling thread's namespace: sends frames through the interface and receives those of
/// the EtherType (host order) that arrive at it.
///
/// # Errors
/// Without CAP_NET_RAW, or when there is no such interface.
pub fn open(interface: &str, ethertype: u16) -> Result<Socket> {
    let at = || format!("cannot open a packet socket on {interface}");
    let socket = Socket::new(Domain::PACKET, Type::RAW, None).with_context(at)?;
    socket.set_nonblocking(true)?;
    let index = rustix::net::netdevice::name_to_index(&socket, interface).with_context(at)?;
    socket.bind(&link_address(index, ethertype)?).with_context(at)?;
    Ok(socket)
}

/// The `sockaddr_ll` of an interface.
#[expect(unsafe_code, reason = "no crate in use offers a safe constructor of sockaddr_ll")]
fn link_address(index: u32, ethertype: u16) -> io::Result<SockAddr> {
    let sll_ifindex = i32::try_from(index).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of this platform's sockaddr types, and all zeros are a valid value of it.
    let address = unsafe { storage.view_as::<sockaddr_ll>() };
    address.sll_family = AF_PACKET as u16;
    address.sll_protocol = ethertype.to_be();
    address.sll_ifindex = sll_ifindex;
    // SAFETY: the storage holds a complete sockaddr_ll with its family, and the length is that type's.
    Ok(unsafe { SockAddr::new(storage, size_of::<sockaddr_ll>() as libc::socklen_t) })
}
