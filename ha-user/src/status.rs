//! What `twinwall status` and `/metrics` show: plain values that the loops hand out and the services print.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The whole of `status --json`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Status {
    pub node: String,
    pub cluster: String,
    pub version: String,
    pub pid: u32,
    pub uptime_seconds: f64,
    /// Did the loop answer? Else its part below is at its default, and `unanswered` says why.
    pub control_answered: bool,
    pub sync_answered: bool,
    pub unanswered: Vec<String>,
    pub election: ControlStatus,
    pub sync: SyncStatus,
    #[serde(default)]
    pub hooks: HookStatus,
}

/// From the control loop.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ControlStatus {
    /// `init`, `backup`, `master` or `fault`.
    pub role: String,
    pub role_since_seconds: f64,
    pub transitions: u64,
    pub last_transition: Option<TransitionStatus>,
    pub members: Vec<MemberStatus>,
    pub interfaces: Vec<InterfaceStatus>,
    pub adverts_sent: u64,
    pub adverts_accepted: u64,
    pub dual_master_contacts: u64,
    /// Failures of the VIP, route and announcement edge, by what failed.
    pub vip_errors: BTreeMap<String, u64>,
    /// What demotes this node now.
    #[serde(default)]
    pub demotions: Vec<DemotionStatus>,
    /// Every cause that the configuration names, demoting or not.
    #[serde(default)]
    pub tracked: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct DemotionStatus {
    /// `script:NAME`, `interface:NAME`, `path:ADDRESS`, `file:PATH`, `conntrack`, `operator:NAME`.
    pub cause: String,
    pub weight: u8,
    /// For how long.
    pub seconds: f64,
    pub detail: String,
}

/// From the thread that runs the hooks.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HookStatus {
    /// Runs by hook (`up`, `down`, `any`) and result (`ok`, `failed`, `timed_out`, `skipped`, `could_not_start`).
    pub runs: BTreeMap<String, BTreeMap<String, u64>>,
    /// The run that ended last.
    pub last: Option<HookRunStatus>,
    /// The command that runs now.
    pub running: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HookRunStatus {
    pub hook: String,
    pub command: String,
    pub result: String,
    /// How it ended, and the last line that it wrote.
    pub detail: String,
    pub seconds_ago: f64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TransitionStatus {
    pub from: String,
    pub to: String,
    pub cause: String,
    pub seconds_ago: f64,
    /// From the last advert of the old master to the end of the netlink batch (takeovers).
    pub takeover_ms: Option<f64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MemberStatus {
    pub vhid: u8,
    pub interface: String,
    pub addresses: Vec<String>,
    /// The addresses are configured on this node now.
    pub held: bool,
    pub master_heard: Option<String>,
    pub master_heard_seconds_ago: Option<f64>,
    /// Refusals by reason, from XDP (or the socket path) and the election together.
    pub refused: BTreeMap<String, u64>,
    pub adverts_received: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct InterfaceStatus {
    pub name: String,
    pub up: bool,
    /// It has carrier again, and counts as up in so long.
    #[serde(default)]
    pub up_in_seconds: Option<f64>,
    /// `native`, `generic` or `socket`.
    pub datapath: String,
    /// Why not native, when it is not.
    pub datapath_note: Option<String>,
    /// Counters by name: `packets`, `adverts`, `frames`, and every refusal reason.
    pub counters: BTreeMap<String, u64>,
}

/// From the sync loop.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SyncStatus {
    pub in_sync: bool,
    pub lag_ms: f64,
    pub flows: u64,
    pub flows_local: u64,
    pub flows_peer: u64,
    pub flows_refused_full: u64,
    pub stale_ignored: u64,
    pub events: u64,
    /// How often the event socket overflowed.
    pub events_lost: u64,
    /// Events and dumped entries that could not be decoded.
    pub events_malformed: u64,
    /// Events and dumped entries of flows that are not replicated.
    pub events_filtered: u64,
    pub refused: BTreeMap<String, u64>,
    pub peers: Vec<PeerStatus>,
    pub writes: WriteStatus,
    /// Datagrams that could not be sent or received, by errno name.
    pub socket_errors: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PeerStatus {
    pub node: String,
    pub address: String,
    pub alive: bool,
    pub sent_sequence: u64,
    pub acked_sequence: u64,
    pub received_sequence: u64,
    pub frames_sent: u64,
    pub frames_received: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub frames_lost: u64,
    pub flows_sent: u64,
    pub flows_received: u64,
    pub backlog_flows: u64,
    pub in_flight_flows: u64,
    pub bulk_sent: bool,
    pub bulk_received: bool,
    pub rtt_ms: f64,
}

/// Conntrack writes by operation (`create`, `update`, `delete`) and errno name (`ok`, `EEXIST`, …).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WriteStatus {
    pub by_errno: BTreeMap<String, BTreeMap<String, u64>>,
}

/// The receive paths' own counters, for `/metrics` alone: read from the maps at each scrape.
#[derive(Clone, Debug, Default)]
pub struct DatapathStatus {
    pub interfaces: Vec<InterfaceCounts>,
    pub vhids: Vec<VhidCounts>,
    pub streams: Vec<StreamCounts>,
}

/// What one path (`xdp` or `socket`) counted on an interface.
#[derive(Clone, Debug, Default)]
pub struct InterfaceCounts {
    pub interface: String,
    pub path: &'static str,
    pub packets: u64,
    pub adverts: u64,
    pub frames: u64,
    /// By reason.
    pub refused: Vec<(&'static str, u64)>,
}

/// What one path counted for a vhid.
#[derive(Clone, Debug, Default)]
pub struct VhidCounts {
    pub interface: String,
    pub vhid: u8,
    pub path: &'static str,
    pub adverts: u64,
    /// By reason.
    pub refused: Vec<(&'static str, u64)>,
}

/// What one path counted of a peer's frames of one kind, by their headers alone.
#[derive(Clone, Debug, Default)]
pub struct StreamCounts {
    pub peer: String,
    pub kind: &'static str,
    pub path: &'static str,
    pub frames: u64,
    pub bytes: u64,
    pub gaps: u64,
    pub lost: u64,
    pub duplicates: u64,
}
