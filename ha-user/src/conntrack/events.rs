//! What the kernel tells about its table: conntrack events.

use super::attribute::Messages;
use super::{ConntrackError, decode, expectation, filter_program, socket, uapi};
use crate::recv_batch::RecvBatch;
use ha_common::sync::filter::Filter;
use ha_common::sync::flow::{Expectation, Flow, FlowKey};
use netlink_sys::Socket;
use socket2::{SockFilter, SockRef};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

const PURPOSE: &str = "conntrack events";
/// An event is one datagram; the largest (IPv6 with every extension) has less than 1 KiB.
const EVENT_BYTES_MAX: usize = 2048;
/// Most batches per [`EventSource::read`], so that a storm of events leaves the loop time for the rest.
const BATCHES_PER_READ: usize = 8;

/// One event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A new entry, or one that changed.
    Changed(&'a Flow),
    /// The entry is gone.
    Destroyed(&'a Flow),
    /// A helper waits for a connection that the flow `master` has announced.
    Expected { master: &'a FlowKey, expectation: &'a Expectation },
    /// The expectation is fulfilled, over or withdrawn.
    Unexpected { master: &'a FlowKey, expectation: &'a Expectation },
    /// The kernel dropped events because the socket's buffer was full, or one did not fit: which is unknown.
    Lost,
}

/// What was read, ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventStats {
    pub events: u64,
    /// Caused by this daemon's own writes.
    pub own: u64,
    pub malformed: u64,
    /// How often the socket overflowed.
    pub overflows: u64,
    /// The receive buffer now, bytes asked for.
    pub buffer_bytes: usize,
}

/// The event socket.
pub struct EventSource {
    socket: Socket,
    writer_port: u32,
    batch: RecvBatch,
    buffer_bytes_max: usize,
    /// The socket has overflowed and is not drained yet.
    overflowed: bool,
    stats: EventStats,
}

impl EventSource {
    /// Subscribes to new, changed and deleted entries of both families.
    ///
    /// Events caused by the socket with port id `writer_port` (this daemon's writer) are left out. The receive
    /// buffer starts with `buffer_bytes`, and doubles up to `buffer_bytes_max` when it overflows.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn open(writer_port: u32, buffer_bytes: usize, buffer_bytes_max: usize) -> Result<Self, ConntrackError> {
        let (socket, _) = socket::open(PURPOSE)?;
        socket::set_recv_buffer(&socket, PURPOSE, buffer_bytes)?;
        let source = Self {
            socket,
            writer_port,
            batch: RecvBatch::new(EVENT_BYTES_MAX),
            buffer_bytes_max,
            overflowed: false,
            stats: EventStats { buffer_bytes, ..EventStats::default() },
        };
        source.attach(&filter_program::own_only(writer_port))?;
        // Subscribed last: the buffer and the filter count from the first event on.
        for group in (1..=u32::BITS).filter(|group| uapi::EVENT_GROUPS >> (group - 1) & 1 == 1) {
            source.socket.add_membership(group).map_err(|source| ConntrackError::Open { purpose: PURPOSE, source })?;
        }
        Ok(source)
    }

    /// Lets the kernel drop what `filter` refuses by protocol or address, before it costs buffer and a wake-up. What waits
    /// already, and what the program cannot tell, is still handed out: the caller filters as well.
    ///
    /// # Errors
    /// When the kernel takes no such program (`net.core.optmem_max` bounds it); then it drops own events alone.
    pub fn restrict(&self, filter: &Filter) -> Result<(), ConntrackError> {
        self.attach(&filter_program::generate(filter, self.writer_port)).or_else(|error| {
            self.attach(&filter_program::own_only(self.writer_port))?;
            Err(error)
        })
    }

    /// Another size of the receive buffer, and how far it may grow. It does not shrink while it has grown.
    ///
    /// # Errors
    /// When the kernel refuses the size.
    pub fn resize(&mut self, buffer_bytes: usize, buffer_bytes_max: usize) -> Result<(), ConntrackError> {
        self.buffer_bytes_max = buffer_bytes_max;
        if buffer_bytes > self.stats.buffer_bytes {
            socket::set_recv_buffer(&self.socket, PURPOSE, buffer_bytes)?;
            self.stats.buffer_bytes = buffer_bytes;
        }
        Ok(())
    }

    /// Hands what waits to `sink`, at most [`BATCHES_PER_READ`] batches; whether more may wait.
    ///
    /// A socket that has overflowed goes on dropping events, without further notice, until it is empty
    /// (`netlink_overrun` and `netlink_rcv_wake` in the kernel's af_netlink.c). So the loss is told when that point is
    /// reached: a table that is read earlier could lack what is dropped after the reading.
    pub fn read(&mut self, mut sink: impl FnMut(Event<'_>)) -> bool {
        for _ in 0..BATCHES_PER_READ {
            match self.batch.recv(&self.socket) {
                Ok(count) => {
                    self.decode(&mut sink);
                    if count < crate::recv_batch::BATCH_MAX {
                        return self.drained(&mut sink);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return self.drained(&mut sink),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // ENOBUFS; another error on a netlink socket loses events just as well.
                    if error.raw_os_error() == Some(libc::ENOBUFS) {
                        self.grow();
                    }
                    self.stats.overflows += 1;
                    self.overflowed = true;
                }
            }
        }
        true
    }

    fn drained(&mut self, sink: &mut impl FnMut(Event<'_>)) -> bool {
        if std::mem::take(&mut self.overflowed) {
            sink(Event::Lost);
        }
        false
    }

    /// The descriptor to poll for reading.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub fn stats(&self) -> EventStats {
        self.stats
    }

    fn decode(&mut self, sink: &mut impl FnMut(Event<'_>)) {
        for datagram in self.batch.datagrams() {
            if datagram.truncated {
                self.stats.overflows += 1;
                sink(Event::Lost);
                continue;
            }
            for message in Messages::new(datagram.bytes) {
                let Ok((header, payload)) = message else {
                    self.stats.malformed += 1;
                    break;
                };
                if header.port == self.writer_port {
                    self.stats.own += 1;
                    continue;
                }
                let told = match header.kind {
                    uapi::CT_NEW => decode::flow(payload).map(|flow| sink(Event::Changed(&flow))),
                    uapi::CT_DELETE => decode::flow(payload).map(|flow| sink(Event::Destroyed(&flow))),
                    uapi::EXP_NEW => expectation::decode(payload).map(|(master, expectation)| {
                        sink(Event::Expected { master: &master, expectation: &expectation })
                    }),
                    uapi::EXP_DELETE => expectation::decode(payload).map(|(master, expectation)| {
                        sink(Event::Unexpected { master: &master, expectation: &expectation })
                    }),
                    _ => continue,
                };
                match told {
                    Ok(()) => self.stats.events += 1,
                    Err(_) => self.stats.malformed += 1,
                }
            }
        }
    }

    /// Doubles the receive buffer, up to the configured maximum.
    fn grow(&mut self) {
        let wanted = self.stats.buffer_bytes.saturating_mul(2).min(self.buffer_bytes_max);
        if wanted > self.stats.buffer_bytes && socket::set_recv_buffer(&self.socket, PURPOSE, wanted).is_ok() {
            tracing::info!(bytes = wanted, "conntrack events were lost: the receive buffer grows");
            self.stats.buffer_bytes = wanted;
        }
    }

    /// Replaces the program that the kernel runs on each event. Own events are also sorted out in
    /// [`EventSource::decode`].
    fn attach(&self, program: &[SockFilter]) -> Result<(), ConntrackError> {
        SockRef::from(&self.socket).attach_filter(program).map_err(|source| ConntrackError::Option {
            option: "SO_ATTACH_FILTER",
            purpose: PURPOSE,
            source,
        })
    }
}
