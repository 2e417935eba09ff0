//! The whole table, read piece by piece while the loop goes on.

use super::attribute::Messages;
use super::{ConntrackError, decode, socket, uapi};
use ha_common::sync::flow::Flow;
use netlink_packet_core::{Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::conntrack::ConntrackMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::Socket;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

const PURPOSE: &str = "conntrack dumps";
/// The kernel fills up to 32 KiB per read.
const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Most chunks per [`DumpSource::read`]: some thousand entries.
const CHUNKS_PER_READ: usize = 16;

/// How far a dump is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// No dump runs.
    Idle,
    /// More will come.
    Running,
    /// The end was reached. Without `complete` entries may be missing: the table was resized meanwhile, or an
    /// error cut it short; it must be repeated.
    Ended { complete: bool },
}

/// The dump socket.
pub struct DumpSource {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
    running: bool,
    interrupted: bool,
    malformed: u64,
}

impl DumpSource {
    /// # Errors
    /// When the socket cannot be made.
    pub fn open() -> Result<Self, ConntrackError> {
        let (socket, _) = socket::open(PURPOSE)?;
        socket::set_recv_buffer(&socket, PURPOSE, 4 * CHUNK_BYTES_MAX)?;
        Ok(Self {
            socket,
            buffer: vec![0; CHUNK_BYTES_MAX],
            sequence: 0,
            running: false,
            interrupted: false,
            malformed: 0,
        })
    }

    /// Asks for all entries of both families. A dump that runs already goes on instead.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn start(&mut self) -> io::Result<()> {
        if self.running {
            return Ok(());
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&request(self.sequence), 0)?;
        self.running = true;
        self.interrupted = false;
        Ok(())
    }

    /// Hands the entries that wait to `sink`.
    pub fn read(&mut self, mut sink: impl FnMut(&Flow)) -> Progress {
        if !self.running {
            return Progress::Idle;
        }
        for _ in 0..CHUNKS_PER_READ {
            match socket::recv(&self.socket, &mut self.buffer) {
                Ok(None) => return Progress::Running,
                Ok(Some(length)) => {
                    if let Some(end) = self.chunk(length, &mut sink) {
                        return end;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a conntrack dump broke off");
                    return self.end(false);
                }
            }
        }
        Progress::Running
    }

    /// The descriptor to poll for reading.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Entries that could not be decoded, ever.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// One read of messages; `Some` at the end of the dump.
    fn chunk(&mut self, length: usize, sink: &mut impl FnMut(&Flow)) -> Option<Progress> {
        let mut end = None;
        for message in Messages::new(self.buffer.get(..length)?) {
            let Ok((header, payload)) = message else {
                self.malformed += 1;
                break;
            };
            if header.sequence != self.sequence {
                // Left over from a dump that broke off.
                continue;
            }
            self.interrupted |= header.flags & uapi::DUMP_INTR != 0;
            match header.kind {
                uapi::CT_NEW => match decode::flow(payload) {
                    Ok(flow) => sink(&flow),
                    Err(_) => self.malformed += 1,
                },
                // The payload of DONE is an error number, negative when the kernel gave up.
                uapi::NLMSG_DONE => end = Some(payload.first_chunk().is_none_or(|e| i32::from_ne_bytes(*e) == 0)),
                uapi::NLMSG_ERROR | uapi::NLMSG_OVERRUN => end = Some(false),
                _ => {}
            }
        }
        end.map(|complete| self.end(complete))
    }

    fn end(&mut self, complete: bool) -> Progress {
        self.running = false;
        Progress::Ended { complete: complete && !self.interrupted }
    }
}

/// `IPCTNL_MSG_CT_GET` with `NLM_F_DUMP` for AF_UNSPEC, which means IPv4 and IPv6.
fn request(sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    header.sequence_number = sequence;
    let inner = NetfilterMessage::new(
        NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0),
        ConntrackMessage::Get(Vec::new()),
    );
    let mut message = NetlinkMessage::new(header, NetlinkPayload::from(inner));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The request of the packet crate is the 20 bytes that the kernel expects.
    #[test]
    fn request_bytes() {
        let mut expected = vec![20, 0, 0, 0];
        expected.extend(uapi::CT_GET.to_ne_bytes());
        expected.extend((uapi::REQUEST | uapi::DUMP).to_ne_bytes());
        expected.extend(7u32.to_ne_bytes());
        expected.extend([0; 8]);
        assert_eq!(request(7), expected);
    }
}
