//! The attributes that few entries have: helper, master, labels, sequence adjustment, synproxy.

use super::attribute::{Attributes, Malformed, be32};
use super::{decode, uapi};
use ha_common::sync::NAME_BYTES_MAX;
use ha_common::sync::flow::{Extra, FlowKey, SequenceAdjustment, Synproxy};

/// Takes note of a top-level attribute if it is one of these; others are left alone. `extra` is made when there is
/// something to note.
pub(super) fn attribute(kind: u16, value: &[u8], extra: &mut Option<Box<Extra>>) -> Result<(), Malformed> {
    match kind {
        uapi::CTA_HELP => {
            let helper = helper(value)?;
            if helper.is_some() {
                extra.get_or_insert_default().helper = helper;
            }
        }
        uapi::CTA_TUPLE_MASTER => {
            // Its zone is that of the flow itself, which is known when all attributes were read.
            extra.get_or_insert_default().master = Some(FlowKey { original: decode::tuple(value)?, zone: 0 });
        }
        uapi::CTA_SEQ_ADJ_ORIG => extra.get_or_insert_default().sequence[0] = Some(sequence(value)?),
        uapi::CTA_SEQ_ADJ_REPLY => extra.get_or_insert_default().sequence[1] = Some(sequence(value)?),
        uapi::CTA_LABELS => extra.get_or_insert_default().labels = Some(labels(value)?),
        uapi::CTA_SYNPROXY => {
            let synproxy = synproxy(value)?;
            // Every entry that was written by netlink has the extension (`ctnetlink` section 7): zeros mean nothing.
            if synproxy != Synproxy::default() {
                extra.get_or_insert_default().synproxy = Some(synproxy);
            }
        }
        _ => {}
    }
    Ok(())
}

fn helper(value: &[u8]) -> Result<Option<Box<str>>, Malformed> {
    for attribute in Attributes::new(value) {
        let (kind, value) = attribute?;
        if kind == uapi::CTA_HELP_NAME {
            return name(value).map(Some);
        }
    }
    Ok(None)
}

/// A name with or without its final NUL.
pub(super) fn name(value: &[u8]) -> Result<Box<str>, Malformed> {
    let text = value.split(|&byte| byte == 0).next().unwrap_or_default();
    let usable = !text.is_empty() && text.len() <= NAME_BYTES_MAX && text.iter().all(u8::is_ascii_graphic);
    let text = std::str::from_utf8(text).ok().filter(|_| usable);
    text.map(Box::from).ok_or(Malformed::Name)
}

/// Words of this host's order; the kernel gives all four, others may give fewer.
fn labels(value: &[u8]) -> Result<[u32; 4], Malformed> {
    let (words, []) = value.as_chunks::<4>() else { return Err(Malformed::Value) };
    let mut labels = [0; 4];
    if words.len() > labels.len() {
        return Err(Malformed::Value);
    }
    for (label, word) in labels.iter_mut().zip(words) {
        *label = u32::from_ne_bytes(*word);
    }
    Ok(labels)
}

fn sequence(value: &[u8]) -> Result<SequenceAdjustment, Malformed> {
    let mut sequence = SequenceAdjustment::default();
    for attribute in Attributes::new(value) {
        let (kind, value) = attribute?;
        match kind {
            uapi::CTA_SEQADJ_CORRECTION_POS => sequence.position = be32(value)?,
            uapi::CTA_SEQADJ_OFFSET_BEFORE => sequence.before = be32(value)?.cast_signed(),
            uapi::CTA_SEQADJ_OFFSET_AFTER => sequence.after = be32(value)?.cast_signed(),
            _ => {}
        }
    }
    Ok(sequence)
}

fn synproxy(value: &[u8]) -> Result<Synproxy, Malformed> {
    let mut synproxy = Synproxy::default();
    for attribute in Attributes::new(value) {
        let (kind, value) = attribute?;
        match kind {
            uapi::CTA_SYNPROXY_ISN => synproxy.isn = be32(value)?,
            uapi::CTA_SYNPROXY_ITS => synproxy.its = be32(value)?,
            uapi::CTA_SYNPROXY_TSOFF => synproxy.timestamp_offset = be32(value)?,
            _ => {}
        }
    }
    Ok(synproxy)
}
