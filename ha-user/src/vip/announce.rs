//! The frames that tell the neighbours where the virtual addresses are now.

use ha_common::wire::{arp, ndisc};
use std::net::IpAddr;

/// Calls `send` with each frame that announces `addresses` at `mac`: for IPv4 both forms of gratuitous ARP
/// (`carp-wire` section 16, item 9), for IPv6 an unsolicited neighbour advertisement. Returns how many failed, and the
/// first error; a failing frame does not keep the others back.
pub fn each_frame<E>(
    mac: [u8; 6],
    addresses: impl IntoIterator<Item = IpAddr>,
    mut send: impl FnMut(&[u8]) -> Result<(), E>,
) -> (u64, Option<E>) {
    let (mut failed, mut first) = (0, None);
    let mut note = |result: Result<(), E>| {
        if let Err(error) = result {
            failed += 1;
            first.get_or_insert(error);
        }
    };
    for address in addresses {
        match address {
            IpAddr::V4(address) => {
                note(send(&arp::gratuitous(arp::Form::Request, mac, address)));
                note(send(&arp::gratuitous(arp::Form::Reply, mac, address)));
            }
            IpAddr::V6(address) => note(send(&ndisc::unsolicited(mac, address))),
        }
    }
    (failed, first)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// IPv4 is announced in both forms, IPv6 once, and an error in between is counted without ending the round.
    #[test]
    fn every_address_is_announced() {
        let mut lengths = Vec::new();
        let addresses = ["10.0.0.1", "fd00::1", "10.0.0.2"].map(|text| text.parse().unwrap());
        let (failed, first) = each_frame([2; 6], addresses, |frame| {
            lengths.push(frame.len());
            if frame.len() == ndisc::UNSOLICITED_LEN { Err("down") } else { Ok(()) }
        });
        let (arp, na) = (arp::GRATUITOUS_LEN, ndisc::UNSOLICITED_LEN);
        assert_eq!(lengths, [arp, arp, na, arp, arp]);
        assert_eq!((failed, first), (1, Some("down")));
    }
}
