//! The program in the kernel against the filter in user space, on generated events: datagrams through a socket that has the
//! program attached. Needs no privilege.

use super::super::attribute::Builder;
use super::super::encode;
use super::*;
use ha_common::sync::filter::{FilterReason, Lists, PrefixSet};
use ha_common::sync::flow::{FlowKey, Tuple};
use socket2::SockRef;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::net::UnixDatagram;

const OWN_PORT: u32 = 0x0102_0304;

/// A reproducible source of numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32 % limit
    }

    /// Few different ones near the borders of networks, and the special ones.
    fn address(&mut self, v6: bool) -> IpAddr {
        let (high, low) = (self.below(12), self.below(5));
        if v6 {
            let special = ["::1", "::", "ff02::1", "fe80::1", "febf::1", "fec0::1"];
            match special.get(high as usize) {
                Some(text) => text.parse().unwrap(),
                None => Ipv6Addr::new(0x2001, 0xdb8, high as u16, 0, 0, 0, self.below(2) as u16, low as u16).into(),
            }
        } else {
            match high {
                0 => [127, 0, 0, low as u8].into(),
                1 => [224 + self.below(32) as u8, 0, 0, 1].into(),
                2 => Ipv4Addr::BROADCAST.into(),
                _ => [10, high as u8, self.below(2) as u8, low as u8].into(),
            }
        }
    }

    fn prefixes(&mut self, count: u32) -> PrefixSet {
        (0..count).map(|_| self.prefix()).collect()
    }

    fn prefix(&mut self) -> Prefix {
        let v6 = self.below(2) == 0;
        let address = self.address(v6);
        let lengths: [u8; 6] = if v6 { [128, 128, 127, 96, 48, 33] } else { [32, 32, 31, 24, 16, 0] };
        let choices = if self.below(20) == 0 { 6 } else { 5 };
        let length = lengths[self.below(choices) as usize];
        Prefix::new(address, length)
    }

    fn filter(&mut self, prefixes: u32) -> Filter {
        let protocols = match self.below(3) {
            0 => ProtocolSet::ALL,
            1 => [6, 17].into_iter().collect(),
            _ => (0..=255).filter(|protocol| protocol % 11 != 3).collect(),
        };
        let count = self.below(prefixes) + 1;
        let accept = (self.below(2) == 0).then(|| self.prefixes(count));
        Filter {
            protocols,
            local: self.prefixes(count),
            addresses: Lists { accept, ignore: self.prefixes(count) },
            ..Filter::default()
        }
    }

    fn event(&mut self) -> (FlowKey, Tuple) {
        let v6 = self.below(2) == 0;
        let protocol = [6, 17, 1, 58, 132, 3, 10, 255][self.below(8) as usize];
        let original = Tuple {
            source: self.address(v6),
            destination: self.address(v6),
            protocol,
            source_port: self.below(65536) as u16,
            destination_port: self.below(65536) as u16,
        };
        let mut reply = original.inverse();
        if self.below(3) == 0 {
            reply.source = self.address(v6);
        }
        (FlowKey { original, zone: self.below(2) as u16 }, reply)
    }
}

/// An event with what stands before and behind the tuples in real ones.
fn message(key: &FlowKey, reply: &Tuple, port: u32) -> Vec<u8> {
    let mut out = Builder::default();
    let family = if key.original.source.is_ipv4() { uapi::FAMILY_V4 } else { uapi::FAMILY_V6 };
    let message = out.begin(uapi::CT_NEW, 0, 0, family);
    encode::put_tuple(&mut out, uapi::CTA_TUPLE_ORIG, &key.original);
    encode::put_tuple(&mut out, uapi::CTA_TUPLE_REPLY, reply);
    out.put_be16(uapi::CTA_ZONE, key.zone);
    out.put_be32(uapi::CTA_STATUS, 0x0e);
    out.end(message);
    let mut bytes = out.bytes().to_vec();
    bytes[12..16].copy_from_slice(&port.to_ne_bytes());
    bytes
}

struct Kernel {
    sender: UnixDatagram,
    receiver: UnixDatagram,
}

impl Kernel {
    fn new() -> Self {
        let (sender, receiver) = UnixDatagram::pair().unwrap();
        receiver.set_nonblocking(true).unwrap();
        Self { sender, receiver }
    }

    fn load(&self, program: &[SockFilter]) {
        SockRef::from(&self.receiver).attach_filter(program).unwrap();
    }

    fn passes(&self, bytes: &[u8]) -> bool {
        let mut buffer = [0; 2048];
        self.sender.send(bytes).unwrap();
        match self.receiver.recv(&mut buffer) {
            Ok(length) => {
                assert_eq!(&buffer[..length], bytes);
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                false
            }
        }
    }
}

/// Sixty filters, 12,000 events: what the filter accepts is never dropped, and as the lists fit into the program
/// everything that they refuse is.
#[test]
fn the_kernel_drops_what_the_filter_refuses() {
    let (kernel, mut random) = (Kernel::new(), Random(7));
    let mut dropped = 0;
    for _ in 0..60 {
        let filter = random.filter(8);
        kernel.load(&generate(&filter, OWN_PORT));
        for _ in 0..200 {
            let (key, reply) = random.event();
            let passes = kernel.passes(&message(&key, &reply, 0));
            assert_eq!(passes, filter.judge_identity(&key, &reply).is_ok(), "{key:?} {reply:?} {filter:?}");
            dropped += u32::from(!passes);
        }
    }
    assert!((2000..11_000).contains(&dropped), "{dropped} of 12000 were dropped: the events test too little");
}

/// Lists too long for the program: it is bounded, and never drops what the filter accepts.
#[test]
fn long_lists_stay_in_user_space() {
    let (kernel, mut random) = (Kernel::new(), Random(11));
    for _ in 0..4 {
        let mut filter = random.filter(8);
        let many = (0..2000u32).map(|n| Prefix::new(Ipv4Addr::from_bits(0x0b00_0000 + n * 512).into(), 23));
        let many6 = (0..100u16).map(|n| Prefix::host(Ipv6Addr::new(0x2001, 0xdb8, 5, n, 0, 0, 0, 0).into()));
        filter.addresses.ignore.extend(many.clone().chain(many6));
        if let Some(accept) = &mut filter.addresses.accept {
            accept.extend(many);
        }
        let program = generate(&filter, OWN_PORT);
        assert!(program.len() <= 2048, "the program has {} instructions", program.len());
        kernel.load(&program);
        for _ in 0..500 {
            let (key, reply) = random.event();
            let accepted = filter.judge_identity(&key, &reply).is_ok();
            assert!(kernel.passes(&message(&key, &reply, 0)) || !accepted, "{key:?} {reply:?}");
        }
    }
}

/// Ports, zones and everything that changes stay with the user-space filter.
#[test]
fn only_protocol_and_addresses_are_decided() {
    let (kernel, mut random) = (Kernel::new(), Random(13));
    let filter = Filter {
        ports: Lists { accept: Some(Vec::new()), ignore: Vec::new() },
        zones: Lists { accept: Some(Vec::new()), ignore: Vec::new() },
        assured_only: true,
        ..Filter::default()
    };
    kernel.load(&generate(&filter, OWN_PORT));
    for _ in 0..500 {
        let (key, reply) = random.event();
        let local = filter.judge_identity(&key, &reply) == Err(FilterReason::LocalAddress);
        assert_eq!(kernel.passes(&message(&key, &reply, 0)), !local);
    }
}

/// Events of the daemon's own writes are dropped by both programs; bytes that are no event are left to user space
/// when they are long enough to be looked at.
#[test]
fn own_events_and_noise() {
    let kernel = Kernel::new();
    let (key, reply) = Random(3).event();
    let filter = Filter::default();
    for program in [own_only(OWN_PORT), generate(&filter, OWN_PORT)] {
        kernel.load(&program);
        assert!(!kernel.passes(&message(&key, &reply, OWN_PORT)));
        assert!(kernel.passes(&[0xff; 64]));
        assert!(kernel.passes(&[0; 300]));
    }
}
