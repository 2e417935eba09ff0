//! What the kernel answers to a batch of requests: by its number each answer is attributed to its request.

use super::attribute::Messages;
use super::{decode, uapi};
use ha_common::sync::flow::Flow;

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Zero: accepted.
    Errno(i32),
    /// The entry that was asked for; `None`: it could not be decoded.
    Entry(Option<Flow>),
}

/// Reads the answers in `datagram` to the `requests` requests that were numbered from `base` on, and tells of each the
/// request's position. Those to other requests are passed over. False: the datagram contradicts itself, and answers
/// may be lost.
pub fn read(datagram: &[u8], base: u32, requests: usize, mut tell: impl FnMut(usize, Answer)) -> bool {
    for message in Messages::new(datagram) {
        let Ok((header, payload)) = message else { return false };
        let position = usize::try_from(header.sequence.wrapping_sub(base)).unwrap_or(usize::MAX);
        if position >= requests {
            continue;
        }
        match header.kind {
            uapi::NLMSG_ERROR => {
                // Negative errno; the magnitude of i32::MIN does not exist.
                let errno = payload.first_chunk().map_or(0, |errno| i32::from_ne_bytes(*errno).saturating_neg());
                tell(position, Answer::Errno(errno));
            }
            uapi::CT_NEW => tell(position, Answer::Entry(decode::flow(payload).ok())),
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, sequence: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = u32::try_from(16 + payload.len()).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.extend([0; 4]);
        bytes.extend(payload);
        bytes
    }

    /// Answers reach the request with their number, also where the numbers wrap; those to older and later requests reach
    /// nobody; a datagram that ends early says so, and what stood before counts.
    #[test]
    fn answers_are_attributed() {
        let error = |sequence, errno: i32| message(uapi::NLMSG_ERROR, sequence, &errno.to_ne_bytes());
        let base = u32::MAX - 1;
        let datagram = [
            error(base, -17),
            error(0, i32::MIN),
            error(base - 1, -2),
            error(2, -2),
            message(uapi::CT_NEW, 1, &[2, 0, 0, 0]),
            message(uapi::NLMSG_ERROR, base.wrapping_add(1), &[]),
            vec![9, 9],
        ]
        .concat();
        let mut told = Vec::new();
        assert!(!read(&datagram, base, 4, |position, answer| told.push((position, answer))));
        let expected =
            [(0, Answer::Errno(17)), (2, Answer::Errno(i32::MAX)), (3, Answer::Entry(None)), (1, Answer::Errno(0))];
        assert_eq!(told, expected);
        assert!(read(&datagram[..datagram.len() - 2], base, 0, |_, _| panic!("there is no request")));
    }
}
