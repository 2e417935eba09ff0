//! The user edge of twinwall: every file here talks to the kernel, a socket or a person.
//!
//! Only `control_loop` and `sync_loop` import both the pure core and the edges; edges import neither each
//! other nor a loop.

pub mod cli;
pub mod clock;
pub mod config;
pub mod ipc;
pub mod logging;
pub mod loops;
pub mod mailbox;
pub mod metrics;
pub mod process;
pub mod request;
pub mod status;
