//! ARP: gratuitous for a virtual address (`carp-wire` section 9), and whom a request asks for.

use super::bytes::{Packet, Window};
use super::ethernet;
use core::net::Ipv4Addr;

/// EtherType of ARP.
pub const TYPE_ARP: u16 = 0x0806;
/// Length of an ARP packet for IPv4 over Ethernet.
const PACKET_LEN: usize = 28;
const REQUEST: u16 = 1;
const BROADCAST: [u8; 6] = [0xff; 6];
/// Length of the whole Ethernet frame in bytes.
pub const GRATUITOUS_LEN: usize = 42;

/// Which of the two shapes of a gratuitous ARP.
///
/// Neighbours differ in what they learn from, so both are sent (`carp-wire` section 16, item 9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Opcode 1, ucarp's form.
    Request,
    /// Opcode 2.
    Reply,
}

impl Form {
    const fn opcode(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Reply => 2,
        }
    }
}

/// The broadcast frame that says "`address` is at `mac`"; `mac` is the interface's own.
///
/// Sender and target are the same pair: ucarp writes the MAC into the target field as well, not zeros.
pub fn gratuitous(form: Form, mac: [u8; 6], address: Ipv4Addr) -> [u8; GRATUITOUS_LEN] {
    let mut frame = [0; GRATUITOUS_LEN];
    frame[0..14].copy_from_slice(&ethernet::emit(BROADCAST, mac, TYPE_ARP));
    // Hardware Ethernet, protocol IPv4, address lengths 6 and 4 (RFC 826).
    frame[14..20].copy_from_slice(&[0x00, 0x01, 0x08, 0x00, 6, 4]);
    frame[21] = form.opcode();
    frame[22..28].copy_from_slice(&mac);
    frame[28..32].copy_from_slice(&address.octets());
    frame[32..38].copy_from_slice(&mac);
    frame[38..42].copy_from_slice(&address.octets());
    frame
}

/// The address that somebody else asks for in the ARP packet at `offset`, as words in memory order; `None` when it is no
/// request, or a gratuitous one, by which the sender tells of itself.
///
/// Hardware and protocol type are not looked at: Linux answers more than one of them (`arp_process`), and a packet
/// that it does not answer is of no use to its sender.
#[inline(always)]
pub fn asked<P: Packet>(frame: P, offset: usize) -> Option<[u16; 2]> {
    let packet = frame.window::<PACKET_LEN>(offset)?;
    let (sender, target): ([u16; 2], [u16; 2]) = (packet.words(14), packet.words(24));
    if packet.be16(6) == REQUEST && sender != target { Some(target) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
    const VIP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 210);

    /// The request form is the captured example of `carp-wire` section 9, byte for byte.
    #[test]
    fn request_form_equals_the_capture() {
        let capture = "ffffffffffff02000000000a08060001080006040001\
                       02000000000a0a4d00d202000000000a0a4d00d2";
        let hex: String = gratuitous(Form::Request, MAC, VIP).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, capture);
    }

    /// A request tells whom it asks for; replies and both gratuitous forms ask for nobody, nor does a cut packet.
    #[test]
    fn who_is_asked_for() {
        let mut request = gratuitous(Form::Request, MAC, VIP);
        assert_eq!(asked(&request[..], 14), None);
        assert_eq!(asked(&gratuitous(Form::Reply, MAC, VIP)[..], 14), None);
        request[31] += 1;
        let words = [u16::from_ne_bytes([10, 77]), u16::from_ne_bytes([0, 210])];
        assert_eq!(asked(&request[..], 14), Some(words));
        assert_eq!(asked(&request[..GRATUITOUS_LEN - 1], 14), None);
        request[21] = 2;
        assert_eq!(asked(&request[..], 14), None);
    }

    /// The reply differs in the opcode and nowhere else, so that both teach the same pair.
    #[test]
    fn reply_form_differs_in_the_opcode_only() {
        let request = gratuitous(Form::Request, MAC, VIP);
        let reply = gratuitous(Form::Reply, MAC, VIP);
        let different: Vec<usize> = (0..GRATUITOUS_LEN).filter(|&at| request[at] != reply[at]).collect();
        assert_eq!(different, [21]);
        assert_eq!(reply[21], 2);
    }
}
