//! One UDP socket of a link.
//!
//! quinn-udp knows how to send and receive many datagrams in one call (UDP_SEGMENT, UDP_GRO, recvmmsg), and when a kernel
//! or a card cannot. It also chooses IP_PMTUDISC_PROBE: packets bear DF and are as large as the interface allows, and
//! what ICMP says of the path is ignored, because anybody can forge it; the engine finds by itself what arrives.

use super::{LinkSettings, PeerError, Settings};
use quinn_udp::{RecvMeta, Transmit, UdpSocketState};
use rustix::net::sockopt;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, Socket, Type};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd};

/// Multicast stays on the link.
const HOPS: u32 = 1;

pub(super) struct Port {
    socket: Socket,
    state: UdpSocketState,
}

impl Port {
    /// A socket on the link's interface, bound to an address.
    pub fn bound(settings: &Settings, link: &LinkSettings, address: IpAddr, index: u32) -> Result<Self, PeerError> {
        let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let socket = Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP)).map_err(PeerError::Open)?;
        if address.is_ipv6() {
            socket.set_only_v6(true).map_err(PeerError::Open)?;
        }
        // Without the privilege, or on an interface that is in a VRF, routing must do.
        if let Err(error) = socket.bind_device(Some(link.interface.as_bytes())) {
            tracing::warn!(interface = %link.interface, %error, "the sync socket is not bound to its interface");
        }
        set_buffers(&socket, settings);
        let address = scoped(address, settings.port, index);
        let refused = |source| PeerError::Bind { address, interface: link.interface.clone(), source };
        socket.bind(&SockAddr::from(address)).map_err(refused)?;
        let state = UdpSocketState::new((&socket).into()).map_err(PeerError::Open)?;
        Ok(Self { socket, state })
    }

    /// A socket that receives what is sent to the group on the link.
    pub fn joined(settings: &Settings, link: &LinkSettings, group: IpAddr, index: u32) -> Result<Self, PeerError> {
        let port = Self::bound(settings, link, group, index)?;
        let joined = match group {
            IpAddr::V4(group) => port.socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(index)),
            IpAddr::V6(group) => port.socket.join_multicast_v6(&group, index),
        };
        joined.map_err(|source| PeerError::Join { group, interface: link.interface.clone(), source })?;
        Ok(port)
    }

    /// What this socket sends to a group goes out of the link, one hop far, and is not heard here.
    pub fn send_to_group(&self, link: &LinkSettings, index: u32) -> Result<(), PeerError> {
        let set = || match link.local {
            IpAddr::V4(local) => {
                self.socket.set_multicast_if_v4(&local)?;
                self.socket.set_multicast_ttl_v4(HOPS)?;
                self.socket.set_multicast_loop_v4(false)
            }
            IpAddr::V6(_) => {
                self.socket.set_multicast_if_v6(index)?;
                self.socket.set_multicast_hops_v6(HOPS)?;
                self.socket.set_multicast_loop_v6(false)
            }
        };
        set().map_err(PeerError::Open)
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// How many datagrams may leave in one call: 1 since the kernel or the card has refused more.
    pub fn run_max(&self) -> usize {
        self.state.max_gso_segments()
    }

    /// Tries again what was refused.
    pub fn forget_refusals(&mut self) {
        if let Ok(state) = UdpSocketState::new((&self.socket).into()) {
            self.state = state;
        }
    }

    /// Sends `bytes` as datagrams of `segment` bytes, the last may be shorter.
    ///
    /// # Errors
    /// As `sendmsg`; nothing was sent then.
    pub fn send(&self, destination: SocketAddr, bytes: &[u8], segment: usize) -> io::Result<()> {
        let transmit = Transmit { destination, ecn: None, contents: bytes, segment_size: Some(segment), src_ip: None };
        self.state.try_send((&self.socket).into(), &transmit)
    }

    /// Takes what waits.
    ///
    /// # Errors
    /// As `recvmmsg`.
    pub fn receive(&self, buffers: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> io::Result<usize> {
        self.state.recv((&self.socket).into(), buffers, meta)
    }
}

fn set_buffers(socket: &Socket, settings: &Settings) {
    let Settings { receive_buffer: receive, send_buffer: send, .. } = *settings;
    if sockopt::set_socket_recv_buffer_size_force(socket, receive).is_err() {
        let _ = socket.set_recv_buffer_size(receive);
    }
    if sockopt::set_socket_send_buffer_size_force(socket, send).is_err() {
        let _ = socket.set_send_buffer_size(send);
    }
}

/// The address with the interface that a link-local address, or a group, needs to mean anything.
pub(super) fn scoped(address: IpAddr, port: u16, interface_index: u32) -> SocketAddr {
    match address {
        IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.is_multicast() => {
            SocketAddr::V6(SocketAddrV6::new(v6, port, 0, interface_index))
        }
        other => SocketAddr::new(other, port),
    }
}
