//! Whole Ethernet frames of one EtherType in and out of one interface (AF_PACKET).

use anyhow::{Context, Result};
use libc::{AF_PACKET, sockaddr_ll};
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};
use std::io;
use std::os::fd::AsRawFd;

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

/// Frames go to the driver at once, without the queueing discipline (PACKET_QDISC_BYPASS).
///
/// # Errors
/// When the kernel has no such option.
#[expect(unsafe_code, reason = "no crate in use wraps PACKET_QDISC_BYPASS")]
pub fn bypass_queue(socket: &Socket) -> Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option's value is a live c_int, and its length is that type's.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            (&raw const on).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()).context("cannot set PACKET_QDISC_BYPASS") }
}
