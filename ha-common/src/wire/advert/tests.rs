//! The vectors of `carp-wire` section 14, the captures of real ucarp, and each refusal by its name.

use super::*;

/// Password `toto`, vhid 3, VIP 10.77.0.210; the three genuine packets and the bow-out, as IP packets.
const GENUINE: [&str; 4] = [
    "45100038c0c24000ff70cf520a4d00d1e00000122103000700010ac193b8bb422c8fc007a2c683366395a824fa2c21d717f423ec4ea9c05c",
    "451000387bfb4000ff70141b0a4d00d0e0000012210300070001156c85b6303f98174f8e8a28968a9c0ffe9de53cd33b5040ff695ffb086e",
    "45100038554b4000ff703aca0a4d00d1e000001221036407000180a636e396d90e7ef4ec16ac7f90fe4f4d0e34d70324de468c85fbbca906",
    "4510003804d24000ff708b430a4d00d1e00000122103ff0700ffe0d7000000000000000104b0a31af12d7fba41a2f2208622c18643842679",
];

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
}

fn genuine() -> Vec<u8> {
    unhex(GENUINE[0])
}

/// The packet with one change and a right IP header checksum.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut packet = genuine();
    change(&mut packet);
    let header_len = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let checksum = crate::wire::checksum::compute(&packet[..header_len.clamp(20, packet.len())]);
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet
}

/// The 36 bytes behind the IP header get a right CARP checksum.
fn rechecksummed(mut packet: Vec<u8>) -> Vec<u8> {
    packet[26..28].fill(0);
    let checksum = crate::wire::checksum::compute(&packet[20..56]);
    packet[26..28].copy_from_slice(&checksum.to_be_bytes());
    packet
}

fn reason(packet: &[u8]) -> Option<DropReason> {
    match parse_packet(packet) {
        Verdict::Refused(refusal) => Some(refusal.reason),
        Verdict::Other | Verdict::Advert(_) => None,
    }
}

/// The genuine vectors are adverts; building them again from their values gives the same bytes.
#[test]
fn genuine_vectors_parse_and_are_rebuilt() {
    for text in GENUINE {
        let packet = unhex(text);
        let Verdict::Advert(heard) = parse_packet(packet.as_slice()) else { panic!("{text}") };
        let (IpAddr::V4(source), IpAddr::V4(destination)) = (heard.source(), heard.destination()) else {
            panic!("{text}")
        };
        assert_eq!(heard.vhid(), 3);
        let identification = u16::from_be_bytes([packet[4], packet[5]]);
        assert_eq!(emit_ipv4(source, destination, identification, &heard.advert())[..], packet);
    }
}

/// The fields of vector 1 are those of its dissection.
#[test]
fn vector_1_dissected() {
    let packet = genuine();
    let Verdict::Advert(heard) = parse_packet(packet.as_slice()) else { panic!() };
    let advert = heard.advert();
    assert_eq!((advert.vhid, advert.advskew, advert.advbase, advert.demotion), (3, 0, 1, 0));
    assert_eq!(advert.counter, 0x93b8_bb42_2c8f_c007);
    assert_eq!(advert.digest[..4], [0xa2, 0xc6, 0x83, 0x36]);
    assert_eq!(heard.source().to_string(), "10.77.0.209");
    assert_eq!(heard.destination().to_string(), "224.0.0.18");
}

/// A frame to the group has ucarp's length and addresses; an IPv6 frame parses back to the same advert.
#[test]
fn frames_round_trip() {
    let packet = genuine();
    let Verdict::Advert(heard) = parse_packet(packet.as_slice()) else { panic!() };
    let advert = heard.advert();
    let mac = [0x00, 0x00, 0x5e, 0x00, 0x00, 0x03];
    let group = Ipv4Addr::new(224, 0, 0, 18);
    let v4 = Frame::multicast_v4(mac, Ipv4Addr::new(10, 77, 0, 209), group, 0xc0c2, &advert);
    assert_eq!(v4.as_bytes()[..14], [0x01, 0, 0x5e, 0, 0, 0x12, 0, 0, 0x5e, 0, 0, 3, 8, 0]);
    assert_eq!(v4.as_bytes()[14..], packet);
    let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
    let v6 = Frame::multicast_v6(mac, source, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12), &advert);
    let Verdict::Advert(heard) = parse_frame(v6.as_bytes()) else { panic!() };
    assert_eq!((heard.advert(), heard.source()), (advert, IpAddr::V6(source)));
    assert_eq!(v6.as_bytes().len(), 90);
}

/// Each thing that can be wrong has its own name.
#[test]
fn each_refusal_has_its_reason() {
    let cases = [
        (DropReason::IpLength, changed(|p| p[0] = 0x44)),
        (DropReason::IpLength, changed(|p| p[3] = 19)),
        (DropReason::Truncated, genuine()[..55].to_vec()),
        (DropReason::Fragment, changed(|p| p[6] = 0x20)),
        (DropReason::Fragment, changed(|p| p[7] = 1)),
        (DropReason::TtlNot255, changed(|p| p[8] = 254)),
        (DropReason::CarpLength, changed(|p| p[3] = 55)),
        (DropReason::CarpLength, changed(|p| p[3] = 27)),
        (DropReason::CarpType, rechecksummed(changed(|p| p[20] = 0x22))),
        (DropReason::CarpVersion, rechecksummed(changed(|p| p[20] = 0x31))),
        (DropReason::CarpAuthLen, rechecksummed(changed(|p| p[23] = 6))),
        (DropReason::CarpChecksum, changed(|p| p[40] ^= 1)),
        (DropReason::IpChecksum, [&genuine()[..10], &[0, 0], &genuine()[12..]].concat()),
    ];
    for (wanted, packet) in cases {
        assert_eq!(reason(&packet), Some(wanted));
    }
}

/// IP and CARP checksums that are wrong by +1 and -1 cancel out for ucarp (`carp-wire` section 3), not here.
#[test]
fn cancelling_checksum_errors_are_refused() {
    let mut packet = genuine();
    packet[11] += 1;
    packet[27] -= 1;
    assert_eq!(reason(&packet), Some(DropReason::IpChecksum));
}

/// VRRPv2 with 1, 5 and 7 addresses and VRRPv3 with 7 are VRRP, whatever their TTL: they pass.
#[test]
fn vrrp_is_told_from_carp() {
    for (first, addresses, len) in [(0x21, 1, 20), (0x21, 5, 36), (0x21, 7, 44), (0x31, 7, 36), (0x31, 1, 12)] {
        let packet = changed(|p| {
            p.resize(20 + len, 0);
            p[3] = 20 + len as u8;
            p[8] = 254;
            p[20] = first;
            p[23] = addresses;
        });
        assert_eq!(reason(&packet), Some(DropReason::Vrrp), "{first:#x} {addresses}");
    }
    assert!(DropReason::Vrrp.is_passed_on());
}

/// Any TOS, byte 4 (OpenBSD's demotion), an IP option and bytes behind the IP packet are accepted, as by ucarp.
#[test]
fn harmless_variations_are_accepted() {
    let option = changed(|p| {
        p.splice(20..20, [1, 1, 1, 0]);
        p[0] = 0x46;
        p[3] += 4;
    });
    let trailing = changed(|p| p.extend([0; 8]));
    for packet in [changed(|p| p[1] = 0xe0), rechecksummed(changed(|p| p[24] = 9)), option, trailing] {
        assert!(matches!(parse_packet(packet.as_slice()), Verdict::Advert(_)));
    }
}

/// A refusal names the VHID that the message claims, where there is one to read.
#[test]
fn refusals_name_the_vhid() {
    let vhid = |packet: Vec<u8>| match parse_packet(packet.as_slice()) {
        Verdict::Refused(refusal) => refusal.vhid,
        Verdict::Other | Verdict::Advert(_) => panic!(),
    };
    assert_eq!(vhid(changed(|p| p[8] = 1)), Some(3));
    assert_eq!(vhid(changed(|p| p[6] = 0x20)), None);
    assert_eq!(vhid(genuine()[..30].to_vec()), None);
}

/// The frames of a capture in the classic pcap format with microseconds, little endian.
fn capture(bytes: &[u8]) -> Vec<&[u8]> {
    let mut rest = &bytes[24..];
    let mut frames = Vec::new();
    while let Some((head, tail)) = rest.split_first_chunk::<16>() {
        let (frame, next) = tail.split_at(u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize);
        frames.push(frame);
        rest = next;
    }
    frames
}

/// Everything that real ucarp daemons sent in five captures (50 by tcpdump's count) is an advert, and is rebuilt byte by byte.
#[test]
fn captured_adverts_parse_and_are_rebuilt() {
    let captures: [&[u8]; 5] = [
        include_bytes!("../../../../tests/fixtures/pcaps/ucarp-master-election.pcap"),
        include_bytes!("../../../../tests/fixtures/pcaps/ucarp-hard-kill-failover.pcap"),
        include_bytes!("../../../../tests/fixtures/pcaps/ucarp-graceful-shutdown.pcap"),
        include_bytes!("../../../../tests/fixtures/pcaps/ucarp-sigusr2-demote.pcap"),
        include_bytes!("../../../../tests/fixtures/pcaps/ucarp-preempt.pcap"),
    ];
    let mut adverts = 0;
    for frame in captures.into_iter().flat_map(capture) {
        let Verdict::Advert(heard) = parse_frame(frame) else {
            assert_ne!(frame[23], carp::PROTOCOL);
            continue;
        };
        let (IpAddr::V4(source), IpAddr::V4(group)) = (heard.source(), heard.destination()) else { panic!() };
        let mac = <[u8; 6]>::try_from(&frame[6..12]).unwrap();
        let id = u16::from_be_bytes([frame[18], frame[19]]);
        assert_eq!(Frame::multicast_v4(mac, source, group, id, &heard.advert()).as_bytes(), frame);
        adverts += 1;
    }
    assert_eq!(adverts, 50);
}

/// Of the forged packets shown to ucarp, those that are malformed are refused by name; what only the digest tells is left to the election.
#[test]
fn captured_forgeries_are_named() {
    let bytes = include_bytes!("../../../../tests/fixtures/pcaps/ucarp-forged-rejects.pcap");
    let mut counts = std::collections::BTreeMap::new();
    for frame in capture(bytes) {
        let name = match parse_frame(frame) {
            Verdict::Advert(_) => "advert",
            Verdict::Refused(refusal) => refusal.reason.name(),
            Verdict::Other => "other",
        };
        *counts.entry(name).or_insert(0) += 1;
    }
    insta::assert_debug_snapshot!(counts);
}
