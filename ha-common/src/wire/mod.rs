//! One file a header. Every parser reads through a bounds-checked window and never panics.

pub mod advert;
pub mod arp;
pub mod bytes;
pub mod carp;
pub mod checksum;
pub mod ethernet;
pub mod frame;
pub mod genuine;
pub mod heartbeat;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod ndisc;
pub mod siphash;
pub mod udp;
