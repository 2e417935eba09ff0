//! The standby's entries against the master's, field by field.

use super::dump::Table;
use super::{attributes, xml};
use crate::lab::Lab;
use crate::netns::{Netns, wait_until};
use crate::topology::Node;
use anyhow::{Context, Result, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What there is between an event and the write in the other kernel, with a busy machine in it. Sequence adjustments are
/// read every two seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// The fields of one entry: name and value as text.
pub type Fields = BTreeMap<String, String>;
/// Entries by what they are: `listed: ipv4 tcp 192.168.103.10 …`.
pub type Entries = BTreeMap<String, Fields>;

/// What a node's kernel has of some hosts' connections, without what may differ between nodes: as `conntrack` lists it
/// (XML with labels), and all that ctnetlink tells, connections and expectations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub listed: Entries,
    pub told: Entries,
    pub expected: Entries,
}

impl Picture {
    /// Reads what names one of the addresses.
    ///
    /// # Errors
    /// When `conntrack` is missing or fails, or the kernel refuses.
    pub fn read(node: &Netns, about: &[String]) -> Result<Self> {
        Ok(Self {
            listed: xml::entries(node, about)?,
            told: attributes::entries(node, Table::Connections, about)?,
            expected: attributes::entries(node, Table::Expectations, about)?,
        })
    }

    /// Whether an entry, whose title contains all of the words, has this value in this field.
    pub fn has(&self, words: &[&str], field: &str, value: &str) -> bool {
        let of_title = |title: &str| {
            let parts: Vec<&str> = title.split_whitespace().collect();
            words.iter().all(|word| parts.contains(word))
        };
        let all = self.listed.iter().chain(&self.told).chain(&self.expected);
        all.filter(|(title, _)| of_title(title)).any(|(_, fields)| fields.get(field).is_some_and(|it| it == value))
    }

    /// As [`Picture::has`], as a condition.
    ///
    /// # Errors
    /// When no such entry has it; the error holds everything.
    pub fn expect(&self, words: &[&str], field: &str, value: &str) -> Result<()> {
        ensure!(self.has(words, field, value), "no entry of {words:?} has {field} = {value}: {self:#?}");
        Ok(())
    }

    /// What differs, one line for each field.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let pairs = [(&self.listed, &other.listed), (&self.told, &other.told), (&self.expected, &other.expected)];
        pairs.into_iter().flat_map(|(one, other)| entry_differences(one, other)).collect()
    }
}

/// Waits until the standby (fw2) has what the master has of these hosts, equal in every field, and just so many connections
/// and expectations; what it has then.
///
/// # Errors
/// After ten seconds, with the fields that differ.
pub fn expect_replica(lab: &Lab, about: &[&str], connections: usize, expectations: usize) -> Result<Picture> {
    let about: Vec<String> = about.iter().map(ToString::to_string).collect();
    let read = || -> Result<[Picture; 2]> {
        let [master, standby] = Node::BOTH.map(|node| Picture::read(&lab.pair[node], &about));
        Ok([master?, standby?])
    };
    let mut last = read()?;
    let counts = |picture: &Picture| (picture.listed.len(), picture.told.len(), picture.expected.len());
    wait_until("the standby has what the master has", PATIENCE, || {
        let Ok(now) = read() else { return false };
        last = now;
        last[0] == last[1] && counts(&last[0]) == (connections, connections, expectations)
    })
    .with_context(|| {
        let [master, standby] = &last;
        format!(
            "master and standby have {:?} and {:?} entries listed, told and expected, instead of {connections}, \
             {connections} and {expectations}; what differs (master, standby):\n{}\nmaster: {:#?}",
            counts(master),
            counts(standby),
            master.differences(standby).join("\n"),
            [&master.listed, &master.told, &master.expected].map(|entries| entries.keys().collect::<Vec<_>>())
        )
    })?;
    let [_, standby] = last;
    Ok(standby)
}

fn entry_differences(one: &Entries, other: &Entries) -> Vec<String> {
    let titles: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let mut lines = Vec::new();
    for title in titles {
        match (one.get(title), other.get(title)) {
            (Some(one), Some(other)) => lines.extend(field_differences(title, one, other)),
            (Some(_), None) => lines.push(format!("{title}: on the first only")),
            (None, Some(_)) => lines.push(format!("{title}: on the second only")),
            (None, None) => {}
        }
    }
    lines
}

fn field_differences(title: &str, one: &Fields, other: &Fields) -> Vec<String> {
    let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
    let shown = |fields: &Fields, name: &String| fields.get(name).cloned().unwrap_or_else(|| "absent".to_owned());
    names
        .into_iter()
        .filter(|name| one.get(*name) != other.get(*name))
        .map(|name| format!("{title}: {name}: {}, {}", shown(one, name), shown(other, name)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(entries: &[(&str, &[(&str, &str)])]) -> Picture {
        let mut listed = Entries::new();
        for (title, fields) in entries {
            let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            listed.insert((*title).to_owned(), fields.collect());
        }
        Picture { listed, told: Entries::new(), expected: Entries::new() }
    }

    /// A missing entry, another value and a missing field are each told by name; equal fields are not.
    #[test]
    fn differences_are_named() {
        let one = picture(&[("a", &[("mark", "1"), ("zone", "2"), ("state", "x")]), ("b", &[])]);
        let other = picture(&[("a", &[("mark", "2"), ("state", "x")]), ("c", &[])]);
        let expected = ["a: mark: 1, 2", "a: zone: 2, absent", "b: on the first only", "c: on the second only"];
        assert_eq!(one.differences(&other), expected);
        assert!(one.differences(&one).is_empty());
        assert!(one.has(&["a"], "zone", "2") && !one.has(&["b"], "zone", "2") && !one.has(&["a"], "zone", "3"));
    }
}
