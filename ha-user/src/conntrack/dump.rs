//! The whole table, read piece by piece while the loop goes on.

use super::attribute::Messages;
use super::{ConntrackError, decode, socket, uapi};
use ha_common::sync::filter::{Filter, MarkMatch};
use ha_common::sync::flow::{Flow, status};
use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_netfilter::conntrack::{ConntrackAttribute, ConntrackMessage};
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

/// What the kernel itself can leave out of a dump (`ctnetlink` section 11). Addresses it could compare as well, but gets
/// those of IPv6 wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    mark: Option<MarkMatch>,
    zone: Option<u16>,
    assured_only: bool,
}

impl Selection {
    /// The criteria of `filter` that name one thing: one mark, one zone, ASSURED.
    pub fn of(filter: &Filter) -> Self {
        Self {
            mark: filter.marks.accept.as_deref().and_then(only),
            zone: filter.zones.accept.as_deref().and_then(only),
            assured_only: filter.assured_only,
        }
    }

    fn attributes(&self) -> Vec<ConntrackAttribute> {
        let be32 = |kind, value: u32| ConntrackAttribute::Other(DefaultNla::new(kind, value.to_be_bytes().to_vec()));
        let mut attributes = Vec::new();
        if let Some(MarkMatch { value, mask }) = self.mark {
            attributes.extend([be32(uapi::CTA_MARK, value), be32(uapi::CTA_MARK_MASK, mask)]);
        }
        if let Some(zone) = self.zone {
            let value = zone.to_be_bytes().to_vec();
            attributes.push(ConntrackAttribute::Other(DefaultNla::new(uapi::CTA_ZONE, value)));
        }
        if self.assured_only {
            let bits = [uapi::CTA_STATUS, uapi::CTA_STATUS_MASK].map(|kind| be32(kind, status::ASSURED));
            attributes.extend(bits);
        }
        attributes
    }
}

fn only<T: Copy>(list: &[T]) -> Option<T> {
    match list {
        [one] => Some(*one),
        [] | [_, _, ..] => None,
    }
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
        self.start_selected(&Selection::default())
    }

    /// As [`Self::start`], but the kernel may leave out entries that are not `selection`'s.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn start_selected(&mut self, selection: &Selection) -> io::Result<()> {
        if self.running {
            return Ok(());
        }
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&request(self.sequence, selection), 0)?;
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
fn request(sequence: u32, selection: &Selection) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    header.sequence_number = sequence;
    let inner = NetfilterMessage::new(
        NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0),
        ConntrackMessage::Get(selection.attributes()),
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
        assert_eq!(request(7, &Selection::default()), expected);
    }

    /// What the filter names alone stands in the request; two marks are left to user space.
    #[test]
    fn selected_entries() {
        let mut filter = Filter { assured_only: true, ..Filter::default() };
        let mark = MarkMatch { value: 0x10, mask: 0xf0 };
        filter.marks.accept = Some(vec![mark]);
        filter.zones.accept = Some(vec![7]);
        let bytes = request(7, &Selection::of(&filter));
        let (_, payload) = Messages::new(&bytes).next().unwrap().unwrap();
        let attributes: Vec<(u16, Vec<u8>)> = super::super::attribute::Attributes::new(&payload[4..])
            .map(|attribute| attribute.map(|(kind, value)| (kind, value.to_vec())).unwrap())
            .collect();
        let expected = [
            (uapi::CTA_MARK, vec![0, 0, 0, 0x10]),
            (uapi::CTA_MARK_MASK, vec![0, 0, 0, 0xf0]),
            (uapi::CTA_ZONE, vec![0, 7]),
            (uapi::CTA_STATUS, vec![0, 0, 0, 4]),
            (uapi::CTA_STATUS_MASK, vec![0, 0, 0, 4]),
        ];
        assert_eq!(attributes, expected);
        filter.marks.accept = Some(vec![mark, mark]);
        assert_eq!(Selection::of(&filter).mark, None);
    }
}
