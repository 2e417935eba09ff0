//! The user edge of twinwall: every file here talks to the kernel, a socket or a person.
//!
//! Only `control_loop` and `sync_loop` import both the pure core and the edges; edges import neither each
//! other nor a loop.

pub mod advert_socket;
pub mod affinity;
pub mod child;
pub mod cli;
pub mod clock;
pub mod config;
pub mod conntrack;
pub mod control_loop;
pub mod daemon;
mod damper;
pub mod datapath;
pub mod demotion;
#[cfg(test)]
mod fixture;
pub mod forwarded;
pub mod heap;
pub mod heartbeat_socket;
pub mod hooks;
pub mod ipc;
pub mod link;
pub mod logging;
pub mod loops;
pub mod mailbox;
pub mod maintenance;
pub mod metrics;
pub mod operate;
pub mod packet_socket;
pub mod peer;
pub mod poller;
pub mod process;
pub mod recv_batch;
pub mod request;
pub mod route_netlink;
pub mod status;
pub mod sync_loop;
pub mod track;
pub mod vip;
