//! One file a header. Every parser works on a bounds-checked byte slice and never panics.

pub mod arp;
pub mod carp;
pub mod frame;
pub mod ndisc;
