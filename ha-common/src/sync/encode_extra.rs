//! The rare attributes to and from their protobuf messages, as strictly checked as the rest.

use super::encode::{key_message, key_value, tuple_message, tuple_value};
use super::extra::{
    EXPECTATIONS_MAX, Expectation, ExpectedNat, Extra, NAME_BYTES_MAX, Sctp, SequenceAdjustment, Synproxy,
    ZoneDirection,
};
use super::flow::Tuple;
use crate::proto;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Highest `SCTP_CONNTRACK_*` that may be written.
const SCTP_STATE_MAX: u8 = 10;

pub(super) fn extra_message(extra: &Extra) -> proto::Extra {
    let (zone_direction, reply_zone) = match extra.zone_direction {
        ZoneDirection::Both => (proto::ZoneDirection::Both, 0),
        ZoneDirection::Original => (proto::ZoneDirection::Original, 0),
        ZoneDirection::Reply(zone) => (proto::ZoneDirection::Reply, u32::from(zone)),
    };
    proto::Extra {
        sctp: extra.sctp.map(|sctp| proto::Sctp {
            state: u32::from(sctp.state),
            original: sctp.tags[0],
            reply: sctp.tags[1],
        }),
        labels: extra.labels.map_or_else(Vec::new, |labels| labels.to_vec()),
        helper: name_message(extra.helper.as_deref()),
        master: extra.master.as_ref().map(key_message),
        original: extra.sequence[0].map(sequence_message),
        reply: extra.sequence[1].map(sequence_message),
        synproxy: extra.synproxy.map(|synproxy| proto::Synproxy {
            isn: synproxy.isn,
            its: synproxy.its,
            timestamp_offset: synproxy.timestamp_offset,
        }),
        zone_direction: zone_direction.into(),
        reply_zone,
        expectations: extra.expectations.iter().take(EXPECTATIONS_MAX).map(expectation_message).collect(),
    }
}

/// The attributes of a message; `None` when a field is out of its range.
pub(super) fn extra_value(message: &proto::Extra, ipv6: bool) -> Option<Extra> {
    let zone = u16::try_from(message.reply_zone).ok()?;
    Some(Extra {
        sctp: match &message.sctp {
            Some(sctp) => Some(Sctp {
                state: u8::try_from(sctp.state).ok().filter(|&state| state <= SCTP_STATE_MAX)?,
                tags: [sctp.original, sctp.reply],
            }),
            None => None,
        },
        labels: match message.labels.as_slice() {
            [] => None,
            words => Some(words.try_into().ok()?),
        },
        helper: name_value(&message.helper)?,
        master: match &message.master {
            Some(key) => Some(key_value(Some(key))?),
            None => None,
        },
        sequence: [message.original.map(sequence_value), message.reply.map(sequence_value)],
        synproxy: message.synproxy.map(|synproxy| Synproxy {
            isn: synproxy.isn,
            its: synproxy.its,
            timestamp_offset: synproxy.timestamp_offset,
        }),
        zone_direction: match proto::ZoneDirection::try_from(message.zone_direction).ok()? {
            proto::ZoneDirection::Both => ZoneDirection::Both,
            proto::ZoneDirection::Original => ZoneDirection::Original,
            proto::ZoneDirection::Reply => ZoneDirection::Reply(zone),
        },
        expectations: if message.expectations.len() <= EXPECTATIONS_MAX {
            message
                .expectations
                .iter()
                .map(|expectation| expectation_value(expectation, ipv6))
                .collect::<Option<_>>()?
        } else {
            return None;
        },
    })
}

fn expectation_message(expectation: &Expectation) -> proto::Expectation {
    let mask = source_only(expectation.mask_source, expectation.mask_source_port);
    proto::Expectation {
        protocol: u32::from(expectation.tuple.protocol),
        tuple: Some(tuple_message(&expectation.tuple)),
        mask: Some(tuple_message(&mask)),
        timeout: expectation.timeout,
        helper: name_message(expectation.helper.as_deref()),
        class: expectation.class,
        flags: expectation.flags,
        nat: expectation.nat.map(|nat| proto::ExpectedNat {
            direction: u32::from(nat.direction),
            source: Some(tuple_message(&source_only(nat.source, nat.source_port))),
        }),
        function: name_message(expectation.function.as_deref()),
    }
}

fn expectation_value(message: &proto::Expectation, ipv6: bool) -> Option<Expectation> {
    let protocol = u8::try_from(message.protocol).ok()?;
    let mask = tuple_value(message.mask.as_ref()?, protocol, ipv6)?;
    Some(Expectation {
        tuple: tuple_value(message.tuple.as_ref()?, protocol, ipv6)?,
        mask_source: mask.source,
        mask_source_port: mask.source_port,
        timeout: message.timeout,
        helper: name_value(&message.helper)?,
        class: message.class,
        flags: message.flags,
        nat: match &message.nat {
            Some(nat) => {
                let source = tuple_value(nat.source.as_ref()?, protocol, ipv6)?;
                Some(ExpectedNat {
                    direction: u8::try_from(nat.direction).ok().filter(|&direction| direction <= 1)?,
                    source: source.source,
                    source_port: source.source_port,
                })
            }
            None => None,
        },
        function: name_value(&message.function)?,
    })
}

/// A tuple of which only the source is used.
fn source_only(source: IpAddr, source_port: u16) -> Tuple {
    let destination = match source {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    Tuple { source, destination, protocol: 0, source_port, destination_port: 0 }
}

fn sequence_message(sequence: SequenceAdjustment) -> proto::SequenceAdjustment {
    proto::SequenceAdjustment { position: sequence.position, before: sequence.before, after: sequence.after }
}

fn sequence_value(message: proto::SequenceAdjustment) -> SequenceAdjustment {
    SequenceAdjustment { position: message.position, before: message.before, after: message.after }
}

fn name_message(name: Option<&str>) -> String {
    name.unwrap_or_default().to_owned()
}

/// Outer `None`: no name that a kernel could take.
fn name_value(name: &str) -> Option<Option<Box<str>>> {
    if name.is_empty() {
        return Some(None);
    }
    let usable = name.len() <= NAME_BYTES_MAX && name.bytes().all(|byte| byte.is_ascii_graphic());
    usable.then(|| Some(name.into()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::flow::FlowKey;
    use super::*;
    use proptest::prelude::*;

    /// Any set of attributes that a kernel could give to a flow of this family.
    pub(crate) fn any_extra(ipv6: bool) -> BoxedStrategy<Extra> {
        let name = || proptest::option::of("[a-zA-Z0-9.-]{1,31}".prop_map(String::into_boxed_str));
        let zone = prop_oneof![
            Just(ZoneDirection::Both),
            Just(ZoneDirection::Original),
            any::<u16>().prop_map(ZoneDirection::Reply)
        ];
        let sequence = || {
            let fields = (any::<u32>(), any::<i32>(), any::<i32>());
            proptest::option::of(fields.prop_map(|(position, before, after)| SequenceAdjustment {
                position,
                before,
                after,
            }))
        };
        let expectation =
            (any_tuple(ipv6), any_tuple(ipv6), any::<[u32; 3]>(), name(), name(), proptest::option::of(0u8..2))
                .prop_map(|(tuple, other, [timeout, class, flags], helper, function, nat)| Expectation {
                    tuple,
                    mask_source: other.source,
                    mask_source_port: other.source_port,
                    timeout,
                    helper,
                    class,
                    flags,
                    nat: nat.map(|direction| ExpectedNat {
                        direction,
                        source: other.destination,
                        source_port: other.destination_port,
                    }),
                    function,
                });
        let sctp = (0..=SCTP_STATE_MAX, any::<[u32; 2]>()).prop_map(|(state, tags)| Sctp { state, tags });
        let synproxy = any::<[u32; 3]>().prop_map(|[isn, its, offset]| Synproxy { isn, its, timestamp_offset: offset });
        let master = (any_tuple(ipv6), any::<u16>()).prop_map(|(original, zone)| FlowKey { original, zone });
        (
            proptest::option::of(sctp),
            proptest::option::of(any::<[u32; 4]>()),
            name(),
            proptest::option::of(master),
            [sequence(), sequence()],
            proptest::option::of(synproxy),
            zone,
            proptest::collection::vec(expectation, 0..=EXPECTATIONS_MAX),
        )
            .prop_map(|(sctp, labels, helper, master, sequence, synproxy, zone_direction, expectations)| Extra {
                sctp,
                labels,
                helper,
                master,
                sequence,
                synproxy,
                zone_direction,
                expectations,
            })
            .boxed()
    }

    fn any_tuple(ipv6: bool) -> BoxedStrategy<Tuple> {
        let address = move || {
            any::<u128>().prop_map(move |bits| match ipv6 {
                true => IpAddr::V6(Ipv6Addr::from_bits(bits)),
                false => IpAddr::V4(Ipv4Addr::from_bits(bits as u32)),
            })
        };
        (address(), address(), any::<u8>(), any::<[u16; 2]>())
            .prop_map(|(source, destination, protocol, [source_port, destination_port])| Tuple {
                source,
                destination,
                protocol,
                source_port,
                destination_port,
            })
            .boxed()
    }

    /// Names that no kernel takes, states beyond the last, cut labels and too many expectations are refused.
    #[test]
    fn out_of_range_is_refused() {
        let refused = |change: fn(&mut proto::Extra)| {
            let mut message = proto::Extra::default();
            assert!(extra_value(&message, false).is_some());
            change(&mut message);
            extra_value(&message, false).is_none()
        };
        assert!(refused(|extra| extra.helper = "x".repeat(NAME_BYTES_MAX + 1)));
        assert!(refused(|extra| extra.helper = "f\0tp".into()));
        assert!(refused(|extra| extra.labels = vec![1, 2, 3]));
        assert!(refused(|extra| extra.reply_zone = 65_536));
        assert!(refused(|extra| extra.zone_direction = 7));
        assert!(refused(|extra| extra.sctp = Some(proto::Sctp { state: 11, ..proto::Sctp::default() })));
        assert!(refused(|extra| extra.expectations = vec![proto::Expectation::default()]));
        assert!(refused(|extra| {
            let (tuple, mask) = (Some(proto::Tuple::default()), Some(proto::Tuple::default()));
            let expectation = proto::Expectation { tuple, mask, ..proto::Expectation::default() };
            assert!(expectation_value(&expectation, false).is_some());
            extra.expectations = vec![expectation; EXPECTATIONS_MAX + 1];
        }));
    }
}
