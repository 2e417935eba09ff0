//! The user edge of twinwall: every file here talks to the kernel, a socket or a person.
//!
//! Only `control_loop` and `sync_loop` import both the pure core and the edges; edges import neither each
//! other nor a loop.

pub mod advert_socket;
pub mod clock;
pub mod config;
pub mod conntrack;
pub mod datapath;
#[cfg(test)]
mod fixture;
pub mod link;
pub mod mailbox;
pub mod packet_socket;
pub mod poller;
pub mod recv_batch;
pub mod request;
mod route_netlink;
pub mod status;
pub mod vip;
