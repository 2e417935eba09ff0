//! The links between the nodes: further ones beside `[sync] interface`, and how datagrams travel on them.

use super::error::{Found, Problems};
use super::reader::Section;
use super::resolve::{check_host_address, refuse_repeated, value_or};
use super::schema;
use super::values::{address, choice, integer, interface};
use ha_common::sync::{LINKS_MAX, Sending};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// conntrackd's group, and one of link-local scope.
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(225, 0, 0, 50);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x3780);
/// A bulk transfer in flight, and what comes while the loop is busy.
const BUFFER_BYTES: usize = 4 << 20;
/// The first link has its keys in `[sync]` and `[nodes]`.
const FURTHER_MAX: usize = LINKS_MAX as usize - 1;

/// How datagrams travel, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transport {
    pub sending: Sending,
    /// Datagrams go to this group; `None`: to each peer's address.
    pub group: Option<IpAddr>,
    /// Bytes of the sockets' buffers.
    pub receive_buffer: usize,
    pub send_buffer: usize,
    /// Links beside `[sync] interface`, best first.
    pub further: Vec<Link>,
}

/// One link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub interface: String,
    /// By `NodeId`.
    pub addresses: Vec<IpAddr>,
}

impl Default for Transport {
    /// What a file that says nothing means.
    fn default() -> Self {
        Self {
            sending: Sending::Failover,
            group: None,
            receive_buffer: BUFFER_BYTES,
            send_buffer: BUFFER_BYTES,
            further: Vec::new(),
        }
    }
}

/// What the file says.
#[derive(Default)]
pub struct Keys {
    links: Option<Found<Sending>>,
    multicast: Option<Found<bool>>,
    group: Option<Found<IpAddr>>,
    receive_buffer: Option<Found<usize>>,
    send_buffer: Option<Found<usize>>,
    further: Vec<FurtherKeys>,
}

struct FurtherKeys {
    interface: Option<Found<String>>,
    at: super::error::At,
    addresses: Vec<(Found<String>, Found<IpAddr>)>,
}

/// Reads the keys from `[sync]`.
pub fn read(section: &mut Section<'_>, problems: &mut Problems<'_>) -> Keys {
    let sending = choice(&[("failover", Sending::Failover), ("duplicate", Sending::Duplicate)]);
    Keys {
        links: section.optional(problems, "links", sending),
        multicast: section.optional(problems, "transport", choice(&[("unicast", false), ("multicast", true)])),
        group: section.optional(problems, "group", address),
        receive_buffer: section.optional(problems, "receive_buffer", integer(65_536..=1 << 30)),
        send_buffer: section.optional(problems, "send_buffer", integer(65_536..=1 << 30)),
        further: section.tables(problems, "link").into_iter().map(|link| read_link(link, problems)).collect(),
    }
}

fn read_link(mut section: Section<'_>, problems: &mut Problems<'_>) -> FurtherKeys {
    let at = section.at.clone();
    let interface = section.required(problems, "interface", "\"eth3\"", interface);
    let remedy = "add: addresses = { fw1 = \"10.78.0.1\", fw2 = \"10.78.0.2\" }";
    section.require_one_of(problems, &["addresses"], remedy);
    let addresses = section.table(problems, "addresses").map(|mut table| table.named_values(problems, address));
    section.finish(problems);
    FurtherKeys { interface, at, addresses: addresses.unwrap_or_default() }
}

/// Completes the keys.
pub fn resolve(file: &schema::File, problems: &mut Problems<'_>) -> Transport {
    let Some(sync) = &file.sync else { return Transport::default() };
    let keys = &sync.links;
    let default = Transport::default();
    let mut interfaces = BTreeMap::new();
    let mut seen = BTreeMap::new();
    if let Some(first) = &sync.interface {
        interfaces.insert(first.value.clone(), first.at.key.clone());
    }
    for address in file.nodes.iter().flatten().filter_map(|node| node.sync_address.as_ref()) {
        seen.insert(address.value, address.at.key.clone());
    }
    if let Some(link) = keys.further.get(FURTHER_MAX) {
        let message = format!("there are {} further links", keys.further.len());
        problems.error(&link.at, message, format!("describe at most {FURTHER_MAX}"));
    }
    let further = keys.further.iter().filter_map(|link| {
        let interface = link.interface.as_ref()?;
        let name = interface.value.as_str();
        refuse_repeated(&mut interfaces, name.to_owned(), &interface.at, name, "give each link its own", problems);
        Some(Link { interface: name.to_owned(), addresses: resolve_addresses(link, file, &mut seen, problems)? })
    });
    let further: Vec<_> = further.collect();
    if let Some(found) = keys.links.as_ref().filter(|_| keys.further.is_empty()) {
        problems.warning(&found.at, "there is one link", "add a [[sync.link]], or remove the key");
    }
    Transport {
        sending: value_or(keys.links.as_ref(), default.sending),
        group: resolve_group(keys, file, problems),
        receive_buffer: value_or(keys.receive_buffer.as_ref(), default.receive_buffer),
        send_buffer: value_or(keys.send_buffer.as_ref(), default.send_buffer),
        further,
    }
}

/// The addresses in the order of the nodes; `None` when a problem prevents it.
fn resolve_addresses(
    link: &FurtherKeys,
    file: &schema::File,
    seen: &mut BTreeMap<IpAddr, String>,
    problems: &mut Problems<'_>,
) -> Option<Vec<IpAddr>> {
    let nodes = file.nodes.as_ref()?;
    for (name, address) in &link.addresses {
        if !nodes.iter().any(|node| node.name.value == name.value) {
            problems.error(&name.at, format!("there is no node \"{}\"", name.value), "write the names of [nodes]");
        }
        check_host_address(address, problems);
        refuse_repeated(seen, address.value, &address.at, address.value, "give each node and link its own", problems);
    }
    let mut addresses = Vec::new();
    for node in nodes {
        let found = link.addresses.iter().find(|(name, _)| name.value == node.name.value);
        let Some((_, address)) = found else {
            let remedy = format!("add its address: addresses = {{ {} = \"…\" }}", node.name.value);
            problems.error(&link.at, format!("has no address of node {}", node.name.value), remedy);
            return None;
        };
        if is_ipv4(file).is_some_and(|ipv4| ipv4 != address.value.is_ipv4()) {
            let message = format!("{} is not of the family of the nodes' sync_address", address.value);
            problems.error(&address.at, message, "use one family on all links");
        }
        addresses.push(address.value);
    }
    Some(addresses)
}

fn resolve_group(keys: &Keys, file: &schema::File, problems: &mut Problems<'_>) -> Option<IpAddr> {
    if !keys.multicast.as_ref().is_some_and(|multicast| multicast.value) {
        if let Some(group) = &keys.group {
            problems.error(&group.at, "says nothing without multicast", "add: transport = \"multicast\"");
        }
        return None;
    }
    let ipv4 = is_ipv4(file).unwrap_or(true);
    let group = keys.group.as_ref();
    if let Some(found) = group.filter(|found| !found.value.is_multicast() || found.value.is_ipv4() != ipv4) {
        let message = format!("{} is no multicast group of the family of the sync addresses", found.value);
        let example = if ipv4 { GROUP_V4.to_string() } else { GROUP_V6.to_string() };
        problems.error(&found.at, message, format!("write one like \"{example}\", or remove the key"));
    }
    Some(value_or(group, if ipv4 { GROUP_V4.into() } else { GROUP_V6.into() }))
}

/// Whether the sync addresses are IPv4.
fn is_ipv4(file: &schema::File) -> Option<bool> {
    file.nodes.iter().flatten().find_map(|node| node.sync_address.as_ref()).map(|address| address.value.is_ipv4())
}
