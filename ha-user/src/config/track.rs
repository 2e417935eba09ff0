//! `[track]`: what demotes this node when it fails, beside the interfaces that carry virtual addresses.

use super::error::{At, Found, FoundList, Problems};
use super::reader::{Refusal, Section};
use super::resolve::{check_host_address, refuse_repeated};
use super::values::{address, choice, duration, integer, interface, path, text};
use crate::demotion::{TRACKED_MAX, WEIGHT_MAX};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;
use toml::de::DeValue;

/// What is tracked; at most [`TRACKED_MAX`] causes together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Track {
    pub interfaces: Vec<TrackedInterface>,
    pub scripts: Vec<TrackedScript>,
    pub files: Vec<TrackedFile>,
    pub paths: Vec<TrackedPath>,
    pub conntrack: Option<TrackedConntrack>,
}

impl Track {
    /// The names of all causes, in the order of the file by kind: labels in status and metrics.
    pub fn causes(&self) -> impl Iterator<Item = String> {
        let interfaces = self.interfaces.iter().map(TrackedInterface::cause);
        let scripts = self.scripts.iter().map(TrackedScript::cause);
        let files = self.files.iter().map(TrackedFile::cause);
        let paths = self.paths.iter().map(TrackedPath::cause);
        interfaces.chain(scripts).chain(files).chain(paths).chain(self.conntrack.map(|_| CONNTRACK_CAUSE.to_owned()))
    }
}

/// The cause of a full conntrack table.
pub const CONNTRACK_CAUSE: &str = "conntrack";

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackedInterface {
    pub name: String,
    pub weight: u8,
    /// How long it must be back before it counts as up.
    pub up_delay: Duration,
}

impl TrackedInterface {
    pub fn cause(&self) -> String {
        format!("interface:{}", self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackedScript {
    pub name: String,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub weight: u8,
    pub rhythm: Rhythm,
}

impl TrackedScript {
    pub fn cause(&self) -> String {
        format!("script:{}", self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackedFile {
    pub path: PathBuf,
    pub weight: u8,
    pub interval: Duration,
}

impl TrackedFile {
    pub fn cause(&self) -> String {
        format!("file:{}", self.path.display())
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrackedPath {
    pub interface: String,
    pub target: IpAddr,
    pub method: Method,
    pub weight: u8,
    pub rhythm: Rhythm,
}

impl TrackedPath {
    pub fn cause(&self) -> String {
        format!("path:{}", self.target)
    }
}

/// How a next hop is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// ARP for IPv4, neighbour solicitation for IPv6: needs no address of our own, and no firewall stops it.
    Neighbour,
    /// ICMP or ICMPv6 echo.
    Echo,
}

/// How often something is asked, how long it may take, and how many results in a row are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rhythm {
    pub interval: Duration,
    pub timeout: Duration,
    /// Good results in a row until it counts as good again.
    pub rise: u8,
    /// Failures in a row until it counts as failed.
    pub fall: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackedConntrack {
    /// Percent of nf_conntrack_max at which the demotion begins.
    pub high: u8,
    /// Percent below which it ends.
    pub low: u8,
    pub weight: u8,
    pub interval: Duration,
}

const INTERFACE_UP_DELAY: Duration = Duration::from_secs(1);
const SCRIPT: Rhythm = Rhythm { interval: Duration::from_secs(5), timeout: Duration::from_secs(2), rise: 2, fall: 3 };
const PATH: Rhythm = Rhythm { interval: Duration::from_secs(1), timeout: Duration::from_millis(500), rise: 2, fall: 3 };
const FILE_INTERVAL: Duration = Duration::from_secs(1);
const CONNTRACK_INTERVAL: Duration = Duration::from_secs(1);
const CONNTRACK_HIGH: u8 = 95;
const CONNTRACK_LOW: u8 = 85;
const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(600);
const UP_DELAYS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
const ARGUMENTS_MAX: usize = 64;

const METHODS: &[(&str, Wanted)] =
    &[("arp", Wanted::Arp), ("nd", Wanted::Nd), ("icmp", Wanted::Icmp), ("icmpv6", Wanted::Icmpv6)];

/// The method as it is written: each name belongs to one address family.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Arp,
    Nd,
    Icmp,
    Icmpv6,
}

/// Reads `[track]`; what is wrong is reported and left out.
pub fn read(root: &mut Section<'_>, problems: &mut Problems<'_>) -> Track {
    let at = root.place("track");
    let Some(mut section) = root.table(problems, "track") else { return Track::default() };
    let mut seen = BTreeMap::new();
    let mut track = Track::default();
    for table in section.tables(problems, "interface") {
        track.interfaces.extend(read_interface(table, &mut seen, problems));
    }
    for table in section.tables(problems, "script") {
        track.scripts.extend(read_script(table, &mut seen, problems));
    }
    for table in section.tables(problems, "file") {
        track.files.extend(read_file(table, &mut seen, problems));
    }
    for table in section.tables(problems, "path") {
        track.paths.extend(read_path(table, &mut seen, problems));
    }
    track.conntrack = section.table(problems, "conntrack").and_then(|table| read_conntrack(table, problems));
    section.finish(problems);
    let count = track.causes().count();
    if count > TRACKED_MAX {
        problems.error(&at, format!("{count} causes are tracked"), format!("keep at most {TRACKED_MAX}"));
    }
    track
}

type Seen = BTreeMap<String, String>;

fn read_interface(mut table: Section<'_>, seen: &mut Seen, problems: &mut Problems<'_>) -> Option<TrackedInterface> {
    let name = table.required(problems, "name", "\"eth3\"", interface);
    let weight = read_weight(&mut table, problems);
    let up_delay = table.optional(problems, "up_delay", fixed(UP_DELAYS));
    table.finish(problems);
    let (name, weight) = (name?, weight?);
    let up_delay = up_delay.map_or(INTERFACE_UP_DELAY, |found| found.value);
    let tracked = TrackedInterface { name: name.value, weight, up_delay };
    refuse_repeated(seen, tracked.cause(), &name.at, &tracked.name, "track it once", problems);
    Some(tracked)
}

fn read_script(mut table: Section<'_>, seen: &mut Seen, problems: &mut Problems<'_>) -> Option<TrackedScript> {
    let name = table.required(problems, "name", "\"bgp\"", label);
    table.require_one_of(problems, &["command"], "add: command = [\"/usr/local/bin/check\"]");
    let command = table.list(problems, "command", text(4096));
    let weight = read_weight(&mut table, problems);
    let rhythm = read_rhythm(&mut table, SCRIPT, problems);
    table.finish(problems);
    let (program, arguments) = split_command(command?, problems)?;
    let (name, weight) = (name?, weight?);
    let tracked = TrackedScript { name: name.value, program, arguments, weight, rhythm };
    refuse_repeated(seen, tracked.cause(), &name.at, &tracked.name, "give each script its own name", problems);
    Some(tracked)
}

fn read_file(mut table: Section<'_>, seen: &mut Seen, problems: &mut Problems<'_>) -> Option<TrackedFile> {
    let path = table.required(problems, "path", "\"/run/drain\"", path);
    let weight = read_weight(&mut table, problems);
    let interval = table.optional(problems, "interval", fixed(INTERVALS));
    table.finish(problems);
    let (path, weight) = (path?, weight?);
    let interval = interval.map_or(FILE_INTERVAL, |found| found.value);
    let tracked = TrackedFile { path: path.value, weight, interval };
    refuse_repeated(seen, tracked.cause(), &path.at, tracked.path.display(), "track it once", problems);
    Some(tracked)
}

fn read_path(mut table: Section<'_>, seen: &mut Seen, problems: &mut Problems<'_>) -> Option<TrackedPath> {
    let interface = table.required(problems, "interface", "\"eth1\"", interface);
    let target = table.required(problems, "target", "\"157.159.40.129\"", address);
    let wanted = table.optional(problems, "method", choice(METHODS));
    let weight = read_weight(&mut table, problems);
    let rhythm = read_rhythm(&mut table, PATH, problems);
    let at = table.place("timeout");
    table.finish(problems);
    if rhythm.timeout > rhythm.interval {
        let message = format!("a timeout of {:?} is longer than the interval of {:?}", rhythm.timeout, rhythm.interval);
        problems.error(&at, message, "lower timeout, or raise interval: one probe is on its way at a time");
    }
    let target = target?;
    check_host_address(&target, problems);
    let method = resolve_method(wanted, &target, problems);
    let tracked = TrackedPath { interface: interface?.value, target: target.value, method, weight: weight?, rhythm };
    refuse_repeated(seen, tracked.cause(), &target.at, tracked.target, "probe a target once", problems);
    Some(tracked)
}

fn read_conntrack(mut table: Section<'_>, problems: &mut Problems<'_>) -> Option<TrackedConntrack> {
    let high = table.optional(problems, "high", integer(2..=100));
    let low = table.optional(problems, "low", integer(1..=100));
    let weight = read_weight(&mut table, problems);
    let interval = table.optional(problems, "interval", fixed(INTERVALS));
    let at = table.place("low");
    table.finish(problems);
    let high = high.map_or(CONNTRACK_HIGH, |found| found.value);
    let low = low.map_or(CONNTRACK_LOW.min(high.saturating_sub(1).max(1)), |found| found.value);
    if low >= high {
        problems.error(&at, format!("the low mark {low} is not below the high mark {high}"), "lower it, or raise high");
    }
    let interval = interval.map_or(CONNTRACK_INTERVAL, |found| found.value);
    Some(TrackedConntrack { high, low, weight: weight?, interval })
}

fn read_weight(table: &mut Section<'_>, problems: &mut Problems<'_>) -> Option<u8> {
    Some(table.required(problems, "weight", "50", integer(1..=i64::from(WEIGHT_MAX)))?.value)
}

fn read_rhythm(table: &mut Section<'_>, default: Rhythm, problems: &mut Problems<'_>) -> Rhythm {
    let interval = table.optional(problems, "interval", fixed(INTERVALS));
    let timeout = table.optional(problems, "timeout", fixed(TIMEOUTS));
    let rise = table.optional(problems, "rise", integer(1..=100));
    let fall = table.optional(problems, "fall", integer(1..=100));
    let interval = interval.map_or(default.interval, |found| found.value);
    Rhythm {
        interval,
        timeout: timeout.map_or(default.timeout.min(interval), |found| found.value),
        rise: rise.map_or(default.rise, |found| found.value),
        fall: fall.map_or(default.fall, |found| found.value),
    }
}

/// Program and arguments of a command that is executed without a shell.
fn split_command(command: FoundList<String>, problems: &mut Problems<'_>) -> Option<(PathBuf, Vec<String>)> {
    let mut words = command.value.into_iter();
    let program = words.next()?;
    if !program.value.starts_with('/') {
        let message = format!("\"{}\" is not an absolute path", program.value);
        problems.error(&program.at, message, "begin it with /: no shell looks for it");
    }
    if words.len() > ARGUMENTS_MAX {
        let message = format!("has {} arguments", words.len());
        problems.error(&command.at, message, format!("write at most {ARGUMENTS_MAX}, or a script that has them"));
    }
    Some((program.value.into(), words.map(|word| word.value).collect()))
}

fn resolve_method(wanted: Option<Found<Wanted>>, target: &Found<IpAddr>, problems: &mut Problems<'_>) -> Method {
    let Some(wanted) = wanted else { return Method::Neighbour };
    let (method, is_v4) = match wanted.value {
        Wanted::Arp => (Method::Neighbour, true),
        Wanted::Nd => (Method::Neighbour, false),
        Wanted::Icmp => (Method::Echo, true),
        Wanted::Icmpv6 => (Method::Echo, false),
    };
    if is_v4 != target.value.is_ipv4() {
        let remedy = if is_v4 { "write \"nd\" or \"icmpv6\"" } else { "write \"arp\" or \"icmp\"" };
        problems.error(&wanted.at, format!("cannot reach {}: it is of the other family", target.value), remedy);
    }
    if method == Method::Echo && matches!(target.value, IpAddr::V6(v6) if v6.is_unicast_link_local()) {
        let at = At { ..wanted.at };
        problems.warning(&at, "a link-local next hop is asked by echo", "write \"nd\": it shows the same with less");
    }
    method
}

/// A name that becomes a label and a word in logs: 1 to 64 letters, digits, `-`, `_` and `.`.
pub fn is_label(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=64).contains(&text.len()) && text.chars().all(allowed)
}

fn label(value: &DeValue<'_>) -> Result<String, Refusal> {
    let name = text(64)(value)?;
    if is_label(&name) {
        return Ok(name);
    }
    Err(Refusal::new(format!("\"{name}\" is no name"), "use letters, digits, '-', '_' and '.'"))
}

/// A duration that cannot be switched off.
pub fn fixed(range: RangeInclusive<Duration>) -> impl Fn(&DeValue<'_>) -> Result<Duration, Refusal> {
    let read = duration(range);
    move |value| read(value)?.ok_or_else(|| Refusal::new("cannot be \"off\"", "write a duration, or remove the key"))
}
