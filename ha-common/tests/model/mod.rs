//! Models of what stands around the pure core on a node, shared by the simulations.
//!
//! - `segments.rs`: two segments with a virtual address each, and what a node puts on them.
//! - `lease_kernel.rs`: the entry, the fence and the gate, as the XDP programs keep them; it outlives its daemon.
//! - `daemon.rs`: the control loop in small: tick, lease, actions in order; may freeze in the middle of a tick.

pub mod daemon;
pub mod lease_kernel;
pub mod segments;
