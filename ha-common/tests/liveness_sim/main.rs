//! Two probers that watch each other over a few paths, in simulated time, from a seed.
//!
//! - `world.rs`: time, paths with loss and delay, stops of processes and of hosts.
//! - `detection.rs`: what must be seen, and how soon.
//! - `calm.rs`: what must not be taken for death.
//! - `arbitrary.rs`: any input at any time.

mod arbitrary;
mod calm;
mod detection;
mod world;
