//! A resolved configuration for tests that drive parts of the daemon without its command line.
//!
//! Each test uses what it needs of this module.

use ha_common::election::{ForeignMasters, InterfaceId, Transport};
use ha_common::role::NodeId;
use ha_common::secret::ClusterKey;
use ha_user::config::heartbeat::Heartbeat;
use ha_user::config::timing::Timing;
use ha_user::config::{Election, Filter, Node, Resolved, Sync, Vip, XdpChoice};
use std::net::Ipv4Addr;
use std::time::Duration;

/// The multicast groups of CARP.
pub fn multicast() -> Transport {
    Transport::Multicast { v4: Ipv4Addr::new(224, 0, 0, 18), v6: "ff02::12".parse().expect("a constant address") }
}

/// One VHID with its addresses (`address/prefix`), labelled `IFACE:tw`; password `toto`.
pub fn vip(vhid: u8, interface: u8, name: &str, addresses: &[&str], gateway: Option<&str>) -> Vip {
    let parsed = addresses.iter().map(|text| {
        let (address, length) = text.split_once('/').expect("address/prefix");
        (address.parse().expect("an address"), length.parse().expect("a prefix length"))
    });
    Vip {
        vhid,
        interface: InterfaceId(interface),
        addresses: parsed.collect(),
        label: Some(format!("{name}:tw")),
        gateway: gateway.map(|text| text.parse().expect("an address")),
        password: b"toto".to_vec().into(),
        transport: multicast(),
    }
}

/// Node `node` (0 or 1, advskew 0 and 100) of a pair with these interfaces and addresses, over sockets only.
pub fn resolved(node: u8, interfaces: &[&str], vips: Vec<Vip>) -> Resolved {
    Resolved {
        cluster: "test".into(),
        node: NodeId(node),
        nodes: vec![
            Node { name: "fw1".into(), sync_address: [10, 77, 9, 1].into(), advskew: 0 },
            Node { name: "fw2".into(), sync_address: [10, 77, 9, 2].into(), advskew: 100 },
        ],
        interfaces: interfaces.iter().map(|name| (*name).to_owned()).collect(),
        vips,
        election: Election {
            advbase: 1,
            dead_ratio: 3,
            preempt: true,
            foreign_masters: ForeignMasters::Follow,
            announce_burst: vec![Duration::ZERO, Duration::from_millis(100)],
            announce_refresh: None,
            link_up_delay: Duration::from_millis(100),
            link_down_delay: Duration::ZERO,
            timing: Timing::default(),
        },
        sync: Sync {
            interface: "sync".into(),
            port: 3780,
            keys: vec![ClusterKey { epoch: 1, secret: vec![7; 32].into() }],
            filter: Filter { protocols: [1, 6, 17].into_iter().collect(), ..Filter::default() },
            netlink_buffer: 2 << 20,
            netlink_buffer_max: 8 << 20,
            flows_max: 1000,
            hello_interval: Duration::from_millis(200),
            peer_timeout: Duration::from_secs(1),
            transport: ha_user::config::links::Transport::default(),
            mode: ha_user::config::sync_mode::SyncMode::default(),
        },
        xdp: XdpChoice::Off,
        pin_directory: None,
        metrics_listen: None,
        log: ha_user::config::Log { filter: "info".into(), format: ha_user::config::LogFormat::Text },
        track: ha_user::config::track::Track::default(),
        hooks: ha_user::config::hooks::Hooks::default(),
        control_socket: "/nonexistent/twinwall.sock".into(),
        heartbeat: Heartbeat { enabled: false, ..Heartbeat::default() },
        state_directory: "/nonexistent".into(),
    }
}
