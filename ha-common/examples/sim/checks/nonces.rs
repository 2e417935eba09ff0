//! No two frames are ever sealed with one key and one nonce. Keys are of a process and its peer; the nonce is the sequence
//! of a kind. The sequences never begin anew under any secret, so secrets are left out here.

use crate::world::World;
use ha_common::wire::frame::{Header, Kind};
use std::collections::HashSet;

#[derive(Default)]
pub struct Nonces(HashSet<(u64, usize, Kind, u64)>);

impl World {
    /// A node has sealed a frame.
    pub fn sealed(&mut self, from: usize, to: usize, bytes: &[u8]) {
        let Ok(header) = Header::parse(bytes) else {
            return self.fail("nonce", format!("node {from} sends what is no frame"));
        };
        let is_sealed = header.kind != Kind::Hello;
        if is_sealed && !self.checks.nonces.0.insert((header.session, to, header.kind, header.sequence)) {
            self.fail("nonce", format!("node {from} uses a nonce again: {header:?}"));
        }
    }
}
