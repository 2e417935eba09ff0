//! The generator's flows in a firewall's kernel: which are there, whether they are the same as the other firewall's, and
//! when the kernel made each.

use super::generator::flow_number;
use crate::conntrack::dump::{Family, Table, attributes_of, be32, dump, within};
use crate::netns::Netns;
use anyhow::{Result, ensure};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::Ipv4Addr;

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
        let mut table = Self { entries: vec![None; usize::try_from(flows)?] };
        dump(node, Table::Connections, Family::Ipv4, |attributes| table.note(attributes))?;
        Ok(table)
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

    fn note(&mut self, attributes: &[u8]) {
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
