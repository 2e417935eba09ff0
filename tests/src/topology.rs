//! The pair and its surroundings: client — LAN bridge — fw1, fw2 — WAN bridge — server, and a sync cable.
//!
//! ```text
//!   client eth0 ── lan bridge ──┬── eth0 fw1 eth1 ──┬── wan bridge ── eth0 server (the gateway)
//!                               └── eth0 fw2 eth1 ──┘
//!                                    fw1 eth2 ═ eth2 fw2
//! ```

use crate::netns::{Netns, bridge, cable, require_root, sweep_stale};
use anyhow::{Context, Result};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};

/// The client's address on the LAN.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 103, 10);
/// The virtual address that the clients use as their gateway.
pub const LAN_VIP: Ipv4Addr = Ipv4Addr::new(192, 168, 103, 210);
/// The virtual address that the world sees: flows from the LAN leave with it.
pub const WAN_VIP: Ipv4Addr = Ipv4Addr::new(157, 159, 40, 139);
/// The server; to the firewalls it is the default gateway.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(157, 159, 40, 129);
/// IPv6 twin of [`LAN_VIP`].
pub const LAN_VIP6: &str = "fd00:103::210";
/// IPv6 twin of [`WAN_VIP`].
pub const WAN_VIP6: &str = "fd00:40::139";
/// IPv6 twin of [`SERVER`].
pub const SERVER6: &str = "fd00:40::129";

/// One of the two firewalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Node {
    Fw1,
    Fw2,
}

impl Node {
    /// Both, in name order.
    pub const BOTH: [Self; 2] = [Self::Fw1, Self::Fw2];

    /// The name in the configuration and of its namespace.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fw1 => "fw1",
            Self::Fw2 => "fw2",
        }
    }

    /// Position in [`Node::BOTH`].
    pub const fn index(self) -> usize {
        match self {
            Self::Fw1 => 0,
            Self::Fw2 => 1,
        }
    }

    /// The other one.
    pub const fn peer(self) -> Self {
        match self {
            Self::Fw1 => Self::Fw2,
            Self::Fw2 => Self::Fw1,
        }
    }

    /// Its own (not virtual) address on the LAN.
    pub const fn lan(self) -> Ipv4Addr {
        match self {
            Self::Fw1 => Ipv4Addr::new(192, 168, 103, 208),
            Self::Fw2 => Ipv4Addr::new(192, 168, 103, 209),
        }
    }

    /// Its own address on the WAN.
    pub const fn wan(self) -> Ipv4Addr {
        match self {
            Self::Fw1 => Ipv4Addr::new(157, 159, 40, 137),
            Self::Fw2 => Ipv4Addr::new(157, 159, 40, 138),
        }
    }

    /// Its address on the sync cable.
    pub const fn sync(self) -> Ipv4Addr {
        match self {
            Self::Fw1 => Ipv4Addr::new(10, 77, 9, 1),
            Self::Fw2 => Ipv4Addr::new(10, 77, 9, 2),
        }
    }
}

/// A cable of a firewall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Lan,
    Wan,
    Sync,
}

impl Port {
    /// The interface's name in the firewall's namespace.
    pub const fn interface(self) -> &'static str {
        match self {
            Self::Lan => "eth0",
            Self::Wan => "eth1",
            Self::Sync => "eth2",
        }
    }
}

/// What the namespaces are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// After this process; they go with it.
    OfProcess,
    /// `twlab-*`: one lab on the machine that outlives its maker.
    Kept,
}

/// Prefix of the namespaces of the kept lab.
pub const KEPT_PREFIX: &str = "twlab-";

/// The five namespaces, cabled and with a rule set on both firewalls, without any daemon.
#[derive(Debug)]
pub struct Pair {
    pub client: Netns,
    pub switch: Netns,
    pub server: Netns,
    firewalls: [Netns; 2],
}

impl Pair {
    /// Builds it; labs of dead processes are swept away first.
    ///
    /// # Errors
    /// Without root, without `ip` or `nft`, or when a kept lab exists already.
    pub fn new(naming: Naming) -> Result<Self> {
        require_root()?;
        sweep_stale();
        let make = |hint: &str| match naming {
            Naming::OfProcess => Netns::new(hint),
            Naming::Kept => Netns::named(&format!("{KEPT_PREFIX}{hint}")),
        };
        let pair = Self {
            client: make("client")?,
            switch: make("switch")?,
            server: make("server")?,
            firewalls: [make("fw1")?, make("fw2")?],
        };
        pair.lay_cables()?;
        pair.address_hosts()?;
        for node in Node::BOTH {
            pair.address_firewall(node)?;
            pair[node].run_with_input("nft", &["-f", "-"], &firewall_rules()).context("the firewall's rule set")?;
            // Only now is conntrack certainly loaded. Without this a lost TCP flow would be picked up from its middle.
            pair[node].sysctl("net.netfilter.nf_conntrack_tcp_loose", "0")?;
        }
        pair.switch.run_with_input("nft", &["-f", "-"], &switch_rules()).context("the switch's rule set")?;
        Ok(pair)
    }

    /// The lab stays when this value is dropped.
    pub fn keep(&mut self) {
        for namespace in [&mut self.client, &mut self.switch, &mut self.server].into_iter().chain(&mut self.firewalls) {
            namespace.keep();
        }
    }

    /// Plugs a cable of a firewall in or out, at the switch (the sync cable at the firewall itself).
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn plug(&self, node: Node, port: Port, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        match port {
            Port::Lan => self.switch.ip(&format!("link set {}-lan {state}", node.name())),
            Port::Wan => self.switch.ip(&format!("link set {}-wan {state}", node.name())),
            Port::Sync => self[node].ip(&format!("link set eth2 {state}")),
        }
    }

    /// From this instant on (one transaction) the switch takes no frame from the firewall on either side.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn silence(&self, node: Node) -> Result<()> {
        let name = node.name();
        let rule = format!("add element netdev switch silent {{ \"{name}-lan\", \"{name}-wan\" }}");
        self.switch.run("nft", &[&rule]).map(drop)
    }

    /// The firewall's cables all go down, as when its power is cut.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn unplug_all(&self, node: Node) -> Result<()> {
        let name = node.name();
        self.switch.ip(&format!("link set {name}-lan down\nlink set {name}-wan down"))?;
        self.plug(node, Port::Sync, false)
    }

    /// The host comes back as after a reboot: no connection state, no virtual address, no default route, cables in.
    ///
    /// # Errors
    /// When `ip`, `nft` or `conntrack` fails.
    pub fn reboot(&self, node: Node) -> Result<()> {
        let space = &self[node];
        space.ip(
            "addr flush dev eth0 scope global\naddr flush dev eth1 scope global\naddr flush dev eth2 scope global",
        )?;
        self.address_firewall(node)?;
        space.run("conntrack", &["-F"])?;
        self.switch.run("nft", &["flush set netdev switch silent"])?;
        let name = node.name();
        self.plug(node, Port::Sync, true)?;
        self.switch.ip(&format!("link set {name}-lan up\nlink set {name}-wan up"))
    }

    /// Drops this share of the datagrams that the firewall receives on the sync cable (after XDP saw them).
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn lose_sync_datagrams(&self, node: Node, percent: u8) -> Result<()> {
        let rules = format!(
            "table inet loss\ndelete table inet loss\n\
             table inet loss {{ chain in {{ type filter hook input priority -400; iifname \"eth2\" meta l4proto udp numgen random mod 100 < {percent} counter drop; }}; }}\n"
        );
        self[node].run_with_input("nft", &["-f", "-"], &rules).map(drop)
    }

    /// How many datagrams [`Pair::lose_sync_datagrams`] has dropped on this firewall.
    ///
    /// # Errors
    /// When it is not in force.
    pub fn sync_datagrams_lost(&self, node: Node) -> Result<u64> {
        let listed = self[node].run("nft", &["list", "table", "inet", "loss"])?;
        let count = listed.split_once("counter packets ").and_then(|(_, rest)| rest.split_whitespace().next());
        count.context("no counter")?.parse().context("no number")
    }

    /// Which of the lab's virtual addresses the firewall's kernel holds now: LAN, WAN.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn vips_held(&self, node: Node) -> Result<[bool; 2]> {
        // The local routing table as the kernel prints it: cheaper than a process, exact at this instant.
        let table = self[node].enter(|| fs::read_to_string("/proc/thread-self/net/fib_trie"))??;
        Ok([LAN_VIP, WAN_VIP].map(|vip| holds_local(&table, IpAddr::V4(vip))))
    }

    /// Moves the virtual addresses and the default gateway to a node by hand, and lets client and server forget
    /// where they were: a takeover without any daemon, for tests of the state alone.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn move_vips_by_hand(&self, to: Node) -> Result<()> {
        let _ = self[to.peer()].ip(&format!("addr del {LAN_VIP}/24 dev eth0\naddr del {WAN_VIP}/26 dev eth1"));
        self[to].ip(&format!(
            "addr replace {LAN_VIP}/24 dev eth0\naddr replace {WAN_VIP}/26 dev eth1\nroute replace default via {SERVER}"
        ))?;
        self.client.ip("neigh flush dev eth0")?;
        self.server.ip("neigh flush dev eth0")
    }

    fn lay_cables(&self) -> Result<()> {
        let switch = &self.switch;
        // Where the br_netfilter module is loaded, bridged packets would pass the host's filter hooks as well.
        let _ = switch.sysctl("net.bridge.bridge-nf-call-iptables", "0");
        let _ = switch.sysctl("net.bridge.bridge-nf-call-ip6tables", "0");
        bridge(switch, "lan")?;
        bridge(switch, "wan")?;
        cable((&self.client, "eth0"), (switch, "client"))?;
        cable((&self.server, "eth0"), (switch, "server"))?;
        switch.ip("link set client master lan\nlink set server master wan")?;
        for node in Node::BOTH {
            let name = node.name();
            for side in ["lan", "wan"] {
                let interface = if side == "lan" { "eth0" } else { "eth1" };
                cable((&self[node], interface), (switch, &format!("{name}-{side}")))?;
                switch.ip(&format!("link set {name}-{side} master {side}"))?;
            }
        }
        cable((&self[Node::Fw1], "eth2"), (&self[Node::Fw2], "eth2"))
    }

    fn address_hosts(&self) -> Result<()> {
        self.client.ip(&format!(
            "addr add {CLIENT}/24 dev eth0\nroute add default via {LAN_VIP}\n\
             addr add fd00:103::10/64 dev eth0\nroute add default via {LAN_VIP6}"
        ))?;
        self.server.ip(&format!("addr add {SERVER}/26 dev eth0\naddr add {SERVER6}/64 dev eth0"))?;
        // The lab's own server answers echo requests, so that it can tell which identifier it saw.
        self.server.sysctl("net.ipv4.icmp_echo_ignore_all", "1")
    }

    fn address_firewall(&self, node: Node) -> Result<()> {
        let space = &self[node];
        let host = node.lan().octets()[3];
        let wan_host = node.wan().octets()[3];
        space.ip(&format!(
            "addr replace {}/24 dev eth0\naddr replace {}/26 dev eth1\naddr replace {}/30 dev eth2\n\
             addr replace fd00:103::{host}/64 dev eth0\naddr replace fd00:40::{wan_host}/64 dev eth1",
            node.lan(),
            node.wan(),
            node.sync()
        ))?;
        for (key, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.conf.all.send_redirects", "0"),
            ("net.ipv4.conf.eth0.send_redirects", "0"),
            ("net.ipv4.conf.eth1.send_redirects", "0"),
        ] {
            space.sysctl(key, value)?;
        }
        Ok(())
    }
}

impl std::ops::Index<Node> for Pair {
    type Output = Netns;

    fn index(&self, node: Node) -> &Netns {
        let [fw1, fw2] = &self.firewalls;
        match node {
            Node::Fw1 => fw1,
            Node::Fw2 => fw2,
        }
    }
}

/// A stateful firewall that lets a session live only if its state is known: new connections only from the LAN,
/// TCP only with its handshake (`tcp_loose` is off), every flow mapped to a random port or identifier of the WAN
/// address, so that a flow which is tracked anew is seen with another one.
fn firewall_rules() -> String {
    format!(
        r#"
table inet firewall {{
  chain raw_in {{ type filter hook prerouting priority raw; iifname "eth2" notrack; }}
  chain raw_out {{ type filter hook output priority raw; oifname "eth2" notrack; }}
  chain input {{
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    iifname "eth2" udp dport 3780 accept
    meta l4proto {{ icmp, ipv6-icmp, 112 }} accept
    ct state invalid drop
    ct state established,related accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy drop;
    ct state invalid drop
    ct state established,related accept
    iifname "eth0" oifname "eth1" ct state new accept
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat;
    ip saddr 192.168.103.0/24 oifname "eth1" snat ip to {WAN_VIP} fully-random
    ip6 saddr fd00:103::/64 oifname "eth1" snat ip6 to {WAN_VIP6} fully-random
  }}
}}
"#
    )
}

/// A switch that can stop taking frames from a host at one instant.
fn switch_rules() -> String {
    r#"
table netdev switch {
  set silent { type ifname; }
  chain ports {
    type filter hook ingress devices = { "fw1-lan", "fw1-wan", "fw2-lan", "fw2-wan" } priority 0;
    iifname @silent drop
  }
}
"#
    .to_owned()
}

/// Whether the kernel's `fib_trie` lists the address as its own.
fn holds_local(table: &str, address: IpAddr) -> bool {
    let leaf = format!("|-- {address}");
    let mut lines = table.lines().peekable();
    while let Some(line) = lines.next() {
        if line.trim() == leaf && lines.peek().is_some_and(|next| next.trim() == "/32 host LOCAL") {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An address counts as held only if it is a local one: the same leaf as a broadcast route does not count.
    #[test]
    fn local_addresses_are_told_from_routes() {
        let table = "Local:\n        |-- 10.0.0.1\n           /32 host LOCAL\n        |-- 10.0.0.255\n           /32 link BROADCAST\n";
        assert!(holds_local(table, "10.0.0.1".parse().unwrap()));
        assert!(!holds_local(table, "10.0.0.255".parse().unwrap()));
        assert!(!holds_local(table, "10.0.0.2".parse().unwrap()));
    }
}
