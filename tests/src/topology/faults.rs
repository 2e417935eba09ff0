//! What can go wrong on the way: cables, paths between the firewalls, frames that are lost.
//!
//! The firewall's own XDP program sees a frame before its packet filter does, so everything here happens at the switch.

use super::{Node, Pair, Port};
use anyhow::{Context, Result};

/// A switch that can stop taking frames from a port, or carrying them from one firewall to the other, at one instant.
///
/// It works in the bridges, not at the ports' ingress hooks: an interface that is made anew is covered by its name.
pub(super) const SWITCH_RULES: &str = r"
table bridge switch {
  set silent { type ifname; }
  set cut { type ifname . ifname; }
  chain ports { type filter hook prerouting priority -300; iifname @silent drop; }
  chain paths { type filter hook forward priority -200; iifname . oifname @cut drop; }
}
";

impl Pair {
    /// Plugs a cable of a firewall in or out, at the switch; the sync cable at both its ends.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn plug(&self, node: Node, port: Port, up: bool) -> Result<()> {
        let state = if up { "up" } else { "down" };
        let nodes = if port == Port::Sync { vec![node, node.peer()] } else { vec![node] };
        let lines: Vec<_> = nodes.iter().map(|node| format!("link set {} {state}\n", port.at_switch(*node))).collect();
        self.switch.ip(&lines.concat())
    }

    /// The firewall's cables all go down, as when its power is cut.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn unplug_all(&self, node: Node) -> Result<()> {
        Port::ALL.into_iter().try_for_each(|port| self.plug(node, port, false))
    }

    /// From this instant on (one transaction) the switch takes no frame from the firewall on any port.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn silence(&self, node: Node) -> Result<()> {
        self.nft(&format!("add element bridge switch silent {{ {} }}", ports_of(node)))
    }

    /// The switch hears the firewall again.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn unsilence(&self, node: Node) -> Result<()> {
        self.nft(&removal("silent", &ports_of(node)))
    }

    /// From this instant on nothing of this firewall reaches the other one by this path; both still reach the hosts.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn cut(&self, from: Node, path: Port) -> Result<()> {
        self.nft(&format!("add element bridge switch cut {{ {} }}", way(from, path)))
    }

    /// The path carries frames of this firewall again.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn heal(&self, from: Node, path: Port) -> Result<()> {
        self.nft(&removal("cut", &way(from, path)))
    }

    /// From this instant on neither firewall hears the other on any path.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn partition(&self) -> Result<()> {
        let ways: Vec<_> = Node::BOTH.iter().flat_map(|from| Port::ALL.map(|path| way(*from, path))).collect();
        self.nft(&format!("add element bridge switch cut {{ {} }}", ways.join(", ")))
    }

    /// Every path carries everything again, in one transaction.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn heal_all(&self) -> Result<()> {
        let mut lines = String::from("flush set bridge switch cut\n");
        for from in Node::BOTH {
            for path in Port::ALL {
                lines += &without_loss(from, path);
            }
        }
        self.nft(&lines)
    }

    /// From now on the path loses this share of the frames of this firewall, each by chance; 0 ends it.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn lose(&self, from: Node, path: Port, percent: u8) -> Result<()> {
        let mut lines = without_loss(from, path);
        if percent > 0 {
            let (table, input, output) = (loss_table(from, path), path.at_switch(from), path.at_switch(from.peer()));
            lines += &format!(
                "table bridge {table} {{ chain paths {{ type filter hook forward priority -100; \
                 iifname \"{input}\" oifname \"{output}\" numgen random mod 100 < {percent} drop; }}; }}\n"
            );
        }
        self.nft(&lines)
    }

    /// An interface of the firewall is deleted, as when its driver is unloaded; the switch's end goes with it.
    ///
    /// # Errors
    /// When it is not there.
    pub fn delete_interface(&self, node: Node, port: Port) -> Result<()> {
        self[node].ip(&format!("link del {}", port.interface()))
    }

    /// The deleted interface is there again, with its hardware address and the firewall's own address.
    ///
    /// # Errors
    /// When it has not been deleted.
    pub fn recreate_interface(&self, node: Node, port: Port) -> Result<()> {
        self.lay_cable(node, port)?;
        self.address_port(node, port)
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

    /// Frames of more than `bytes` (from the IP header on) vanish on this path, both ways, and nobody is told.
    ///
    /// # Errors
    /// When `nft` fails.
    pub fn swallow_large(&self, path: Port, bytes: u32) -> Result<()> {
        let rule = |from: Node| {
            let (from, to) = (path.at_switch(from), path.at_switch(from.peer()));
            format!("add rule bridge switch paths iifname \"{from}\" oifname \"{to}\" meta length > {bytes} drop\n")
        };
        self.nft(&Node::BOTH.map(rule).concat())
    }

    /// Lines for the switch's packet filter, as one transaction.
    fn nft(&self, lines: &str) -> Result<()> {
        self.switch.run_with_input("nft", &["-f", "-"], lines).map(drop)
    }
}

fn ports_of(node: Node) -> String {
    Port::ALL.map(|port| format!("\"{}\"", port.at_switch(node))).join(", ")
}

/// An element of the set of cut ways: from a firewall's port to the other one's.
fn way(from: Node, path: Port) -> String {
    format!("\"{}\" . \"{}\"", path.at_switch(from), path.at_switch(from.peer()))
}

/// Takes elements out of a set, whether they are in or not: this nft cannot delete what is not there.
fn removal(set: &str, elements: &str) -> String {
    format!("add element bridge switch {set} {{ {elements} }}\ndelete element bridge switch {set} {{ {elements} }}\n")
}

fn loss_table(from: Node, path: Port) -> String {
    format!("loss_{}_{}", from.name(), path.name())
}

fn without_loss(from: Node, path: Port) -> String {
    let table = loss_table(from, path);
    format!("table bridge {table}\ndelete table bridge {table}\n")
}
