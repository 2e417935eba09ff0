//! A nfnetlink socket that only the kernel can talk to.

use super::ConntrackError;
use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use rustix::net::sockopt;
use std::io;

/// Opens, binds and connects a non-blocking socket. Returns it with its port id.
pub fn open(purpose: &'static str) -> Result<(Socket, u32), ConntrackError> {
    let failed = |source| ConntrackError::Open { purpose, source };
    let mut socket = Socket::new(NETLINK_NETFILTER).map_err(failed)?;
    socket.bind(&SocketAddr::new(0, 0)).map_err(failed)?;
    // A connected netlink socket takes unicast messages from its peer only: the kernel, port 0.
    socket.connect(&SocketAddr::new(0, 0)).map_err(failed)?;
    socket.set_non_blocking(true).map_err(failed)?;
    let mut address = SocketAddr::new(0, 0);
    socket.get_address(&mut address).map_err(failed)?;
    Ok((socket, address.port_number()))
}

/// Asks for a receive buffer of `bytes`, past `rmem_max` when this process may (CAP_NET_ADMIN).
pub fn set_recv_buffer(socket: &Socket, purpose: &'static str, bytes: usize) -> Result<(), ConntrackError> {
    sockopt::set_socket_recv_buffer_size_force(socket, bytes)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, bytes))
        .map_err(|errno| ConntrackError::Option { option: "SO_RCVBUF", purpose, source: errno.into() })
}

/// As [`set_recv_buffer`], for the largest write.
pub fn set_send_buffer(socket: &Socket, purpose: &'static str, bytes: usize) -> Result<(), ConntrackError> {
    sockopt::set_socket_send_buffer_size_force(socket, bytes)
        .or_else(|_| sockopt::set_socket_send_buffer_size(socket, bytes))
        .map_err(|errno| ConntrackError::Option { option: "SO_SNDBUF", purpose, source: errno.into() })
}

/// One datagram into `buffer`, its length; `None` when nothing waits.
pub fn recv(socket: &Socket, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match rustix::net::recv(socket, &mut *buffer, rustix::net::RecvFlags::DONTWAIT | rustix::net::RecvFlags::TRUNC)
        {
            // With MSG_TRUNC the second number is the true length, which may exceed the buffer.
            Ok((_, length)) if length > buffer.len() => return Err(io::Error::from(rustix::io::Errno::MSGSIZE)),
            Ok((_, length)) => return Ok(Some(length)),
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
