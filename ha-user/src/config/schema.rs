//! The keys of the file: what may stand where, and the form of each value. Meaning is checked in `resolve`.

use super::error::{At, Found, FoundList, Problems};
use super::reader::{Refusal, Section};
use super::values::{
    address, address_with_prefix, boolean, choice, duration, integer, interface, password, path, string, text,
};
use super::{LogFormat, XdpChoice, heartbeat, hooks, links, sync_filter, sync_mode, timing, track};
use ha_common::election::ForeignMasters;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use toml::Spanned;
use toml::de::{DeTable, DeValue};
use zeroize::Zeroizing;

/// The whole file. A required value is `None` only when its problem is already reported.
pub struct File {
    pub cluster: Option<Cluster>,
    /// Place of `[nodes]`, for problems of the set of nodes.
    pub nodes_at: At,
    pub nodes: Option<Vec<Node>>,
    pub sync: Option<Sync>,
    /// Place of the first `[[vip]]`.
    pub vips_at: At,
    pub vips: Vec<Vip>,
    pub election: Election,
    pub xdp: Option<Found<XdpChoice>>,
    /// Inner `None`: "off".
    pub pin_directory: Option<Found<Option<PathBuf>>>,
    /// Inner `None`: "off".
    pub metrics_listen: Option<Found<Option<SocketAddr>>>,
    pub log: Log,
    pub track: track::Track,
    pub hooks: hooks::Hooks,
    pub heartbeat: heartbeat::Keys,
    pub state_directory: Option<Found<PathBuf>>,
}

pub struct Cluster {
    pub name: Option<Found<String>>,
    pub secret_file: Option<Found<PathBuf>>,
}

pub struct Node {
    pub name: Found<String>,
    pub sync_address: Option<Found<IpAddr>>,
    pub advskew: Option<Found<u8>>,
}

pub struct Sync {
    pub interface: Option<Found<String>>,
    pub port: Option<Found<u16>>,
    pub netlink_buffer: Option<Found<usize>>,
    pub netlink_buffer_max: Option<Found<usize>>,
    pub flows_max: Option<Found<usize>>,
    pub hello_interval: Option<Found<Option<Duration>>>,
    pub peer_timeout: Option<Found<Option<Duration>>>,
    pub mode: sync_mode::Keys,
    pub filter: sync_filter::Keys,
    pub links: links::Keys,
}

pub struct Vip {
    pub vhid: Option<Found<u8>>,
    pub interface: Option<Found<String>>,
    pub addresses: Option<FoundList<(IpAddr, u8)>>,
    pub gateway: Option<Found<IpAddr>>,
    pub password: Option<Found<Zeroizing<String>>>,
    pub password_file: Option<Found<PathBuf>>,
    pub label: Option<Found<String>>,
    pub peers: Option<FoundList<IpAddr>>,
    pub multicast_v4: Option<Found<IpAddr>>,
    pub multicast_v6: Option<Found<IpAddr>>,
}

pub struct Election {
    pub advbase: Option<Found<u8>>,
    pub dead_ratio: Option<Found<u8>>,
    pub preempt: Option<Found<bool>>,
    pub foreign_masters: Option<Found<ForeignMasters>>,
    pub announce_burst_ms: Option<FoundList<u32>>,
    pub announce_refresh: Option<Found<Option<Duration>>>,
    pub link_up_delay: Option<Found<Duration>>,
    pub link_down_delay: Option<Found<Duration>>,
    pub timing: timing::Keys,
}

pub struct Log {
    pub level: Option<Found<String>>,
    pub format: Option<Found<LogFormat>>,
}

const XDP_CHOICES: &[(&str, XdpChoice)] = &[
    ("auto", XdpChoice::Auto),
    ("native", XdpChoice::Native),
    ("generic", XdpChoice::Generic),
    ("off", XdpChoice::Off),
];
const FOREIGN_MASTERS: &[(&str, ForeignMasters)] =
    &[("follow", ForeignMasters::Follow), ("refuse", ForeignMasters::Refuse)];
const LOG_FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];

impl File {
    /// Reads every key; problems go to `problems`.
    pub fn read(document: &Spanned<DeTable<'_>>, problems: &mut Problems<'_>) -> File {
        let mut root = Section::root(document);
        let cluster = required_table(&mut root, problems, "cluster", |section, problems| Cluster {
            name: section.required(problems, "name", "\"edge\"", text(64)),
            secret_file: section.required(problems, "secret_file", "\"/etc/twinwall/secret\"", path),
        });
        let nodes_at = root.place("nodes");
        let nodes = required_table(&mut root, problems, "nodes", read_nodes);
        let sync = required_table(&mut root, problems, "sync", read_sync);
        let vips_at = root.place("vip");
        root.require_one_of(problems, &["vip"], "add a [[vip]] with vhid, interface, addresses and password");
        let vips = root.tables(problems, "vip").into_iter().map(|section| read_vip(section, problems)).collect();
        let election = read_election(&mut root, problems);
        let datapath = optional_table(&mut root, problems, "datapath", |section, problems| {
            let xdp = section.optional(problems, "xdp", choice(XDP_CHOICES));
            Some((xdp, section.optional(problems, "pin_directory", path_or_off)))
        });
        let (xdp, pin_directory) = datapath.unwrap_or_default();
        let metrics_listen = optional_table(&mut root, problems, "metrics", |s, p| s.optional(p, "listen", listen));
        let log = optional_table(&mut root, problems, "log", |section, problems| {
            Some(Log {
                level: section.optional(problems, "level", text(1024)),
                format: section.optional(problems, "format", choice(LOG_FORMATS)),
            })
        });
        let track = track::read(&mut root, problems);
        let hooks = hooks::read(&mut root, problems);
        let heartbeat = heartbeat::read(&mut root, problems);
        let state_directory =
            optional_table(&mut root, problems, "daemon", |s, p| s.optional(p, "state_directory", path));
        root.finish(problems);
        let log = log.unwrap_or(Log { level: None, format: None });
        File {
            cluster,
            nodes_at,
            nodes,
            sync,
            vips_at,
            vips,
            election,
            xdp,
            pin_directory,
            metrics_listen,
            log,
            track,
            hooks,
            heartbeat,
            state_directory,
        }
    }
}

/// A table that must be there; `read` takes its keys, what is left over is unknown.
fn required_table<T>(
    root: &mut Section<'_>,
    problems: &mut Problems<'_>,
    key: &'static str,
    read: impl FnOnce(&mut Section<'_>, &mut Problems<'_>) -> T,
) -> Option<T> {
    root.require_one_of(problems, &[key], &format!("add a table [{key}]"));
    let mut section = root.table(problems, key)?;
    let value = read(&mut section, problems);
    section.finish(problems);
    Some(value)
}

fn optional_table<T>(
    root: &mut Section<'_>,
    problems: &mut Problems<'_>,
    key: &'static str,
    read: impl FnOnce(&mut Section<'_>, &mut Problems<'_>) -> Option<T>,
) -> Option<T> {
    let mut section = root.table(problems, key)?;
    let value = read(&mut section, problems);
    section.finish(problems);
    value
}

fn read_nodes(section: &mut Section<'_>, problems: &mut Problems<'_>) -> Vec<Node> {
    let mut nodes = Vec::new();
    for (name, mut node) in section.named_tables(problems) {
        let sync_address = node.required(problems, "sync_address", "\"10.77.9.1\"", address);
        let advskew = node.optional(problems, "advskew", integer(0..=254));
        node.finish(problems);
        nodes.push(Node { name, sync_address, advskew });
    }
    nodes
}

fn read_sync(section: &mut Section<'_>, problems: &mut Problems<'_>) -> Sync {
    let mode = sync_mode::read(section, problems);
    let filter = section.table(problems, "filter").map(|mut filter| {
        let keys = sync_filter::read(&mut filter, problems);
        filter.finish(problems);
        keys
    });
    Sync {
        interface: section.required(problems, "interface", "\"eth2\"", interface),
        port: section.optional(problems, "port", integer(1..=65535)),
        netlink_buffer: section.optional(problems, "netlink_buffer", integer(4096..=1 << 30)),
        netlink_buffer_max: section.optional(problems, "netlink_buffer_max", integer(4096..=1 << 30)),
        flows_max: section.optional(problems, "flows_max", integer(1..=100_000_000)),
        hello_interval: section.optional(problems, "hello_interval", duration(ms(10)..=ms(60_000))),
        peer_timeout: section.optional(problems, "peer_timeout", duration(ms(50)..=ms(600_000))),
        mode,
        filter: filter.unwrap_or_default(),
        links: links::read(section, problems),
    }
}

fn read_vip(mut section: Section<'_>, problems: &mut Problems<'_>) -> Vip {
    let vip = Vip {
        vhid: section.required(problems, "vhid", "3", integer(1..=255)),
        interface: section.required(problems, "interface", "\"eth0\"", interface),
        addresses: section.list(problems, "addresses", address_with_prefix),
        gateway: section.optional(problems, "gateway", address),
        password: section.optional(problems, "password", password),
        password_file: section.optional(problems, "password_file", path),
        label: section.optional(problems, "label", |value| string(value).map(str::to_owned)),
        peers: section.list(problems, "peers", address),
        multicast_v4: section.optional(problems, "multicast_v4", address),
        multicast_v6: section.optional(problems, "multicast_v6", address),
    };
    section.require_one_of(problems, &["addresses"], "add: addresses = [\"192.0.2.1/24\"]");
    let remedy = "add: password = \"…\" (1 to 19 bytes), or password_file = \"/…\"";
    section.require_one_of(problems, &["password", "password_file"], remedy);
    section.finish(problems);
    vip
}

fn read_election(root: &mut Section<'_>, problems: &mut Problems<'_>) -> Election {
    let election = optional_table(root, problems, "election", |section, problems| {
        Some(Election {
            advbase: section.optional(problems, "advbase", integer(1..=254)),
            dead_ratio: section.optional(problems, "dead_ratio", integer(1..=255)),
            preempt: section.optional(problems, "preempt", boolean),
            foreign_masters: section.optional(problems, "foreign_masters", choice(FOREIGN_MASTERS)),
            announce_burst_ms: section.list(problems, "announce_burst_ms", integer(0..=60_000)),
            announce_refresh: section.optional(problems, "announce_refresh", duration(ms(1000)..=ms(3_600_000))),
            link_up_delay: section.optional(problems, "link_up_delay", track::fixed(ms(0)..=ms(600_000))),
            link_down_delay: section.optional(problems, "link_down_delay", track::fixed(ms(0)..=ms(10_000))),
            timing: timing::read(section, problems),
        })
    });
    election.unwrap_or(Election {
        advbase: None,
        dead_ratio: None,
        preempt: None,
        foreign_masters: None,
        announce_burst_ms: None,
        announce_refresh: None,
        link_up_delay: None,
        link_down_delay: None,
        timing: timing::Keys::default(),
    })
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// An absolute path, or "off".
fn path_or_off(value: &DeValue<'_>) -> Result<Option<PathBuf>, Refusal> {
    if string(value)? == "off" { Ok(None) } else { path(value).map(Some) }
}

/// Address and port, or "off".
fn listen(value: &DeValue<'_>) -> Result<Option<SocketAddr>, Refusal> {
    let text = string(value)?;
    if text == "off" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        Refusal::new(
            format!("\"{text}\" is not an address with port"),
            "write \"127.0.0.1:9112\", \"[::1]:9112\" or \"off\"",
        )
    })
}
