//! A small world of nodes on two segments and a sync link, in simulated time, from a seed.
//!
//! - `world.rs`: time, network, faults, and the watch over who holds the addresses.
//! - `node.rs`: a twinwall node: the real election.
//! - `ucarp.rs`: a model of a ucarp host: two blind processes, by carp-wire §5, §7 and §8.
//! - `faults.rs`: random faults, then peace.
//! - `pair.rs`, `mixed.rs`: the tests, without heartbeats.
//! - `beat/`: a pair with heartbeats.

mod beat;
mod faults;
mod mixed;
#[path = "../model/mod.rs"]
mod model;
mod node;
mod pair;
mod ucarp;
mod world;
