//! Sending heartbeats: whole frames out of every interface that is a path, the sync link included.
//!
//! One socket for each interface: a full queue of one must not hold up the frames of another. Nothing is ever received
//! here: the peer's answers end in the XDP program.

use crate::packet_socket::FrameSender;
use ha_common::election::InterfaceId;
use rustix::io::Errno;
use std::io;

/// The sockets of all interfaces, by position.
pub struct HeartbeatSockets {
    interfaces: Vec<Interface>,
}

/// What became of the frames for one interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendCounts {
    pub sent: u64,
    /// Not sent: the interface is missing or down, or its queue is full.
    pub failed: u64,
}

#[derive(Default)]
struct Interface {
    open: Option<(u32, FrameSender)>,
    counts: SendCounts,
}

impl HeartbeatSockets {
    /// For so many interfaces, none of which need exist yet.
    pub fn new(interfaces: usize) -> Self {
        Self { interfaces: (0..interfaces).map(|_| Interface::default()).collect() }
    }

    /// Tells that the interface exists with this index (`None`: it does not). Opens a socket anew when the index is
    /// another one; cheap otherwise.
    ///
    /// # Errors
    /// When the kernel refuses the socket (CAP_NET_RAW).
    pub fn set_interface(&mut self, id: InterfaceId, ifindex: Option<u32>) -> io::Result<()> {
        let Some(interface) = self.interfaces.get_mut(usize::from(id.0)) else { return Ok(()) };
        if interface.open.as_ref().map(|(open, _)| *open) == ifindex {
            return Ok(());
        }
        interface.open = None;
        if let Some(ifindex) = ifindex {
            interface.open = Some((ifindex, FrameSender::open()?));
        }
        Ok(())
    }

    /// Sends one frame, Ethernet header included; never waits.
    ///
    /// # Errors
    /// `ENODEV` when the interface is missing, `ENETDOWN` when it is down, `EAGAIN` or `ENOBUFS` when its queue is full.
    pub fn send(&mut self, id: InterfaceId, frame: &[u8]) -> io::Result<()> {
        let Some(interface) = self.interfaces.get_mut(usize::from(id.0)) else { return Err(Errno::NODEV.into()) };
        let sent = match &interface.open {
            Some((ifindex, sender)) => sender.send(*ifindex, frame),
            None => Err(Errno::NODEV.into()),
        };
        match &sent {
            Ok(()) => interface.counts.sent += 1,
            Err(_) => interface.counts.failed += 1,
        }
        sent
    }

    /// What became of the frames for an interface so far.
    pub fn counts(&self, id: InterfaceId) -> SendCounts {
        self.interfaces.get(usize::from(id.0)).map_or_else(SendCounts::default, |interface| interface.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A missing interface refuses with its own error, and counts that; an unknown one counts nothing.
    #[test]
    fn missing_interfaces_refuse() {
        let mut sockets = HeartbeatSockets::new(1);
        for id in [InterfaceId(0), InterfaceId(1)] {
            assert!(sockets.set_interface(id, None).is_ok());
            let error = sockets.send(id, &[0; 14]).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(Errno::NODEV.raw_os_error()));
        }
        assert_eq!(sockets.counts(InterfaceId(0)), SendCounts { sent: 0, failed: 1 });
        assert_eq!(sockets.counts(InterfaceId(1)), SendCounts::default());
    }
}
