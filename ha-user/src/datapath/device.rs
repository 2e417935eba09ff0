//! The device of a configured interface: its index and its hardware address, which may change at any time.

use crate::route_netlink::{Message, RouteSocket, attributes};
use rustix::io::Errno;
use std::io;

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
/// `struct nlmsghdr`, and `struct ifinfomsg` behind it.
const HEADER_LEN: usize = 16;
const LINK_HEADER_LEN: usize = 16;

/// What the kernel says of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    pub ifindex: u32,
    /// Zero when it has no Ethernet address.
    pub mac: [u8; 6],
}

/// The device of this name.
///
/// # Errors
/// `ENODEV` when there is none, and whatever else the kernel says.
pub fn find(name: &str) -> io::Result<Device> {
    let mut socket = RouteSocket::open(0)?;
    socket.send(&request(name))?;
    // The kernel answers a request for one device from within send.
    let Some(messages) = socket.receive()? else { return Err(io::ErrorKind::UnexpectedEof.into()) };
    for message in messages {
        match message.kind {
            RTM_NEWLINK => return device(&message).ok_or_else(|| io::ErrorKind::InvalidData.into()),
            NLMSG_ERROR => {
                let code = message.payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            _ => {}
        }
    }
    Err(Errno::NODEV.into())
}

fn request(name: &str) -> Vec<u8> {
    let mut request = vec![0; HEADER_LEN + LINK_HEADER_LEN];
    // An attribute: its length without padding, its kind, the name with its final zero.
    let length = 4 + name.len() + 1;
    request.extend((length as u16).to_ne_bytes());
    request.extend(IFLA_IFNAME.to_ne_bytes());
    request.extend(name.as_bytes());
    request.resize((HEADER_LEN + LINK_HEADER_LEN + length).next_multiple_of(4), 0);
    let total = request.len() as u32;
    request[0..4].copy_from_slice(&total.to_ne_bytes());
    request[4..6].copy_from_slice(&RTM_GETLINK.to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    request
}

fn device(message: &Message<'_>) -> Option<Device> {
    let ifindex = u32::from_ne_bytes(*message.payload.get(4..)?.first_chunk()?);
    let address = attributes(message.payload, LINK_HEADER_LEN).find(|(kind, _)| *kind == IFLA_ADDRESS);
    let mac = address.and_then(|(_, value)| <[u8; 6]>::try_from(value).ok()).unwrap_or_default();
    Some(Device { ifindex, mac })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loopback device is there everywhere, with index 1 and no address; other names are not.
    #[test]
    fn loopback_is_found() {
        assert_eq!(find("lo").unwrap(), Device { ifindex: 1, mac: [0; 6] });
        let missing = find("tw-none").unwrap_err();
        assert_eq!(missing.raw_os_error(), Some(Errno::NODEV.raw_os_error()));
    }
}
