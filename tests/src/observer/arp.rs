//! ARP: requests for an IPv4 address, and the answers to them (RFC 826).

use super::{Reply, number_of, numbered};
use std::net::Ipv4Addr;

/// EtherType of ARP.
pub const ETHERTYPE: u16 = 0x0806;
/// Ethernet header and ARP for IPv4.
const FRAME: usize = 42;

/// A broadcast request: who has `target`? Asked from a host with hardware address `source` in the name of `sender`.
pub fn request(source: [u8; 6], sender: Ipv4Addr, target: Ipv4Addr, number: u32) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    let fields: [(usize, &[u8]); 7] = [
        (0, &[0xff; 6]),
        (6, &source),
        (12, &ETHERTYPE.to_be_bytes()),
        // Hardware type Ethernet, protocol type IPv4, lengths 6 and 4, operation 1.
        (14, &[0, 1, 8, 0, 6, 4, 0, 1]),
        (22, &numbered(number)),
        (28, &sender.octets()),
        // The target's hardware address, which is asked for, stays zero.
        (38, &target.octets()),
    ];
    for (at, bytes) in fields {
        for (slot, byte) in frame.iter_mut().skip(at).zip(bytes) {
            *slot = *byte;
        }
    }
    frame
}

/// The answer in a frame; `None` when it is none of ours for this address.
pub fn reply(frame: &[u8], vip: Ipv4Addr) -> Option<Reply> {
    let is_reply = frame.get(12..14)? == ETHERTYPE.to_be_bytes() && frame.get(20..22)? == [0, 2];
    let is_ours = frame.get(28..32)? == vip.octets();
    let reply = Reply { mac: frame.get(22..28)?.try_into().ok()?, number: number_of(frame.get(32..38)?)? };
    (is_reply && is_ours).then_some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: Ipv4Addr = Ipv4Addr::new(192, 168, 103, 210);

    /// Answered as a kernel does (the halves swapped, operation 2), a request's number comes back; requests, other
    /// addresses' answers and cut frames are not taken for answers.
    #[test]
    fn an_answer_names_its_request() {
        let request = request([2; 6], Ipv4Addr::new(192, 168, 103, 250), VIP, 0xfeed);
        let mac = [2, 0x77, 0, 0, 1, 0];
        let mut answer = request;
        answer[21] = 2;
        answer[32..42].copy_from_slice(&request[22..32]);
        answer[22..28].copy_from_slice(&mac);
        answer[28..32].copy_from_slice(&VIP.octets());
        assert_eq!(reply(&answer, VIP), Some(Reply { mac, number: 0xfeed }));
        assert_eq!(reply(&request, VIP), None);
        assert_eq!(reply(&answer, Ipv4Addr::new(192, 168, 103, 211)), None);
        assert!((0..42).all(|length| reply(&answer[..length.min(37)], VIP).is_none()));
    }
}
