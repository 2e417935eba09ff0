//! Generated frames of every kind, right and wrong, through the XDP program and through the host's parsers.

use crate::corpus::{self, IP, TRANSPORT};
use crate::differential::{Pair, Random};
use ha_common::reason::DropReason;
use ha_common::wire::advert::Frame;
use ha_common::wire::carp::{ADVERT_LEN, Advert};
use ha_common::wire::frame::{Header, Kind, TAG_LEN};
use ha_common::wire::genuine::SessionEntry;
use ha_common::wire::heartbeat::{self, Heartbeat};
use ha_common::wire::{arp, udp};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Frames after which everything counted and delivered is compared.
const COMPARED_EACH: u32 = 5_000;

/// A frame with an IPv4 header that is known to be where edits look for it, and whether CARP is behind it.
struct Draft {
    bytes: Vec<u8>,
    is_v4: bool,
    is_carp: bool,
}

impl Random {
    fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }
}

/// A frame as its sender would have made it, with fields from the few values that the rules tell apart.
fn genuine(random: &mut Random, round: u32) -> Draft {
    let other = |bytes: Vec<u8>| Draft { bytes, is_v4: false, is_carp: false };
    let [IpAddr::V4(vip), IpAddr::V6(vip6)] = corpus::VIPS else { panic!("one of each family") };
    match random.below(12) {
        0..=2 => advert(random),
        3 | 4 => other(corpus::heartbeat_frame(&beat(random, round))),
        5 => {
            let form = random.pick(&[arp::Form::Request, arp::Form::Reply]);
            let target = random.pick(&[vip, vip, Ipv4Addr::new(10, 77, 0, 5)]);
            let gratuitous = arp::gratuitous(form, corpus::MAC, target).to_vec();
            other(if random.below(2) == 0 { gratuitous } else { corpus::arp_request(target) })
        }
        6 => other(corpus::solicitation(random.pick(&[vip6, vip6, corpus::LOCAL_V6]))),
        7..=10 => sync(random, round),
        _ => {
            let samples = corpus::all();
            let bytes = samples[random.below(samples.len())].bytes.clone();
            let is_v4 = bytes.len() > TRANSPORT && bytes[12..14] == [8, 0];
            Draft { is_carp: is_v4 && bytes[IP + 9] == 112, is_v4, bytes }
        }
    }
}

fn advert(random: &mut Random) -> Draft {
    let advert = Advert {
        vhid: random.pick(&[corpus::VHID, corpus::VHID, corpus::VHID, 4, 0]),
        advskew: random.byte(),
        advbase: random.pick(&[1, 0, 255]),
        demotion: random.pick(&[0, 3]),
        counter: random.below(1 << 30) as u64,
        ..corpus::ADVERT
    };
    let is_v4 = random.below(3) != 0;
    let bytes = if is_v4 {
        let (source, group) = (Ipv4Addr::new(10, 77, 0, 209), Ipv4Addr::new(224, 0, 0, 18));
        Frame::multicast_v4(corpus::MAC, source, group, 7, &advert).as_bytes().to_vec()
    } else {
        let (source, group) = (corpus::PEER_V6, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12));
        Frame::multicast_v6(corpus::MAC, source, group, &advert).as_bytes().to_vec()
    };
    Draft { bytes, is_v4, is_carp: is_v4 }
}

fn beat(random: &mut Random, round: u32) -> Heartbeat {
    let probe = Heartbeat {
        sender: random.pick(&[corpus::PEER_NODE, corpus::PEER_NODE, corpus::PEER_NODE, 2]),
        target: random.pick(&[corpus::NODE, corpus::NODE, corpus::NODE, 9]),
        key_epoch: random.pick(&[corpus::KEY_EPOCH, corpus::KEY_EPOCH, corpus::KEY_EPOCH, 1]),
        term: random.pick(&[0, 0, 0x2fe]),
        ..corpus::probe()
    };
    if random.below(2) == 0 {
        return probe;
    }
    let answer = corpus::reply(u64::from(round / 100) + random.pick(&[0, 1, 2]));
    Heartbeat {
        kind: heartbeat::Kind::Reply,
        path: random.pick(&[corpus::PATH.0, corpus::PATH.0, 0, 255]),
        session: random.pick(&[corpus::SESSION, corpus::SESSION, 0]),
        sequence: answer.sequence,
        ..probe
    }
}

fn sync(random: &mut Random, round: u32) -> Draft {
    let body_len = random.pick(&[TAG_LEN as u16, TAG_LEN as u16, 0, 100, 1400]);
    let header = Header {
        kind: random.pick(&[Kind::Data, Kind::Data, Kind::Ack, Kind::Hello]),
        sender: random.pick(&[corpus::PEER_NODE, corpus::PEER_NODE, corpus::PEER_NODE, 5]),
        key_epoch: random.pick(&[corpus::KEY_EPOCH, corpus::KEY_EPOCH, corpus::KEY_EPOCH, 1]),
        target: random.pick(&[0, 1, 1, 2]),
        session: random.pick(&[7, 7, 7, 8]),
        sequence: u64::from(round / 10) + random.pick(&[0, 1, 2, 3]),
        ..corpus::sync_header(0, body_len)
    };
    let stamp = random.pick(&[Some(corpus::STAMP_KEY), Some(corpus::STAMP_KEY), None, Some([1, 2])]);
    let port = random.pick(&[corpus::SYNC_PORT, corpus::SYNC_PORT, corpus::SYNC_PORT, 53]);
    let datagram = corpus::datagram(port, &corpus::sync_payload(&header, stamp));
    let is_v4 = random.below(2) == 0;
    let bytes = if is_v4 {
        corpus::ipv4_frame(udp::PROTOCOL, 64, &datagram)
    } else {
        corpus::ipv6_frame(corpus::PEER_V6, corpus::LOCAL_V6, udp::PROTOCOL, &datagram)
    };
    Draft { bytes, is_v4, is_carp: false }
}

/// Edits that a network, a broken sender or an attacker could make; checksums are put right again three times out of four.
fn frame(random: &mut Random, round: u32) -> Vec<u8> {
    let mut draft = genuine(random, round);
    if draft.is_v4 && random.below(3) == 0 {
        edit_ipv4(random, &mut draft.bytes);
    }
    for _ in 0..random.pick(&[0, 0, 0, 1, 2, 3]) {
        edit(random, &mut draft.bytes);
    }
    let mut bytes = draft.bytes;
    if draft.is_v4
        && random.below(4) != 0
        && bytes.len() >= IP + usize::from(bytes[IP] & 15) * 4
        && bytes.len() > IP + 12
    {
        bytes = corpus::fixed_ip_checksum(bytes);
    }
    if draft.is_carp && random.below(4) != 0 && bytes.len() >= TRANSPORT + ADVERT_LEN && bytes[IP] == 0x45 {
        bytes = corpus::fixed_carp_checksum(bytes);
    }
    if random.below(4) == 0 && bytes.len() >= 14 {
        let tags = [0x8100, 0x88a8, 0x9100, 0x8100].map(|tag| if random.below(8) == 0 { 0x8100 } else { tag });
        bytes = corpus::tagged(&bytes, &tags[..1 + random.below(4)]);
    }
    match random.below(16) {
        0 => bytes.truncate(14 + random.below(bytes.len().max(15) - 14)),
        1 => bytes.extend(vec![0xaa; random.below(64)]),
        _ => {}
    }
    bytes
}

/// Options, fragments, lengths and the hop limit.
fn edit_ipv4(random: &mut Random, bytes: &mut Vec<u8>) {
    match random.below(6) {
        0 | 1 => {
            let words = 1 + random.below(10);
            bytes.splice(TRANSPORT..TRANSPORT, vec![1; words * 4]);
            bytes[IP] = 0x45 + words as u8;
            let length = u16::from_be_bytes([bytes[IP + 2], bytes[IP + 3]]).wrapping_add(words as u16 * 4);
            bytes[IP + 2..IP + 4].copy_from_slice(&length.to_be_bytes());
        }
        2 => bytes[IP + 6] = random.pick(&[0x20, 0x40, 0x60, 0x80, 0x1f]),
        3 => bytes[IP + 7] = random.byte(),
        4 => bytes[IP + 8] = random.pick(&[255, 254, 64, 1, 0]),
        _ => bytes[IP + 3] = bytes[IP + 3].wrapping_add(random.pick(&[1, 2, 4, 255, 254, 252])),
    }
}

fn edit(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = random.below(bytes.len().min(110));
    match random.below(5) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at] = random.byte(),
        2 => bytes[at] = random.pick(&[0, 0xff, 0x7f, 0x80, 1]),
        3 => bytes.insert(at, random.byte()),
        _ => drop(bytes.remove(at)),
    }
}

/// Gives so many frames to both, and says what it was made of.
fn agree(is_v6: bool, frames: u32, seed: u64) -> (Pair, usize) {
    let (mut pair, mut random, mut delivered) = (Pair::new(is_v6), Random(seed), 0);
    for round in 0..frames {
        if round % 500 == 0 {
            // Sequences rise by one each ten rounds: the first half of those to come is too old then.
            let halfway = u64::from(round / 10 + 25);
            pair.tell(SessionEntry {
                session: random.pick(&[0, 7, 7, 7]),
                hello_from: random.pick(&[0, halfway]),
                data_from: random.pick(&[0, halfway]),
                ack_from: random.pick(&[0, halfway]),
                stamps: random.pick(&[0, 1, 1]),
            });
            pair.serve(corpus::master(u64::from(1 + round / 500) << 8 | 255, random.below(3) != 0));
        }
        let bytes = frame(&mut random, round);
        pair.feed(&format!("seed {seed:#x}, round {round}"), &bytes);
        if round % COMPARED_EACH == COMPARED_EACH - 1 {
            delivered += pair.compare_and_forget();
        }
    }
    delivered += pair.compare_and_forget();
    (pair, delivered)
}

/// The generator reaches every refusal that the program has, on either kind of sync link; the ring and the rate of hellos
/// depend on time, and are tested elsewhere.
fn expect_everything_was_there(pairs: &[(Pair, usize)]) {
    let elsewhere = ["ring_full", "frame_rate"];
    let of_the_program =
        ["frame_", "carp_", "ip_", "heartbeat_", "lease_closed", "truncated", "fragment", "ttl_", "vhid_", "vrrp"];
    // What only the engine can tell: it opens the frame.
    let of_the_engine = ["frame_body", "frame_cluster", "frame_copy"];
    for reason in DropReason::ALL.iter().copied() {
        let name = reason.name();
        let is_of = |names: &[&str]| names.iter().any(|prefix| name.starts_with(prefix));
        if is_of(&of_the_program) && !is_of(&elsewhere) && !is_of(&of_the_engine) {
            let refused: u64 = pairs.iter().map(|(pair, _)| pair.refused(reason)).sum();
            assert!(refused > 0, "no generated frame was refused for {name}");
        }
    }
    assert!(pairs.iter().all(|(_, delivered)| *delivered > 100), "hardly an advert was delivered");
}

/// 40,000 frames of every kind with seeded edits, on a sync link of either family: verdict, counters and delivered adverts
/// agree, and each refusal was among them.
#[test]
fn netns_generated_frames_agree() {
    let pairs =
        [(false, 0x7477_696e_7761_6c6c), (true, 0x6c6c_6177_6e69_7774)].map(|(is_v6, seed)| agree(is_v6, 20_000, seed));
    expect_everything_was_there(&pairs);
}

/// The same with 1,200,000 frames, from a seed that `TWINWALL_XDP_SEED` may set.
#[test]
fn netns_long_a_million_generated_frames_agree() {
    let seed = std::env::var("TWINWALL_XDP_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let pairs = [false, true].map(|is_v6| agree(is_v6, 600_000, seed * 2 + 1 + u64::from(is_v6)));
    expect_everything_was_there(&pairs);
    println!("1,200,000 frames agree, seed {seed}");
}
