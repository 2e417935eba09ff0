//! The XDP programs on a real kernel: test runs beside the host's parser, and live on veth.

mod corpus;
mod differential;
mod live;
mod rig;
