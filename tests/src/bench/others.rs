//! The other tools, set up as their administrators do: ucarp or keepalived moves the addresses, conntrackd carries the
//! state, and a script of the first drives the second (the steps of conntrackd's `primary-backup.sh`).

use super::tool::Tool;
use crate::extra_vips::extra_vips;
use crate::lab::Lab;
use crate::netns::Process;
use crate::peers::keepalived::{Keepalived, KeepalivedOptions};
use crate::peers::{Conntrackd, Delivery, Replication, Ucarp, UcarpOptions};
use crate::topology::{Node, Port};
use anyhow::Result;
use rustix::process::Signal;

/// What moves the addresses.
#[derive(Clone, Copy, Debug)]
pub enum Vrrp {
    /// Two processes a node, an advert a second.
    Ucarp,
    /// One process a node, both groups tied together; seconds between adverts.
    Keepalived { interval: &'static str },
}

/// One of them beside conntrackd.
#[derive(Debug)]
pub struct Beside {
    vrrp: Vrrp,
    vips: u16,
    replication: Replication,
    nodes: [Running; 2],
}

/// The daemons of one node.
#[derive(Debug, Default)]
struct Running {
    ucarp: Vec<Ucarp>,
    keepalived: Option<Keepalived>,
    conntrackd: Option<Conntrackd>,
}

impl Beside {
    /// Not started yet, with this many virtual addresses in all.
    pub fn new(vrrp: Vrrp, vips: u16, preload: u32) -> Self {
        // conntrackd walks every bucket when it commits: the shipped example's size where that is enough.
        let hash_size = if preload > 0 { 524_288 } else { 32_768 };
        Self {
            vrrp,
            vips,
            replication: Replication {
                delivery: Delivery::Reliable,
                is_cached: true,
                hash_size,
                hash_limit: 8_388_608,
            },
            nodes: Default::default(),
        }
    }

    fn start_ucarp(&self, lab: &Lab, node: Node, conntrackd: &Conntrackd) -> Result<Vec<Ucarp>> {
        let more: Vec<_> = extra_vips(self.vips.saturating_sub(2)).collect();
        let batch = |verb: &str| {
            let lines: String = more.iter().map(|vip| format!("addr {verb} {vip}/32 dev eth0\n")).collect();
            format!("ip -batch - <<END\n{lines}END")
        };
        let start = |port: Port| {
            let mut options = UcarpOptions {
                advskew: if node == Node::Fw1 { 0 } else { 100 },
                is_neutral: true,
                ..UcarpOptions::of(node, port)
            };
            if port == Port::Lan {
                options.more_up = vec![batch("add"), conntrackd.primary_script()];
                options.more_down = vec![batch("del"), conntrackd.backup_script()];
            }
            Ucarp::start(&lab.pair[node], &options, lab.dir())
        };
        [Port::Lan, Port::Wan].into_iter().map(start).collect()
    }
}

impl Tool for Beside {
    fn start(&mut self, lab: &mut Lab, node: Node) -> Result<()> {
        let conntrackd = Conntrackd::start_with(&lab.pair, node, lab.dir(), self.replication)?;
        let running = match self.vrrp {
            Vrrp::Ucarp => Running { ucarp: self.start_ucarp(lab, node, &conntrackd)?, ..Running::default() },
            Vrrp::Keepalived { interval } => {
                let options = KeepalivedOptions {
                    interval,
                    more_vips: self.vips.saturating_sub(2),
                    to_master: conntrackd.primary_script(),
                    to_backup: conntrackd.backup_script(),
                };
                let keepalived = Keepalived::start(&lab.pair[node], node, &options, lab.dir())?;
                Running { keepalived: Some(keepalived), ..Running::default() }
            }
        };
        self.nodes[node.index()] = Running { conntrackd: Some(conntrackd), ..running };
        Ok(())
    }

    fn stop(&mut self, _: &mut Lab, node: Node) {
        let running = &mut self.nodes[node.index()];
        let ucarp = running.ucarp.iter_mut().map(Ucarp::process);
        let keepalived = running.keepalived.iter_mut().map(Keepalived::process);
        let stop = |process: &mut Process| process.signal(Signal::TERM);
        ucarp.chain(keepalived).for_each(stop);
    }

    fn is_settled(&self, lab: &Lab, master: Node) -> bool {
        // Neither has a word for it; conntrackd answered when it was started.
        lab.holder() == Some(master)
    }

    fn flows_ready(&self, lab: &Lab, node: Node) -> Result<u64> {
        match &self.nodes[node.index()].conntrackd {
            Some(conntrackd) => conntrackd.cached_from_peer(&lab.pair[node]),
            None => Ok(0),
        }
    }

    fn story(&self, _: &Lab, node: Node) -> String {
        let running = &self.nodes[node.index()];
        let logs = running.ucarp.iter().map(Ucarp::log).chain(running.keepalived.iter().map(Keepalived::log));
        let logs = logs.collect::<String>();
        let lines: Vec<_> = logs.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}
