//! Every attribute that the kernel tells of an entry or an expectation, as named fields: also what `conntrack` does not
//! print, such as helper, master, verification tags, window scale, sequence adjustment and synproxy.

use super::dump::{Family, Table, attributes, be32, dump};
use super::replica::{Entries, Fields};
use crate::netns::Netns;
use anyhow::Result;
use std::net::{Ipv4Addr, Ipv6Addr};

/// The status bits that must be the same: all but `SRC_NAT_DONE`, `DST_NAT_DONE` (an entry without translation that was
/// written has them not), `NAT_CLASH` and those of offloading.
const STATUS_COMPARED: u32 = 0x267f;
/// `WINDOW_SCALE`, `SACK_PERM` and `CLOSE_INIT` of a TCP direction travel; `BE_LIBERAL` is set on purpose; the others are
/// of windows, which cannot travel.
const TCP_FLAGS_COMPARED: u8 = 0x07;

/// Every entry of the table that names one of the addresses, by its original (or expected) tuple.
///
/// # Errors
/// As [`dump`].
pub(super) fn entries(node: &Netns, table: Table, about: &[String]) -> Result<Entries> {
    let mut entries = Entries::new();
    dump(node, table, Family::Both, |bytes| {
        let mut fields = Vec::new();
        collect(bytes, table, "", &mut fields);
        if fields.iter().any(|(_, value)| about.contains(value)) {
            let of_tuple =
                fields.iter().filter(|(name, _)| name.starts_with("original/") || name.starts_with("expected/"));
            let title: Vec<&str> = of_tuple.map(|(_, value)| value.as_str()).collect();
            let kind = match table {
                Table::Connections => "told",
                Table::Expectations => "expected",
            };
            entries.insert(format!("{kind}: {}", title.join(" ")), Fields::from_iter(fields));
        }
    })?;
    Ok(entries)
}

fn collect(bytes: &[u8], table: Table, inside: &str, fields: &mut Vec<(String, String)>) {
    for (kind, nested, value) in attributes(bytes) {
        let name = match (table, inside) {
            (Table::Connections, "") => of_connection(kind),
            (Table::Expectations, "") => of_expectation(kind),
            _ => of_nest(inside, kind),
        };
        let Some(name) = name else { continue };
        let path = if inside.is_empty() { name } else { format!("{inside}/{name}") };
        if nested {
            collect(value, table, &path, fields);
        } else if let Some(shown) = shown(&path, value) {
            fields.push((path, shown));
        }
    }
}

/// `CTA_*`; none for what is a node's own: time left, counters, references, id, time stamps, and what a security module
/// thinks of it.
fn of_connection(kind: u16) -> Option<String> {
    let name = match kind {
        1 => "original",
        2 => "reply",
        3 => "status",
        4 => "protocol",
        5 => "help",
        7 | 9 | 10 | 11 | 12 | 19 | 20 => return None,
        8 => "mark",
        14 => "master",
        15 => "adjust-original",
        16 => "adjust-reply",
        18 => "zone",
        22 => "labels",
        24 => "synproxy",
        other => return Some(other.to_string()),
    };
    Some(name.to_owned())
}

/// `CTA_EXPECT_*`; none for time left and id.
fn of_expectation(kind: u16) -> Option<String> {
    let name = match kind {
        1 => "master",
        2 => "expected",
        3 => "mask",
        4 | 5 => return None,
        6 => "helper",
        7 => "zone",
        8 => "flags",
        9 => "class",
        10 => "nat",
        11 => "function",
        other => return Some(other.to_string()),
    };
    Some(name.to_owned())
}

/// The parts of tuples and of a protocol's state.
fn of_nest(inside: &str, kind: u16) -> Option<String> {
    let nest = inside.rsplit('/').next().unwrap_or_default();
    let name = match (nest, kind) {
        ("original" | "reply" | "master" | "expected" | "mask", 1) => "ip",
        ("original" | "reply" | "master" | "expected" | "mask", 2) => "proto",
        ("original" | "reply" | "master" | "expected" | "mask", 3) => "zone",
        ("ip", 1 | 3) => "source",
        ("ip", 2 | 4) => "destination",
        ("proto", 1) => "number",
        ("proto", 2) => "sport",
        ("proto", 3) => "dport",
        ("protocol", 1) => "tcp",
        ("protocol", 3) => "sctp",
        ("tcp" | "sctp", 1) => "state",
        ("tcp", 4) => "flags-original",
        ("tcp", 5) => "flags-reply",
        ("sctp", 2) => "tag-original",
        ("sctp", 3) => "tag-reply",
        ("help", 1) => "name",
        ("nat", 2) => "expected",
        (_, other) => return Some(other.to_string()),
    };
    Some(name.to_owned())
}

/// A value as text; none where it says nothing.
fn shown(path: &str, value: &[u8]) -> Option<String> {
    let last = path.rsplit('/').next().unwrap_or_default();
    let text = match (path, last, value) {
        ("status", ..) => format!("{:#x}", be32(value) & STATUS_COMPARED),
        (_, "source" | "destination", [a, b, c, d]) => Ipv4Addr::new(*a, *b, *c, *d).to_string(),
        (_, "source" | "destination", _) => Ipv6Addr::from(*value.first_chunk::<16>()?).to_string(),
        (_, "sport" | "dport", [high, low]) => u16::from_be_bytes([*high, *low]).to_string(),
        (_, "flags-original" | "flags-reply", [flags, ..]) => format!("{:#x}", flags & TCP_FLAGS_COMPARED),
        (_, "name" | "helper" | "function", _) => String::from_utf8_lossy(value).trim_end_matches('\0').to_owned(),
        // Whatever ctnetlink makes has room for the values of a proxied session: zeros are none.
        _ if path.starts_with("synproxy") && value.iter().all(|byte| *byte == 0) => return None,
        _ => value.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, nested: bool, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(value.len() + 4).unwrap().to_ne_bytes().to_vec();
        bytes.extend((kind | if nested { 0x8000 } else { 0 }).to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// Nests become paths; a node's own id, the liberal flag and an empty synproxy extension say nothing; the mark, a
    /// verification tag and an attribute that nobody knows do.
    #[test]
    fn attributes_become_fields() {
        let ip = [attribute(1, false, &[10, 0, 0, 1]), attribute(2, false, &[10, 0, 0, 2])].concat();
        let flow = [
            attribute(1, true, &attribute(1, true, &ip)),
            attribute(4, true, &attribute(1, true, &attribute(4, false, &[0x0b, 0]))),
            attribute(4, true, &attribute(3, true, &attribute(2, false, &[0, 0, 0, 9]))),
            attribute(8, false, &[0, 0, 0, 5]),
            attribute(12, false, &[1, 2, 3, 4]),
            attribute(24, true, &attribute(1, false, &[0; 4])),
            attribute(99, false, &[7]),
        ]
        .concat();
        let mut fields = Vec::new();
        collect(&flow, Table::Connections, "", &mut fields);
        let expected = [
            ("original/ip/source", "10.0.0.1"),
            ("original/ip/destination", "10.0.0.2"),
            ("protocol/tcp/flags-original", "0x3"),
            ("protocol/sctp/tag-original", "00000009"),
            ("mark", "00000005"),
            ("99", "07"),
        ];
        assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
