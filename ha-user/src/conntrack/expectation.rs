//! Expectations: what the kernel's helpers announce, and requests to make the same (`ctnetlink` section 14).

use super::attribute::{Attributes, Builder, Malformed, be16, be32};
use super::decode::{NFGENMSG_LEN, tuple};
use super::decode_extra::name;
use super::encode::{MixedFamilies, family, put_tuple};
use super::uapi;
use ha_common::sync::flow::{Expectation, ExpectedNat, FlowKey, Tuple};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `NF_CT_EXPECT_USERSPACE`: a helper in user space waits for it, which this is not.
const FLAG_USERSPACE: u32 = 4;

/// Reads the expectation, and the key of the flow it belongs to, in the payload of an `EXP_NEW` or `EXP_DELETE` message.
///
/// The kernel does not tell the zone of the master: it is taken for the default one.
///
/// # Errors
/// What is malformed or missing.
pub fn decode(payload: &[u8]) -> Result<(FlowKey, Expectation), Malformed> {
    let (mut master, mut expected, mut mask, mut zone) = (None, None, None, 0);
    let (mut timeout, mut class, mut flags) = (0, 0, 0);
    let (mut helper, mut nat, mut function) = (None, None, None);
    for attribute in Attributes::new(payload.get(NFGENMSG_LEN..).ok_or(Malformed::Message)?) {
        let (kind, value) = attribute?;
        match kind {
            uapi::CTA_EXPECT_MASTER => master = Some(tuple(value)?),
            uapi::CTA_EXPECT_TUPLE => expected = Some(tuple(value)?),
            uapi::CTA_EXPECT_MASK => mask = Some(tuple(value)?),
            uapi::CTA_EXPECT_TIMEOUT => timeout = be32(value)?,
            uapi::CTA_EXPECT_HELP_NAME => helper = Some(name(value)?),
            uapi::CTA_EXPECT_ZONE => zone = be16(value)?,
            uapi::CTA_EXPECT_FLAGS => flags = be32(value)?,
            uapi::CTA_EXPECT_CLASS => class = be32(value)?,
            uapi::CTA_EXPECT_NAT => nat = expected_nat(value)?,
            uapi::CTA_EXPECT_FN => function = Some(name(value)?),
            _ => {}
        }
    }
    let (Some(original), Some(tuple), Some(mask)) = (master, expected, mask) else {
        return Err(Malformed::ExpectationIncomplete);
    };
    let (mask_source, mask_source_port) = (mask.source, mask.source_port);
    let master = FlowKey { original, zone };
    Ok((master, Expectation { tuple, mask_source, mask_source_port, timeout, helper, class, flags, nat, function }))
}

fn expected_nat(value: &[u8]) -> Result<Option<ExpectedNat>, Malformed> {
    let (mut direction, mut source) = (0, None);
    for attribute in Attributes::new(value) {
        let (kind, value) = attribute?;
        match kind {
            uapi::CTA_EXPECT_NAT_DIR => direction = be32(value)?,
            uapi::CTA_EXPECT_NAT_TUPLE => source = Some(tuple(value)?),
            _ => {}
        }
    }
    Ok(source.map(|tuple| ExpectedNat {
        direction: u8::from(direction != 0),
        source: tuple.source,
        source_port: tuple.source_port,
    }))
}

/// Appends a request to make the expectation; ENOENT without its master, EOPNOTSUPP when that has no helper. Of one that is
/// there already the timeout is set.
///
/// # Errors
/// [`MixedFamilies`]; nothing is appended then.
pub fn create(
    out: &mut Builder,
    sequence: u32,
    master: &FlowKey,
    expectation: &Expectation,
) -> Result<(), MixedFamilies> {
    let family = family(&expectation.tuple)?;
    let message = out.begin(uapi::EXP_NEW, uapi::REQUEST | uapi::CREATE, sequence, family);
    put_tuple(out, uapi::CTA_EXPECT_MASTER, &master.original);
    put_tuple(out, uapi::CTA_EXPECT_TUPLE, &expectation.tuple);
    let (source, source_port) = (expectation.mask_source, expectation.mask_source_port);
    put_tuple(out, uapi::CTA_EXPECT_MASK, &with_source(&expectation.tuple, source, source_port));
    out.put_be32(uapi::CTA_EXPECT_TIMEOUT, expectation.timeout);
    out.put_be32(uapi::CTA_EXPECT_FLAGS, expectation.flags & !FLAG_USERSPACE);
    out.put_be32(uapi::CTA_EXPECT_CLASS, expectation.class);
    if let Some(helper) = &expectation.helper {
        out.put_name(uapi::CTA_EXPECT_HELP_NAME, helper);
    }
    if let Some(function) = &expectation.function {
        out.put_name(uapi::CTA_EXPECT_FN, function);
    }
    if let Some(nat) = expectation.nat {
        let nest = out.nest(uapi::CTA_EXPECT_NAT);
        out.put_be32(uapi::CTA_EXPECT_NAT_DIR, u32::from(nat.direction));
        put_tuple(out, uapi::CTA_EXPECT_NAT_TUPLE, &with_source(&expectation.tuple, nat.source, nat.source_port));
        out.end(nest);
    }
    put_zone(out, master.zone);
    out.end(message);
    Ok(())
}

/// Appends a request to delete the expectation with this tuple; ENOENT when it is gone. Without a tuple the kernel would
/// delete all: this takes one.
///
/// # Errors
/// [`MixedFamilies`]; nothing is appended then.
pub fn delete(out: &mut Builder, sequence: u32, tuple: &Tuple, zone: u16) -> Result<(), MixedFamilies> {
    let message = out.begin(uapi::EXP_DELETE, uapi::REQUEST, sequence, family(tuple)?);
    put_tuple(out, uapi::CTA_EXPECT_TUPLE, tuple);
    put_zone(out, zone);
    out.end(message);
    Ok(())
}

fn put_zone(out: &mut Builder, zone: u16) {
    if zone != 0 {
        out.put_be16(uapi::CTA_EXPECT_ZONE, zone);
    }
}

/// A tuple of which the kernel looks at source and protocol alone.
fn with_source(of: &Tuple, source: IpAddr, source_port: u16) -> Tuple {
    let destination = match source {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    Tuple { source, destination, protocol: of.protocol, source_port, destination_port: 0 }
}
