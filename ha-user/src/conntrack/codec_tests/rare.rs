//! The attributes that few entries have, and expectations, against themselves. (The packet crate does not know them.)

use super::super::attribute::{Builder, Malformed, Messages};
use super::super::encode::{self, UpdateParts};
use super::super::{expectation, uapi};
use super::{any_flow, any_tuple, decoded, kinds, tuple};
use ha_common::sync::flow::{
    Expectation, ExpectedNat, Extra, Flow, FlowKey, Sctp, SequenceAdjustment, Synproxy, Tuple, ZoneDirection,
};
use proptest::prelude::*;

fn any_extra(protocol: u8) -> impl Strategy<Value = Extra> {
    let sequence = || {
        let fields = any::<(u32, i32, i32)>();
        proptest::option::of(fields.prop_map(|(position, before, after)| SequenceAdjustment {
            position,
            before,
            after,
        }))
    };
    let helper = || proptest::option::of("[a-zA-Z0-9.-]{1,15}".prop_map(String::into_boxed_str));
    // All zero is what an entry has that is not synproxied.
    let synproxy =
        (1u32.., any::<[u32; 2]>()).prop_map(|(isn, [its, timestamp_offset])| Synproxy { isn, its, timestamp_offset });
    let sctp = (0..=9u8, any::<[u32; 2]>()).prop_map(|(state, tags)| Sctp { state, tags });
    let zone = prop_oneof![
        Just(ZoneDirection::Both),
        Just(ZoneDirection::Original),
        any::<u16>().prop_map(ZoneDirection::Reply)
    ];
    let optional = (
        proptest::option::of(any::<[u32; 4]>()),
        proptest::option::of(synproxy),
        proptest::option::of(sctp),
        proptest::option::of(any_tuple(false, protocol)),
    );
    (optional, helper(), [sequence(), sequence()], zone).prop_map(
        move |((labels, synproxy, sctp, master), helper, sequence, zone_direction)| Extra {
            sctp: sctp.filter(|_| protocol == uapi::IPPROTO_SCTP),
            labels,
            helper,
            master: master.map(|original| FlowKey { original, zone: 0 }),
            sequence,
            synproxy,
            zone_direction,
            expectations: Vec::new(),
        },
    )
}

proptest! {
    /// Every rare attribute that a create message carries is read back from it as it was, and an update carries what can
    /// change, and nothing that the kernel would refuse there.
    #[test]
    fn rare_attributes_round_trip(flow in any_flow(&[6, 17, 132]), extra in any_extra(132), tcp in any_extra(6)) {
        let mut flow = flow;
        let v4 = tuple("10.0.0.1", "10.0.0.2", flow.key.original.protocol, (1, 2));
        (flow.key.original, flow.reply) = (v4, v4.inverse());
        let mut extra = if v4.protocol == uapi::IPPROTO_SCTP { extra } else { tcp };
        match extra.zone_direction {
            ZoneDirection::Both | ZoneDirection::Original => {}
            ZoneDirection::Reply(_) => flow.key.zone = 0,
        }
        if let Some(master) = &mut extra.master {
            master.zone = flow.key.zone;
        }
        let extra = (extra != Extra::default()).then(|| Box::new(extra));
        flow.extra = extra.clone();
        let mut builder = Builder::default();
        encode::create(&mut builder, 1, &flow).unwrap();
        let read = decoded(builder.bytes()).unwrap();
        prop_assert_eq!((read.key, &read.extra), (flow.key, &extra));
        builder.clear();
        encode::update(&mut builder, 1, &flow, UpdateParts::of(&flow)).unwrap();
        let refused = [uapi::CTA_HELP, uapi::CTA_TUPLE_MASTER, uapi::CTA_NAT_SRC, uapi::CTA_NAT_DST];
        prop_assert!(!kinds(&builder).iter().any(|kind| refused.contains(kind)));
        let read = decoded(builder.bytes());
        prop_assert_eq!(read, Err(Malformed::TupleMissing), "an update names its entry by one tuple");
    }

    /// An expectation is read back from its request as it was; one cut short or changed anywhere makes no panic.
    #[test]
    fn expectation_round_trip(
        tuples in any::<bool>().prop_flat_map(|v6| (any_tuple(v6, 6), any_tuple(v6, 6), any_tuple(v6, 6))),
        numbers in any::<[u32; 2]>(),
        names in proptest::option::of("[a-z-]{1,20}"),
        nat in proptest::option::of(0u8..2),
        at in any::<proptest::sample::Index>(),
        value in any::<u8>(),
    ) {
        let (tuple, other, master) = tuples;
        let name = names.map(String::into_boxed_str);
        let expectation = Expectation {
            tuple,
            mask_source: other.source,
            mask_source_port: other.source_port,
            timeout: numbers[0],
            helper: name.clone(),
            class: numbers[1],
            flags: numbers[1] & 3,
            nat: nat.map(|direction| ExpectedNat {
                direction,
                source: other.destination,
                source_port: other.destination_port,
            }),
            function: name,
        };
        let master = FlowKey { original: master, zone: 7 };
        let mut builder = Builder::default();
        expectation::create(&mut builder, 1, &master, &expectation).unwrap();
        let mut message = builder.bytes().to_vec();
        let (header, payload) = Messages::new(&message).next().unwrap().unwrap();
        prop_assert_eq!(header.kind, uapi::EXP_NEW);
        prop_assert_eq!(expectation::decode(payload), Ok((master, expectation)));
        let at = at.index(message.len());
        let _ = expectation::decode(&message[16..16.max(at)]);
        message[at] = value;
        let _ = expectation::decode(&message[16..]);
    }
}

/// A translated PPTP control connection is made without its helper, which would drop its packets; an untranslated one, and
/// another helper's, with it.
#[test]
fn the_pptp_helper_is_for_untranslated_connections() {
    let original = tuple("10.0.0.1", "10.0.0.2", 6, (1000, 1723));
    let named = |helper: &str, reply: Tuple| Flow {
        key: FlowKey { original, zone: 0 },
        reply,
        status: 0,
        timeout: 600,
        mark: 0,
        tcp: None,
        id: 0,
        extra: Some(Box::new(Extra { helper: Some(helper.into()), ..Extra::default() })),
    };
    let translated = Tuple { destination: "10.0.0.3".parse().unwrap(), ..original.inverse() };
    let is_helped = |flow: Flow| {
        let mut out = Builder::default();
        encode::create(&mut out, 1, &flow).unwrap();
        kinds(&out).contains(&uapi::CTA_HELP)
    };
    assert!(!is_helped(named("pptp", translated)));
    assert!(is_helped(named("pptp", original.inverse())));
    assert!(is_helped(named("ftp", translated)));
}
