//! The pure core of twinwall: no I/O, no clock, no randomness of its own.
//!
//! Without features this crate is `no_std` and is compiled into the XDP programs as well, so that
//! kernel and host parse with the same code. Feature `protocol` adds the election and the sync engine.
#![cfg_attr(not(any(feature = "protocol", test)), no_std)]
#![forbid(unsafe_code)]

pub mod abi;
pub mod reason;
pub mod wire;

#[cfg(feature = "protocol")]
pub mod election;
#[cfg(feature = "protocol")]
pub mod liveness;
#[cfg(feature = "protocol")]
pub mod proto;
#[cfg(feature = "protocol")]
pub mod role;
#[cfg(feature = "protocol")]
pub mod secret;
#[cfg(feature = "protocol")]
pub mod sight;
#[cfg(feature = "protocol")]
pub mod sync;
#[cfg(feature = "protocol")]
pub mod time;
