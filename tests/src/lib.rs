//! The lab: two firewalls, a client and a server in network namespaces, the traffic between them, and what
//! it measures. `cargo xtask run` and the tests that need root drive exactly these parts.

pub mod bench;
pub mod bpffs;
pub mod conntrack;
pub mod daemon;
pub mod extra_vips;
pub mod lab;
pub mod load;
pub mod matrix;
pub mod netns;
pub mod network_lock;
pub mod observer;
pub mod packet;
pub mod peers;
pub mod realtime;
pub mod topology;
pub mod torture;
pub mod traffic;
pub mod watched;
pub mod weather;
pub mod xdp_verdict;
