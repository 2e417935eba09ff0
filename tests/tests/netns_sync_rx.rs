//! The ways of `cargo xtask bench sync-rx` deliver what was sent, refuse what production refuses, and count what is lost.

#[path = "../examples/bench_sync_rx/af_xdp.rs"]
mod af_xdp;
#[path = "../examples/bench_sync_rx/frames.rs"]
mod frames;
#[path = "../examples/bench_sync_rx/load.rs"]
mod load;
#[path = "../examples/bench_sync_rx/rig.rs"]
mod rig;
#[path = "../examples/bench_sync_rx/source.rs"]
mod source;
#[path = "../examples/bench_sync_rx/trial.rs"]
mod trial;

use frames::{PAYLOAD_MAX, PAYLOAD_MIN, Sealer, is_whole};
use ha_tests::bench::sync_rx::{Mode, Way};
use load::Load;
use rig::{Link, PORT, RECEIVER_ADDRESS, SENDER_ADDRESS};
use std::net::UdpSocket;
use std::time::Duration;
use trial::{Bench, Setup};

/// Few enough for the shortest queue on the way, whatever else the machine does.
const FEW: Load = Load { rate: 1_000, frames: 200, size: 200 };
/// More than any buffer holds.
const MANY: Load = Load { rate: 30_000, frames: 24_000, size: 249 };

const SETUP: Setup = Setup {
    mode: Mode::Native,
    way: Way::Socket,
    is_pinned: false,
    is_compared: true,
    is_stalled: false,
    is_timed: true,
};
const PATIENCE: Duration = Duration::from_secs(5);

/// Everything that can be measured.
fn setups() -> impl Iterator<Item = Setup> {
    let all = [Mode::Native, Mode::Generic].into_iter().flat_map(|mode| Way::ALL.map(|way| (mode, way)));
    all.filter(|(mode, way)| mode.has(*way)).map(|(mode, way)| Setup { mode, way, ..SETUP })
}

/// Runs a closure with a way of its own: a link, the program, the reading end.
fn with_bench(setup: Setup, work: impl FnOnce(&Link, &mut Bench<'_>) + Send) {
    let link = Link::new().expect("this test needs root");
    let done = link.receiver.enter(|| {
        let mut bench = Bench::new(&link, setup).unwrap();
        work(&link, &mut bench);
    });
    done.unwrap();
}

/// The payloads that arrive first within `limit`, opened or not.
fn take(bench: &mut Bench<'_>, limit: Duration) -> Vec<Vec<u8>> {
    let mut payloads = Vec::new();
    if bench.source.wait(limit).unwrap() {
        bench.source.read(&mut |payload| payloads.push(payload.to_vec())).unwrap();
    }
    payloads
}

/// Two hundred frames of each size, the least and the largest among them, arrive in every way once and byte by byte.
#[test]
fn netns_every_way_delivers_every_frame_intact() {
    for setup in setups() {
        let way = setup.mode.tool(setup.way);
        with_bench(setup, |_, bench| {
            for size in [PAYLOAD_MIN, 200, 248, 249, 1200, PAYLOAD_MAX] {
                let size = u16::try_from(size).unwrap();
                let outcome = bench.run(Load { size, ..FEW }).unwrap();
                assert!(outcome.sent.offered == 200, "{way} {size}: {outcome:?}");
                assert_eq!((outcome.opened, outcome.lost()), (outcome.sent.offered, 0), "{way} {size}: {outcome:?}");
                assert_eq!((outcome.admitted, outcome.lost_on_cable()), (outcome.opened, 0), "{way} {size}");
                assert!(outcome.sent_rate() <= 1_100.0 && outcome.sleeps > 0, "{way} {size}: {outcome:?}");
                assert_eq!(outcome.latencies_ns.len() as u64, outcome.opened);
                let total: u64 = outcome.latencies_ns.iter().sum();
                assert!(total > 0 && outcome.span <= outcome.sent.took + PATIENCE, "{way} {size}: {outcome:?}");
                assert!(outcome.thread_ns > 0 && outcome.softirq_ns > 0 && outcome.sent.cpu_ns > 0, "{outcome:?}");
            }
        });
    }
}

/// Nobody reads while twenty-four thousand frames come. As many arrive as the memory of a way holds, which is known for two of them
/// to the frame, and all others are counted as lost behind the program; afterwards frames arrive as before.
#[test]
fn netns_every_way_counts_what_is_lost() {
    /// Of 2048 bytes each.
    const CHUNKS: u64 = (4 << 20) / 2048;
    /// Records of 1472 bytes with the length before and the ring's own header of 8 bytes. One byte of the ring stays free.
    const RECORDS: u64 = ((4 << 20) - 1) / (1472 + 8 + 8);
    for setup in setups() {
        let way = setup.mode.tool(setup.way);
        with_bench(Setup { is_stalled: true, ..setup }, |_, bench| {
            let outcome = bench.run(MANY).unwrap();
            let (lost, opened) = (outcome.lost_behind(), outcome.opened);
            assert_eq!(outcome.admitted, opened + lost, "{way}");
            assert!(lost > 0 && opened > 0, "{way}: {outcome:?}");
            match setup.way {
                Way::Socket | Way::SocketNoGro => {}
                Way::AfXdp => assert_eq!(opened, CHUNKS, "{outcome:?}"),
                Way::RingBuffer => assert_eq!(opened, RECORDS, "{outcome:?}"),
            }
            let after = bench.run(FEW).unwrap();
            assert_eq!((after.opened, after.lost()), (after.sent.offered, 0), "{way}: {after:?}");
        });
    }
}

/// A frame whose stamp is not that of its header is refused by the program in every way, and no reading end sees it; a genuine
/// frame from the same socket arrives.
#[test]
fn netns_every_way_refuses_forgeries() {
    let genuine = Sealer::new().seal(1, 200).unwrap();
    let mut forged = genuine.clone();
    forged[31] ^= 0x40;
    for setup in setups() {
        let way = setup.mode.tool(setup.way);
        with_bench(setup, |link, bench| {
            let send = |frame: &[u8]| {
                let sent = link.sender.enter(|| {
                    let socket = UdpSocket::bind((SENDER_ADDRESS, PORT))?;
                    socket.send_to(frame, (RECEIVER_ADDRESS, PORT))
                });
                sent.unwrap().unwrap();
            };
            send(&forged);
            assert_eq!(take(bench, Duration::from_millis(200)), Vec::<Vec<u8>>::new(), "{way}");
            assert_eq!(bench.receiver.judged(), (0, 1), "{way}");
            send(&genuine);
            assert_eq!(take(bench, PATIENCE), std::slice::from_ref(&genuine), "{way}");
            assert_eq!(bench.receiver.judged(), (1, 1), "{way}");
        });
    }
}

/// A frame opens to the body that it was sealed from, and not when any bit of it is another one.
#[test]
fn frames_open_only_as_they_were_sealed() {
    let (sealer, mut body) = (Sealer::new(), Vec::new());
    let frame = sealer.seal(7, PAYLOAD_MIN).unwrap();
    assert_eq!(sealer.open(&frame, &mut body), Ok(7));
    assert!(is_whole(&body, 7, PAYLOAD_MIN) && !is_whole(&body, 8, PAYLOAD_MIN));
    for bit in 0..frame.len() * 8 {
        let mut broken = frame.clone();
        broken[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(sealer.open(&broken, &mut body), Err(frames::Broken), "bit {bit}");
    }
    assert!(sealer.seal(1, PAYLOAD_MIN - 1).is_err() && sealer.seal(1, PAYLOAD_MAX + 1).is_err());
}
