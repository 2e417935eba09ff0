//! The entries of `conntrack -L -o xml,id,labels`, as named fields.

use super::replica::{Entries, Fields};
use crate::netns::Netns;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::io::Write;

/// conntrack knows labels by the names in this file only, and prints none without it.
const LABEL_NAMES: &str = "/etc/xtables/connlabel.conf";
/// What differs between nodes: each has its own ids and references, its own time left, and has counted its own packets.
const OF_THE_NODE: [&str; 5] = ["independent/id", "independent/use", "independent/timeout", "counters", "timestamp"];

/// Every entry that names one of the addresses, by its original tuple.
///
/// # Errors
/// When `conntrack` is missing or fails, or prints what is no list of flows.
pub(super) fn entries(node: &Netns, about: &[String]) -> Result<Entries> {
    let mut entries = Entries::new();
    for family in ["ipv4", "ipv6"] {
        for flow in list(node, family)?.split("<flow>").skip(1) {
            let (flow, _) = flow.split_once("</flow>").context("a flow without an end")?;
            let all = fields(flow);
            if !all.iter().any(|(_, value)| about.contains(value)) {
                continue;
            }
            let title: Vec<&str> = all
                .iter()
                .filter(|(name, _)| name.starts_with("original/") && !name.ends_with("@protonum"))
                .map(|(_, value)| value.as_str())
                .collect();
            let title = format!("listed: {}", title.join(" "));
            entries.insert(title, all.into_iter().filter(|(name, _)| is_shared(name)).collect());
        }
    }
    Ok(entries)
}

/// Every entry of both families with all of its fields, also those that are the node's own. conntrack tells ICMP's fields
/// only as text: they are `original/icmp` and `reply/icmp`, type, code and id.
///
/// # Errors
/// As [`entries`].
pub fn flows(node: &Netns) -> Result<Vec<Fields>> {
    let mut flows = Vec::new();
    for (family, protocol) in [("ipv4", "icmp"), ("ipv6", "icmpv6")] {
        let icmp = icmp(&node.run("conntrack", &["-L", "-f", family, "-p", protocol, "-o", "id"])?)?;
        for flow in list(node, family)?.split("<flow>").skip(1) {
            let (flow, _) = flow.split_once("</flow>").context("a flow without an end")?;
            let mut fields: Fields = fields(flow).into_iter().collect();
            if let Some([original, reply]) = fields.get("independent/id").and_then(|id| icmp.get(id)) {
                fields.insert("original/icmp".to_owned(), original.clone());
                fields.insert("reply/icmp".to_owned(), reply.clone());
            }
            flows.push(fields);
        }
    }
    Ok(flows)
}

/// Type, code and id of both directions, by the id of the entry.
fn icmp(listed: &str) -> Result<BTreeMap<String, [String; 2]>> {
    let of_line = |line: &str| {
        let values = |name: &str| {
            let words = line.split_whitespace().filter_map(|word| word.split_once('='));
            words.filter(|(known, _)| *known == name).map(|(_, value)| value.to_owned()).collect::<Vec<_>>()
        };
        let (types, codes, ids) = (values("type"), values("code"), values("id"));
        let direction = |at: usize| Some(format!("{}/{}/{}", types.get(at)?, codes.get(at)?, ids.get(at)?));
        Some((ids.get(2)?.clone(), [direction(0)?, direction(1)?]))
    };
    listed.lines().map(|line| of_line(line).with_context(|| format!("no ICMP: {line}"))).collect()
}

/// Makes entries: each line has the arguments of one `conntrack`.
///
/// # Errors
/// When `conntrack` refuses one.
pub fn load(node: &Netns, lines: &str) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(lines.as_bytes())?;
    let script = format!("{} && exec conntrack -R {}", with_label_names(), file.path().display());
    node.run("unshare", &["--mount", "sh", "-c", &script]).map(drop)
}

fn list(node: &Netns, family: &str) -> Result<String> {
    let script = format!("{} && exec conntrack -L -f {family} -o xml,id,labels", with_label_names());
    node.run("unshare", &["--mount", "sh", "-c", &script])
}

/// A command that gives conntrack a file of label names of its own: `label 5` is `5`. To be run in a mount namespace of its
/// own, so that the machine's file, if there is one, stays as it is.
fn with_label_names() -> String {
    let names: String = (0..128).map(|label| format!("{label} {label}\\n")).collect();
    format!("mount -t tmpfs none /etc && mkdir /etc/xtables && printf '{names}' > {LABEL_NAMES}")
}

fn is_shared(name: &str) -> bool {
    !OF_THE_NODE.iter().any(|prefix| name.contains(prefix))
}

/// The elements between `<flow>` and `</flow>` in their order: `original/layer4/sport` and what is in it. An attribute is
/// `original/layer4@protoname`; an element without content is `yes`.
fn fields(flow: &str) -> Vec<(String, String)> {
    let mut path: Vec<String> = Vec::new();
    let mut found = Vec::new();
    for piece in flow.split('<').skip(1) {
        let Some((tag, text)) = piece.split_once('>') else { continue };
        if tag.starts_with('/') {
            path.pop();
            continue;
        }
        let (tag, is_empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let mut words = tag.split_whitespace();
        let element = words.next().unwrap_or_default();
        let attributes = words.filter_map(|word| word.split_once('='));
        let attributes: Vec<_> = attributes.map(|(name, value)| (name, value.trim_matches('"'))).collect();
        match (element, attributes.first()) {
            ("meta", Some((_, direction))) => path.push((*direction).to_owned()),
            _ => path.push(element.to_owned()),
        }
        let at = path.join("/");
        if element != "meta" {
            found.extend(attributes.iter().map(|(name, value)| (format!("{at}@{name}"), (*value).to_owned())));
        }
        if is_empty {
            path.pop();
            found.push((at, "yes".to_owned()));
        } else if !text.trim().is_empty() {
            found.push((at, text.trim().to_owned()));
        }
    }
    merged(found)
}

/// An element that stands several times (labels) is one field with all that it holds.
fn merged(found: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut fields: Vec<(String, String)> = Vec::new();
    for (name, value) in found {
        match fields.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => *values = format!("{values} {value}"),
            None => fields.push((name, value)),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ICMP's fields are found by the entry's id, for each direction.
    #[test]
    fn icmp_lines_are_read() {
        let line = "icmp     1 99 src=10.0.0.1 dst=10.0.0.2 type=8 code=0 id=5 [UNREPLIED] src=10.0.0.2 dst=10.0.0.1 \
                    type=0 code=0 id=6 mark=0 use=1 id=1271716137\n";
        let found = icmp(line).unwrap();
        assert_eq!(found, [("1271716137".to_owned(), ["8/0/5".to_owned(), "0/0/6".to_owned()])].into());
        assert!(icmp("icmp 1 99 type=8").is_err());
    }

    /// Directions, attributes, content, empty elements and repeated ones become fields; what is a node's own does not count.
    #[test]
    fn elements_become_fields() {
        let flow = "<meta direction=\"original\"><layer3 protonum=\"2\" protoname=\"ipv4\"><src>10.0.0.1</src></layer3>\
                    </meta>\n<meta direction=\"independent\"><labels><label>0</label><label>127</label></labels><id>7</id>\
                    <assured/></meta>";
        let all: Fields = fields(flow).into_iter().filter(|(name, _)| is_shared(name)).collect();
        let expected = [
            ("original/layer3@protonum", "2"),
            ("original/layer3@protoname", "ipv4"),
            ("original/layer3/src", "10.0.0.1"),
            ("independent/labels/label", "0 127"),
            ("independent/assured", "yes"),
        ];
        assert_eq!(all, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }
}
