//! Datagrams from one firewall to the other, one by one in batches, and as segments of large ones (GSO, GRO).

use super::{Figures, Stopwatch, Took, note, pin};
use anyhow::{Context, Result, ensure};
use ha_tests::bench::sync::rig::Rig;
use ha_tests::topology::Node;
use ha_user::recv_batch::RecvBatch;
use nix::sys::socket::sockopt::{UdpGroSegment, UdpGsoSegment};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg, setsockopt};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use std::io::IoSlice;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// What fits into an Ethernet frame with room for headers of a tunnel.
const PAYLOAD: usize = 1400;
/// Datagrams per system call.
const BATCH: usize = 64;
/// Segments of one large datagram.
const SEGMENTS: usize = 46;
const DURATION: Duration = Duration::from_secs(1);
const PORT: u16 = 7100;
const BUFFER: usize = 64 << 20;

/// How datagrams leave and arrive.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Single,
    Segments,
}

impl Way {
    /// Datagrams on the wire for each one that is written.
    const fn segments(self) -> usize {
        match self {
            Self::Single => 1,
            Self::Segments => SEGMENTS,
        }
    }
}

pub fn measure(rig: &Rig, figures: &mut Figures) -> Result<()> {
    const NAMES: [(Way, [&str; 3]); 2] = [
        (Way::Single, ["udp", "udp-send-cpu", "udp-receive-cpu"]),
        (Way::Segments, ["udp-gso", "udp-gso-send-cpu", "udp-gso-receive-cpu"]),
    ];
    for node in Node::BOTH {
        // Filters are the firewall's, not the wire's.
        rig.lab.pair[node].run("nft", &["flush", "ruleset"])?;
    }
    for (way, [rate, send_cpu, receive_cpu]) in NAMES {
        let (sent, received) = exchange(rig, way)?;
        let at = PAYLOAD as u64;
        note(figures, rate, at, "datagrams/s", received.1.per_second(received.0));
        note(figures, send_cpu, at, "us", sent.1.cpu_each(sent.0));
        note(figures, receive_cpu, at, "us", received.1.cpu_each(received.0));
    }
    Ok(())
}

/// Datagrams sent by one processor, received by the other: their numbers and what they took.
fn exchange(rig: &Rig, way: Way) -> Result<((f64, Took), (f64, Took))> {
    let socket = |node: Node, port: u16| -> Result<UdpSocket> {
        let address = (node.sync(), port);
        rig.lab.pair[node].enter(|| UdpSocket::bind(address))?.context("cannot bind a UDP socket")
    };
    let (sender, receiver) = (socket(Node::Fw1, 0)?, socket(Node::Fw2, PORT)?);
    sender.connect((Node::Fw2.sync(), PORT))?;
    sockopt::set_socket_recv_buffer_size_force(&receiver, BUFFER)?;
    if way == Way::Segments {
        setsockopt(&sender, UdpGsoSegment, &i32::try_from(PAYLOAD)?).context("the kernel has no UDP_SEGMENT")?;
        setsockopt(&receiver, UdpGroSegment, &true).context("the kernel has no UDP_GRO")?;
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| receive(&receiver, way, &stop));
        let sent = scope.spawn(|| send(&sender, way)).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        std::thread::sleep(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        let received = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        ensure!(received.0 > 0.0, "no datagram has arrived");
        Ok((sent?, received))
    })
}

fn send(socket: &UdpSocket, way: Way) -> Result<(f64, Took)> {
    pin(0)?;
    let bytes = vec![0x5a; PAYLOAD * way.segments()];
    let count = if way == Way::Single { BATCH } else { 1 };
    let slices = vec![[IoSlice::new(&bytes)]; count];
    let nowhere = vec![None; count];
    let mut sent = 0;
    let began = Stopwatch::start();
    while began.wall.elapsed() < DURATION {
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(count, None);
        match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, &nowhere, [], MsgFlags::empty()) {
            Ok(results) => sent += results.count() * way.segments(),
            Err(nix::errno::Errno::ENOBUFS | nix::errno::Errno::EAGAIN) => {}
            Err(error) => return Err(error).context("cannot send datagrams"),
        }
    }
    Ok((sent as f64, began.stop()))
}

fn receive(socket: &UdpSocket, way: Way, stop: &AtomicBool) -> Result<(f64, Took)> {
    pin(1)?;
    let mut batch = RecvBatch::new(if way == Way::Single { 2048 } else { 1 << 16 });
    let (mut datagrams, mut began, mut last) = (0, None, None);
    let limit = Instant::now() + Duration::from_secs(10);
    while !stop.load(Ordering::Relaxed) && Instant::now() < limit {
        let fd = socket.as_fd();
        if poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 }))? == 0 {
            continue;
        }
        let watch = began.get_or_insert_with(Stopwatch::start);
        while batch.recv(socket).is_ok_and(|count| count > 0) {
            datagrams += batch.datagrams().map(|datagram| datagram.bytes.len().div_ceil(PAYLOAD)).sum::<usize>();
        }
        last = Some(watch.stop());
    }
    Ok((datagrams as f64, last.context("no datagram has arrived")?))
}
