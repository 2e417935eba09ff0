//! The generator's flows in a firewall's kernel: which are there, whether they are the same as the other firewall's, and
//! when the kernel made each.

use super::generator::flow_number;
use crate::netns::Netns;
use anyhow::{Context, Result, bail, ensure};
use netlink_packet_core::{NLA_HEADER_SIZE, NetlinkBuffer, NlasIterator};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, bind, netlink, recv, send, socket};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::time::Duration;

const CT_GET: u16 = 0x0101;
const CT_NEW: u16 = 0x0100;
const DONE: u16 = 3;
const ERROR: u16 = 2;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP_REQUEST: u16 = 0x301;
const NFGENMSG_BYTES: usize = 4;
/// The kernel fills what it is offered, up to 32 KiB.
const READ_BYTES: usize = 32 * 1024;

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_MARK: u16 = 8;
const CTA_ZONE: u16 = 18;
const CTA_TIMESTAMP: u16 = 20;
const CTA_TIMESTAMP_START: u16 = 1;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_SRC_PORT: u16 = 2;
/// What must be the same on both firewalls: SEEN_REPLY, ASSURED, CONFIRMED, SRC_NAT, DST_NAT.
const STATUS_COMPARED: u32 = 0x3e;

/// The flows of one kernel, by their numbers.
pub struct FlowTable {
    entries: Vec<Option<Entry>>,
}

#[derive(Clone, Copy)]
struct Entry {
    /// Of both tuples, status, mark and zone.
    digest: u64,
    /// Nanoseconds of the machine's clock; 0 where `nf_conntrack_timestamp` is off.
    created: u64,
}

/// How the standby's flows differ from the master's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// On the master only.
    pub missing: usize,
    /// On both, but with another tuple, status, mark or zone.
    pub unequal: usize,
    /// On the standby only.
    pub stale: usize,
}

impl FlowTable {
    /// Reads the namespace's whole table; flows with numbers from `flows` on are left out.
    ///
    /// # Errors
    /// When the kernel refuses or stays silent for 10 s.
    pub fn read(node: &Netns, flows: u32) -> Result<Self> {
        node.enter(|| {
            let mut table = Self { entries: vec![None; usize::try_from(flows)?] };
            let socket = request_dump()?;
            let mut buffer = vec![0; READ_BYTES];
            loop {
                let (length, _) = recv(&socket, &mut buffer, RecvFlags::empty()).context("the dump broke off")?;
                if table.take(buffer.get(..length).unwrap_or_default())? {
                    return Ok(table);
                }
            }
        })?
    }

    /// How many flows are there.
    pub fn count(&self) -> usize {
        self.entries.iter().flatten().count()
    }

    /// What the standby's table lacks, has otherwise and has too much.
    pub fn difference(&self, standby: &Self) -> Difference {
        let mut difference = Difference::default();
        for (master, standby) in self.entries.iter().zip(&standby.entries) {
            match (master, standby) {
                (Some(_), None) => difference.missing += 1,
                (None, Some(_)) => difference.stale += 1,
                (Some(master), Some(standby)) if master.digest != standby.digest => difference.unequal += 1,
                (Some(_), Some(_)) | (None, None) => {}
            }
        }
        difference
    }

    /// From the making of each flow on the master to its making on the standby, milliseconds, in rising order.
    ///
    /// # Errors
    /// When the kernel has not stamped the entries.
    pub fn lags_ms(&self, standby: &Self) -> Result<Vec<f64>> {
        let pairs = self.entries.iter().zip(&standby.entries);
        let both = pairs.filter_map(|(master, standby)| Some((master.as_ref()?.created, standby.as_ref()?.created)));
        let mut lags = Vec::new();
        for (master, standby) in both {
            ensure!(
                master > 0 && standby > 0,
                "the kernel does not stamp its entries (is it built with NF_CONNTRACK_TIMESTAMP?)"
            );
            lags.push((i128::from(standby) - i128::from(master)) as f64 / 1e6);
        }
        lags.sort_unstable_by(f64::total_cmp);
        Ok(lags)
    }

    /// Takes what one read returned; whether it was the end.
    fn take(&mut self, bytes: &[u8]) -> Result<bool> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let message = NetlinkBuffer::new_checked(rest)?;
            match message.message_type() {
                CT_NEW => self.note(message.payload()),
                DONE => return Ok(true),
                ERROR => bail!("the kernel refuses to dump its connections (is CAP_NET_ADMIN held?)"),
                _ => {}
            }
            let length = usize::try_from(message.length())?.next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
        Ok(false)
    }

    fn note(&mut self, payload: &[u8]) {
        let attributes = payload.get(NFGENMSG_BYTES..).unwrap_or_default();
        let mut hasher = DefaultHasher::new();
        let (mut number, mut created) = (None, 0);
        for (kind, value) in attributes_of(attributes) {
            match kind {
                CTA_TUPLE_ORIG => {
                    number = flow_of(value);
                    (kind, value).hash(&mut hasher);
                }
                CTA_TUPLE_REPLY | CTA_MARK | CTA_ZONE => (kind, value).hash(&mut hasher),
                CTA_STATUS => (kind, be32(value) & STATUS_COMPARED).hash(&mut hasher),
                CTA_TIMESTAMP => {
                    let start = within(value, CTA_TIMESTAMP_START).and_then(|start| start.first_chunk());
                    created = start.map_or(0, |start| u64::from_be_bytes(*start));
                }
                _ => {}
            }
        }
        if let Some(slot) = number.and_then(|number: usize| self.entries.get_mut(number)) {
            *slot = Some(Entry { digest: hasher.finish(), created });
        }
    }
}

/// The generator's number of a flow with this original tuple.
fn flow_of(tuple: &[u8]) -> Option<usize> {
    let address: [u8; 4] = within(within(tuple, CTA_TUPLE_IP)?, CTA_IP_V4_DST)?.try_into().ok()?;
    let port: [u8; 2] = within(within(tuple, CTA_TUPLE_PROTO)?, CTA_PROTO_SRC_PORT)?.try_into().ok()?;
    flow_number(Ipv4Addr::from(address), u16::from_be_bytes(port))
}

fn attributes_of(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(Result::ok).filter_map(|attribute| {
        let (kind, length) = (attribute.kind(), usize::from(attribute.length()));
        Some((kind, attribute.into_inner().get(NLA_HEADER_SIZE..length)?))
    })
}

fn within(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes_of(bytes).find_map(|(found, value)| (found == kind).then_some(value))
}

fn be32(value: &[u8]) -> u32 {
    value.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// A socket of the calling thread's namespace that has asked for all IPv4 connections.
fn request_dump() -> Result<OwnedFd> {
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER))?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(Duration::from_secs(10)))?;
    let mut request = Vec::new();
    request.extend(20u32.to_ne_bytes());
    request.extend(CT_GET.to_ne_bytes());
    request.extend(DUMP_REQUEST.to_ne_bytes());
    request.extend([0; 8]);
    // `struct nfgenmsg`: AF_INET, version 0, resource 0.
    request.extend([2, 0, 0, 0]);
    send(&socket, &request, SendFlags::empty()).context("cannot ask for the connections")?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(digests: &[Option<u64>]) -> FlowTable {
        let entry = |digest: &Option<u64>| digest.map(|digest| Entry { digest, created: digest * 1_000_000 });
        FlowTable { entries: digests.iter().map(entry).collect() }
    }

    /// A flow on one side only is missing or stale, one with another content unequal; equal ones do not count.
    #[test]
    fn tables_are_compared_flow_by_flow() {
        let master = table(&[Some(1), Some(2), Some(3), None, None]);
        let standby = table(&[Some(1), Some(9), None, Some(4), None]);
        assert_eq!(master.difference(&standby), Difference { missing: 1, unequal: 1, stale: 1 });
        assert_eq!(master.lags_ms(&standby).unwrap(), [0.0, 7.0]);
        assert!(table(&[Some(0)]).lags_ms(&table(&[Some(0)])).is_err());
    }
}
