//! The pure half of the watch: rtnetlink messages in, interfaces and changes out.

use super::{Change, Interface};
use crate::route_netlink::{Message, ROUTE_PROTOCOL, attributes};
use ha_common::election::{InterfaceId, LinkState};
use netlink_packet_route::address::{AddressHeader, AddressHeaderFlags, AddressScope};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
pub const RTM_DELROUTE: u16 = 25;
const RTA_OIF: u16 = 4;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
/// `struct ifinfomsg`, `struct ifaddrmsg` and `struct rtmsg`.
const LINK_HEADER_LEN: usize = 16;
const ADDRESS_HEADER_LEN: usize = 8;
const ROUTE_HEADER_LEN: usize = 12;
const AF_UNSPEC: u8 = 0;
const IFF_UP: u32 = 0x1;
const IFF_RUNNING: u32 = 0x40;
const IFF_LOWER_UP: u32 = 0x1_0000;
const IFA_F_SECONDARY: u32 = 0x01;
/// A duplicate or an address still being probed must not be a source.
const IFA_F_UNUSABLE: u32 = 0x08 | 0x40;
/// Own addresses remembered of one interface; more would not change its first.
const ADDRESSES_MAX: usize = 1024;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Watched {
    name: String,
    ifindex: Option<u32>,
    mac: [u8; 6],
    mtu: u32,
    up: bool,
    /// In the kernel's order.
    addresses: Vec<OwnAddress>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OwnAddress {
    address: IpAddr,
    secondary: bool,
}

/// The configured interfaces by position.
#[derive(Clone, Debug)]
pub struct Table {
    watched: Vec<Watched>,
    virtual_addresses: HashSet<IpAddr>,
    /// An interface was bound by a message that says nothing of its addresses.
    incomplete: bool,
}

impl Table {
    /// A table in which every interface is missing.
    pub fn new(names: Vec<String>, virtual_addresses: HashSet<IpAddr>) -> Self {
        let watched = names.into_iter().map(|name| Watched { name, ..Watched::default() }).collect();
        Self { watched, virtual_addresses, incomplete: false }
    }

    /// The same names, every interface missing.
    pub fn emptied(&self) -> Self {
        Self::new(self.watched.iter().map(|w| w.name.clone()).collect(), self.virtual_addresses.clone())
    }

    /// True when the addresses of an interface may be unknown until the lists are read anew.
    pub fn is_incomplete(&self) -> bool {
        self.incomplete
    }

    /// Takes over what a complete reading found.
    pub fn replace(&mut self, fresh: Table, changes: &mut Vec<Change>) {
        let pairs = self.watched.iter().zip(&fresh.watched).enumerate();
        changes.extend(pairs.filter(|(_, (old, new))| old != new).map(|(at, _)| Change::Interface(id(at))));
        self.watched = fresh.watched;
        self.incomplete = false;
    }

    /// The interface at a position as the rest of the daemon sees it.
    pub fn interface(&self, id: InterfaceId) -> Interface {
        self.watched.get(usize::from(id.0)).map_or_else(Interface::default, |watched| Interface {
            ifindex: watched.ifindex,
            mac: watched.mac,
            mtu: watched.mtu,
            state: LinkState {
                up: watched.up,
                source_v4: watched.source_v4(),
                source_v6: watched.addresses.iter().find_map(|own| link_local(own.address)),
            },
        })
    }

    /// Applies one message and appends what it changed; messages of other interfaces and kinds are ignored.
    pub fn apply(&mut self, message: &Message<'_>, changes: &mut Vec<Change>) {
        match message.kind {
            RTM_NEWLINK => self.link_is(message.payload, changes),
            RTM_DELLINK => self.link_gone(message.payload, changes),
            RTM_NEWADDR => self.address_is(message.payload, changes),
            RTM_DELADDR => self.address_gone(message.payload, changes),
            RTM_DELROUTE => self.route_gone(message.payload, changes),
            _ => {}
        }
    }

    fn link_is(&mut self, payload: &[u8], changes: &mut Vec<Change>) {
        let Some(link) = Link::parse(payload) else { return };
        for (at, watched) in self.watched.iter_mut().enumerate() {
            let before = (watched.ifindex, watched.up, watched.mac, watched.mtu);
            if watched.name == link.name {
                if watched.ifindex != Some(link.ifindex) {
                    // New, re-created, or renamed to this name: what was known belongs to another interface.
                    watched.addresses.clear();
                    self.incomplete = true;
                }
                watched.ifindex = Some(link.ifindex);
                watched.up = link.up;
                watched.mac = link.mac;
                watched.mtu = link.mtu;
            } else if watched.ifindex == Some(link.ifindex) {
                watched.forget();
            }
            if before != (watched.ifindex, watched.up, watched.mac, watched.mtu) {
                changes.push(Change::Interface(id(at)));
            }
        }
    }

    fn link_gone(&mut self, payload: &[u8], changes: &mut Vec<Change>) {
        let Some(link) = Link::parse(payload) else { return };
        if let Some((at, watched)) = self.by_index(link.ifindex) {
            watched.forget();
            changes.push(Change::Interface(at));
        }
    }

    fn address_is(&mut self, payload: &[u8], changes: &mut Vec<Change>) {
        let Some(parsed) = Address::parse(payload) else { return };
        if self.virtual_addresses.contains(&parsed.address) {
            return;
        }
        let Some((at, watched)) = self.by_index(parsed.ifindex) else { return };
        let own = OwnAddress { address: parsed.address, secondary: parsed.flags & IFA_F_SECONDARY != 0 };
        let known = watched.addresses.iter().position(|known| known.address == own.address);
        match (known, parsed.usable()) {
            (Some(position), true) => watched.addresses.splice(position..=position, [own]).for_each(drop),
            (Some(position), false) => drop(watched.addresses.remove(position)),
            (None, true) if watched.addresses.len() < ADDRESSES_MAX => watched.addresses.push(own),
            (None, _) => {}
        }
        changes.push(Change::Interface(at));
    }

    fn address_gone(&mut self, payload: &[u8], changes: &mut Vec<Change>) {
        let Some(parsed) = Address::parse(payload) else { return };
        let is_virtual = self.virtual_addresses.contains(&parsed.address);
        let Some((at, watched)) = self.by_index(parsed.ifindex) else { return };
        watched.addresses.retain(|own| own.address != parsed.address);
        changes.push(match is_virtual {
            true => Change::VirtualAddressRemoved { interface: at, address: parsed.address },
            false => Change::Interface(at),
        });
    }

    fn route_gone(&mut self, payload: &[u8], changes: &mut Vec<Change>) {
        let Some([_family, destination_len, _, _, _table, protocol, ..]) = payload.first_chunk::<ROUTE_HEADER_LEN>()
        else {
            return;
        };
        if *destination_len != 0 || *protocol != ROUTE_PROTOCOL {
            return;
        }
        let out = attributes(payload, ROUTE_HEADER_LEN).find(|(kind, _)| *kind == RTA_OIF);
        let ifindex = out.and_then(|(_, value)| value.first_chunk()).map(|bytes| u32::from_ne_bytes(*bytes));
        if let Some((interface, _)) = ifindex.and_then(|ifindex| self.by_index(ifindex)) {
            changes.push(Change::RouteRemoved { interface });
        }
    }

    fn by_index(&mut self, ifindex: u32) -> Option<(InterfaceId, &mut Watched)> {
        let found = self.watched.iter_mut().enumerate().find(|(_, watched)| watched.ifindex == Some(ifindex));
        found.map(|(at, watched)| (id(at), watched))
    }
}

impl Watched {
    fn forget(&mut self) {
        *self = Self { name: std::mem::take(&mut self.name), ..Self::default() };
    }

    /// The first primary address; a secondary one only when there is nothing better.
    fn source_v4(&self) -> Option<Ipv4Addr> {
        let v4 = |own: &OwnAddress| match own.address {
            IpAddr::V4(address) => Some(address),
            IpAddr::V6(_) => None,
        };
        let primary = self.addresses.iter().filter(|own| !own.secondary).find_map(v4);
        primary.or_else(|| self.addresses.iter().find_map(v4))
    }
}

fn id(position: usize) -> InterfaceId {
    // The configuration admits at most 256 interfaces: positions are InterfaceIds by construction.
    InterfaceId(u8::try_from(position).unwrap_or(u8::MAX))
}

fn link_local(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) if address.is_unicast_link_local() => Some(address),
        IpAddr::V6(_) | IpAddr::V4(_) => None,
    }
}

struct Link<'a> {
    ifindex: u32,
    up: bool,
    name: &'a str,
    mac: [u8; 6],
    mtu: u32,
}

impl<'a> Link<'a> {
    fn parse(payload: &'a [u8]) -> Option<Self> {
        let header = payload.first_chunk::<LINK_HEADER_LEN>()?;
        if header[0] != AF_UNSPEC {
            // A bridge says with RTM_DELLINK of its own family that a port left it; the port itself lives on.
            return None;
        }
        let ifindex = u32::from_ne_bytes([header[4], header[5], header[6], header[7]]);
        let flags = u32::from_ne_bytes([header[8], header[9], header[10], header[11]]);
        // IFF_RUNNING follows the operational state, IFF_LOWER_UP the carrier: a cable out clears at least one.
        let running = IFF_UP | IFF_RUNNING | IFF_LOWER_UP;
        let mut link = Self { ifindex, up: flags & running == running, name: "", mac: [0; 6], mtu: 0 };
        for (kind, value) in attributes(payload, LINK_HEADER_LEN) {
            match kind {
                IFLA_IFNAME => link.name = std::str::from_utf8(value).ok()?.trim_end_matches('\0'),
                IFLA_MTU => link.mtu = value.first_chunk().map_or(0, |mtu| u32::from_ne_bytes(*mtu)),
                IFLA_ADDRESS => link.mac = value.try_into().unwrap_or_default(),
                _ => {}
            }
        }
        Some(link)
    }
}

struct Address {
    ifindex: u32,
    address: IpAddr,
    flags: u32,
    scope: AddressScope,
}

impl Address {
    fn parse(payload: &[u8]) -> Option<Self> {
        let header = AddressHeader::parse(payload).ok()?;
        let mut flags = u32::from(AddressHeaderFlags::bits(&header.flags));
        let (mut local, mut address) = (None, None);
        for (kind, value) in attributes(payload, ADDRESS_HEADER_LEN) {
            match kind {
                // IFA_ADDRESS is the far end of a point-to-point link; IFA_LOCAL, where present, is ours.
                IFA_LOCAL => local = ip(value),
                IFA_ADDRESS => address = ip(value),
                IFA_FLAGS => flags = value.first_chunk().map_or(flags, |bits| u32::from_ne_bytes(*bits)),
                _ => {}
            }
        }
        Some(Self { ifindex: header.index, address: local.or(address)?, flags, scope: header.scope })
    }

    /// Fit to be the source of an advert.
    fn usable(&self) -> bool {
        self.flags & IFA_F_UNUSABLE == 0 && self.scope != AddressScope::Host
    }
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
