//! `[sync.filter]`: which flows are replicated. Each list is what is accepted, or a table of `accept` and `ignore`.

use super::error::{At, Found, FoundList, Problems};
use super::reader::{Lists, Refusal, Section, found_instead};
use super::spelling::did_you_mean;
use super::values::{address, boolean, duration, integer, parse_address, string};
use super::{Filter, schema};
use ha_common::sync::filter::{self, MarkMatch, PortMatch, Prefix, PrefixSet, ProtocolSet, TcpStates};
use std::net::IpAddr;
use std::time::Duration;
use toml::de::DeValue;

/// The keys of the table.
#[derive(Default)]
pub struct Keys {
    protocols: Lists<u8>,
    addresses: Lists<Prefix>,
    /// An older way to write `addresses.ignore`.
    ignore_addresses: Option<FoundList<Prefix>>,
    ports: Lists<PortMatch>,
    tcp_states: Lists<u8>,
    zones: Lists<u16>,
    marks: Lists<MarkMatch>,
    assured_only: Option<Found<bool>>,
    min_age: Option<Found<Option<Duration>>>,
}

/// Elements of one list: every one costs a comparison for each flow, or a place in it.
const ELEMENTS_MAX: usize = 1024;
/// What lives longer is worth replicating, whatever it is.
const MIN_AGE_MAX: Duration = Duration::from_secs(120);
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Names of /etc/protocols that conntrack prints or that people write.
const PROTOCOLS: &[(&str, u8)] = &[
    ("icmp", 1),
    ("igmp", 2),
    ("ipip", 4),
    ("tcp", 6),
    ("udp", 17),
    ("dccp", 33),
    ("ipv6", 41),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmpv6", 58),
    ("ipv6-icmp", 58),
    ("ospf", 89),
    ("pim", 103),
    ("carp", 112),
    ("vrrp", 112),
    ("l2tp", 115),
    ("sctp", 132),
    ("udplite", 136),
];

/// `TCP_CONNTRACK_*` by the names that conntrack prints, and conntrackd's names for two of them.
const TCP_STATES: &[(&str, u8)] = &[
    ("NONE", 0),
    ("SYN_SENT", 1),
    ("SYN_RECV", 2),
    ("ESTABLISHED", 3),
    ("FIN_WAIT", 4),
    ("CLOSE_WAIT", 5),
    ("LAST_ACK", 6),
    ("TIME_WAIT", 7),
    ("CLOSE", 8),
    ("CLOSED", 8),
    ("SYN_SENT2", 9),
    ("LISTEN", 9),
];

/// Reads every key of the table.
pub fn read(section: &mut Section<'_>, problems: &mut Problems<'_>) -> Keys {
    Keys {
        protocols: section.lists(problems, "protocols", protocol),
        addresses: section.lists(problems, "addresses", network),
        ignore_addresses: section.list(problems, "ignore_addresses", network),
        ports: section.lists(problems, "ports", ports),
        tcp_states: section.lists(problems, "tcp_states", tcp_state),
        zones: section.lists(problems, "zones", integer(0..=65535)),
        marks: section.lists(problems, "marks", mark),
        assured_only: section.optional(problems, "assured_only", boolean),
        min_age: section.optional(problems, "min_age", duration(Duration::ZERO..=MIN_AGE_MAX)),
    }
}

/// The criteria: what the file says, and the nodes' own addresses as far as the file names them. The sync loop adds those
/// of the node's interfaces.
pub fn resolve(keys: &Keys, file: &schema::File, vips: &[super::Vip], problems: &mut Problems<'_>) -> Filter {
    keys.check(vips, problems);
    let loopback = [Prefix::new([127, 0, 0, 1].into(), 8), Prefix::new([0, 0, 0, 0, 0, 0, 0, 1].into(), 128)];
    let virtual_addresses = vips.iter().flat_map(|vip| vip.addresses.iter().map(|&(address, _)| address));
    let sync_addresses = file.nodes.iter().flatten().filter_map(|node| Some(node.sync_address.as_ref()?.value));
    let own = virtual_addresses.chain(sync_addresses).map(Prefix::host);
    let mut ignored: PrefixSet = values(keys.addresses.ignore.as_ref()).collect();
    ignored.extend(values(keys.ignore_addresses.as_ref()));
    let ignored_protocols: ProtocolSet = values(keys.protocols.ignore.as_ref()).collect();
    Filter {
        protocols: accepted(&keys.protocols).unwrap_or(ProtocolSet::ALL).without(ignored_protocols),
        local: loopback.into_iter().chain(own).collect(),
        addresses: filter::Lists { accept: accepted(&keys.addresses), ignore: ignored },
        ports: lists(&keys.ports),
        zones: lists(&keys.zones),
        marks: lists(&keys.marks),
        tcp_states: tcp_states(&keys.tcp_states),
        assured_only: keys.assured_only.as_ref().is_some_and(|found| found.value),
        min_age: keys.min_age.as_ref().and_then(|found| found.value).unwrap_or_default(),
    }
}

impl Keys {
    fn check(&self, vips: &[super::Vip], problems: &mut Problems<'_>) {
        if let Some(list) = &self.protocols.accept {
            let has = |number| list.value.iter().any(|protocol| protocol.value == number);
            let ipv6 = vips.iter().flat_map(|vip| &vip.addresses).any(|(address, _)| address.is_ipv6());
            if ipv6 && has(ICMP) && !has(ICMPV6) {
                problems.warning(&list.at, "icmp is IPv4's alone, and there are IPv6 addresses", "add \"icmpv6\"");
            }
        }
        if let Some(list) = &self.ignore_addresses
            && self.addresses.ignore.is_some()
        {
            let remedy = "write all of them into addresses.ignore, and remove ignore_addresses";
            problems.warning(&list.at, "says the same as addresses.ignore, which is there as well", remedy);
        }
        bound(&self.protocols, problems);
        bound(&self.addresses, problems);
        bound_list(self.ignore_addresses.as_ref(), problems);
        bound(&self.ports, problems);
        bound(&self.tcp_states, problems);
        bound(&self.zones, problems);
        bound(&self.marks, problems);
    }
}

fn bound<T>(lists: &Lists<T>, problems: &mut Problems<'_>) {
    bound_list(lists.accept.as_ref(), problems);
    bound_list(lists.ignore.as_ref(), problems);
}

fn bound_list<T>(list: Option<&FoundList<T>>, problems: &mut Problems<'_>) {
    if let Some(Found { value, at }) = list
        && value.len() > ELEMENTS_MAX
    {
        let at: &At = at;
        let remedy = format!("write at most {ELEMENTS_MAX}: larger networks, or ranges");
        problems.error(at, format!("has {} elements", value.len()), remedy);
    }
}

fn values<T: Copy>(list: Option<&FoundList<T>>) -> impl Iterator<Item = T> {
    list.into_iter().flat_map(|list| list.value.iter().map(|found| found.value))
}

fn accepted<T: Copy, C: FromIterator<T>>(lists: &Lists<T>) -> Option<C> {
    lists.accept.as_ref().map(|list| values(Some(list)).collect())
}

fn lists<T: Copy>(lists: &Lists<T>) -> filter::Lists<Vec<T>> {
    filter::Lists { accept: accepted(lists), ignore: values(lists.ignore.as_ref()).collect() }
}

fn tcp_states(lists: &Lists<u8>) -> TcpStates {
    let bits = |list| values(list).fold(0, |bits: u16, state: u8| bits | 1 << state);
    let accepted = lists.accept.as_ref().map_or(TcpStates::ALL.0, |list| bits(Some(list)));
    TcpStates(accepted & !bits(lists.ignore.as_ref()))
}

/// A protocol's name or number.
fn protocol(value: &DeValue<'_>) -> Result<u8, Refusal> {
    match value {
        DeValue::String(name) => protocol_named(name),
        DeValue::Integer(_) => integer(0..=255)(value),
        DeValue::Float(_) | DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
            let remedy = "write a name like \"tcp\", or a number from 0 to 255";
            Err(Refusal::new(found_instead(value, "a protocol's name"), remedy))
        }
    }
}

fn protocol_named(name: &str) -> Result<u8, Refusal> {
    let lower = name.to_ascii_lowercase();
    let names = || PROTOCOLS.iter().map(|&(name, _)| name);
    PROTOCOLS.iter().find(|(known, _)| *known == lower).map(|&(_, number)| number).ok_or_else(|| {
        let all = || format!("choose from {}, or write the number", names().collect::<Vec<_>>().join(", "));
        Refusal::new(format!("\"{name}\" is not a known protocol"), did_you_mean(&lower, names()).unwrap_or_else(all))
    })
}

/// An address, or a network with its prefix length.
fn network(value: &DeValue<'_>) -> Result<Prefix, Refusal> {
    let text = string(value)?;
    let Some((address_text, length_text)) = text.split_once('/') else {
        return address(value).map(Prefix::host);
    };
    let no_network = || {
        let remedy = "write it like \"192.0.2.0/24\", \"2001:db8::/32\" or \"192.0.2.1\"";
        Refusal::new(format!("\"{text}\" is no address and no network"), remedy)
    };
    let address: IpAddr = parse_address(address_text).ok_or_else(no_network)?;
    let length_max = if address.is_ipv4() { 32 } else { 128 };
    // `u8::from_str` would take "+24".
    let digits = !length_text.is_empty() && length_text.bytes().all(|byte| byte.is_ascii_digit());
    let length = length_text.parse::<u8>().ok().filter(|length| digits && *length <= length_max);
    let length = length.ok_or_else(|| {
        let message = format!("\"{text}\" has the prefix length \"{length_text}\"");
        Refusal::new(message, format!("choose 0 to {length_max}"))
    })?;
    let network = Prefix::new(address, length);
    if network != Prefix::host(address) && !is_base(network, address) {
        return Err(Refusal::new(format!("\"{text}\" has bits behind its prefix"), format!("write \"{network}\"")));
    }
    Ok(network)
}

/// Whether `address` is the network's first.
fn is_base(network: Prefix, address: IpAddr) -> bool {
    match (network, address) {
        (Prefix::V4(base, _), IpAddr::V4(v4)) => base == v4.to_bits(),
        (Prefix::V6(base, _), IpAddr::V6(v6)) => base == v6.to_bits(),
        (Prefix::V4(..), IpAddr::V6(_)) | (Prefix::V6(..), IpAddr::V4(_)) => false,
    }
}

/// `443`, `"443"`, `"8000-8999"`, `"udp/53"`, `"tcp/8000-8999"`.
fn ports(value: &DeValue<'_>) -> Result<PortMatch, Refusal> {
    if let DeValue::Integer(_) = value {
        let port = integer(1..=65535)(value)?;
        return Ok(PortMatch { protocol: None, first: port, last: port });
    }
    let text = string(value)?;
    let (protocol, range) = match text.split_once('/') {
        Some((name, range)) => (Some(protocol_named(name)?), range),
        None => (None, text),
    };
    if protocol.is_some_and(|protocol| !filter::has_ports(protocol)) {
        let message = format!("\"{text}\" names a protocol without ports");
        return Err(Refusal::new(message, "choose from tcp, udp, udplite, sctp, dccp"));
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok(PortMatch { protocol, first, last }),
        (Some(_), Some(_)) => {
            Err(Refusal::new(format!("\"{text}\" ends before it begins"), format!("write \"{last}-{first}\"")))
        }
        (None, _) | (_, None) => {
            let remedy = "write 53, \"8000-8999\", \"udp/53\" or \"tcp/8000-8999\"; ports are 1 to 65535";
            Err(Refusal::new(format!("\"{text}\" is no port and no range of ports"), remedy))
        }
    }
}

fn port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}

fn tcp_state(value: &DeValue<'_>) -> Result<u8, Refusal> {
    let text = string(value)?;
    let upper = text.to_ascii_uppercase();
    TCP_STATES.iter().find(|(known, _)| *known == upper).map(|&(_, state)| state).ok_or_else(|| {
        let names = || TCP_STATES.iter().map(|&(name, _)| name);
        let all = || format!("choose from {}", names().collect::<Vec<_>>().join(", "));
        let remedy = did_you_mean(&upper, names()).unwrap_or_else(all);
        Refusal::new(format!("\"{text}\" is not a TCP state of conntrack"), remedy)
    })
}

/// `5`, `"0x10"`, `"0x10/0xf0"`: value, and the bits that count.
fn mark(value: &DeValue<'_>) -> Result<MarkMatch, Refusal> {
    if let DeValue::Integer(_) = value {
        return Ok(MarkMatch { value: integer(0..=i64::from(u32::MAX))(value)?, mask: u32::MAX });
    }
    let text = string(value)?;
    let (number, mask) = text.split_once('/').unwrap_or((text, "0xffffffff"));
    match (bits(number), bits(mask)) {
        (Some(value), Some(mask)) if value & !mask == 0 => Ok(MarkMatch { value, mask }),
        (Some(value), Some(mask)) => {
            let remedy = format!("write \"{:#x}/{mask:#x}\"", value & mask);
            Err(Refusal::new(format!("\"{text}\" has bits outside of its mask"), remedy))
        }
        (None, _) | (_, None) => {
            let remedy = "write 5, \"0x10\" or \"0x10/0xf0\": value and mask of 32 bits";
            Err(Refusal::new(format!("\"{text}\" is no mark"), remedy))
        }
    }
}

fn bits(text: &str) -> Option<u32> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    let clean = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    u32::from_str_radix(digits, radix).ok().filter(|_| clean)
}
