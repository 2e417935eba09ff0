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
    /// Takes nothing, by an operator's word that outlives a restart.
    pub maintenance: bool,
    /// This process took the mastership of its predecessor over at its start.
    pub resumed: bool,
    /// How often a second thread had to take the control loop's turns because the first was not let run in time.
    #[serde(default)]
    pub stand_ins: u64,
    /// The peer as heartbeats show it; `None` without heartbeats.
    pub peer: Option<PeerSightStatus>,
    pub paths: Vec<PathStatus>,
    pub lease: LeaseStatus,
    pub hand_over: HandOverStatus,
    /// What this node would do, and why it waits.
    pub waits: Vec<WaitStatus>,
    /// The last transitions explained, newest first; at most 16.
    pub history: Vec<BreakdownStatus>,
    /// How long the stages of all transitions since the start took.
    pub stage_times: Vec<StageTimes>,
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

/// What heartbeats tell of the peer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PeerSightStatus {
    pub node: String,
    /// `unknown` (never answered: ucarp, no XDP, not started), `alive` or `silent`.
    pub sight: String,
    /// What it said last; meaningless while `unknown`.
    pub role: String,
    pub term: u64,
    /// `open`, `closed` or `lapsed`.
    pub gate: String,
    pub demotion: u8,
    /// `offer`, `want`, `asked`, `ready`, `restarting`, `maintenance`.
    pub flags: Vec<String>,
    /// Since its controller last was alive, when it said so.
    pub beat_age_ms: f64,
    /// What was left of its lease then.
    pub lease_left_ms: f64,
    pub heard_seconds_ago: Option<f64>,
    /// Silence that would be death now.
    pub dead_after_ms: f64,
}

/// One path of heartbeats.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PathStatus {
    pub interface: String,
    /// Answers come.
    pub up: bool,
    /// Round trips of the recent answers; `None` before the first.
    pub rtt_last_ms: Option<f64>,
    pub rtt_p50_ms: Option<f64>,
    pub rtt_p99_ms: Option<f64>,
    /// Mean difference of consecutive round trips.
    pub jitter_ms: Option<f64>,
    pub heard_seconds_ago: Option<f64>,
    /// Probes that were sent, answers that were taken, and probes that were not answered.
    pub probes_sent: u64,
    pub replies: u64,
    pub lost: u64,
    /// Probes of the peer that this node's kernel answered here.
    pub answered: u64,
    /// Round trips since the start.
    pub rtt: HistogramStatus,
}

/// The right to answer for the virtual addresses.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct LeaseStatus {
    /// The highest term known; the own one while master.
    pub term: u64,
    /// The gate is open: a live lease in a term that is not closed.
    pub live: bool,
    pub remaining_ms: f64,
    /// For how long it is renewed at each tick now; zero while this node claims nothing.
    pub length_ms: f64,
    /// By interface with virtual addresses: whether XDP keeps requests out when it is over.
    pub enforced: BTreeMap<String, bool>,
    /// How often this node's lease ran out, and how often a newer master closed it.
    pub lapsed: u64,
    pub superseded: u64,
}

/// Planned changes of the master.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct HandOverStatus {
    /// `offering` (a master gives), `wanting` (a backup is to get), `lingering` (given; stragglers are forwarded), or
    /// `none`.
    pub state: String,
    pub since_seconds: Option<f64>,
    /// How many ended so since the start.
    pub done: u64,
    pub unconfirmed: u64,
    /// By name of the refusal.
    pub refused: BTreeMap<String, u64>,
}

/// Something that this node would do, and does not yet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WaitStatus {
    /// `takeover` (of a node that is not master) or `hand_over` (of the master).
    pub what: String,
    /// A name of [`ha_common::election::Wait`].
    pub reason: String,
    pub seconds: f64,
}

/// A transition, stage by stage.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BreakdownStatus {
    pub from: String,
    pub to: String,
    pub cause: String,
    pub seconds_ago: f64,
    /// In the order in which they were reached.
    pub stages: Vec<StageStatus>,
    pub total_ms: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StageStatus {
    /// Names of `control_loop::breakdown::Stage`.
    pub stage: String,
    /// Since the stage before.
    pub ms: f64,
}

/// How long one stage took in all transitions of one cause.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct StageTimes {
    pub cause: String,
    pub stage: String,
    pub times: HistogramStatus,
}

/// Times in classes, as Prometheus wants them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HistogramStatus {
    /// Upper bound in seconds, and how many were not longer; rising. The last class (all) is [`Self::count`].
    pub buckets: Vec<(f64, u64)>,
    pub sum_seconds: f64,
    pub count: u64,
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
    /// It comes and goes, and its return is delayed for longer because of it.
    #[serde(default)]
    pub flapping: bool,
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
    /// `ftfw`, `alarm` or `notrack`; empty from a daemon that knows one mode only.
    #[serde(default)]
    pub mode: String,
    pub in_sync: bool,
    pub lag_ms: f64,
    pub flows: u64,
    pub flows_local: u64,
    pub flows_peer: u64,
    /// Of all flows, those that this node's kernel lacks at present: it refuses them.
    #[serde(default)]
    pub flows_absent: u64,
    pub flows_refused_full: u64,
    /// Flows that nobody named any more, whose timeouts were cut to the purge timeout.
    #[serde(default)]
    pub flows_cut: u64,
    pub stale_ignored: u64,
    pub events: u64,
    /// How often the event socket overflowed.
    pub events_lost: u64,
    /// Events and dumped entries that could not be decoded.
    pub events_malformed: u64,
    /// Events and dumped entries of flows that are not replicated. What the kernel drops by itself is not in it.
    pub events_filtered: u64,
    /// The same by the criterion that decided.
    pub events_filtered_by: BTreeMap<String, u64>,
    /// Flows that wait until they are `min_age` old.
    pub flows_young: u64,
    /// Flows told of before they were, because too many waited.
    pub flows_young_full: u64,
    /// Flows taken back from the peers because the filter does not accept them any more.
    pub flows_withdrawn: u64,
    /// What was decided about order and rare attributes, by name.
    #[serde(default)]
    pub decisions: BTreeMap<String, u64>,
    /// The epochs of the secrets that are valid here, the newest last.
    #[serde(default)]
    pub key_epochs: Vec<u8>,
    pub refused: BTreeMap<String, u64>,
    pub peers: Vec<PeerStatus>,
    pub writes: WriteStatus,
    /// Datagrams that could not be sent or received, by errno name.
    pub socket_errors: BTreeMap<String, u64>,
    /// In the order of the configuration.
    #[serde(default)]
    pub links: Vec<SyncLinkStatus>,
}

/// One link of this node.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct SyncLinkStatus {
    pub interface: String,
    /// Its socket is open.
    pub open: bool,
    /// Bytes; zero while there is no such interface.
    pub mtu: u64,
    pub datagrams_sent: u64,
    pub datagrams_received: u64,
    /// Calls that sent them: fewer where the kernel or the card cuts datagrams apart.
    pub send_calls: u64,
}

/// One link to one peer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PeerLinkStatus {
    pub interface: String,
    /// It has a carrier, and both nodes hear each other over it.
    pub works: bool,
    /// State takes it.
    pub active: bool,
    /// Frames that came over it first, and copies of frames that had come over another one.
    pub frames: u64,
    pub copies: u64,
    pub silent_ms: Option<f64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct PeerStatus {
    pub node: String,
    pub address: String,
    pub alive: bool,
    /// The protocol version of the peer, what it understands of it, and the mode in which it replicates; empty when it has not
    /// said so.
    #[serde(default)]
    pub protocol: u32,
    #[serde(default)]
    pub capabilities: Vec<String>,
    #[serde(default)]
    pub mode: String,
    /// The epoch of the secret that is in use with the peer, and those that it accepts, as it last said.
    #[serde(default)]
    pub key_epoch: u8,
    #[serde(default)]
    pub key_epochs_accepted: Vec<u8>,
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
    /// Of a transfer of this node's table: slots still to be looked at.
    pub bulk_left: u64,
    /// How long ago the peer was last proven to hold all of this node's flows; `None`: not yet in this session.
    pub proven_ms: Option<f64>,
    /// Buckets of flows, of [`ha_common::sync::DIGEST_BUCKETS`], in which the peer's copies are known to differ.
    pub differing_buckets: u32,
    pub digests_equal: u64,
    pub digests_different: u64,
    pub digests_unknown: u64,
    pub repairs: u64,
    pub rtt_ms: f64,
    /// Size of a data frame, bytes.
    #[serde(default)]
    pub frame_bytes: u64,
    /// How often state took another link than before.
    #[serde(default)]
    pub link_failovers: u64,
    #[serde(default)]
    pub links: Vec<PeerLinkStatus>,
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
