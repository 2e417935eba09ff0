//! Messages of the sync protocol, generated from `proto/sync.proto`.

include!(concat!(env!("OUT_DIR"), "/twinwall.sync.v1.rs"));
