//! Requests to the kernel's table: create, update, delete and dump, by one writer and by two.

use super::events::NO_WRITER;
use super::{Figures, Stopwatch, Took, note, pin};
use anyhow::{Context, Result, ensure};
use ha_common::sync::flow::{Flow, FlowKey, Tcp, Tuple, status};
use ha_tests::bench::sync::rig::Rig;
use ha_tests::netns::Netns;
use ha_tests::topology::{Node, WAN_VIP};
use ha_user::conntrack::attribute::{Builder, Messages};
use ha_user::conntrack::dump::{DumpSource, Progress};
use ha_user::conntrack::encode::{self, UpdateParts};
use ha_user::conntrack::events::EventSource;
use ha_user::conntrack::uapi;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, bind, netlink, recv, send, socket, sockopt};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

/// Entries of one measurement.
const FLOWS: u32 = 200_000;
/// Tables that are filled whole: searches in a large one miss the processor's caches.
const TABLES: [u32; 3] = [100_000, 500_000, 1_000_000];
/// Requests per system call.
const BATCHES: [u32; 3] = [1, 64, 256];
/// The largest batch has less than 512 bytes for each request.
const SEND_BUFFER: usize = 1 << 20;
const RECV_BUFFER: usize = 4 << 20;

/// What an entry is like.
#[derive(Clone, Copy)]
enum Kind {
    Plain,
    SourceNat,
    TcpSourceNat,
}

/// What a request asks for.
#[derive(Clone, Copy)]
enum Request {
    Create(Kind),
    Update,
    Delete,
}

pub fn measure(rig: &Rig, figures: &mut Figures) -> Result<()> {
    let node = &rig.lab.pair[Node::Fw2];
    const CREATES: [(Kind, &str, &str); 3] = [
        (Kind::Plain, "insert", "insert-cpu"),
        (Kind::SourceNat, "insert-snat", "insert-snat-cpu"),
        (Kind::TcpSourceNat, "insert-tcp-snat", "insert-tcp-snat-cpu"),
    ];
    for (kind, rate, cpu) in CREATES {
        for batch in BATCHES {
            flush(node)?;
            let took = one_writer(node, Request::Create(kind), FLOWS, batch)?;
            both(figures, rate, cpu, batch, took);
        }
    }
    for batch in BATCHES {
        flush(node)?;
        one_writer(node, Request::Create(Kind::SourceNat), FLOWS, 256)?;
        both(figures, "update", "update-cpu", batch, one_writer(node, Request::Update, FLOWS, batch)?);
        both(figures, "delete", "delete-cpu", batch, one_writer(node, Request::Delete, FLOWS, batch)?);
    }
    for flows in TABLES {
        flush(node)?;
        let took = one_writer(node, Request::Create(Kind::SourceNat), flows, 256)?;
        note(figures, "fill-snat", u64::from(flows), "s", took.wall.as_secs_f64());
        flush(node)?;
        fill_beside(rig, figures, flows)?;
    }
    flush(node)?;
    let rate = two_writers(node, Request::Create(Kind::SourceNat))?;
    note(figures, "insert-snat-two-writers", 256, "entries/s", rate);
    note(figures, "update-two-writers", 256, "entries/s", two_writers(node, Request::Update)?);
    let took = node.enter(dump)??;
    note(figures, "dump", 0, "entries/s", took.per_second(f64::from(FLOWS)));
    note(figures, "dump-cpu", 0, "us", took.cpu_each(f64::from(FLOWS)));
    flush(node)
}

fn both(figures: &mut Figures, rate: &'static str, cpu: &'static str, batch: u32, took: Took) {
    note(figures, rate, u64::from(batch), "entries/s", took.per_second(f64::from(FLOWS)));
    note(figures, cpu, u64::from(batch), "us", took.cpu_each(f64::from(FLOWS)));
}

/// What a standby's daemon meets at the least when both nodes are on one machine: their entries share the kernel's hash table, and
/// events are made for all namespaces while anybody listens in one.
fn fill_beside(rig: &Rig, figures: &mut Figures, flows: u32) -> Result<()> {
    let [master, standby] = [Node::Fw1, Node::Fw2].map(|node| &rig.lab.pair[node]);
    one_writer(master, Request::Create(Kind::SourceNat), flows, 256)?;
    let listener = master.enter(|| EventSource::open(NO_WRITER, RECV_BUFFER, RECV_BUFFER))??;
    let took = one_writer(standby, Request::Create(Kind::SourceNat), flows, 256)?;
    note(figures, "fill-snat-beside", u64::from(flows), "s", took.wall.as_secs_f64());
    drop(listener);
    flush(master)
}

fn flush(node: &Netns) -> Result<()> {
    node.run("conntrack", &["-F"]).map(drop)
}

fn one_writer(node: &Netns, request: Request, flows: u32, batch: u32) -> Result<Took> {
    node.enter(|| {
        pin(1)?;
        write(request, 0..flows, batch)
    })?
}

/// Two threads, two processors, two sockets, half of the flows each; all of them a second.
fn two_writers(node: &Netns, request: Request) -> Result<f64> {
    let half = FLOWS / 2;
    let began = Stopwatch::start();
    std::thread::scope(|scope| {
        let start = |cpu: usize, flows: std::ops::Range<u32>| {
            scope.spawn(move || {
                node.move_thread()?;
                pin(cpu)?;
                write(request, flows, 256)
            })
        };
        let writers = [start(0, 0..half), start(1, half..FLOWS)];
        writers
            .into_iter()
            .try_for_each(|writer| writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)).map(drop))
    })?;
    Ok(began.stop().per_second(f64::from(FLOWS)))
}

/// Sends the requests for these flows, without acknowledgement: the kernel answers the refused ones only, and there are none.
fn write(request: Request, flows: std::ops::Range<u32>, batch: u32) -> Result<Took> {
    let socket = open()?;
    let (mut builder, mut answer) = (Builder::default(), vec![0; 16 * 1024]);
    let mut refused = 0;
    let began = Stopwatch::start();
    let mut next = flows.start;
    while next < flows.end {
        builder.clear();
        let end = flows.end.min(next + batch);
        for number in next..end {
            push(&mut builder, request, number)?;
        }
        next = end;
        send(&socket, builder.bytes(), SendFlags::empty()).context("cannot send a batch of requests")?;
        while let Ok((length, _)) = recv(&socket, &mut answer, RecvFlags::DONTWAIT) {
            let messages = Messages::new(answer.get(..length).unwrap_or_default());
            refused += messages.flatten().filter(|(header, _)| header.kind == uapi::NLMSG_ERROR).count();
        }
    }
    let took = began.stop();
    ensure!(refused == 0, "the kernel refused {refused} requests");
    Ok(took)
}

fn open() -> Result<OwnedFd> {
    let socket = socket(AddressFamily::NETLINK, SocketType::RAW, Some(netlink::NETFILTER))?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    sockopt::set_socket_send_buffer_size_force(&socket, SEND_BUFFER)?;
    sockopt::set_socket_recv_buffer_size_force(&socket, RECV_BUFFER)?;
    Ok(socket)
}

fn push(builder: &mut Builder, request: Request, number: u32) -> Result<()> {
    match request {
        Request::Create(kind) => encode::create(builder, number, &flow(number, kind))?,
        Request::Update => {
            encode::update(builder, number, &flow(number, Kind::SourceNat), UpdateParts::ALL)?;
        }
        Request::Delete => encode::delete(builder, number, &flow(number, Kind::SourceNat).key, 0)?,
    }
    Ok(())
}

/// Flow number so-and-so, like those of the generator.
fn flow(number: u32, kind: Kind) -> Flow {
    let (host, port) = (number / 50_000, 1024 + number % 50_000);
    let (protocol, tcp) = match kind {
        Kind::Plain | Kind::SourceNat => (uapi::IPPROTO_UDP, None),
        Kind::TcpSourceNat => {
            let tcp = Tcp { state: uapi::TCP_ESTABLISHED, wscale: [7, 7], flags: [uapi::FLAG_WINDOW_SCALE; 2] };
            (uapi::IPPROTO_TCP, Some(tcp))
        }
    };
    let original = Tuple {
        source: IpAddr::V4(Ipv4Addr::new(10, 99, 0, 100)),
        destination: IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(198, 18, 0, 0).to_bits() + host)),
        protocol,
        // At most 51 023.
        source_port: port as u16,
        destination_port: 53,
    };
    let mut reply = original.inverse();
    if !matches!(kind, Kind::Plain) {
        reply.destination = IpAddr::V4(WAN_VIP);
    }
    Flow {
        key: FlowKey { original, zone: 0 },
        reply,
        status: status::SEEN_REPLY | status::ASSURED | status::CONFIRMED,
        timeout: 3600,
        mark: 0,
        tcp,
        id: 0,
        extra: None,
    }
}

fn dump() -> Result<Took> {
    pin(1)?;
    let mut source = DumpSource::open()?;
    let mut entries = 0;
    let began = Stopwatch::start();
    source.start()?;
    loop {
        match source.read(|_| entries += 1) {
            // The kernel fills the next chunk in the very call that reads one: nothing to wait for.
            Progress::Running | Progress::Idle => {}
            Progress::Ended { complete } => {
                let took = began.stop();
                ensure!(complete && entries >= FLOWS, "the dump had {entries} of {FLOWS} entries");
                return Ok(took);
            }
        }
    }
}
