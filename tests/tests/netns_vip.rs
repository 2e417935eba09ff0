//! Virtual addresses and default routes in a real kernel.

mod support;

use anyhow::Result;
use ha_common::election::{InterfaceId, VipState};
use ha_tests::netns::{Netns, cable};
use ha_user::link::{Change, Links};
use ha_user::vip::{Failure, VipError, Vips, keep_secondaries};
use std::collections::HashSet;
use std::net::IpAddr;
use support::{resolved, vip};

const LAN: InterfaceId = InterfaceId(0);

/// A firewall with `lan` and `wan` cabled to a neighbour, own addresses and an administrator's default route.
struct House {
    firewall: Netns,
    _neighbour: Netns,
}

fn house() -> Result<House> {
    let (firewall, neighbour) = (Netns::new("fw")?, Netns::new("nb")?);
    cable((&firewall, "lan"), (&neighbour, "lan-far"))?;
    cable((&firewall, "wan"), (&neighbour, "wan-far"))?;
    firewall.ip("address add 10.77.1.208/24 dev lan\naddress add 10.77.2.137/26 dev wan\n\
                 address add 10.77.1.99/24 dev lan\naddress add fd00:1::208/64 dev lan")?;
    Ok(House { firewall, _neighbour: neighbour })
}

fn vips() -> Vips {
    let vips = vec![
        vip(3, 0, "lan", &["10.77.1.210/24", "10.99.0.1/32", "fd00:1::210/64"], None),
        vip(4, 1, "wan", &["10.77.2.139/26"], Some("10.77.2.129")),
    ];
    Vips::open(&resolved(0, &["lan", "wan"], vips)).expect("a route socket")
}

fn links() -> Links {
    Links::open(&["lan".into(), "wan".into()], HashSet::new()).expect("a route socket")
}

/// One batch brings every address with prefix and label and the default route; one takes exactly these away. The
/// kernel is asked through `ip`, before, between and after.
#[test]
fn netns_vips_appear_and_disappear() -> Result<()> {
    let house = house()?;
    let show = || -> Result<[String; 3]> {
        let ip = |args: &[&str]| house.firewall.run("ip", args);
        Ok([
            ip(&["-o", "-4", "address", "show"])?,
            ip(&["-6", "-br", "address", "show"])?,
            ip(&["-4", "route", "show", "table", "main"])?,
        ])
    };
    let before = show()?;
    let (present, between, absent) = house.firewall.enter(|| -> Result<_> {
        let (mut vips, links) = (vips(), links());
        let ifindex = |id| links.interface(id).ifindex;
        for interface in ["lan", "wan"] {
            keep_secondaries(interface)?;
        }
        let present = vips.apply(VipState::Present, ifindex);
        let between = show()?;
        assert!(vips.holds(IpAddr::from([10, 77, 1, 210])));
        // Once more: what is there already is neither an error nor a change.
        let again = vips.apply(VipState::Present, ifindex);
        assert_eq!((again.changed, again.errors.len()), (0, 0), "{again:?}");
        let absent = vips.apply(VipState::Absent, ifindex);
        assert!(!vips.holds(IpAddr::from([10, 77, 1, 210])));
        Ok((present, between, absent))
    })??;
    assert_eq!((present.changed, present.errors.len()), (5, 0), "{present:?}");
    assert_eq!((absent.changed, absent.errors.len()), (5, 0), "{absent:?}");
    let [v4, v6, routes] = between;
    assert!(v4.contains("inet 10.77.1.210/24 scope global secondary lan:tw"), "{v4}");
    assert!(v4.contains("inet 10.99.0.1/32 scope global lan:tw"), "{v4}");
    assert!(v4.contains("inet 10.77.2.139/26 scope global secondary wan:tw"), "{v4}");
    assert!(v6.contains("fd00:1::210/64"), "{v6}");
    assert!(routes.contains("default via 10.77.2.129 dev wan proto 112"), "{routes}");
    assert_eq!(show()?, before);
    Ok(())
}

/// Taking the virtual addresses away leaves own and foreign ones alone, even when a virtual address had become the
/// primary one of its network; and an administrator's default route survives ours.
#[test]
fn netns_foreign_addresses_and_routes_survive() -> Result<()> {
    let house = house()?;
    house.firewall.ip("route add default via 10.77.2.129 dev wan\n\
                       route add default via 10.77.2.130 dev wan metric 50")?;
    house.firewall.enter(|| -> Result<()> {
        let (mut vips, links) = (vips(), links());
        let ifindex = |id| links.interface(id).ifindex;
        keep_secondaries("lan")?;
        assert_eq!(vips.apply(VipState::Present, ifindex).errors.len(), 0);
        let routes = house.firewall.run("ip", &["route", "show", "default"])?;
        assert!(routes.starts_with("default via 10.77.2.129 dev wan proto 112"), "ours goes first: {routes}");
        // Own primary away: a virtual address of the network is promoted, a foreign one added behind it.
        house.firewall.ip("address del 10.77.1.208/24 dev lan\naddress del 10.77.1.99/24 dev lan\n\
                           address add 10.77.1.55/24 dev lan")?;
        assert_eq!(vips.apply(VipState::Absent, ifindex).errors.len(), 0);
        Ok(())
    })??;
    let addresses = house.firewall.run("ip", &["-o", "-4", "address", "show", "dev", "lan"])?;
    assert!(addresses.contains("10.77.1.55/24"), "{addresses}");
    assert!(!addresses.contains("10.77.1.210"), "{addresses}");
    let routes = house.firewall.run("ip", &["route", "show", "default"])?;
    let expected = ["default via 10.77.2.129 dev wan", "default via 10.77.2.130 dev wan metric 50"];
    assert_eq!(routes.lines().map(str::trim).collect::<Vec<_>>(), expected);
    Ok(())
}

/// A crashed predecessor's addresses, even with another prefix length and label, are found by the first `Absent`.
#[test]
fn netns_leftovers_of_a_crash_are_removed() -> Result<()> {
    let house = house()?;
    house.firewall.ip("address add 10.77.1.210/32 dev lan label lan:old\naddress add fd00:1::210/64 dev lan\n\
                       route add default via 10.77.2.129 dev wan proto 112")?;
    let outcome = house.firewall.enter(|| {
        let (mut vips, links) = (vips(), links());
        vips.apply(VipState::Absent, |id| links.interface(id).ifindex)
    })?;
    assert_eq!((outcome.changed, outcome.errors.len()), (3, 0), "{outcome:?}");
    let left = house.firewall.run("ip", &["-br", "address", "show", "dev", "lan"])?;
    assert!(!left.contains("210"), "{left}");
    assert_eq!(house.firewall.run("ip", &["route", "show", "default"])?, "");
    Ok(())
}

/// Every failing operand is named with its remedy, and does not keep the others of the batch back.
#[test]
fn netns_errors_are_attributed() -> Result<()> {
    let house = house()?;
    let outcome = house.firewall.enter(|| {
        let config = resolved(
            0,
            &["lan", "wan"],
            vec![vip(3, 0, "lan", &["10.77.1.210/24"], Some("192.0.2.1")), vip(4, 1, "wan", &["10.77.2.139/26"], None)],
        );
        let mut vips = Vips::open(&config).expect("a route socket");
        let links = links();
        vips.apply(VipState::Present, |id| links.interface(id).ifindex.filter(|_| id == LAN))
    })?;
    assert_eq!(outcome.changed, 1);
    let failures: Vec<_> = outcome.errors.iter().filter_map(VipError::failure).collect();
    assert_eq!(failures, [Failure::InterfaceMissing, Failure::RouteAdd]);
    let shown: Vec<String> = outcome.errors.iter().map(VipError::to_string).collect();
    assert!(shown.iter().any(|text| text.contains("the default route via 192.0.2.1 on lan")), "{shown:?}");
    assert!(shown.iter().any(|text| text.contains("10.77.2.139/26 on wan")), "{shown:?}");
    Ok(())
}

/// The 600 addresses of a large group exceed one datagram's budget and still all arrive and leave.
#[test]
fn netns_many_addresses_move() -> Result<()> {
    let house = house()?;
    let addresses: Vec<String> = (0..600).map(|n| format!("10.88.{}.{}/32", n / 250, n % 250 + 1)).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    house.firewall.enter(|| {
        let config = resolved(0, &["lan", "wan"], vec![vip(3, 0, "lan", &addresses, None)]);
        let mut vips = Vips::open(&config).expect("a route socket");
        let links = links();
        for state in [VipState::Present, VipState::Absent] {
            let outcome = vips.apply(state, |id| links.interface(id).ifindex);
            assert_eq!((outcome.changed, outcome.errors.len()), (600, 0), "{state:?}");
        }
    })
}

/// The watch sees carrier loss, a virtual address taken by hand, and an interface re-created under another index
/// whose addresses it then knows.
#[test]
fn netns_links_are_watched() -> Result<()> {
    let house = house()?;
    let virtual_address = IpAddr::from([10, 77, 1, 210]);
    house.firewall.ip("address add 10.77.1.210/24 dev lan")?;
    house.firewall.enter(|| -> Result<()> {
        let mut links = Links::open(&["lan".into(), "wan".into()], HashSet::from([virtual_address]))?;
        let lan = links.interface(LAN);
        assert!(lan.state.up);
        assert_eq!(lan.state.source_v4.map(IpAddr::from), Some(IpAddr::from([10, 77, 1, 208])));
        assert!(lan.state.source_v6.is_some(), "no link-local address: {lan:?}");

        house.firewall.ip("address del 10.77.1.210/24 dev lan")?;
        let mut changes = Vec::new();
        links.receive(&mut changes)?;
        assert!(changes.contains(&Change::VirtualAddressRemoved { interface: LAN, address: virtual_address }));

        house.firewall.ip("link del lan")?;
        links.receive(&mut changes)?;
        assert_eq!(links.interface(LAN).ifindex, None);
        house.firewall.ip("link add lan type veth peer name far\nlink set lan address 02:00:00:00:00:0a\n\
                           address add 10.77.1.9/24 dev lan\nlink set far up\nlink set lan up")?;
        changes.clear();
        ha_tests::netns::wait_until("lan is up again", std::time::Duration::from_secs(2), || {
            links.receive(&mut changes).is_ok() && links.interface(LAN).state.up
        })?;
        assert!(changes.contains(&Change::Interface(LAN)));
        let again = links.interface(LAN);
        assert!(again.ifindex.is_some() && again.ifindex != lan.ifindex);
        assert_eq!(again.mac, [2, 0, 0, 0, 0, 0x0a]);
        assert_eq!(again.state.source_v4.map(IpAddr::from), Some(IpAddr::from([10, 77, 1, 9])));
        Ok(())
    })?
}
