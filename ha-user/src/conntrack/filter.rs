//! Which flows are replicated at all.

use ha_common::sync::flow::{Flow, Tuple};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// The protocols and addresses that count; made anew when an address of the node changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowFilter {
    /// By protocol number.
    protocols: [bool; 256],
    /// Sorted: flows that end on one of these stay local.
    ignored: Vec<IpAddr>,
}

impl FlowFilter {
    /// `ignored` are the nodes' own, peer, virtual and configured addresses.
    pub fn new(protocols: &[u8], ignored: impl IntoIterator<Item = IpAddr>) -> Self {
        let mut accepted = [false; 256];
        for protocol in protocols {
            if let Some(accepted) = accepted.get_mut(usize::from(*protocol)) {
                *accepted = true;
            }
        }
        let ignored: BTreeSet<IpAddr> = ignored.into_iter().collect();
        Self { protocols: accepted, ignored: ignored.into_iter().collect() }
    }

    /// The flow is forwarded between two other hosts, and of a wanted protocol.
    ///
    /// The two endpoints of a flow are the original tuple's source, and the host that really answers: the
    /// *reply* tuple's source. Without destination NAT that is the original destination; with it, it is the
    /// inside host behind the virtual address. The reply tuple's destination must not be looked at: for a
    /// flow with source NAT it is the virtual address, and yet the flow is forwarded.
    pub fn accepts(&self, flow: &Flow) -> bool {
        let Tuple { source, protocol, .. } = flow.key.original;
        self.protocols.get(usize::from(protocol)).is_some_and(|accepted| *accepted)
            && !self.ignores(source)
            && !self.ignores(flow.reply.source)
            // A multicast or broadcast query is answered from another address.
            && !never_forwarded(flow.key.original.destination)
    }

    fn ignores(&self, address: IpAddr) -> bool {
        never_forwarded(address) || self.ignored.binary_search(&address).is_ok()
    }
}

/// Addresses that mean nothing on another host, or that routers do not pass on.
fn never_forwarded(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            address.is_loopback() || address.is_multicast() || address.is_broadcast() || address.is_unspecified()
        }
        IpAddr::V6(address) => {
            address.is_loopback()
                || address.is_multicast()
                || address.is_unspecified()
                || address.is_unicast_link_local()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ha_common::sync::flow::{FlowKey, status};

    const CLIENT: &str = "10.20.0.2";
    const SERVER: &str = "10.10.0.2";
    const VIP: &str = "10.10.0.210";

    fn flow(original: (&str, &str), reply: (&str, &str), status: u32) -> Flow {
        let tuple = |(source, destination): (&str, &str)| Tuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            protocol: 6,
            source_port: 1000,
            destination_port: 80,
        };
        let key = FlowKey { original: tuple(original), zone: 0 };
        Flow { key, reply: tuple(reply), status, timeout: 60, mark: 0, tcp: None, id: 0, extra: None }
    }

    fn accepts(original: (&str, &str), reply: (&str, &str), status: u32) -> bool {
        let own = [VIP, "10.20.0.1", "2001:db8::1"].map(|address| address.parse().unwrap());
        FlowFilter::new(&[6], own).accepts(&flow(original, reply, status))
    }

    /// Forwarded flows are replicated, whatever their translation: none, source NAT to the virtual address,
    /// destination NAT from it, and both.
    #[test]
    fn forwarded_flows_are_accepted() {
        assert!(accepts((CLIENT, SERVER), (SERVER, CLIENT), 0));
        assert!(accepts((CLIENT, SERVER), (SERVER, VIP), status::SRC_NAT));
        assert!(accepts((SERVER, VIP), (CLIENT, SERVER), status::DST_NAT));
        assert!(accepts((CLIENT, VIP), (SERVER, VIP), status::SRC_NAT | status::DST_NAT));
        assert!(accepts(("2001:db8::2", "2001:db8::3"), ("2001:db8::3", "2001:db8::2"), 0));
    }

    /// Flows that begin or end on the node itself stay local: to and from a virtual or interface address, also
    /// redirected to one, and loopback, multicast, broadcast, DHCP and link-local ones.
    #[test]
    fn local_flows_are_ignored() {
        assert!(!accepts((CLIENT, VIP), (VIP, CLIENT), 0));
        assert!(!accepts((VIP, SERVER), (SERVER, VIP), 0));
        assert!(!accepts(("10.20.0.1", SERVER), (SERVER, VIP), status::SRC_NAT));
        assert!(!accepts((CLIENT, SERVER), ("10.20.0.1", CLIENT), status::DST_NAT));
        assert!(!accepts(("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "127.0.0.1"), 0));
        assert!(!accepts((CLIENT, "224.0.0.251"), ("224.0.0.251", CLIENT), 0));
        assert!(!accepts(("0.0.0.0", "255.255.255.255"), ("255.255.255.255", "0.0.0.0"), 0));
        assert!(!accepts(("fe80::2", "fe80::1"), ("fe80::1", "fe80::2"), 0));
        assert!(!accepts(("2001:db8::2", "2001:db8::1"), ("2001:db8::1", "2001:db8::2"), 0));
    }

    /// Only the configured protocols are replicated.
    #[test]
    fn protocols() {
        let filter = FlowFilter::new(&[6, 17], []);
        let mut udp = flow((CLIENT, SERVER), (SERVER, CLIENT), 0);
        udp.key.original.protocol = 17;
        assert!(filter.accepts(&udp));
        udp.key.original.protocol = 132;
        assert!(!filter.accepts(&udp));
    }
}
