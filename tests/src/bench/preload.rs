//! Connections that the firewalls know before anything happens.
//!
//! They are written into the master's table in one batch, which takes a second for 100 000. To every tool they are new
//! flows like any other: the kernel tells of them by the same events.

use crate::netns::Netns;
use crate::topology::WAN_VIP;
use anyhow::Result;
use std::fmt::Write;

/// Ports of one preloaded pair of addresses.
const PORTS: u32 = 50_000;
/// As long as the longest run may take.
const TIMEOUT_SECONDS: u32 = 900;

/// Writes this many UDP flows, mapped to the WAN address as the firewall's rules would, into the node's table.
///
/// # Errors
/// When `conntrack` is missing or refuses, and when the kernel's table is too small (with the remedy).
pub fn write(node: &Netns, flows: u32) -> Result<()> {
    let room = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max")?.trim().parse::<u32>()?;
    anyhow::ensure!(
        flows.saturating_add(1000) < room,
        "the kernel's table holds {room} flows, too few: sysctl -w net.netfilter.nf_conntrack_max={}",
        flows.saturating_mul(2)
    );
    node.run_with_input("conntrack", &["-R", "-"], &lines(flows)).map(drop)
}

fn lines(flows: u32) -> String {
    let mut lines = String::new();
    for flow in 0..flows {
        let (host, port) = (flow / PORTS, 2000 + flow % PORTS);
        let _ = writeln!(
            lines,
            "-I -s 192.168.103.50 -d 198.18.0.{host} -p udp --sport {port} --dport 53 -t {TIMEOUT_SECONDS} \
             -u SEEN_REPLY,ASSURED -n {WAN_VIP}"
        );
    }
    lines
}

/// How many flows the node's kernel has.
///
/// # Errors
/// When the namespace cannot be entered.
pub fn count(node: &Netns) -> Result<u64> {
    let text = node.enter(|| std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count"))??;
    Ok(text.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// No two preloaded flows are the same, also after the mapping, which keeps ports and destinations.
    #[test]
    fn every_flow_is_another() {
        let lines = lines(120_000);
        let distinct: HashSet<&str> = lines.lines().collect();
        assert_eq!(distinct.len(), 120_000);
        assert!(lines.ends_with(&format!(
            "-d 198.18.0.2 -p udp --sport 21999 --dport 53 -t 900 -u SEEN_REPLY,ASSURED -n {WAN_VIP}\n"
        )));
    }
}
