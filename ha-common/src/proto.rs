//! Generated from `proto/sync.proto`.
