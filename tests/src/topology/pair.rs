//! The pair of firewalls without daemons: five namespaces, their cables, addresses and rule sets.

use super::{CLIENT, KEPT_PREFIX, LAN_VIP, LAN_VIP6, Naming, Node, Port, SERVER, SERVER6, WAN_VIP, WAN_VIP6, faults};
use crate::bpffs;
use crate::netns::{Netns, bridge, cable, require_root, sweep_stale};
use crate::xdp_verdict::{self, Verdict};
use anyhow::{Context, Result};
use std::fs;
use std::net::IpAddr;

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
        // Before `ip` does it by itself, unlocked, while it loads the ports' program.
        bpffs::mount()?;
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
        pair.switch.run_with_input("nft", &["-f", "-"], faults::SWITCH_RULES).context("the switch's rule set")?;
        Ok(pair)
    }

    /// The lab stays when this value is dropped.
    pub fn keep(&mut self) {
        for namespace in [&mut self.client, &mut self.switch, &mut self.server].into_iter().chain(&mut self.firewalls) {
            namespace.keep();
        }
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
        self.unsilence(node)?;
        Port::ALL.into_iter().try_for_each(|port| self.plug(node, port, true))
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
        for port in Port::ALL {
            bridge(switch, port.name())?;
        }
        cable((&self.client, "eth0"), (switch, "client"))?;
        cable((&self.server, "eth0"), (switch, "server"))?;
        switch.ip("link set client master lan\nlink set server master wan")?;
        for node in Node::BOTH {
            for port in Port::ALL {
                self.lay_cable(node, port)?;
            }
        }
        Ok(())
    }

    /// One cable of a firewall, with the program that lets frames come back from the firewall's own.
    pub(super) fn lay_cable(&self, node: Node, port: Port) -> Result<()> {
        let (interface, end) = (port.interface(), port.at_switch(node));
        let mac = node.mac(port).map(|byte| format!("{byte:02x}")).join(":");
        self[node].ip(&format!(
            "link add {interface} address {mac} type veth peer name {end} netns {}\nlink set {interface} up",
            self.switch.name()
        ))?;
        self.switch.ip(&format!("link set {end} master {}\nlink set {end} up", port.name()))?;
        xdp_verdict::attach(&self.switch, &end, Verdict::Pass)
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
        for (key, value) in [
            ("net.ipv4.ip_forward", "1"),
            ("net.ipv6.conf.all.forwarding", "1"),
            ("net.ipv4.conf.all.send_redirects", "0"),
        ] {
            self[node].sysctl(key, value)?;
        }
        Port::ALL.into_iter().try_for_each(|port| self.address_port(node, port))
    }

    /// The firewall's own addresses of one port.
    pub(super) fn address_port(&self, node: Node, port: Port) -> Result<()> {
        let interface = port.interface();
        let lines = match port {
            Port::Lan => {
                let (own, host) = (node.lan(), node.lan().octets()[3]);
                format!("addr replace {own}/24 dev eth0\naddr replace fd00:103::{host}/64 dev eth0")
            }
            Port::Wan => {
                let (own, host) = (node.wan(), node.wan().octets()[3]);
                format!("addr replace {own}/26 dev eth1\naddr replace fd00:40::{host}/64 dev eth1")
            }
            Port::Sync => format!("addr replace {}/30 dev eth2", node.sync()),
        };
        self[node].ip(&lines)?;
        self[node].sysctl(&format!("net.ipv4.conf.{interface}.send_redirects"), "0")
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
