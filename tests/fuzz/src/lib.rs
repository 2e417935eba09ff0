//! What must hold for any bytes that come from outside: one function for each way in.
//!
//! Each is driven by two: `cargo xtask fuzz` lets libFuzzer look for bytes that reach new code, and `tests/corpus.rs` gives
//! it, with every `cargo test`, all that was found so far and random changes of it. A target panics when something does not
//! hold; how much it may allocate is checked here.

mod bytes;
mod config;
mod conntrack;
mod election;
mod engine;
mod filter;
mod heartbeat;
mod message;
mod packet;
mod route;
mod text;

pub use bytes::{Record, record};
pub use engine::{DATA, EVENT, HELLO, RAW, WAIT, config as node_config};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// One way in.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// What comes in there, and from whom.
    pub about: &'static str,
    run: fn(&[u8]),
    /// Bytes that may be allocated for one input, all together: at most so many, and so many for each byte of it.
    allocated_max: usize,
    allocated_each: usize,
}

const fn target(name: &'static str, about: &'static str, run: fn(&[u8]), max: usize, each: usize) -> Target {
    Target { name, about, run, allocated_max: max, allocated_each: each }
}

const MEASUREMENTS: usize = 4;
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// All of them.
pub const TARGETS: [Target; 14] = [
    target("packet", "frames of the network: adverts, sync frames, heartbeats, ARP, NS", packet::run, 512, 0),
    target("election", "adverts, sights of the peer and commands, to an election", election::run, 64 * KIB, 64),
    target("heartbeat", "heartbeats, and answers to a prober", heartbeat::run, 64 * KIB, 64),
    target("datagram", "datagrams of strangers to a node in session", engine::strangers, 4 * MIB, 2 * KIB),
    target("sealed", "authentic frames of a peer that says anything", engine::peer, 4 * MIB, 16 * KIB),
    target("message", "bodies of sync frames", message::run, 4 * KIB, 512),
    target("conntrack", "conntrack events and dumps of the kernel", conntrack::entries, 4 * KIB, 256),
    target("answers", "the kernel's answers to conntrack requests", conntrack::answers, 4 * KIB, 64),
    target("route", "route netlink messages of the kernel", route::run, 4 * KIB, 64),
    target("filter", "events to the program in the kernel and to the filter", filter::run, 8 * MIB, 512),
    target("config", "the configuration", config::run, 4 * MIB, 4 * KIB),
    target("secret", "the file of the cluster's secrets", text::secret, 4 * KIB, 16),
    // serde keeps unknown fields until it knows which request it is: 128 bytes for a list that is not empty, so 64 for each byte of
    // JSON, and 16 KiB for lists that are not closed, of which it follows 128.
    target("request", "requests on the control socket", text::request, 16 * KIB, 64),
    target("reply", "the daemon's replies to its command line", text::reply, 64 * KIB, 256),
];

impl Target {
    /// The target of this name.
    pub fn named(name: &str) -> Option<Self> {
        TARGETS.into_iter().find(|target| target.name == name)
    }

    /// Gives it one input.
    ///
    /// # Panics
    /// When something does not hold.
    pub fn run(&self, input: &[u8]) {
        let bound = self.allocated_max + self.allocated_each * input.len();
        // Other threads of a test allocate as well, and are counted: the least of some measurements is the target's own.
        let measured =
            std::iter::repeat_with(|| self.allocated(input)).take(MEASUREMENTS).find(|bytes| *bytes <= bound);
        assert!(measured.is_some(), "more than {bound} bytes were allocated for an input of {}", input.len());
    }

    fn allocated(&self, input: &[u8]) -> usize {
        let region = Region::new(&INSTRUMENTED_SYSTEM);
        (self.run)(input);
        region.change().bytes_allocated
    }
}
