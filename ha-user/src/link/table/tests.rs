use super::*;

const LAN: InterfaceId = InterfaceId(0);
const RUNNING: u32 = IFF_UP | IFF_RUNNING | IFF_LOWER_UP;
const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 210));
const OWN: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 77, 0, 208));
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 8];

fn table() -> Table {
    Table::new(vec!["eth0".into(), "eth1".into()], HashSet::from([VIP]))
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = u16::try_from(value.len() + 4).unwrap().to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn link(family: u8, ifindex: u32, name: &str, flags: u32) -> Vec<u8> {
    let mut payload = vec![family, 0, 0, 0];
    payload.extend(ifindex.to_ne_bytes());
    payload.extend(flags.to_ne_bytes());
    payload.extend([0; 4]);
    payload.extend(attribute(IFLA_IFNAME, format!("{name}\0").as_bytes()));
    payload.extend(attribute(IFLA_ADDRESS, &MAC));
    payload
}

fn address(ifindex: u32, address: IpAddr, flags: u32) -> Vec<u8> {
    let family = if address.is_ipv4() { 2 } else { 10 };
    let mut payload = vec![family, 24, flags as u8, 0];
    payload.extend(ifindex.to_ne_bytes());
    let octets = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    payload.extend(attribute(IFA_ADDRESS, &octets));
    payload.extend(attribute(IFA_FLAGS, &flags.to_ne_bytes()));
    payload
}

fn feed(table: &mut Table, kind: u16, payload: &[u8]) -> Vec<Change> {
    let mut changes = Vec::new();
    table.apply(&Message { kind, flags: 0, sequence: 0, payload }, &mut changes);
    changes
}

/// An interface appears, gets its carrier, loses it and vanishes: each step is one change with the right state.
#[test]
fn an_interface_comes_and_goes() {
    let mut table = table();
    assert_eq!(table.interface(LAN), Interface::default());
    assert_eq!(feed(&mut table, RTM_NEWLINK, &link(0, 7, "eth0", IFF_UP)), [Change::Interface(LAN)]);
    assert!(!table.interface(LAN).state.up, "no carrier yet");
    assert_eq!(feed(&mut table, RTM_NEWLINK, &link(0, 7, "eth0", RUNNING)), [Change::Interface(LAN)]);
    let up = table.interface(LAN);
    assert_eq!((up.ifindex, up.mac, up.state.up), (Some(7), MAC, true));
    assert_eq!(feed(&mut table, RTM_NEWLINK, &link(0, 7, "eth0", RUNNING)), []);
    feed(&mut table, RTM_NEWLINK, &link(0, 7, "eth0", RUNNING & !IFF_LOWER_UP));
    assert!(!table.interface(LAN).state.up);
    assert_eq!(feed(&mut table, RTM_DELLINK, &link(0, 7, "eth0", 0)), [Change::Interface(LAN)]);
    assert_eq!(table.interface(LAN), Interface::default());
}

/// A re-created interface gets its new index, forgets the old one's addresses, and asks for the lists.
#[test]
fn a_new_index_makes_the_table_incomplete() {
    let mut table = table();
    feed(&mut table, RTM_NEWLINK, &link(0, 7, "eth0", RUNNING));
    table.replace(table.clone(), &mut Vec::new());
    feed(&mut table, RTM_NEWADDR, &address(7, OWN, 0));
    assert!(!table.is_incomplete());
    feed(&mut table, RTM_NEWLINK, &link(0, 9, "eth0", RUNNING));
    assert!(table.is_incomplete());
    assert_eq!(table.interface(LAN).ifindex, Some(9));
    assert_eq!(table.interface(LAN).state.source_v4, None);
}

/// A rename away from a watched name frees the entry; the name's new bearer takes it.
#[test]
fn a_rename_moves_the_watch() {
    let mut table = table();
    feed(&mut table, RTM_NEWLINK, &link(0, 7, "eth0", RUNNING));
    assert_eq!(feed(&mut table, RTM_NEWLINK, &link(0, 7, "old0", RUNNING)), [Change::Interface(LAN)]);
    assert_eq!(table.interface(LAN).ifindex, None);
    feed(&mut table, RTM_NEWLINK, &link(0, 8, "eth0", RUNNING));
    assert_eq!(table.interface(LAN).ifindex, Some(8));
}

/// Leaving a bridge is announced as a deletion in the bridge's family and must not be taken for the interface's end.
#[test]
fn bridge_messages_are_ignored() {
    let mut table = table();
    feed(&mut table, RTM_NEWLINK, &link(0, 7, "eth0", RUNNING));
    assert_eq!(feed(&mut table, RTM_DELLINK, &link(7, 7, "eth0", RUNNING)), []);
    assert_eq!(table.interface(LAN).ifindex, Some(7));
}

/// The first primary own address is the source; virtual, secondary, tentative and foreign ones are not.
#[test]
fn the_source_is_an_own_primary_address() {
    let mut table = table();
    let secondary = IpAddr::from([10, 77, 0, 7]);
    let link_local: IpAddr = "fe80::8".parse().unwrap();
    feed(&mut table, RTM_NEWLINK, &link(0, 7, "eth0", RUNNING));
    assert_eq!(feed(&mut table, RTM_NEWADDR, &address(7, VIP, 0)), []);
    feed(&mut table, RTM_NEWADDR, &address(8, IpAddr::from([10, 1, 1, 1]), 0));
    assert_eq!(table.interface(LAN).state.source_v4, None);
    feed(&mut table, RTM_NEWADDR, &address(7, secondary, IFA_F_SECONDARY));
    assert_eq!(table.interface(LAN).state.source_v4.map(IpAddr::from), Some(secondary));
    feed(&mut table, RTM_NEWADDR, &address(7, OWN, 0));
    assert_eq!(table.interface(LAN).state.source_v4.map(IpAddr::from), Some(OWN));
    let tentative = 0x40;
    feed(&mut table, RTM_NEWADDR, &address(7, link_local, tentative));
    assert_eq!(table.interface(LAN).state.source_v6, None);
    feed(&mut table, RTM_NEWADDR, &address(7, link_local, 0x80));
    assert_eq!(table.interface(LAN).state.source_v6.map(IpAddr::from), Some(link_local));
    assert_eq!(feed(&mut table, RTM_DELADDR, &address(7, OWN, 0)), [Change::Interface(LAN)]);
    assert_eq!(table.interface(LAN).state.source_v4.map(IpAddr::from), Some(secondary));
}

/// Taking a virtual address off a watched interface is reported as such, off another interface not at all.
#[test]
fn a_removed_virtual_address_is_reported() {
    let mut table = table();
    feed(&mut table, RTM_NEWLINK, &link(0, 7, "eth0", RUNNING));
    let removed = Change::VirtualAddressRemoved { interface: LAN, address: VIP };
    assert_eq!(feed(&mut table, RTM_DELADDR, &address(7, VIP, 0)), [removed]);
    assert_eq!(feed(&mut table, RTM_DELADDR, &address(8, VIP, 0)), []);
}

/// Messages cut at any length change nothing that a whole header did not say, and never panic.
#[test]
fn truncated_messages_are_harmless() {
    let mut table = table();
    feed(&mut table, RTM_NEWLINK, &link(0, 7, "eth0", RUNNING));
    for kind in [RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR] {
        for payload in [link(0, 9, "eth9", RUNNING), address(9, OWN, 0)] {
            for length in 0..payload.len() {
                feed(&mut table, kind, &payload[..length]);
            }
        }
    }
    assert_eq!(table.interface(LAN).ifindex, Some(7));
}
