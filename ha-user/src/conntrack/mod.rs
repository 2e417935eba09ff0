//! The kernel's connection table: events and dumps in, writes out, over nfnetlink.
//!
//! Four sockets, so that neither the other's errors nor its overflow get mixed up (`ctnetlink` section 13):
//! [`events`] for what the kernel tells, [`dump`] and [`expectation_dump`] for everything that is there,
//! [`writer`] for requests.

pub mod answers;
pub mod attribute;
pub mod decode;
mod decode_extra;
pub mod dump;
pub mod encode;
mod encode_extra;
pub mod errno;
pub mod events;
pub mod expectation;
pub mod expectation_dump;
pub mod filter_program;
pub mod own_addresses;
mod pace;
mod second_try;
mod socket;
pub mod sysctl;
pub mod uapi;
mod write;
pub mod writer;

#[cfg(test)]
mod codec_tests;

use std::io;

/// What can fail when the sockets are made.
#[derive(Debug, thiserror::Error)]
pub enum ConntrackError {
    #[error(
        "cannot open a netlink socket for {purpose}: {source} (is CAP_NET_ADMIN held and nf_conntrack_netlink available?)"
    )]
    Open { purpose: &'static str, source: io::Error },
    #[error("cannot set {option} on the netlink socket for {purpose}: {source}")]
    Option { option: &'static str, purpose: &'static str, source: io::Error },
}
