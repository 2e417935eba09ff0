//! One file a header. Every parser works on a bounds-checked byte slice and never panics.

pub mod carp;
pub mod frame;
