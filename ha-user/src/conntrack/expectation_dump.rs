//! All expectations of the kernel, on a socket of their own; read after the table, because they belong to its flows.

use super::attribute::{Builder, Messages};
use super::dump::Progress;
use super::{ConntrackError, expectation, socket, uapi};
use ha_common::sync::flow::{Expectation, FlowKey};
use netlink_sys::Socket;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

const PURPOSE: &str = "dumps of expectations";
/// The kernel fills up to 32 KiB per read.
const CHUNK_BYTES_MAX: usize = 64 * 1024;
/// Most chunks per [`ExpectationDump::read`].
const CHUNKS_PER_READ: usize = 16;

/// The dump socket.
pub struct ExpectationDump {
    socket: Socket,
    buffer: Vec<u8>,
    sequence: u32,
    running: bool,
    interrupted: bool,
    malformed: u64,
}

impl ExpectationDump {
    /// # Errors
    /// When the socket cannot be made.
    pub fn open() -> Result<Self, ConntrackError> {
        let (socket, _) = socket::open(PURPOSE)?;
        socket::set_recv_buffer(&socket, PURPOSE, 4 * CHUNK_BYTES_MAX)?;
        let buffer = vec![0; CHUNK_BYTES_MAX];
        Ok(Self { socket, buffer, sequence: 0, running: false, interrupted: false, malformed: 0 })
    }

    /// Asks for all expectations of both families. A dump that runs already goes on instead.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn start(&mut self) -> io::Result<()> {
        if self.running {
            return Ok(());
        }
        self.sequence = self.sequence.wrapping_add(1);
        let mut request = Builder::default();
        let message = request.begin(uapi::EXP_GET, uapi::REQUEST | uapi::DUMP, self.sequence, uapi::FAMILY_ANY);
        request.end(message);
        self.socket.send(request.bytes(), 0)?;
        self.running = true;
        self.interrupted = false;
        Ok(())
    }

    /// Hands the expectations that wait, each with the key of its master, to `sink`.
    pub fn read(&mut self, mut sink: impl FnMut(&FlowKey, &Expectation)) -> Progress {
        if !self.running {
            return Progress::Idle;
        }
        for _ in 0..CHUNKS_PER_READ {
            match socket::recv(&self.socket, &mut self.buffer) {
                Ok(None) => return Progress::Running,
                Ok(Some(length)) => {
                    if let Some(complete) = self.chunk(length, &mut sink) {
                        return self.end(complete);
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a dump of expectations broke off");
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

    /// Expectations that could not be decoded, ever.
    pub fn malformed(&self) -> u64 {
        self.malformed
    }

    /// One read of messages; `Some` at the end of the dump.
    fn chunk(&mut self, length: usize, sink: &mut impl FnMut(&FlowKey, &Expectation)) -> Option<bool> {
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
                uapi::EXP_NEW => match expectation::decode(payload) {
                    Ok((master, expectation)) => sink(&master, &expectation),
                    Err(_) => self.malformed += 1,
                },
                // The payload of DONE is an error number, negative when the kernel gave up.
                uapi::NLMSG_DONE => end = Some(payload.first_chunk().is_none_or(|e| i32::from_ne_bytes(*e) == 0)),
                uapi::NLMSG_ERROR | uapi::NLMSG_OVERRUN => end = Some(false),
                _ => {}
            }
        }
        end
    }

    fn end(&mut self, complete: bool) -> Progress {
        self.running = false;
        Progress::Ended { complete: complete && !self.interrupted }
    }
}
