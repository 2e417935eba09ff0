//! The attributes that few entries have, as requests carry them.

use super::attribute::Builder;
use super::encode::{is_destination_nat, is_source_nat, put_tuple};
use super::uapi;
use ha_common::sync::flow::{Extra, Flow, SequenceAdjustment, Synproxy};

/// The PPTP helper drops what it should translate in a connection whose translation ctnetlink has set up: that one lacks a
/// private part which only a packet's way through NAT gives it (`pptp_inbound_pkt` in nf_nat_pptp.c, Linux 6.18).
const DROPS_WHAT_NETLINK_TRANSLATES: &str = "pptp";

/// The helper that a new entry is given: of a flow that would be dropped with it, none. It then announces no more calls, and
/// goes on.
pub(super) fn helper_at_creation(flow: &Flow) -> Option<&str> {
    let helper = flow.extra.as_ref()?.helper.as_deref()?;
    let is_translated = is_source_nat(flow) || is_destination_nat(flow);
    (helper != DROPS_WHAT_NETLINK_TRANSLATES || !is_translated).then_some(helper)
}

/// What can be set when an entry is made, and never again: helper and master (`ctnetlink` section 9).
pub(super) fn put_at_creation(out: &mut Builder, flow: &Flow, extra: &Extra) {
    if let Some(helper) = helper_at_creation(flow) {
        let nest = out.nest(uapi::CTA_HELP);
        out.put_name(uapi::CTA_HELP_NAME, helper);
        out.end(nest);
    }
    if let Some(master) = &extra.master {
        put_tuple(out, uapi::CTA_TUPLE_MASTER, &master.original);
    }
}

/// What can be set at any time: labels, sequence adjustment, synproxy.
pub(super) fn put_changeable(out: &mut Builder, extra: &Extra, labels: bool) {
    if let Some(words) = extra.labels.filter(|_| labels) {
        let mut value = [0; 16];
        for (place, word) in value.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            // Host order, unlike everything else (`ctnetlink` section 2).
            *place = word.to_ne_bytes();
        }
        out.put(uapi::CTA_LABELS, &value);
    }
    for (kind, sequence) in [uapi::CTA_SEQ_ADJ_ORIG, uapi::CTA_SEQ_ADJ_REPLY].into_iter().zip(extra.sequence) {
        if let Some(sequence) = sequence {
            put_sequence(out, kind, sequence);
        }
    }
    if let Some(synproxy) = extra.synproxy {
        put_synproxy(out, synproxy);
    }
}

/// The association's state; the kernel wants all three attributes or none (`ctnetlink` section 6).
pub(super) fn put_sctp(out: &mut Builder, extra: &Extra) {
    let Some(sctp) = extra.sctp else { return };
    let info = out.nest(uapi::CTA_PROTOINFO);
    let nest = out.nest(uapi::CTA_PROTOINFO_SCTP);
    out.put(uapi::CTA_PROTOINFO_SCTP_STATE, &[sctp.state]);
    out.put_be32(uapi::CTA_PROTOINFO_SCTP_VTAG_ORIGINAL, sctp.tags[0]);
    out.put_be32(uapi::CTA_PROTOINFO_SCTP_VTAG_REPLY, sctp.tags[1]);
    out.end(nest);
    out.end(info);
}

fn put_sequence(out: &mut Builder, kind: u16, sequence: SequenceAdjustment) {
    let nest = out.nest(kind);
    out.put_be32(uapi::CTA_SEQADJ_CORRECTION_POS, sequence.position);
    out.put_be32(uapi::CTA_SEQADJ_OFFSET_BEFORE, sequence.before.cast_unsigned());
    out.put_be32(uapi::CTA_SEQADJ_OFFSET_AFTER, sequence.after.cast_unsigned());
    out.end(nest);
}

fn put_synproxy(out: &mut Builder, synproxy: Synproxy) {
    let nest = out.nest(uapi::CTA_SYNPROXY);
    out.put_be32(uapi::CTA_SYNPROXY_ISN, synproxy.isn);
    out.put_be32(uapi::CTA_SYNPROXY_ITS, synproxy.its);
    out.put_be32(uapi::CTA_SYNPROXY_TSOFF, synproxy.timestamp_offset);
    out.end(nest);
}
