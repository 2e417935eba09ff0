//! The sync engine as a whole: two engines over model kernels and a link that loses, repeats and reorders.

mod arbitrary;
mod attacks;
mod convergence;
mod handshake;
mod kernel;
mod leftovers;
mod modes;
mod rotation;
mod weather;
mod world;
