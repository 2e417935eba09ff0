//! Whole Ethernet frames in and out of an interface (AF_PACKET): adverts, announcements, and the way to hear adverts
//! where no XDP program can be attached.

use libc::{AF_PACKET, ETH_P_ALL, sockaddr_ll};
use socket2::{Domain, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

/// Longer than any advert frame with VLAN tag; a longer frame is cut and then refused by its length.
const FRAME_BYTES_MAX: usize = 2048;

/// `TC_PRIO_INTERACTIVE` of linux/pkt_sched.h: the highest that needs no privilege.
const PRIORITY_INTERACTIVE: u32 = 6;

/// Sends frames through any interface, and receives nothing.
pub struct FrameSender {
    socket: Socket,
}

impl FrameSender {
    /// # Errors
    /// When the kernel refuses the socket (CAP_NET_RAW).
    pub fn open() -> io::Result<Self> {
        // Protocol zero: the socket is never put on any receive path.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        // What this daemon says must not wait behind what it forwards (the first band of pfifo_fast).
        socket.set_priority(PRIORITY_INTERACTIVE)?;
        Ok(Self { socket })
    }

    /// Sends `frame`, Ethernet header included, through the interface with index `ifindex`.
    ///
    /// # Errors
    /// When the interface is down or gone, or its queue is full.
    pub fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        self.socket.send_to(frame, &link_address(ifindex, 0)?)?;
        Ok(())
    }
}

/// Receives the frames of one interface that pass a filter.
pub struct FrameReceiver {
    socket: Socket,
    buffer: Vec<u8>,
}

impl FrameReceiver {
    /// Opens a socket that sees the frames arriving at the interface with index `ifindex` for which the classic BPF
    /// program `filter` returns non-zero.
    ///
    /// # Errors
    /// When the kernel refuses the socket (CAP_NET_RAW), the filter, or the interface is gone.
    pub fn open(ifindex: u32, filter: &[SockFilter]) -> io::Result<Self> {
        Self::open_type(ifindex, ETH_P_ALL as u16, filter)
    }

    /// As [`Self::open`], but only for frames of one EtherType: those of others are not even filtered.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_type(ifindex: u32, ether_type: u16, filter: &[SockFilter]) -> io::Result<Self> {
        // Created with protocol zero and filtered before it is bound: no unwanted frame slips in between.
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)?;
        socket.set_nonblocking(true)?;
        socket.attach_filter(filter)?;
        socket.bind(&link_address(ifindex, ether_type)?)?;
        Ok(Self { socket, buffer: vec![0; FRAME_BYTES_MAX] })
    }

    /// The next frame, Ethernet header included; `None` when nothing waits.
    ///
    /// # Errors
    /// `ENETDOWN` once when the interface went down or away, and whatever else the kernel says.
    pub fn receive(&mut self) -> io::Result<Option<&[u8]>> {
        loop {
            match rustix::net::recv(&self.socket, self.buffer.as_mut_slice(), rustix::net::RecvFlags::DONTWAIT) {
                Ok((length, _)) => return Ok(self.buffer.get(..length)),
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for FrameReceiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The `sockaddr_ll` of an interface; `protocol` is an EtherType in host order.
#[expect(unsafe_code, reason = "no crate in use offers a safe constructor of sockaddr_ll")]
fn link_address(ifindex: u32, protocol: u16) -> io::Result<SockAddr> {
    let sll_ifindex = i32::try_from(ifindex).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is one of this platform's sockaddr types, and all zeros are a valid value of it.
    let address = unsafe { storage.view_as::<sockaddr_ll>() };
    address.sll_family = AF_PACKET as u16;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = sll_ifindex;
    // SAFETY: the storage holds a complete sockaddr_ll with its family, and the length is that type's.
    Ok(unsafe { SockAddr::new(storage, size_of::<sockaddr_ll>() as libc::socklen_t) })
}
