//! The reading ends: each waits for frames and hands their payloads over, a batch at a time.

use crate::af_xdp::AfXdp;
use crate::rig::{Link, PORT, RECEIVER_ADDRESS, Receiver, SENDER_ADDRESS, SENDER_INTERFACE};
use anyhow::{Context, Result};
use aya::maps::{MapData, RingBuf};
use ha_common::sync::LinkId;
use ha_tests::bench::sync_rx::Way;
use ha_user::peer::{LinkSettings, PeerSockets, Presence, Settings};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

/// Production's default for either direction; the other ways get as much memory.
pub const BUFFER_BYTES: usize = 4 << 20;
/// Payloads that are handed over before the reader looks at anything else.
pub const BATCH: usize = 256;
const MTU: usize = 1500;

/// Where payloads come from.
pub trait Source {
    /// Sleeps until something may be read; false after `limit`.
    ///
    /// # Errors
    /// As `poll`.
    fn wait(&self, limit: Duration) -> Result<bool>;

    /// Hands what waits to `sink`, a batch at the most. True when more may wait.
    ///
    /// # Errors
    /// When the source is broken, not when nothing waits.
    fn read(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<bool>;
}

/// Opens the reading end of a way.
///
/// # Errors
/// When the kernel refuses it.
pub fn open(way: Way, link: &Link, receiver: &mut Receiver) -> Result<Box<dyn Source>> {
    Ok(match way {
        Way::Socket | Way::SocketNoGro => {
            let sockets = sockets(&link.interface, RECEIVER_ADDRESS, SENDER_ADDRESS)?;
            Box::new(UdpSocket(sockets))
        }
        Way::AfXdp => Box::new(AfXdp::open(receiver.ifindex, receiver.take_sockets()?)?),
        Way::RingBuffer => Box::new(Ring(receiver.take_ring()?)),
    })
}

/// Production's socket of the sending end.
///
/// # Errors
/// When the kernel refuses it.
pub fn sending_socket() -> Result<PeerSockets> {
    sockets(SENDER_INTERFACE, SENDER_ADDRESS, RECEIVER_ADDRESS)
}

/// Production's sockets of one end, made in that end's namespace.
fn sockets(interface: &str, local: IpAddr, peer: IpAddr) -> Result<PeerSockets> {
    let index = nix::net::if_::if_nametoindex(interface)?;
    let mut sockets = PeerSockets::new(Settings {
        links: vec![LinkSettings { interface: interface.to_owned(), local, peers: vec![peer] }],
        port: PORT,
        group: None,
        receive_buffer: BUFFER_BYTES,
        send_buffer: BUFFER_BYTES,
    });
    sockets.attach(LinkId(0), Some(Presence { index, mtu: MTU }))?;
    Ok(sockets)
}

struct UdpSocket(PeerSockets);

impl Source for UdpSocket {
    fn wait(&self, limit: Duration) -> Result<bool> {
        sleep(self.0.fds().next().context("the socket is not open")?, limit)
    }

    fn read(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<bool> {
        Ok(self.0.read(|_, payload| sink(payload)))
    }
}

struct Ring(RingBuf<MapData>);

impl Source for Ring {
    fn wait(&self, limit: Duration) -> Result<bool> {
        sleep(self.0.as_fd(), limit)
    }

    fn read(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<bool> {
        for _ in 0..BATCH {
            let Some(record) = self.0.next() else { return Ok(false) };
            let (len, bytes) = record.split_first_chunk().context("a record without a length")?;
            let len = usize::try_from(u64::from_ne_bytes(*len))?;
            sink(bytes.get(..len).context("a record shorter than its payload")?);
        }
        Ok(true)
    }
}

/// Sleeps until the descriptor is readable; false after `limit`.
///
/// # Errors
/// As `poll`.
pub fn sleep(fd: BorrowedFd<'_>, limit: Duration) -> Result<bool> {
    let timeout = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
    match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
