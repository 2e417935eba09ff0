//! The XDP programs on a real kernel: test runs beside the host's parser, and live on veth.

mod beats;
mod beats_differential;
mod corpus;
mod differential;
mod echo;
mod generated;
mod live;
mod pair;
mod pins;
mod rig;
mod sessions;
