//! What ctnetlink tells when it is asked for everything, read without any code of the daemon's.

use crate::netns::Netns;
use anyhow::{Context, Result, bail};
use netlink_packet_core::{NLA_HEADER_SIZE, NetlinkBuffer, NlaBuffer, NlasIterator};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, bind, netlink, recv, send, socket};
use std::os::fd::OwnedFd;
use std::time::Duration;

const DONE: u16 = 3;
const ERROR: u16 = 2;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP_REQUEST: u16 = 0x301;
const NFGENMSG_BYTES: usize = 4;
/// The kernel fills what it is offered, up to 32 KiB.
const READ_BYTES: usize = 32 * 1024;

/// Which table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Connections,
    Expectations,
}

/// Which addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Ipv4,
    Both,
}

/// Reads the namespace's whole table; `note` is given the attributes of each entry.
///
/// # Errors
/// When the kernel refuses or stays silent for 10 s.
pub fn dump(node: &Netns, table: Table, family: Family, mut note: impl FnMut(&[u8]) + Send) -> Result<()> {
    node.enter(|| {
        let socket = request(table, family)?;
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let (length, _) = recv(&socket, &mut buffer, RecvFlags::empty()).context("the dump broke off")?;
            if take(buffer.get(..length).unwrap_or_default(), table, &mut note)? {
                return Ok(());
            }
        }
    })?
}

/// The attributes in a nest or an entry: their kind and what is in them.
pub fn attributes_of(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    attributes(bytes).map(|(kind, _, value)| (kind, value))
}

/// As [`attributes_of`], and whether each is marked as a nest.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, bool, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).filter_map(|attribute: NlaBuffer<&[u8]>| {
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        let nested = attribute.nested_flag();
        Some((kind, nested, attribute.into_inner().get(NLA_HEADER_SIZE..length)?))
    })
}

/// What is in the attribute of this kind.
pub fn within(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes_of(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

/// A number of the wire; 0 when it is cut short.
pub fn be32(value: &[u8]) -> u32 {
    value.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// Takes what one read returned; whether it was the end.
fn take(bytes: &[u8], table: Table, note: &mut impl FnMut(&[u8])) -> Result<bool> {
    let mut rest = bytes;
    while !rest.is_empty() {
        let message = NetlinkBuffer::new_checked(rest)?;
        match message.message_type() {
            DONE => return Ok(true),
            ERROR => bail!("the kernel refuses to dump its {table:?} (is CAP_NET_ADMIN held?)"),
            kind if kind == entry_message(table) => {
                note(message.payload().get(NFGENMSG_BYTES..).unwrap_or_default());
            }
            _ => {}
        }
        let length = usize::try_from(message.length())?.next_multiple_of(4);
        rest = rest.get(length..).unwrap_or_default();
    }
    Ok(false)
}

/// `subsystem << 8 | IPCTNL_MSG_*_NEW`; the request is the next number.
const fn entry_message(table: Table) -> u16 {
    match table {
        Table::Connections => 0x0100,
        Table::Expectations => 0x0200,
    }
}

/// A socket of the calling thread's namespace that has asked for the whole table.
fn request(table: Table, family: Family) -> Result<OwnedFd> {
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER))?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(10)))?;
    let mut request = Vec::new();
    request.extend(20u32.to_ne_bytes());
    request.extend((entry_message(table) + 1).to_ne_bytes());
    request.extend(DUMP_REQUEST.to_ne_bytes());
    request.extend([0; 8]);
    // `struct nfgenmsg`: family (AF_INET, or AF_UNSPEC for all), version 0, resource 0.
    let family = match family {
        Family::Ipv4 => 2,
        Family::Both => 0,
    };
    request.extend([family, 0, 0, 0]);
    send(&socket, &request, SendFlags::empty()).context("cannot ask for the table")?;
    Ok(socket)
}
