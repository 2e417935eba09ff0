//! Runs the XDP programs on given frames, without any interface.

use crate::corpus;
use anyhow::{Context, Result};
use aya::{TestRun, TestRunOptions};
use ha_common::abi::{AdvertRecord, RING_BYTES};
use ha_common::election::{InterfaceId, MemberId, ReceivedAdvert};
use ha_common::role::NodeId;
use ha_user::config::XdpChoice;
use ha_user::datapath::load::EDGE;
use ha_user::datapath::{Counters, HeartbeatMaps, InterfacePlan, Plan, Programs, SessionTable, SyncPlan};
use std::time::Duration;

/// Test runs happen on the loopback device of the network namespace, always index 1.
const LOOPBACK: u32 = 1;
/// A record in the ring has a header of 8 bytes.
const RECORD_BYTES: usize = size_of::<AdvertRecord>() + 8;
/// How many adverts fit into the ring until somebody reads them.
pub const RING_ADVERTS: u32 = (RING_BYTES as usize / RECORD_BYTES) as u32;

/// The programs with one interface that is LAN and sync link at once, VHID 3 and the corpus' peer.
pub struct Rig {
    pub programs: Programs,
    counters: Counters,
    /// Where the sync loop tells of the peers' sessions.
    pub sessions: SessionTable,
}

/// What a program made of a frame.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// An `xdp_action`.
    pub action: u32,
    /// Mean per run.
    pub duration: Duration,
}

impl Rig {
    /// # Errors
    /// Without root, or when the kernel refuses the programs.
    pub fn new(sync_v6: bool) -> Result<Self> {
        let (sync_address, peer) = corpus::sync_addresses(sync_v6);
        let interface = InterfacePlan {
            name: "lo".to_owned(),
            id: InterfaceId(0),
            members: vec![(MemberId(0), corpus::VHID)],
            link: Some(0),
            path: Some(corpus::PATH),
        };
        let plan = Plan {
            interfaces: vec![interface],
            sync: SyncPlan::of_one_link(
                NodeId(corpus::NODE),
                corpus::SYNC_PORT,
                sync_address,
                vec![(NodeId(corpus::PEER_NODE), peer)],
            ),
            keys: vec![corpus::KEY],
            heartbeat: Some(corpus::heartbeat_plan()),
            vips: corpus::VIPS.to_vec(),
            choice: XdpChoice::Auto,
            pin_directory: None,
        };
        let mut programs = Programs::load(&plan, None).context("XDP test runs need root and a BPF object")?;
        programs.set_interface(LOOPBACK, corpus::NODE_MAC, &plan.interfaces[0])?;
        let counters = Counters::new(&plan, Some(programs.counter_maps()));
        let sessions = programs.take_sessions().context("no map of sessions")?;
        Ok(Self { programs, counters, sessions })
    }

    /// Runs a program `repeat` times on a frame of at least 14 bytes.
    ///
    /// # Errors
    /// When the kernel refuses the run.
    pub fn run(&mut self, program: &'static str, frame: &[u8], repeat: u32) -> Result<Run> {
        let program = self.programs.program(program)?;
        let options = TestRunOptions { data_in: Some(frame), repeat, ..TestRunOptions::default() };
        let result = program.test_run(options)?;
        Ok(Run { action: result.return_value, duration: result.duration })
    }

    /// What the program makes of one frame, and what it leaves of it.
    ///
    /// # Errors
    /// When the kernel refuses the run.
    pub fn judge(&mut self, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        let mut out = vec![0; frame.len()];
        let program = self.programs.program(EDGE)?;
        let data_out = Some(out.as_mut_slice());
        let result =
            program.test_run(TestRunOptions { data_in: Some(frame), data_out, ..TestRunOptions::default() })?;
        Ok((result.return_value, out))
    }

    /// The maps that the controller uses.
    pub fn heartbeat(&mut self) -> &mut HeartbeatMaps {
        self.programs.heartbeat_mut()
    }

    /// Instructions that the verifier walked through, where the kernel tells (Linux 5.16).
    ///
    /// # Errors
    /// When the program's information cannot be read.
    pub fn verified_instructions(&mut self, program: &'static str) -> Result<Option<u32>> {
        Ok(self.programs.program(program)?.info()?.verified_instruction_count())
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub fn next_advert(&mut self) -> Option<ReceivedAdvert> {
        self.programs.next_advert()
    }

    /// Empties the ring.
    pub fn drain(&mut self) {
        while self.next_advert().is_some() {}
    }
}
