//! Sending adverts, belonging to their multicast groups, and hearing adverts where no XDP program is attached.
//!
//! Multicast adverts leave as whole frames (AF_PACKET), so that routing, netfilter and ARP play no part
//! (`carp-wire` section 1); unicast adverts leave through a raw IP socket, because the peer's MAC must be found.

mod filter;

use crate::config::Resolved;
use crate::packet_socket::{FrameReceiver, FrameSender};
use ha_common::election::{InterfaceId, Transport};
use ha_common::reason::DropReason;
use ha_common::wire::advert::{self, Frame, Verdict};
use ha_common::wire::carp::{self, Advert};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, Socket, Type};
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, BorrowedFd};

/// What could not be done on an interface.
#[derive(Debug, thiserror::Error)]
pub enum AdvertSocketError {
    #[error("cannot open a packet socket: {0} (is CAP_NET_RAW missing?)")]
    Open(#[source] io::Error),
    #[error("cannot join {group} on {interface}: {cause} (is the link up and, for IPv6, not disabled?)")]
    Join { group: IpAddr, interface: String, cause: io::Error },
    #[error("cannot open a raw socket for unicast adverts on {interface}: {cause} (is CAP_NET_RAW missing?)")]
    Unicast { interface: String, cause: io::Error },
    #[error("cannot listen for adverts on {interface}: {cause} (is CAP_NET_RAW missing?)")]
    Listen { interface: String, cause: io::Error },
    #[error("cannot send an advert from {source_address} to {destination} on {interface}: {cause} ({remedy})")]
    Send { source_address: IpAddr, destination: IpAddr, interface: String, cause: io::Error, remedy: &'static str },
}

/// What the socket path heard: the verdict of the parser that the XDP programs use as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    Advert { source: IpAddr, destination: IpAddr, advert: Advert },
    Refused { vhid: Option<u8>, reason: DropReason },
}

/// The sockets of all interfaces.
pub struct AdvertSockets {
    sender: FrameSender,
    interfaces: Vec<Interface>,
}

struct Interface {
    name: String,
    groups: BTreeSet<IpAddr>,
    unicast_v4: bool,
    unicast_v6: bool,
    open: Option<Open>,
}

/// What is open while the interface exists.
struct Open {
    ifindex: u32,
    mac: [u8; 6],
    listener: Option<FrameReceiver>,
    raw_v4: Option<Socket>,
    raw_v6: Option<Socket>,
    /// Held open only: the membership ends with the socket.
    _memberships: Vec<Socket>,
}

impl AdvertSockets {
    /// Prepares for the interfaces of `config`; none of them need exist yet.
    ///
    /// # Errors
    /// When the kernel refuses packet sockets.
    pub fn open(config: &Resolved) -> Result<Self, AdvertSocketError> {
        let interfaces = config.interfaces.iter().enumerate().map(|(at, name)| {
            let transports = config.vips.iter().filter(|vip| usize::from(vip.interface.0) == at);
            Interface::new(name.clone(), transports.map(|vip| &vip.transport))
        });
        Ok(Self { sender: FrameSender::open().map_err(AdvertSocketError::Open)?, interfaces: interfaces.collect() })
    }

    /// Tells that the interface exists with this index and MAC (`None`: it does not), and whether adverts are to be
    /// heard through a socket because no XDP program is attached. Everything is opened anew when the index or
    /// `listen` differs; what fails is returned, and the rest works.
    pub fn set_interface(
        &mut self,
        id: InterfaceId,
        present: Option<(u32, [u8; 6])>,
        listen: bool,
    ) -> Vec<AdvertSocketError> {
        let Some(interface) = self.interfaces.get_mut(usize::from(id.0)) else { return Vec::new() };
        let Some((ifindex, mac)) = present else {
            interface.open = None;
            return Vec::new();
        };
        if let Some(open) = interface.open.as_mut().filter(|open| open.ifindex == ifindex)
            && open.listener.is_some() == listen
        {
            open.mac = mac;
            return Vec::new();
        }
        // The old sockets belong to an interface that is gone: close them before the new ones join.
        interface.open = None;
        interface.reopen(ifindex, mac, listen)
    }

    /// Sends one advert: to a group as a frame, to a peer as a packet.
    ///
    /// # Errors
    /// When the interface is missing or down, or the kernel refuses.
    pub fn send(
        &self,
        id: InterfaceId,
        source: IpAddr,
        destination: IpAddr,
        advert: &Advert,
    ) -> Result<(), AdvertSocketError> {
        let Some(interface) = self.interfaces.get(usize::from(id.0)) else { return Ok(()) };
        let sent = match &interface.open {
            Some(open) => open.send(&self.sender, source, destination, advert),
            None => Err(rustix::io::Errno::NODEV.into()),
        };
        sent.map_err(|cause| AdvertSocketError::Send {
            source_address: source,
            destination,
            interface: interface.name.clone(),
            remedy: remedy(&cause),
            cause,
        })
    }

    /// Sends a frame that somebody else built (an announcement) through the interface.
    ///
    /// # Errors
    /// When the interface is missing or down.
    pub fn send_frame(&self, id: InterfaceId, frame: &[u8]) -> io::Result<()> {
        match self.interfaces.get(usize::from(id.0)).and_then(|interface| interface.open.as_ref()) {
            Some(open) => self.sender.send(open.ifindex, frame),
            None => Err(rustix::io::Errno::NODEV.into()),
        }
    }

    /// The descriptor to poll where adverts are heard through a socket.
    pub fn listener(&self, id: InterfaceId) -> Option<BorrowedFd<'_>> {
        Some(self.interfaces.get(usize::from(id.0))?.open.as_ref()?.listener.as_ref()?.as_fd())
    }

    /// The next frame of protocol 112 on an interface without XDP program; `None` when nothing waits.
    ///
    /// An error of the socket (the interface went down or away) ends the reading only: the link watch says the rest.
    pub fn receive(&mut self, id: InterfaceId) -> Option<Heard> {
        let listener = self.interfaces.get_mut(usize::from(id.0))?.open.as_mut()?.listener.as_mut()?;
        // Frames that are not of protocol 112 can only wait if the kernel's filter and the parser disagree.
        while let Some(frame) = listener.receive().ok()? {
            match advert::parse_frame(frame) {
                Verdict::Other => {}
                Verdict::Refused(refusal) => {
                    return Some(Heard::Refused { vhid: refusal.vhid, reason: refusal.reason });
                }
                Verdict::Advert(heard) => {
                    let (source, destination) = (heard.source(), heard.destination());
                    return Some(Heard::Advert { source, destination, advert: heard.advert() });
                }
            }
        }
        None
    }
}

impl Interface {
    fn new<'a>(name: String, transports: impl Iterator<Item = &'a Transport>) -> Self {
        let mut interface = Self { name, groups: BTreeSet::new(), unicast_v4: false, unicast_v6: false, open: None };
        for transport in transports {
            match transport {
                Transport::Multicast { v4, v6 } => interface.groups.extend([IpAddr::V4(*v4), IpAddr::V6(*v6)]),
                Transport::Unicast(peers) => {
                    interface.unicast_v4 |= peers.iter().any(IpAddr::is_ipv4);
                    interface.unicast_v6 |= peers.iter().any(IpAddr::is_ipv6);
                }
            }
        }
        interface
    }

    fn reopen(&mut self, ifindex: u32, mac: [u8; 6], listen: bool) -> Vec<AdvertSocketError> {
        let mut errors = Vec::new();
        let name = || self.name.clone();
        let mut memberships = Vec::new();
        for &group in &self.groups {
            match join(group, ifindex) {
                Ok(socket) => memberships.push(socket),
                Err(cause) => errors.push(AdvertSocketError::Join { group, interface: name(), cause }),
            }
        }
        let mut raw = |wanted: bool, domain: Domain| match wanted.then(|| raw_socket(domain, &self.name)) {
            Some(Ok(socket)) => Some(socket),
            Some(Err(cause)) => {
                errors.push(AdvertSocketError::Unicast { interface: name(), cause });
                None
            }
            None => None,
        };
        let (raw_v4, raw_v6) = (raw(self.unicast_v4, Domain::IPV4), raw(self.unicast_v6, Domain::IPV6));
        let listener = match listen.then(|| FrameReceiver::open(ifindex, &filter::protocol_112())) {
            Some(Ok(listener)) => Some(listener),
            Some(Err(cause)) => {
                errors.push(AdvertSocketError::Listen { interface: name(), cause });
                None
            }
            None => None,
        };
        self.open = Some(Open { ifindex, mac, listener, raw_v4, raw_v6, _memberships: memberships });
        errors
    }
}

impl Open {
    fn send(&self, frames: &FrameSender, source: IpAddr, destination: IpAddr, advert: &Advert) -> io::Result<()> {
        // Any value does: ucarp draws a random one. The digest is as good as random, and costs no state.
        let identification = u16::from_be_bytes([advert.digest[0], advert.digest[1]]);
        match (source, destination) {
            (IpAddr::V4(source), IpAddr::V4(group)) if group.is_multicast() => {
                let frame = Frame::multicast_v4(self.mac, source, group, identification, advert);
                frames.send(self.ifindex, frame.as_bytes())
            }
            (IpAddr::V6(source), IpAddr::V6(group)) if group.is_multicast() => {
                frames.send(self.ifindex, Frame::multicast_v6(self.mac, source, group, advert).as_bytes())
            }
            (IpAddr::V4(source), IpAddr::V4(peer)) => self.send_v4(source, peer, identification, advert),
            (IpAddr::V6(source), IpAddr::V6(peer)) => self.send_v6(source, peer, advert),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                Err(rustix::io::Errno::AFNOSUPPORT.into())
            }
        }
    }

    fn send_v4(&self, source: Ipv4Addr, peer: Ipv4Addr, identification: u16, advert: &Advert) -> io::Result<()> {
        let socket = self.raw_v4.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let packet = advert::emit_ipv4(source, peer, identification, advert);
        socket.send_to(&packet, &SockAddr::from(SocketAddr::new(peer.into(), 0)))?;
        Ok(())
    }

    fn send_v6(&self, source: Ipv6Addr, peer: Ipv6Addr, advert: &Advert) -> io::Result<()> {
        let socket = self.raw_v6.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        // With IPV6_HDRINCL the header is ours, so that the source is the one the election chose.
        let packet = advert::emit_ipv6(source, peer, advert);
        let scope = if peer.is_unicast_link_local() { self.ifindex } else { 0 };
        socket.send_to(&packet, &SockAddr::from(SocketAddrV6::new(peer, 0, 0, scope)))?;
        Ok(())
    }
}

/// A UDP socket whose only purpose is the membership. XDP needs it as well: switches that snoop IGMP or MLD forward
/// the group only to members, and the NIC filters by the memberships.
fn join(group: IpAddr, ifindex: u32) -> io::Result<Socket> {
    match group {
        IpAddr::V4(group) => {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
            socket.join_multicast_v4_n(&group, &InterfaceIndexOrAddress::Index(ifindex))?;
            Ok(socket)
        }
        IpAddr::V6(group) => {
            let socket = Socket::new(Domain::IPV6, Type::DGRAM, None)?;
            socket.join_multicast_v6(&group, ifindex)?;
            Ok(socket)
        }
    }
}

/// A sending socket bound to the interface. It is bound to protocol 112 and not to IPPROTO_RAW on purpose: a kernel
/// without a taker for the protocol would answer the peer's unicast adverts with "protocol unreachable".
fn raw_socket(domain: Domain, interface: &str) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(carp::PROTOCOL))))?;
    socket.set_nonblocking(true)?;
    socket.attach_filter(&filter::nothing())?;
    socket.bind_device(Some(interface.as_bytes()))?;
    if domain == Domain::IPV4 {
        socket.set_header_included_v4(true)?;
    } else {
        socket.set_header_included_v6(true)?;
    }
    Ok(socket)
}

fn remedy(cause: &io::Error) -> &'static str {
    match cause.raw_os_error() {
        Some(libc::ENETDOWN) => "is the interface up?",
        Some(libc::ENODEV | libc::ENXIO) => "it goes on when the interface is back",
        Some(libc::ENOBUFS | libc::EAGAIN) => "the interface's queue is full",
        Some(libc::EPERM) => "does the firewall's OUTPUT chain refuse protocol 112?",
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH) => "is there a route to the peer on this interface?",
        Some(libc::EADDRNOTAVAIL | libc::EINVAL) => "is the source address still on the interface?",
        Some(_) | None => "see dmesg",
    }
}
