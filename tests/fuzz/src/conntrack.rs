//! What the kernel tells of its connection table, and what it answers.

use crate::bytes::Bytes;
use ha_common::sync::flow::{Expectation, FlowKey, ZoneDirection};
use ha_user::conntrack::answers::{self, Answer};
use ha_user::conntrack::attribute::{Builder, Messages};
use ha_user::conntrack::{decode, encode, errno, expectation, uapi};

/// Events and dumps. An entry that is decoded can be asked for, deleted, and made again, and reads as the same then.
pub fn entries(input: &[u8]) {
    for message in Messages::new(input).map_while(Result::ok) {
        let (header, payload) = message;
        match header.kind {
            uapi::EXP_NEW | uapi::EXP_DELETE => expected(payload),
            _ => entry(payload),
        }
    }
    entry(input);
    expected(input);
}

fn entry(payload: &[u8]) {
    let Ok(flow) = decode::flow(payload) else { return };
    assert_eq!(flow.key.original.protocol, flow.reply.protocol);
    assert_eq!(flow.key.original.source.is_ipv4(), flow.reply.source.is_ipv4());
    let mut request = Builder::default();
    // Addresses of two families in one tuple are told apart when they are to be written.
    if encode::create(&mut request, 1, &flow).is_err() {
        assert!(request.bytes().is_empty(), "half a request stays behind");
        return;
    }
    let made = only(&request, decode::flow);
    let direction = flow.extra.as_deref().map(|extra| extra.zone_direction).unwrap_or_default();
    if direction == ZoneDirection::Both {
        assert_eq!(made.key, flow.key);
    }
    assert_eq!((made.key.original, made.timeout, made.mark), (flow.key.original, flow.timeout, flow.mark));
    for put in [
        encode::update(&mut request, 1, &flow, encode::UpdateParts::ALL),
        encode::get(&mut request, 2, &flow.reply, encode::reply_zone(&flow)),
        encode::delete(&mut request, 3, &flow.key, flow.id),
        encode::relax(&mut request, 4, &flow.key),
    ] {
        assert!(put.is_ok());
    }
    assert!(Messages::new(request.bytes()).all(|message| message.is_ok()));
}

fn expected(payload: &[u8]) {
    let Ok((master, one)) = expectation::decode(payload) else { return };
    let mut request = Builder::default();
    if expectation::create(&mut request, 1, &master, &one).is_err() {
        assert!(request.bytes().is_empty(), "half a request stays behind");
        return;
    }
    let (master_again, again): (FlowKey, Expectation) = only(&request, expectation::decode);
    assert_eq!(master_again, master);
    assert_eq!((again.tuple, again.timeout, again.class), (one.tuple, one.timeout, one.class));
    assert_eq!((again.helper, again.function), (one.helper, one.function));
}

/// What is in the only message of a request.
fn only<T, E: std::fmt::Debug>(request: &Builder, decode: impl FnOnce(&[u8]) -> Result<T, E>) -> T {
    let mut messages = Messages::new(request.bytes());
    let (_, payload) = messages.next().expect("a message").expect("a whole one");
    assert!(messages.next().is_none());
    decode(payload).expect("what we write can be read")
}

/// The answers to up to 255 requests: each is told of one of them, and has a name.
pub fn answers(input: &[u8]) {
    let mut input = Bytes(input);
    let (base, requests) = (input.u32(), usize::from(input.u8()));
    let whole = answers::read(input.0, base, requests, |position, answer| {
        assert!(position < requests);
        match answer {
            Answer::Errno(number) => {
                assert!(!errno::name(number).is_empty());
            }
            Answer::Entry(_) => {}
        }
    });
    assert_eq!(whole, Messages::new(input.0).all(|message| message.is_ok()));
}
