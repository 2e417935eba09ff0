//! The part of the filter that the kernel applies before it queues an event: a classic BPF program on the event socket.
//!
//! It drops by protocol and address, which every event carries, and passes all that it does not understand: the filter in
//! user space is the truth, and this only spares it work (conntrackd calls it `Filter From Kernelspace`). The attributes are
//! found by the kernel's own extensions (`SKF_AD_NLATTR`, net/core/filter.c). Its length is bounded: of long lists of
//! addresses to ignore the program has the beginning, and an accept list only if it fits as a whole.

use super::attribute::HEADER_LEN;
use super::decode::NFGENMSG_LEN;
use super::uapi;
use ha_common::sync::filter::{Filter, NEVER_FORWARDED, Prefix, ProtocolSet, mask_v4, mask_v6};
use socket2::SockFilter;

/// Most networks to ignore in the program: `[IPv4, IPv6]`.
const IGNORED_MAX: [usize; 2] = [256, 24];
/// Most accepted networks for which the program knows the list.
const ACCEPTED_MAX: [usize; 2] = [64, 8];
/// Most ranges of protocols for which the program knows the set.
const PROTOCOL_RANGES_MAX: usize = 32;

/// Instructions of classic BPF (include/uapi/linux/bpf_common.h).
mod op {
    pub const LOAD_IMMEDIATE: u16 = 0x00;
    pub const LOAD_X_IMMEDIATE: u16 = 0x01;
    pub const STORE: u16 = 0x02;
    pub const JUMP: u16 = 0x05;
    pub const RETURN: u16 = 0x06;
    pub const JUMP_IF_EQUAL: u16 = 0x15;
    pub const LOAD_WORD: u16 = 0x20;
    pub const LOAD_BYTE: u16 = 0x30;
    pub const JUMP_IF_GREATER: u16 = 0x25;
    pub const JUMP_IF_AT_LEAST: u16 = 0x35;
    pub const LOAD_WORD_AT_X: u16 = 0x40;
    pub const LOAD_BYTE_AT_X: u16 = 0x50;
    pub const AND: u16 = 0x54;
    pub const LOAD_STORED: u16 = 0x60;
    pub const COPY_TO_X: u16 = 0x07;
    /// `SKF_AD_OFF + SKF_AD_NLATTR`: of the attributes from offset A on the one of kind X; its offset, or zero.
    pub const FIND: u32 = 0xffff_f000 + 12;
    /// `SKF_AD_OFF + SKF_AD_NLATTR_NEST`: the same within the attribute at offset A.
    pub const FIND_WITHIN: u32 = 0xffff_f000 + 16;
}

/// Offset of `nlmsg_pid` in `struct nlmsghdr`.
const PORT_OFFSET: u32 = 12;
/// Offset of the subsystem in `nlmsg_type`, the upper half of a number in host order.
const SUBSYSTEM_OFFSET: u32 = if cfg!(target_endian = "little") { 5 } else { 4 };
const ATTRIBUTES_OFFSET: u32 = (HEADER_LEN + NFGENMSG_LEN) as u32;
/// Length of an attribute's header.
const VALUE_OFFSET: u32 = 4;

const SOURCE_V4: [u16; 2] = [uapi::CTA_TUPLE_IP, uapi::CTA_IP_V4_SRC];
const SOURCE_V6: [u16; 2] = [uapi::CTA_TUPLE_IP, uapi::CTA_IP_V6_SRC];

/// Where a jump goes that is not to the next instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Target {
    Pass,
    Drop,
    /// The addresses of IPv6.
    Ipv6,
}

enum Instruction {
    Plain(SockFilter),
    Goto(Target),
    Label(Target),
}

/// A program that drops events caused by the socket with port id `own_port`, and nothing else.
pub fn own_only(own_port: u32) -> Vec<SockFilter> {
    let mut program = Program::default();
    program.drop_own(own_port);
    program.finish()
}

/// As [`own_only`], and what `filter` refuses by protocol and addresses.
pub fn generate(filter: &Filter, own_port: u32) -> Vec<SockFilter> {
    let mut program = Program::default();
    program.drop_own(own_port);
    program.pass_expectations();
    program.drop_protocols(&filter.protocols);
    let (ignored_v4, ignored_v6) = ignored(filter);
    let accepted = filter.addresses.accept.as_ref().map(|set| by_family(set.iter()));
    let accepted = accepted.filter(|(v4, v6)| v4.len() <= ACCEPTED_MAX[0] && v6.len() <= ACCEPTED_MAX[1]);
    let (never_v4, never_v6) = by_family(NEVER_FORWARDED.into_iter());
    program.find(uapi::CTA_TUPLE_ORIG, &SOURCE_V4, Target::Ipv6);
    let accepted_v4 = accepted.as_ref().map(|(v4, _)| v4.as_slice());
    program.judge(&SOURCE_V4, uapi::CTA_IP_V4_DST, &ignored_v4, &never_v4, accepted_v4);
    program.0.push(Instruction::Label(Target::Ipv6));
    let accepted_v6 = accepted.as_ref().map(|(_, v6)| v6.as_slice());
    program.judge(&SOURCE_V6, uapi::CTA_IP_V6_DST, &ignored_v6, &never_v6, accepted_v6);
    program.finish()
}

/// What an endpoint must not be, as much of it as the program may hold.
fn ignored(filter: &Filter) -> (Vec<Prefix>, Vec<Prefix>) {
    let all = NEVER_FORWARDED.into_iter().chain(filter.local.iter()).chain(filter.addresses.ignore.iter());
    let (mut v4, mut v6) = by_family(all);
    v4.truncate(IGNORED_MAX[0]);
    v6.truncate(IGNORED_MAX[1]);
    // Networks of one length share a mask.
    v4.sort();
    v4.sort_by_key(|prefix| mask_length(*prefix));
    (v4, v6)
}

fn by_family(prefixes: impl Iterator<Item = Prefix>) -> (Vec<Prefix>, Vec<Prefix>) {
    prefixes.partition(|prefix| matches!(prefix, Prefix::V4(..)))
}

fn mask_length(prefix: Prefix) -> u8 {
    match prefix {
        Prefix::V4(_, length) | Prefix::V6(_, length) => length,
    }
}

#[derive(Default)]
struct Program(Vec<Instruction>);

impl Program {
    fn plain(&mut self, code: u16, operand: u32) {
        self.0.push(Instruction::Plain(SockFilter::new(code, 0, 0, operand)));
    }

    /// Goes to `target` if the accumulator and `operand` compare so, else on.
    fn goto_if(&mut self, code: u16, operand: u32, target: Target) {
        self.0.push(Instruction::Plain(SockFilter::new(code, 0, 1, operand)));
        self.0.push(Instruction::Goto(target));
    }

    /// A load takes the bytes as big endian; the port id stands in host order.
    fn drop_own(&mut self, own_port: u32) {
        self.plain(op::LOAD_WORD, PORT_OFFSET);
        self.goto_if(op::JUMP_IF_EQUAL, u32::from_be_bytes(own_port.to_ne_bytes()), Target::Drop);
    }

    /// An expectation is told with the tuple of its master, and with one that may have no addresses yet.
    fn pass_expectations(&mut self) {
        self.plain(op::LOAD_BYTE, SUBSYSTEM_OFFSET);
        self.goto_if(op::JUMP_IF_EQUAL, u32::from(uapi::EXP_NEW >> 8), Target::Pass);
    }

    fn drop_protocols(&mut self, accepted: &ProtocolSet) {
        let refused = ranges(|protocol| !accepted.contains(protocol));
        if refused.is_empty() || refused.len() > PROTOCOL_RANGES_MAX {
            return;
        }
        self.find(uapi::CTA_TUPLE_ORIG, &[uapi::CTA_TUPLE_PROTO, uapi::CTA_PROTO_NUM], Target::Pass);
        self.plain(op::LOAD_BYTE_AT_X, VALUE_OFFSET);
        for (first, last) in refused {
            // Below the first: on to the next range. Not above the last: it is in this one.
            self.0.push(Instruction::Plain(SockFilter::new(op::JUMP_IF_AT_LEAST, 0, 2, u32::from(first))));
            self.0.push(Instruction::Plain(SockFilter::new(op::JUMP_IF_GREATER, 1, 0, u32::from(last))));
            self.0.push(Instruction::Goto(Target::Drop));
        }
    }

    /// Sets X to the offset of the attribute that `path` leads to within the tuple, or goes to `absent`.
    fn find(&mut self, tuple: u16, path: &[u16], absent: Target) {
        self.plain(op::LOAD_IMMEDIATE, ATTRIBUTES_OFFSET);
        self.plain(op::LOAD_X_IMMEDIATE, u32::from(tuple));
        self.plain(op::LOAD_WORD, op::FIND);
        self.goto_if(op::JUMP_IF_EQUAL, 0, absent);
        for kind in path {
            self.plain(op::LOAD_X_IMMEDIATE, u32::from(*kind));
            self.plain(op::LOAD_WORD, op::FIND_WITHIN);
            self.goto_if(op::JUMP_IF_EQUAL, 0, absent);
        }
        self.plain(op::COPY_TO_X, 0);
    }

    /// The addresses of one family, as [`Filter::judge_identity`] looks at them.
    fn judge(
        &mut self,
        source: &[u16; 2],
        destination: u16,
        ignored: &[Prefix],
        never: &[Prefix],
        accepted: Option<&[Prefix]>,
    ) {
        let endpoints = [uapi::CTA_TUPLE_ORIG, uapi::CTA_TUPLE_REPLY];
        for tuple in endpoints {
            self.find(tuple, source, Target::Pass);
            self.goto_if_in(ignored, Target::Drop);
        }
        self.find(uapi::CTA_TUPLE_ORIG, &[uapi::CTA_TUPLE_IP, destination], Target::Pass);
        self.goto_if_in(never, Target::Drop);
        if let Some(accepted) = accepted {
            for tuple in endpoints {
                self.find(tuple, source, Target::Pass);
                self.goto_if_in(accepted, Target::Pass);
            }
            self.0.push(Instruction::Goto(Target::Drop));
        }
        self.0.push(Instruction::Goto(Target::Pass));
    }

    /// Goes to `target` if the address at X is in one of `prefixes`, all of its family.
    fn goto_if_in(&mut self, prefixes: &[Prefix], target: Target) {
        let mut loaded = None;
        for prefix in prefixes {
            match *prefix {
                Prefix::V4(network, length) => {
                    self.load_v4(&mut loaded, length);
                    self.goto_if(op::JUMP_IF_EQUAL, network, target);
                }
                Prefix::V6(network, length) => self.goto_if_in_v6(network, length, target),
            }
        }
    }

    /// The IPv4 address at X into the accumulator, cut to `length` bits.
    fn load_v4(&mut self, loaded: &mut Option<u8>, length: u8) {
        if loaded.is_none() {
            self.plain(op::LOAD_WORD_AT_X, VALUE_OFFSET);
            self.plain(op::STORE, 0);
        }
        if *loaded != Some(length) {
            self.plain(op::LOAD_STORED, 0);
            self.plain(op::AND, mask_v4(length));
            *loaded = Some(length);
        }
    }

    fn goto_if_in_v6(&mut self, network: u128, length: u8, target: Target) {
        /// Load, mask and comparison of one word.
        const PER_WORD: u8 = 3;
        let words = length.min(128).div_ceil(32);
        for index in 0..words {
            let word = |bits: u128| (bits >> (96 - 32 * u32::from(index))) as u32;
            self.plain(op::LOAD_WORD_AT_X, VALUE_OFFSET + 4 * u32::from(index));
            self.plain(op::AND, word(mask_v6(length)));
            // Another one: past the words that follow, and the jump behind them.
            let rest = (words - index - 1) * PER_WORD + 1;
            self.0.push(Instruction::Plain(SockFilter::new(op::JUMP_IF_EQUAL, 0, rest, word(network))));
        }
        self.0.push(Instruction::Goto(target));
    }

    /// Appends both ends and resolves the jumps, which all go forward.
    fn finish(mut self) -> Vec<SockFilter> {
        self.0.push(Instruction::Label(Target::Pass));
        self.plain(op::RETURN, u32::MAX);
        self.0.push(Instruction::Label(Target::Drop));
        self.plain(op::RETURN, 0);
        let mut code: Vec<SockFilter> = Vec::with_capacity(self.0.len());
        let mut distances = [0; 3];
        // From the end: the places of what is jumped to are known then.
        for instruction in self.0.into_iter().rev() {
            match instruction {
                Instruction::Label(target) => distances[target as usize] = code.len(),
                Instruction::Plain(plain) => code.push(plain),
                Instruction::Goto(target) => {
                    let distance = code.len() - distances[target as usize];
                    code.push(SockFilter::new(op::JUMP, 0, 0, distance as u32));
                }
            }
        }
        code.reverse();
        code
    }
}

/// The runs of numbers that `is_in` holds for.
fn ranges(is_in: impl Fn(u8) -> bool) -> Vec<(u8, u8)> {
    let mut ranges: Vec<(u8, u8)> = Vec::new();
    for number in (0..=u8::MAX).filter(|number| is_in(*number)) {
        match ranges.last_mut().filter(|(_, last)| last.checked_add(1) == Some(number)) {
            Some((_, last)) => *last = number,
            None => ranges.push((number, number)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests;
