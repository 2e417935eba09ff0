//! A resolved configuration for unit tests: the pair of the README, one IPv6 address more.

use crate::config::heartbeat::Heartbeat;
use crate::config::timing::Timing;
use crate::config::{Election, Filter, Node, Resolved, Sync, Vip, XdpChoice};
use ha_common::election::{ForeignMasters, InterfaceId, Transport};
use ha_common::role::NodeId;
use ha_common::secret::ClusterKey;
use std::net::Ipv4Addr;
use std::time::Duration;

pub fn config() -> Resolved {
    let multicast =
        Transport::Multicast { v4: Ipv4Addr::new(224, 0, 0, 18), v6: "ff02::12".parse().expect("a constant") };
    let vip = |vhid: u8, interface: u8, addresses: &[(&str, u8)], gateway: Option<&str>| Vip {
        vhid,
        interface: InterfaceId(interface),
        addresses: addresses.iter().map(|(text, len)| (text.parse().expect("a constant"), *len)).collect(),
        label: Some(format!("eth{interface}:tw")),
        gateway: gateway.map(|text| text.parse().expect("a constant")),
        password: b"toto".to_vec().into(),
        transport: multicast.clone(),
    };
    Resolved {
        cluster: "edge".into(),
        node: NodeId(1),
        nodes: vec![
            Node { name: "fw1".into(), sync_address: [10, 77, 9, 1].into(), advskew: 0 },
            Node { name: "fw2".into(), sync_address: [10, 77, 9, 2].into(), advskew: 100 },
        ],
        interfaces: vec!["eth0".into(), "eth1".into()],
        vips: vec![
            vip(3, 0, &[("10.77.1.210", 24), ("fd00:1::210", 64)], None),
            vip(4, 1, &[("10.77.2.139", 26)], Some("10.77.2.129")),
        ],
        election: Election {
            advbase: 1,
            dead_ratio: 3,
            preempt: true,
            foreign_masters: ForeignMasters::Follow,
            announce_burst: vec![Duration::ZERO, Duration::from_millis(100)],
            announce_refresh: Some(Duration::from_secs(60)),
            link_up_delay: Duration::from_millis(500),
            link_down_delay: Duration::ZERO,
            timing: Timing::default(),
        },
        sync: Sync {
            interface: "eth2".into(),
            port: 3780,
            keys: vec![ClusterKey { epoch: 1, secret: vec![7; 32].into() }],
            filter: Filter { protocols: [1, 6, 17].into_iter().collect(), ..Filter::default() },
            netlink_buffer: 2 << 20,
            netlink_buffer_max: 8 << 20,
            flows_max: 1000,
            hello_interval: Duration::from_millis(200),
            peer_timeout: Duration::from_secs(1),
            transport: crate::config::links::Transport::default(),
            mode: crate::config::sync_mode::SyncMode::default(),
        },
        xdp: XdpChoice::Off,
        pin_directory: None,
        metrics_listen: None,
        log: crate::config::Log { filter: "info".into(), format: crate::config::LogFormat::Text },
        track: crate::config::track::Track::default(),
        hooks: crate::config::hooks::Hooks::default(),
        control_socket: "/nonexistent/twinwall.sock".into(),
        heartbeat: Heartbeat { paths: vec!["eth2".into(), "eth0".into(), "eth1".into()], ..Heartbeat::default() },
        state_directory: "/nonexistent".into(),
    }
}
