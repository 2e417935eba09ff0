//! [`Flow`] to and from the protobuf messages. Decoding checks every range, so that what comes out can
//! be written into a kernel.

use super::encode_extra::{extra_message, extra_value};
use super::flow::{Flow, FlowKey, Tcp, Tuple, status};
use crate::proto;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Highest `TCP_CONNTRACK_*` that may be written (`ctnetlink` section 5).
const TCP_STATE_MAX: u32 = 9;
const WSCALE_MAX: u8 = 14;
/// More seconds than this the kernel clamps anyway (`ctnetlink` section 7).
const TIMEOUT_MAX: u32 = 8_589_934;

/// The message for `flow`; `handover` says that the sender gives it away.
pub(super) fn flow_message(flow: &Flow, version: u64, handover: bool) -> proto::Flow {
    proto::Flow {
        key: Some(key_message(&flow.key)),
        version,
        reply: (flow.reply != flow.key.original.inverse()).then(|| tuple_message(&flow.reply)),
        status: flow.status & status::REPLICATED,
        timeout: flow.timeout,
        mark: flow.mark,
        tcp: flow.tcp.map(|tcp| proto::Tcp {
            state: u32::from(tcp.state),
            wscale: u32::from(tcp.wscale[0] & 0xf) | u32::from(tcp.wscale[1] & 0xf) << 4,
            flags: u32::from(tcp.flags[0]) | u32::from(tcp.flags[1]) << 8,
        }),
        handover,
        extra: flow.extra.as_deref().map(|extra| Box::new(extra_message(extra))),
    }
}

pub(super) fn key_message(key: &FlowKey) -> proto::Key {
    proto::Key {
        protocol: u32::from(key.original.protocol),
        ipv6: key.original.source.is_ipv6(),
        zone: u32::from(key.zone),
        original: Some(tuple_message(&key.original)),
    }
}

/// The flow of a message; `None` when a field is out of its range.
pub(super) fn flow_value(message: &proto::Flow) -> Option<Flow> {
    let key = key_value(message.key.as_ref())?;
    let reply = match &message.reply {
        Some(tuple) => tuple_value(tuple, key.original.protocol, key.original.source.is_ipv6())?,
        None => key.original.inverse(),
    };
    let tcp = match &message.tcp {
        Some(tcp) => Some(tcp_value(tcp)?),
        None => None,
    };
    Some(Flow {
        key,
        reply,
        status: message.status & status::REPLICATED,
        timeout: message.timeout.min(TIMEOUT_MAX),
        mark: message.mark,
        tcp,
        id: 0,
        extra: match &message.extra {
            Some(extra) => Some(Box::new(extra_value(extra, key.original.source.is_ipv6())?)),
            None => None,
        },
    })
}

pub(super) fn key_value(message: Option<&proto::Key>) -> Option<FlowKey> {
    let message = message?;
    let protocol = u8::try_from(message.protocol).ok()?;
    Some(FlowKey {
        original: tuple_value(message.original.as_ref()?, protocol, message.ipv6)?,
        zone: u16::try_from(message.zone).ok()?,
    })
}

pub(super) fn tuple_message(tuple: &Tuple) -> proto::Tuple {
    let mut message = proto::Tuple {
        source_port: u32::from(tuple.source_port),
        destination_port: u32::from(tuple.destination_port),
        ..proto::Tuple::default()
    };
    match tuple.source {
        IpAddr::V4(address) => message.source = address.to_bits(),
        IpAddr::V6(address) => (message.source_high, message.source_low) = halves(address),
    }
    match tuple.destination {
        IpAddr::V4(address) => message.destination = address.to_bits(),
        IpAddr::V6(address) => (message.destination_high, message.destination_low) = halves(address),
    }
    message
}

pub(super) fn tuple_value(message: &proto::Tuple, protocol: u8, ipv6: bool) -> Option<Tuple> {
    let (source, destination): (IpAddr, IpAddr) = if ipv6 {
        (
            whole(message.source_high, message.source_low).into(),
            whole(message.destination_high, message.destination_low).into(),
        )
    } else {
        (Ipv4Addr::from_bits(message.source).into(), Ipv4Addr::from_bits(message.destination).into())
    };
    Some(Tuple {
        source,
        destination,
        protocol,
        source_port: u16::try_from(message.source_port).ok()?,
        destination_port: u16::try_from(message.destination_port).ok()?,
    })
}

fn tcp_value(message: &proto::Tcp) -> Option<Tcp> {
    let state = u8::try_from(message.state).ok().filter(|_| message.state <= TCP_STATE_MAX)?;
    let [0, 0, 0, both] = message.wscale.to_be_bytes() else { return None };
    let [0, 0, reply, original] = message.flags.to_be_bytes() else { return None };
    let wscale = [both & 0xf, both >> 4];
    (wscale.iter().all(|&scale| scale <= WSCALE_MAX)).then_some(Tcp { state, wscale, flags: [original, reply] })
}

pub(super) fn halves(address: Ipv6Addr) -> (u64, u64) {
    let bits = address.to_bits();
    ((bits >> 64) as u64, bits as u64)
}

pub(super) fn whole(high: u64, low: u64) -> Ipv6Addr {
    Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::encode_extra::tests::any_extra;
    use super::*;
    use proptest::prelude::*;
    use prost::Message;

    /// Any flow the kernel could give, IPv4 and IPv6, translated or not.
    pub(crate) fn any_flow() -> BoxedStrategy<Flow> {
        let address = |ipv6: bool| {
            if ipv6 {
                any::<Ipv6Addr>().prop_map(IpAddr::V6).boxed()
            } else {
                any::<Ipv4Addr>().prop_map(IpAddr::V4).boxed()
            }
        };
        let tuple = move |ipv6, protocol| {
            (address(ipv6), address(ipv6), any::<u16>(), any::<u16>()).prop_map(
                move |(source, destination, source_port, destination_port)| Tuple {
                    source,
                    destination,
                    protocol,
                    source_port,
                    destination_port,
                },
            )
        };
        let tcp = (0u8..=9, [0u8..=14, 0u8..=14], any::<[u8; 2]>()).prop_map(|(state, wscale, flags)| Tcp {
            state,
            wscale,
            flags,
        });
        let rest = (any::<u16>(), any::<u32>(), 0..TIMEOUT_MAX, any::<u32>(), proptest::option::of(tcp));
        (any::<bool>(), any::<u8>())
            .prop_flat_map(move |(ipv6, protocol)| {
                let extra = proptest::option::weighted(0.3, any_extra(ipv6).prop_map(Box::new));
                (tuple(ipv6, protocol), proptest::option::of(tuple(ipv6, protocol)), rest.clone(), extra).prop_map(
                    |(original, reply, (zone, bits, timeout, mark, tcp), extra)| Flow {
                        key: FlowKey { original, zone },
                        reply: reply.unwrap_or(original.inverse()),
                        status: bits & status::REPLICATED,
                        timeout,
                        mark,
                        tcp,
                        id: 0,
                        extra,
                    },
                )
            })
            .boxed()
    }

    proptest! {
        /// Every flow survives encoding to bytes and back unchanged.
        #[test]
        fn flow_round_trip(flow in any_flow(), version: u64) {
            let bytes = flow_message(&flow, version, false).encode_to_vec();
            let message = proto::Flow::decode(bytes.as_slice()).unwrap();
            prop_assert_eq!(message.version, version);
            prop_assert_eq!(flow_value(&message), Some(flow));
        }
    }

    /// Values outside their kernel range make the message unusable instead of being cut to fit.
    #[test]
    fn out_of_range_is_refused() {
        let good = proto::Flow {
            key: Some(proto::Key { protocol: 6, original: Some(proto::Tuple::default()), ..proto::Key::default() }),
            tcp: Some(proto::Tcp { state: 3, wscale: 0x77, flags: 0x0303 }),
            ..proto::Flow::default()
        };
        assert!(flow_value(&good).is_some());
        let broken = |change: fn(&mut proto::Flow)| {
            let mut message = good.clone();
            change(&mut message);
            flow_value(&message)
        };
        assert_eq!(broken(|flow| flow.key = None), None);
        assert_eq!(broken(|flow| flow.key.as_mut().unwrap().protocol = 256), None);
        assert_eq!(broken(|flow| flow.key.as_mut().unwrap().zone = 65536), None);
        assert_eq!(broken(|flow| flow.key.as_mut().unwrap().original = None), None);
        assert_eq!(broken(|flow| flow.tcp.as_mut().unwrap().state = 10), None);
        assert_eq!(broken(|flow| flow.tcp.as_mut().unwrap().wscale = 0xf), None);
        assert_eq!(broken(|flow| flow.tcp.as_mut().unwrap().flags = 0x10000), None);
        let port = proto::Tuple { source_port: 65536, ..proto::Tuple::default() };
        assert_eq!(flow_value(&proto::Flow { reply: Some(port), ..good.clone() }), None);
    }
}
