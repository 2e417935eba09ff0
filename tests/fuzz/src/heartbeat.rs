//! Heartbeats from the wire, and what a prober makes of answers.

use crate::bytes::Bytes;
use ha_common::abi::SelfEntry;
use ha_common::election::InterfaceId;
use ha_common::liveness::{Action, Config, Input, PathId, PathReply, Prober};
use ha_common::role::NodeId;
use ha_common::sight::PeerReport;
use ha_common::time::Instant;
use ha_common::wire::heartbeat::{self, GROUP_MAC, Heartbeat, Kind, Standing};
use ha_common::wire::siphash::Key;
use std::time::Duration;

const KEY: Key = [1, 2];
const PATHS: u8 = 3;
const STEPS_MAX: usize = 128;
/// Uptime in nanoseconds, 73 years: seconds are counted in 32 bits.
const LATEST: u64 = 1 << 61;

/// The first byte chooses: a frame as it came, a heartbeat made of these fields, or steps for a prober.
pub fn run(input: &[u8]) {
    let mut input = Bytes(input);
    match input.u8() % 3 {
        0 => frame(input.0),
        1 => fields(input),
        _ => steps(input),
    }
}

const fn key_of(epoch: u8) -> Option<Key> {
    if epoch == 7 { Some(KEY) } else { None }
}

fn frame(frame: &[u8]) {
    if let Some(Ok(heard)) = Heartbeat::read(frame, key_of) {
        round_trip(heard);
    }
}

fn round_trip(heartbeat: Heartbeat) {
    let frame = heartbeat::emit(GROUP_MAC, [2; 6], &heartbeat.seal(KEY));
    assert_eq!(Heartbeat::read(&frame[..], key_of), Some(Ok(heartbeat)));
    let short = frame.split_last().map(|(_, short)| short).unwrap_or_default();
    assert!(matches!(Heartbeat::read(short, key_of), Some(Err(_))));
}

/// What is sealed is read as the same, its answer as well, and no bit of it is free.
fn fields(mut input: Bytes<'_>) {
    let heartbeat = Heartbeat {
        kind: if input.flag() { Kind::Probe } else { Kind::Reply },
        sender: input.u8(),
        target: input.u8(),
        path: input.u8(),
        key_epoch: 7,
        session: input.u64(),
        sequence: input.u64(),
        sent_ns: input.u64(),
        other_session: input.u64(),
        term: input.u64(),
        standing: Standing::unpack(input.u64()),
        beat_age_us: input.u32(),
        lease_left_us: input.u32(),
    };
    round_trip(heartbeat);
    let own = SelfEntry {
        lease_until_ns: input.u64(),
        term: input.u64(),
        session: input.u64(),
        beat_ns: input.u64(),
        state: input.u64(),
    };
    let (closed_term, now) = (input.u64(), input.u64());
    let gate = heartbeat::gate(&own, closed_term, now);
    let _ = heartbeat.supersedes(&own);
    round_trip(heartbeat.answer(&own, gate, now));
    let mut frame = heartbeat::emit(GROUP_MAC, [2; 6], &heartbeat.seal(KEY));
    let bit = usize::from(input.u16()) % ((frame.len() - 14) * 8);
    frame[14 + bit / 8] ^= 1 << (bit % 8);
    assert!(!matches!(Heartbeat::read(&frame[..], key_of), Some(Ok(_))), "bit {bit} is free");
}

/// Any answers at any time: the prober sends at most a probe for each path, and its timer comes to rest.
fn steps(mut input: Bytes<'_>) {
    let config = Config {
        node: NodeId(0),
        peer: NodeId(1),
        interval: Duration::from_nanos(input.number().saturating_mul(100_000)),
        multiplier: input.u8().into(),
        dead_after_max: Duration::from_millis(input.number()),
        paths: (0..PATHS).map(InterfaceId).collect(),
    };
    let mut prober = Prober::new(config, 5);
    let (mut now, mut actions) = (Instant(1_000_000_000), Vec::new());
    for record in input.records(STEPS_MAX) {
        let mut body = record.body;
        actions.clear();
        match record.kind % 4 {
            0 => now = Instant(now.0.saturating_add(body.number().saturating_mul(10_000)).min(LATEST)),
            1 => now = prober.poll_at().map_or(now, |at| at.max(now)),
            2 => prober.handle(now, Input::Link { path: PathId(body.u8()), up: body.flag() }, &mut actions),
            _ => prober.handle(now, Input::Reply(&answer(now, &mut body)), &mut actions),
        }
        prober.handle(now, Input::Timer, &mut actions);
        let probes = actions.iter().filter(|action| matches!(action, Action::Probe { .. })).count();
        assert!(probes <= usize::from(PATHS), "{actions:?}");
        assert!(prober.poll_at().is_none_or(|at| at > now), "due again at once");
    }
}

fn answer(now: Instant, body: &mut Bytes<'_>) -> PathReply {
    let received = Instant(now.0.saturating_sub(body.number()));
    let report = PeerReport {
        session: body.number(),
        term: body.number(),
        standing: Standing::unpack(body.u64()),
        beat_age: Duration::from_micros(body.u32().into()),
        lease_left: Duration::from_micros(body.u32().into()),
        heard: received,
        asked: Instant(received.0.saturating_sub(body.number())),
    };
    let (path, sequence, replies) = (PathId(body.u8()), body.number(), body.number());
    PathReply { path, sequence, received, rtt: Duration::from_nanos(body.number()), mac: body.array(), replies, report }
}
