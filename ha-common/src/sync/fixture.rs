//! A configuration for the tests of the parts.

use super::{Config, Mode};
use crate::role::NodeId;
use crate::secret::ClusterKey;
use core::time::Duration;

/// That of node 0 with two peers.
pub(super) fn config(mode: Mode) -> Config {
    Config {
        node: NodeId(0),
        session: 1,
        nonce: [1; 16],
        cluster: "edge".into(),
        peers: vec![NodeId(1), NodeId(2)],
        keys: vec![ClusterKey { epoch: 0, secret: b"secret".to_vec().into() }],
        version: super::VERSION,
        capabilities: super::Capabilities::ALL,
        frame_bytes_max: 1400,
        links: 1,
        sending: super::Sending::Failover,
        flows_max: 10_000,
        window_frames: 64,
        hello_interval: Duration::from_millis(100),
        peer_timeout: Duration::from_millis(500),
        mode,
        refresh_time: Duration::from_secs(15),
        cache_timeout: Duration::from_secs(180),
        purge_timeout: Duration::from_secs(60),
    }
}
