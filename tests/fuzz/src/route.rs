//! What the kernel tells of interfaces, addresses and routes.

use ha_common::election::InterfaceId;
use ha_user::link::Change;
use ha_user::link::table::Table;
use ha_user::route_netlink::Messages;
use ha_user::vip::message::acknowledgement;
use std::net::IpAddr;

const VIP: [u8; 4] = [192, 168, 103, 210];

/// Only interfaces that are watched change, a virtual address is never the node's own, and a second telling changes nothing more.
pub fn run(input: &[u8]) {
    let names = vec!["eth0".to_owned(), "eth1".to_owned()];
    let mut table = Table::new(names, [IpAddr::from(VIP)].into());
    let mut changes = Vec::new();
    for message in Messages::new(input) {
        let _ = acknowledgement(&message);
        changes.clear();
        table.apply(&message, &mut changes);
        assert!(changes.len() <= 2, "{changes:?}");
        for change in &changes {
            let (Change::Interface(interface)
            | Change::VirtualAddressRemoved { interface, .. }
            | Change::RouteRemoved { interface }) = change;
            assert!(interface.0 < 2);
        }
        let state = |table: &Table| [0, 1, 2].map(|at| table.interface(InterfaceId(at)));
        let before = state(&table);
        assert!(before.iter().all(|interface| interface.state.source_v4 != Some(VIP.into())));
        assert_eq!(before[2], ha_user::link::Interface::default());
        table.apply(&message, &mut changes);
        assert_eq!(state(&table), before, "told twice");
    }
}
