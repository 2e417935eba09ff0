//! Frames as the XDP programs and the sockets get them: from anybody on the segment.

use ha_common::wire::advert::{self, Verdict};
use ha_common::wire::carp::{self, Advert};
use ha_common::wire::frame::{self, Header};
use ha_common::wire::{arp, ethernet, ip, ndisc};
use std::net::IpAddr;

pub fn run(input: &[u8]) {
    adverts(input);
    datagrams(input);
    requests(input);
}

/// An advert that is heard is emitted and heard again as the same, and is not heard when its end is missing.
fn adverts(frame: &[u8]) {
    let _ = advert::parse_packet(frame);
    let _ = Advert::parse(frame);
    let Verdict::Advert(heard) = advert::parse_frame(frame) else { return };
    let said = heard.advert();
    assert_eq!(Advert::parse(&said.emit()), Ok(said));
    assert_eq!(said.vhid, heard.vhid());
    let payload = heard.ip.payload(frame).expect("an advert is in the packet");
    let short = frame.get(..payload.offset + payload.len - 1).expect("its payload is in the frame");
    assert!(!matches!(advert::parse_frame(short), Verdict::Advert(_)), "an advert without its last byte");
    let again = match (heard.source(), heard.destination()) {
        (IpAddr::V4(source), IpAddr::V4(group)) => advert::emit_ipv4(source, group, 1, &said).to_vec(),
        (IpAddr::V6(source), IpAddr::V6(group)) => advert::emit_ipv6(source, group, &said).to_vec(),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => panic!("two families in one packet"),
    };
    let Verdict::Advert(twice) = advert::parse_packet(&again[..]) else {
        panic!("what was heard is refused: {said:?}")
    };
    assert_eq!((twice.advert(), twice.source(), twice.destination()), (said, heard.source(), heard.destination()));
    assert_eq!(payload.len, carp::ADVERT_LEN);
}

/// The header of a sync frame is emitted and read as the same, and its stamp is right under one key alone.
fn datagrams(frame: &[u8]) {
    if let Some(payload) = ip::Header::of_frame(frame).and_then(|ip| frame::datagram(frame, &ip, frame::DEFAULT_PORT)) {
        assert!(payload.len == 0 || payload.offset + payload.len <= frame.len());
        let _ = Header::read(frame, payload);
        let _ = frame::is_stamped(frame, payload, [1, 2]);
    }
    let Ok(header) = Header::parse(frame) else { return };
    let mut again = [0; 128];
    again[..frame::HEADER_LEN].copy_from_slice(&header.emit());
    let whole = again.get_mut(..frame.len());
    if let Some(whole) = whole {
        assert_eq!(Header::parse(whole), Ok(header));
        frame::put_stamp(whole.first_chunk_mut().expect("a frame is longer than its header"), [1, 2]);
        let payload = ha_common::wire::ipv4::Payload { offset: 0, len: whole.len() };
        assert!(frame::is_stamped(&*whole, payload, [1, 2]));
        assert_eq!(Header::parse(whole), Ok(header));
    }
    assert!(Header::parse(&frame[..frame.len() - 1]).is_err(), "a frame without its last byte");
}

/// What is asked for by ARP and neighbour solicitations.
fn requests(frame: &[u8]) {
    let Some(payload) = ethernet::payload(frame) else { return };
    if payload.ether_type == arp::TYPE_ARP {
        let _ = arp::asked(frame, payload.offset);
    } else if let Some(ip::Header::V6(header)) = ip::Header::behind(frame, payload) {
        let _ = ndisc::asked(frame, &header);
    }
}
