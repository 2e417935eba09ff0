//! The bodies of sync frames, behind the seal.

use crate::bytes::Bytes;
use ha_common::proto;
use prost::Message;

/// What can be read is the same after it was written, and a message that is used again holds nothing of its former content.
pub fn run(input: &[u8]) {
    let mut input = Bytes(input);
    match input.u8() % 3 {
        0 => round_trip::<proto::Hello>(input.0),
        1 => round_trip::<proto::Data>(input.0),
        _ => round_trip::<proto::Ack>(input.0),
    }
}

fn round_trip<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let Ok(message) = M::decode(bytes) else { return };
    let written = message.encode_to_vec();
    assert_eq!(written.len(), message.encoded_len());
    let mut reused = M::decode(written.as_slice()).expect("what was written can be read");
    assert!(reused == message, "{message:?} is read as {reused:?}");
    reused.clear();
    assert!(reused.merge(bytes).is_ok() && reused == message, "{message:?} is read as {reused:?} into used memory");
}
