//! A firewall's connection table as `conntrack` prints it, comparable between nodes.

mod attributes;
pub mod dump;
pub mod replica;
pub mod xml;

use crate::netns::Netns;
use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};

/// Every entry whose line contains `filter`, without what may differ between nodes: the time left and the
/// reference count. Protocol, state, both tuples, flags, mark and zone remain.
///
/// # Errors
/// When `conntrack` is missing (Debian package `conntrack`) or fails.
pub fn table(namespace: &Netns, filter: &str) -> Result<BTreeSet<String>> {
    let listed = namespace.run("conntrack", &["-L", "-o", "extended"])?;
    Ok(listed.lines().filter(|line| line.contains(filter)).map(comparable).collect())
}

/// As [`table`], for IPv6.
///
/// # Errors
/// As [`table`].
pub fn table6(namespace: &Netns, filter: &str) -> Result<BTreeSet<String>> {
    let listed = namespace.run("conntrack", &["-L", "-f", "ipv6", "-o", "extended"])?;
    Ok(listed.lines().filter(|line| line.contains(filter)).map(comparable).collect())
}

/// Seconds left of every entry whose line contains `filter`, by the comparable rest of the line.
///
/// # Errors
/// As [`table`].
pub fn seconds_left(namespace: &Netns, filter: &str) -> Result<BTreeMap<String, u32>> {
    let listed = namespace.run("conntrack", &["-L", "-o", "extended"])?;
    let lines = listed.lines().filter(|line| line.contains(filter));
    Ok(lines.filter_map(|line| Some((comparable(line), line.split_whitespace().nth(4)?.parse().ok()?))).collect())
}

/// Up to `count` entries that are in one table and not in the other, for messages.
pub fn differences(a: &BTreeSet<String>, b: &BTreeSet<String>, count: usize) -> String {
    let only_a = a.difference(b).take(count).map(|line| format!("  only first:  {line}\n"));
    let only_b = b.difference(a).take(count).map(|line| format!("  only second: {line}\n"));
    format!("{} and {} entries\n{}", a.len(), b.len(), only_a.chain(only_b).collect::<String>())
}

fn comparable(line: &str) -> String {
    // The fifth word is the time left: `ipv4 2 tcp 6 431999 ESTABLISHED src=…`.
    let words = line.split_whitespace().enumerate();
    let kept: Vec<_> = words.filter(|(n, word)| *n != 4 && !word.starts_with("use=")).map(|(_, word)| word).collect();
    kept.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two dumps of one flow taken at different times compare equal; another mapped port does not.
    #[test]
    fn dumps_compare_without_their_age() {
        let line = |left: u32, port: u16| {
            comparable(&format!(
                "ipv4     2 udp      17 {left} src=192.168.103.10 dst=157.159.40.129 sport=4000 dport=7007 \
                 src=157.159.40.129 dst=157.159.40.139 sport=7007 dport={port} [ASSURED] mark=5 use=1"
            ))
        };
        assert_eq!(line(119, 5000), line(3, 5000));
        assert_ne!(line(119, 5000), line(119, 5001));
        assert!(line(1, 5000).ends_with("[ASSURED] mark=5"));
    }
}
