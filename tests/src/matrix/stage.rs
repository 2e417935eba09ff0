//! A running pair with sessions through it, and what a fault must not change.

use super::expect_equal_and_proven;
use crate::daemon::{Settings, Status};
use crate::lab::Lab;
use crate::topology::{Node, SERVER};
use crate::traffic::{Load, Traffic};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::time::Duration;

/// What two busy processors need to come to rest.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// TCP sends a lost segment again after 200 ms, 400 ms, and so on, so all sessions talk by then.
const SESSIONS: Duration = Duration::from_secs(10);

/// fw1 is master; to be dropped in this order.
pub struct Stage {
    traffic: Traffic,
    pub lab: Lab,
    transitions: [u64; 2],
}

impl Stage {
    /// A settled pair with 45 sessions whose flows are on both nodes.
    pub fn new() -> Result<Self> {
        // Not in every detail: a line of the log for each refused frame would be an attack of its own.
        Self::with(&Settings { log: "info", ..Settings::default() })
    }

    pub fn with(settings: &Settings) -> Result<Self> {
        let lab = Lab::running(settings)?;
        let load = Load { tcp: 20, udp: 20, icmp: 5, ..Load::default() };
        let traffic = Traffic::start(&lab.pair.client, &lab.pair.server, SERVER.into(), &load)?;
        traffic.expect_survival(0, SESSIONS)?;
        expect_equal_and_proven(&lab, PATIENCE)?;
        let mut stage = Self { traffic, lab, transitions: [0; 2] };
        stage.transitions = stage.transitions()?;
        Ok(stage)
    }

    fn transitions(&self) -> Result<[u64; 2]> {
        let of = |node| self.lab.status(node).map(|status| status.transitions());
        Ok([of(Node::Fw1)?, of(Node::Fw2)?])
    }

    /// This node is master, the other one its backup; every session goes on, and the tables are proven equal.
    pub fn expect_well(&self, master: Node) -> Result<()> {
        let told =
            || Node::BOTH.map(|node| format!("{}:\n{}", node.name(), self.lab.files(node).log_tail())).join("\n");
        self.lab.wait_settled(master, PATIENCE).with_context(told)?;
        self.traffic.expect_survival(self.traffic.now(), SESSIONS).with_context(told)?;
        expect_equal_and_proven(&self.lab, PATIENCE).with_context(told)
    }

    /// The same, and no role has changed since the beginning.
    pub fn expect_unmoved(&self) -> Result<()> {
        self.expect_well(Node::Fw1)?;
        let now = self.transitions()?;
        let told = || Node::BOTH.map(|node| self.lab.files(node).log_tail()).join("\n");
        ensure!(now == self.transitions, "roles changed, {:?} to {now:?}:\n{}", self.transitions, told());
        Ok(())
    }
}

/// Refusals of a reason, by the programs and by the sync engine.
pub fn refused(status: &Status, reason: &str) -> u64 {
    status.refused(reason) + status.number(&format!("/sync/refused/{reason}"))
}

/// All refusals together, by the programs and by the sync engine.
pub fn refused_in_all(status: &Status) -> u64 {
    let sum = |value: Option<&Value>| -> u64 {
        value.and_then(Value::as_object).into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum()
    };
    let rows = status.0.pointer("/election/interfaces").and_then(Value::as_array).into_iter().flatten();
    let received = ["packets", "adverts", "frames"];
    let interfaces: u64 = rows
        .filter_map(|row| row.get("counters")?.as_object())
        .flatten()
        .filter(|(name, _)| !received.contains(&name.as_str()))
        .filter_map(|(_, count)| count.as_u64())
        .sum();
    interfaces + sum(status.0.pointer("/sync/refused"))
}
