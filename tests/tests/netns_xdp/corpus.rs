//! Frames that the XDP tests and `bench xdp` share: ordinary traffic, adverts, sync frames, and one frame per refusal.

use ha_common::abi::SelfEntry;
use ha_common::liveness::PathId;
use ha_common::reason::DropReason;
use ha_common::role::NodeId;
use ha_common::wire::advert::Frame;
use ha_common::wire::carp::{ADVERT_LEN, Advert};
use ha_common::wire::frame::{self, HEADER_LEN, Header, Kind, TAG_LEN};
use ha_common::wire::heartbeat::{self, Heartbeat, Standing};
use ha_common::wire::siphash::Key;
use ha_common::wire::{arp, checksum, ethernet, ipv4, ipv6, ndisc, udp};
use ha_user::datapath::{DatapathKey, HeartbeatPlan};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The VHID that the corpus' adverts carry.
pub const VHID: u8 = 3;
/// UDP port of the sync socket.
pub const SYNC_PORT: u16 = 3780;
/// The receiving node's address on the sync link.
const LOCAL_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 2);
/// The sending peer's.
const PEER_V4: Ipv4Addr = Ipv4Addr::new(10, 77, 9, 1);
/// The same for a sync link over IPv6.
pub const LOCAL_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 9, 0, 0, 0, 2);
pub const PEER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 9, 0, 0, 0, 1);
/// The sending peer's node number.
pub const PEER_NODE: u8 = 1;
/// The epoch of the only secret.
pub const KEY_EPOCH: u8 = 7;

pub const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
pub const ADVERT: Advert =
    Advert { vhid: VHID, advskew: 100, advbase: 1, demotion: 0, counter: 0x0102_0304_0506_0708, digest: [0x5a; 20] };
/// Where the IP header of an untagged frame is.
pub const IP: usize = ethernet::HEADER_LEN;
/// Where CARP, or UDP, is in an untagged IPv4 frame without options.
pub const TRANSPORT: usize = IP + ipv4::HEADER_LEN;

/// The node under test and the key of its pair's heartbeats.
pub const NODE: u8 = 0;
/// The key of the stamps in the peer's frame headers.
pub const STAMP_KEY: Key = [0x0f1e_2d3c_4b5a_6978, 0x8796_a5b4_c3d2_e1f0];
pub const HEARTBEAT_KEY: Key = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
/// The only secret, as the programs have it.
pub const KEY: DatapathKey = DatapathKey { epoch: KEY_EPOCH, heartbeat: HEARTBEAT_KEY, stamp: STAMP_KEY };
/// The path of the only interface.
pub const PATH: PathId = PathId(3);
/// Hardware address of the only interface.
pub const NODE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 2];
/// What the gate guards.
pub const VIPS: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 77, 0, 210)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, 0xd2))];

/// A frame with a name for tables and failures.
#[derive(Clone, Debug)]
pub struct Sample {
    pub name: String,
    pub bytes: Vec<u8>,
    /// The reason under which it must be refused; `None`: it passes, judged or not.
    pub refused: Option<DropReason>,
}

/// Everything, for a node whose sync link is IPv4.
pub fn all() -> Vec<Sample> {
    let sync = vec![pass("sync frame", &sync_frame(1, 200))];
    [ordinary(), neighbours(), adverts(), refused_adverts(), sync, refused_frames(), refused_heartbeats()].concat()
}

/// The heartbeats' key of an epoch, as the programs find it.
pub fn key_of(epoch: u8) -> Option<Key> {
    (epoch == KEY_EPOCH).then_some(HEARTBEAT_KEY)
}

/// What neighbours say around the virtual addresses while the gate is open.
pub fn neighbours() -> Vec<Sample> {
    let [IpAddr::V4(v4), IpAddr::V6(v6)] = VIPS else { return Vec::new() };
    let mut answered = arp_request(v4);
    answered[21] = 2;
    vec![
        pass("ARP for a virtual address", &arp_request(v4)),
        pass("ARP for another", &arp_request(Ipv4Addr::new(10, 77, 0, 5))),
        pass("ARP answer", &answered),
        pass("gratuitous ARP request", &arp::gratuitous(arp::Form::Request, MAC, v4)),
        pass("gratuitous ARP reply", &arp::gratuitous(arp::Form::Reply, MAC, v4)),
        pass("solicitation, virtual address", &solicitation(v6)),
        pass("solicitation, another", &solicitation(LOCAL_V6)),
        pass("unsolicited advertisement", &ndisc::unsolicited(MAC, v6)),
        pass("echo request over IPv6", &ipv6_frame(PEER_V6, LOCAL_V6, 58, &[128; 24])),
    ]
}

/// One frame for each reason why a heartbeat is refused, whatever the node is.
fn refused_heartbeats() -> Vec<Sample> {
    let altered = |at: usize, value: u8| edited(&heartbeat_frame(&probe()), |frame| frame[at] = value);
    let whole = heartbeat_frame(&probe());
    let from = |sender: u8, target: u8| heartbeat_frame(&Heartbeat { sender, target, ..probe() });
    let epoch = Heartbeat { key_epoch: KEY_EPOCH + 1, ..probe() };
    vec![
        refuse(DropReason::HeartbeatLength, &whole[..whole.len() - 1]),
        refuse(DropReason::HeartbeatVersion, &altered(18, 2)),
        refuse(DropReason::HeartbeatVersion, &altered(19, 3)),
        refuse(DropReason::HeartbeatKeyEpoch, &heartbeat_frame(&epoch)),
        refuse(DropReason::HeartbeatTag, &altered(60, 1)),
        refuse(DropReason::HeartbeatSender, &from(PEER_NODE, 7)),
        refuse(DropReason::HeartbeatSender, &from(NODE, PEER_NODE)),
        refuse(DropReason::HeartbeatStale, &heartbeat_frame(&Heartbeat { session: 0, ..reply(1) })),
        pass("another protocol of that type", &altered(14, b'X')),
    ]
}

/// Traffic that is none of twinwall's business.
fn ordinary() -> Vec<Sample> {
    let tcp = [0x04, 0xd2, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0];
    let dns = datagram(53, &[0; 40]);
    let mut arp = vec![0, 1, 8, 0, 6, 4, 0, 1];
    arp.resize(46, 0);
    vec![
        pass("TCP over IPv4", &ipv4_frame(6, 64, &tcp)),
        pass("UDP over IPv4", &ipv4_frame(udp::PROTOCOL, 64, &dns)),
        pass("ARP", &[&ethernet::emit([0xff; 6], MAC, 0x0806)[..], &arp].concat()),
        pass("TCP over IPv6", &ipv6_frame(PEER_V6, LOCAL_V6, 6, &tcp)),
        pass("UDP over IPv6", &ipv6_frame(PEER_V6, LOCAL_V6, udp::PROTOCOL, &dns)),
    ]
}

/// Adverts that must reach the ring.
fn adverts() -> Vec<Sample> {
    let plain = advert_frame();
    let mut samples = vec![
        pass("advert IPv4", &plain),
        pass("advert IPv6", &advert_frame_v6()),
        pass("advert IPv4, VLAN", &tagged(&plain, &[0x8100])),
        pass("advert IPv4, two VLANs", &tagged(&plain, &[0x88a8, 0x8100])),
        pass("advert IPv6, VLAN", &tagged(&advert_frame_v6(), &[0x8100])),
    ];
    let option = fixed_ip_checksum(edited(&plain, |frame| {
        frame.splice(TRANSPORT..TRANSPORT, [1, 1, 1, 0]);
        frame[IP] = 0x46;
        frame[IP + 3] += 4;
    }));
    samples.push(pass("advert IPv4, option", &option));
    samples
}

/// One frame for each reason that the advert parser has.
fn refused_adverts() -> Vec<Sample> {
    let plain = advert_frame();
    let ip = |change: fn(&mut Vec<u8>)| fixed_ip_checksum(edited(&plain, change));
    let carp = |change: fn(&mut Vec<u8>)| fixed_carp_checksum(edited(&plain, change));
    let vrrp = |addresses: u8, len: usize| {
        fixed_ip_checksum(edited(&plain, |frame| {
            frame.resize(TRANSPORT + len, 0);
            frame[IP + 3] = (ipv4::HEADER_LEN + len) as u8;
            frame[TRANSPORT + 3] = addresses;
        }))
    };
    vec![
        refuse(DropReason::Truncated, &plain[..plain.len() - 1]),
        refuse(DropReason::IpLength, &ip(|frame| frame[IP + 3] = 19)),
        refuse(DropReason::IpChecksum, &edited(&plain, |frame| frame[IP + 1] ^= 4)),
        refuse(DropReason::Fragment, &ip(|frame| frame[IP + 6] = 0x20)),
        refuse(DropReason::TtlNot255, &ip(|frame| frame[IP + 8] = 254)),
        refuse(DropReason::TtlNot255, &edited(&advert_frame_v6(), |frame| frame[IP + 7] = 64)),
        refuse(DropReason::Vrrp, &vrrp(1, 20)),
        refuse(DropReason::Vrrp, &vrrp(5, 36)),
        refuse(DropReason::CarpVersion, &carp(|frame| frame[TRANSPORT] = 0x31)),
        refuse(DropReason::CarpType, &carp(|frame| frame[TRANSPORT] = 0x22)),
        refuse(DropReason::CarpLength, &ip(|frame| frame[IP + 3] = 52)),
        refuse(DropReason::CarpAuthLen, &carp(|frame| frame[TRANSPORT + 3] = 6)),
        refuse(DropReason::CarpChecksum, &edited(&plain, |frame| frame[TRANSPORT + 20] ^= 1)),
        refuse(DropReason::VhidUnknown, &carp(|frame| frame[TRANSPORT + 1] = 99)),
    ]
}

/// One frame for each reason that the sync header parser has.
fn refused_frames() -> Vec<Sample> {
    let body = TRANSPORT + udp::HEADER_LEN;
    let whole = sync_frame(1, 200);
    let changed = |at: usize, value: u8| edited(&whole, |frame| frame[body + at] = value);
    let other_source = edited(&whole, |frame| frame[IP + 15] = 99);
    let short = ipv4_frame(udp::PROTOCOL, 64, &datagram(SYNC_PORT, &[0; HEADER_LEN + TAG_LEN - 1]));
    vec![
        refuse(DropReason::FrameShort, &short),
        refuse(DropReason::FrameMagic, &changed(0, 0)),
        refuse(DropReason::FrameVersion, &changed(4, 2)),
        refuse(DropReason::FrameKind, &changed(5, 9)),
        refuse(DropReason::FrameLength, &changed(9, 1)),
        refuse(DropReason::FrameSender, &changed(6, 200)),
        refuse(DropReason::FrameSender, &other_source),
        refuse(DropReason::FrameKeyEpoch, &changed(7, KEY_EPOCH + 1)),
        refuse(DropReason::FrameTarget, &changed(12, frame::target(PEER_NODE))),
    ]
}

/// An advert over IPv4, 70 bytes.
pub fn advert_frame() -> Vec<u8> {
    let group = Ipv4Addr::new(224, 0, 0, 18);
    Frame::multicast_v4(MAC, Ipv4Addr::new(10, 77, 0, 209), group, 1234, &ADVERT).as_bytes().to_vec()
}

/// The same over IPv6, 90 bytes.
fn advert_frame_v6() -> Vec<u8> {
    let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x209);
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);
    Frame::multicast_v6(MAC, source, group, &ADVERT).as_bytes().to_vec()
}

/// Whose heartbeats the node under test answers.
pub fn heartbeat_plan() -> HeartbeatPlan {
    HeartbeatPlan { node: NodeId(NODE), peer: NodeId(PEER_NODE) }
}

/// The process under test, as heartbeats know it.
pub const SESSION: u64 = 0x5e55_1011;

/// A probe of the peer, which is BACKUP.
pub fn probe() -> Heartbeat {
    Heartbeat {
        kind: heartbeat::Kind::Probe,
        sender: PEER_NODE,
        target: NODE,
        path: PATH.0,
        key_epoch: KEY_EPOCH,
        session: 0xbeef,
        sequence: 1,
        sent_ns: 1000,
        other_session: SESSION,
        term: 0,
        standing: Standing { role: heartbeat::ROLE_BACKUP, advbase: 1, ..Standing::default() },
        beat_age_us: 5,
        lease_left_us: 0,
    }
}

/// The peer's answer to the probe with this number.
pub fn reply(sequence: u64) -> Heartbeat {
    let kind = heartbeat::Kind::Reply;
    Heartbeat { kind, session: SESSION, other_session: 0xbeef, sequence, ..probe() }
}

/// The frame of a heartbeat from the peer, 94 bytes.
pub fn heartbeat_frame(heartbeat: &Heartbeat) -> Vec<u8> {
    heartbeat::emit(NODE_MAC, MAC, &heartbeat.seal(HEARTBEAT_KEY)).to_vec()
}

/// What the controller of the node under test says: it is MASTER of `term`, and its lease is live for ever, or lapsed.
/// Times are chosen so that an answer does not depend on when it is given.
pub fn master(term: u64, is_live: bool) -> SelfEntry {
    let standing = Standing { role: heartbeat::ROLE_MASTER, ..Standing::default() };
    let lease_until_ns = if is_live { u64::MAX } else { 1 };
    SelfEntry { lease_until_ns, term, session: SESSION, beat_ns: u64::MAX, state: standing.pack() }
}

/// Somebody on the LAN asks for `target`; padded as short frames are.
pub fn arp_request(target: Ipv4Addr) -> Vec<u8> {
    let mut frame = arp::gratuitous(arp::Form::Request, MAC, Ipv4Addr::new(10, 77, 0, 99)).to_vec();
    frame[32..38].fill(0);
    frame[38..42].copy_from_slice(&target.octets());
    frame.resize(60, 0);
    frame
}

/// Somebody on the LAN solicits `target`.
pub fn solicitation(target: Ipv6Addr) -> Vec<u8> {
    let mut message = vec![135, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.octets());
    message.extend([1, 1]);
    message.extend(MAC);
    let mut frame = ipv6_frame(PEER_V6, target, 58, &message);
    frame[IP + 7] = 255;
    frame
}

/// A data frame of the peer over IPv4 with this sequence number and this many bytes of body, tag included.
pub fn sync_frame(sequence: u64, body_len: u16) -> Vec<u8> {
    sync_frame_of(&sync_header(sequence, body_len), None)
}

/// The frame with this header over IPv4, with the stamp of a key, or none.
pub fn sync_frame_of(header: &Header, stamp: Option<Key>) -> Vec<u8> {
    ipv4_frame(udp::PROTOCOL, 64, &datagram(SYNC_PORT, &sync_payload(header, stamp)))
}

/// As [`sync_frame`], over IPv6.
pub fn sync_frame_v6(sequence: u64, body_len: u16) -> Vec<u8> {
    ipv6_frame(
        PEER_V6,
        LOCAL_V6,
        udp::PROTOCOL,
        &datagram(SYNC_PORT, &sync_payload(&sync_header(sequence, body_len), None)),
    )
}

/// The frame with these tags (by EtherType) before its own type.
pub fn tagged(frame: &[u8], tags: &[u16]) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    for tag in tags {
        out.extend(tag.to_be_bytes());
        out.extend([0x20, 0x64]);
    }
    out.extend(&frame[12..]);
    out
}

/// The addresses of the node under test and of its peer, for either family.
pub fn sync_addresses(is_v6: bool) -> (IpAddr, IpAddr) {
    if is_v6 { (LOCAL_V6.into(), PEER_V6.into()) } else { (LOCAL_V4.into(), PEER_V4.into()) }
}

/// The header of a data frame of the peer.
pub fn sync_header(sequence: u64, body_len: u16) -> Header {
    Header { kind: Kind::Data, sender: PEER_NODE, key_epoch: KEY_EPOCH, body_len, target: 0, session: 0x1234, sequence }
}

pub fn sync_payload(header: &Header, stamp: Option<Key>) -> Vec<u8> {
    let mut head = header.emit();
    stamp.into_iter().for_each(|key| frame::put_stamp(&mut head, key));
    let mut payload = head.to_vec();
    payload.resize(HEADER_LEN + usize::from(header.body_len), 0xb0);
    payload
}

pub fn datagram(port: u16, payload: &[u8]) -> Vec<u8> {
    let len = (udp::HEADER_LEN + payload.len()) as u16;
    [&port.to_be_bytes(), &port.to_be_bytes(), &len.to_be_bytes(), &[0, 0][..], payload].concat()
}

pub fn ipv4_frame(protocol: u8, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let header = ipv4::Repr {
        source: PEER_V4,
        destination: LOCAL_V4,
        identification: 1,
        tos: 0,
        ttl,
        protocol,
        payload_len: payload.len() as u16,
    };
    [&ethernet::emit(MAC, MAC, ethernet::TYPE_IPV4)[..], &header.emit(), payload].concat()
}

pub fn ipv6_frame(source: Ipv6Addr, destination: Ipv6Addr, next_header: u8, payload: &[u8]) -> Vec<u8> {
    let header = ipv6::Repr { source, destination, hop_limit: 64, next_header, payload_len: payload.len() as u16 };
    [&ethernet::emit(MAC, MAC, ethernet::TYPE_IPV6)[..], &header.emit(), payload].concat()
}

fn edited(frame: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = frame.to_vec();
    change(&mut frame);
    frame
}

pub fn fixed_ip_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    let end = IP + usize::from(frame[IP] & 15) * 4;
    frame[IP + 10..IP + 12].fill(0);
    let checksum = checksum::compute(&frame[IP..end]);
    frame[IP + 10..IP + 12].copy_from_slice(&checksum.to_be_bytes());
    frame
}

pub fn fixed_carp_checksum(mut frame: Vec<u8>) -> Vec<u8> {
    frame[TRANSPORT + 6..TRANSPORT + 8].fill(0);
    let checksum = checksum::compute(&frame[TRANSPORT..TRANSPORT + ADVERT_LEN]);
    frame[TRANSPORT + 6..TRANSPORT + 8].copy_from_slice(&checksum.to_be_bytes());
    frame
}

fn pass(name: &str, bytes: &[u8]) -> Sample {
    Sample { name: name.to_owned(), bytes: bytes.to_vec(), refused: None }
}

fn refuse(reason: DropReason, bytes: &[u8]) -> Sample {
    Sample { name: format!("refused: {}", reason.name()), bytes: bytes.to_vec(), refused: Some(reason) }
}
