//! The pair and its surroundings: names, addresses and cables.
//!
//! ```text
//!   client eth0 ── lan bridge ──┬── eth0 fw1 eth1 ──┬── wan bridge ── eth0 server (the gateway)
//!                               └── eth0 fw2 eth1 ──┘
//!                               fw1 eth2 ── sync bridge ── eth2 fw2
//! ```
//!
//! The sync cable runs through a bridge too, so that it can lose frames without losing its carrier; pulled out, it is
//! out at both ends, as a cable is.

mod faults;
mod pair;

pub use pair::Pair;

use std::net::Ipv4Addr;

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

    /// The hardware address of one of its ports; an interface that is made anew has it again, as a card has.
    pub const fn mac(self, port: Port) -> [u8; 6] {
        let node = match self {
            Self::Fw1 => 1,
            Self::Fw2 => 2,
        };
        let port = match port {
            Port::Lan => 0,
            Port::Wan => 1,
            Port::Sync => 2,
        };
        [0x02, 0x77, 0, 0, node, port]
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
    /// All, in the order of the interfaces' names.
    pub const ALL: [Self; 3] = [Self::Lan, Self::Wan, Self::Sync];

    /// The bridge that it leads to, and the word for it in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Wan => "wan",
            Self::Sync => "sync",
        }
    }

    /// The other end of the firewall's cable: an interface of the switch.
    pub fn at_switch(self, node: Node) -> String {
        format!("{}-{}", node.name(), self.name())
    }

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
