//! More virtual addresses on the LAN than the pair's own, where a test or bench wants many.

use crate::netns::Netns;
use crate::topology::Port;
use anyhow::Result;
use std::collections::HashSet;
use std::net::Ipv4Addr;

/// The first so many: hosts of a network of their own, configured with prefix length 32.
pub fn extra_vips(count: u16) -> impl Iterator<Item = Ipv4Addr> {
    (1..=count).map(|n| {
        let [high, low] = n.to_be_bytes();
        Ipv4Addr::new(10, 103, high, low)
    })
}

/// How many of them the firewall's kernel holds now.
///
/// # Errors
/// When `ip` fails.
pub fn held(firewall: &Netns, count: u16) -> Result<usize> {
    let shown = firewall.run("ip", &["-4", "-o", "addr", "show", "dev", Port::Lan.interface()])?;
    let held: HashSet<&str> = shown.split_whitespace().filter_map(|word| word.strip_suffix("/32")).collect();
    Ok(extra_vips(count).filter(|vip| held.contains(vip.to_string().as_str())).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// No address comes twice, and none is one of the pair's own.
    #[test]
    fn addresses_are_distinct() {
        let all: HashSet<_> = extra_vips(500).collect();
        assert_eq!(all.len(), 500);
        assert!(all.iter().all(|vip| vip.octets()[..2] == [10, 103]));
    }
}
