//! Conntrack events, as they come and out of a full buffer, decoded as the daemon does it.

use super::{Figures, Stopwatch, Took, note, pin};
use anyhow::{Result, ensure};
use ha_tests::bench::sync::rig::Rig;
use ha_tests::topology::Node;
use ha_user::conntrack::events::{Event, EventSource};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::time::Duration;

/// As they come: so many flows, as fast as the generator makes them.
const LIVE: u32 = 500_000;
/// Out of a buffer: what fits, the kernel charges 1280 bytes for an event and more.
const STORED: u32 = 100_000;
const BUFFER: usize = 256 << 20;
/// No socket has this port id, so no event is left out as the writer's own; 0 would be the packets' events.
pub(super) const NO_WRITER: u32 = u32::MAX;
/// Nothing more comes when nothing has for so long.
const QUIET: Duration = Duration::from_millis(500);

pub fn measure(figures: &mut Figures) -> Result<()> {
    let (rate, cpu) = live()?;
    note(figures, "event-live", 0, "events/s", rate);
    note(figures, "event-live-cpu", 0, "us", cpu);
    let took = stored()?;
    note(figures, "event-stored", 0, "events/s", took.per_second(f64::from(STORED)));
    note(figures, "event-stored-cpu", 0, "us", took.cpu_each(f64::from(STORED)));
    Ok(())
}

/// What a reader on the other processor takes while the generator makes flows: events a second, and processor time for each.
fn live() -> Result<(f64, f64)> {
    let mut rig = Rig::new(None)?;
    let node = rig.lab.pair[Node::Fw1].name().to_owned();
    let source = rig.lab.pair[Node::Fw1].enter(|| EventSource::open(NO_WRITER, BUFFER, BUFFER))??;
    let reader = std::thread::spawn(move || -> Result<(u32, Took, bool)> {
        pin(1)?;
        let mut source = source;
        let (mut events, mut is_complete) = (0, true);
        let began = Stopwatch::start();
        let mut last = began.stop();
        while wait(&source)? || events == 0 {
            while source.read(|event| match event {
                Event::Changed(_) => events += 1,
                Event::Destroyed(_) | Event::Expected { .. } | Event::Unexpected { .. } => {}
                Event::Lost => is_complete = false,
            }) {}
            last = began.stop();
            ensure!(last.wall < Duration::from_secs(60), "no events on {node} within a minute");
        }
        Ok((events, last, is_complete))
    });
    let sent = rig.generate(0, LIVE)?;
    let (events, took, is_complete) = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    ensure!(is_complete, "the reader lost events");
    ensure!(events > sent.flows / 2, "{events} events for {} flows", sent.flows);
    Ok((f64::from(events) / sent.duration.as_secs_f64(), took.cpu_each(f64::from(events))))
}

/// Nobody reads until all events lie in the buffer: what reading and decoding them costs by itself.
fn stored() -> Result<Took> {
    let mut rig = Rig::new(None)?;
    let mut source = rig.lab.pair[Node::Fw1].enter(|| EventSource::open(NO_WRITER, BUFFER, BUFFER))??;
    rig.generate(0, STORED)?;
    let (mut events, mut is_complete) = (0, true);
    let reader = std::thread::spawn(move || -> Result<(u32, Took, bool)> {
        pin(1)?;
        let began = Stopwatch::start();
        while source.read(|event| match event {
            Event::Changed(_) => events += 1,
            Event::Destroyed(_) | Event::Expected { .. } | Event::Unexpected { .. } => {}
            Event::Lost => is_complete = false,
        }) {}
        Ok((events, began.stop(), is_complete))
    });
    let (events, took, is_complete) = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    ensure!(is_complete && events >= STORED, "{events} of {STORED} events were in the buffer");
    Ok(took)
}

/// Whether something is to be read before the quiet is over.
fn wait(source: &EventSource) -> Result<bool> {
    let fd = source.fd();
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(QUIET.subsec_nanos()) };
    Ok(poll(&mut fds, Some(&timeout))? > 0)
}
