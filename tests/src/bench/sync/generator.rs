//! New flows at a steady rate: one frame of each, so every frame makes one conntrack entry on the firewall.

use crate::netns::Netns;
use crate::packet;
use anyhow::{Context, Result};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, sendmmsg};
use rustix::thread::{CpuSet, sched_setaffinity};
use socket2::Socket;
use std::io::IoSlice;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// Where the flows come from.
pub const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 100);
/// The first of their destinations (RFC 2544's benchmark network, 198.18.0.0/15).
pub const DESTINATIONS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 0);
/// Source ports of one destination. Few flows share a destination, else the kernel's search for a free translated port
/// would grow with their number.
const PORTS: u32 = 60_000;
const FIRST_PORT: u32 = 1024;
const DESTINATION_PORT: u16 = 53;
/// Frames per system call.
const BURST: usize = 32;
const ETHERTYPE_IPV4: u16 = 0x0800;
/// Nearer to the next frame than this the generator spins: a timer would wake it too late.
const SPIN: Duration = Duration::from_micros(80);

type Frame = [u8; 60];

/// The packet socket and how far the flows are.
pub struct Generator {
    socket: Socket,
    template: Frame,
    /// Number of the next flow.
    next: u32,
}

/// What was sent, and in which time.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    pub flows: u32,
    pub duration: Duration,
}

impl Sent {
    /// Flows a second.
    pub fn rate(self) -> f64 {
        f64::from(self.flows) / self.duration.as_secs_f64().max(1e-9)
    }
}

impl Generator {
    /// Sends through this interface of the namespace to the firewall's hardware address.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn open(client: &Netns, interface: &str, to: [u8; 6]) -> Result<Self> {
        let socket = client.enter(|| -> Result<Socket> {
            let socket = packet::open(interface, ETHERTYPE_IPV4)?;
            packet::bypass_queue(&socket)?;
            Ok(socket)
        })??;
        Ok(Self { socket, template: template(to), next: 0 })
    }

    /// Sends the next `count` flows, `rate` of them a second; 0 is as fast as it goes. The work of the firewall's whole
    /// packet path is done on processor `cpu` too, in the interrupt context of the sending.
    ///
    /// # Errors
    /// When the socket refuses for good.
    pub fn send(&mut self, rate: u32, count: u32, cpu: usize) -> Result<Sent> {
        std::thread::scope(|scope| {
            let work = || {
                let mut set = CpuSet::new();
                set.set(cpu);
                sched_setaffinity(None, &set).context("cannot pin the generator to its processor")?;
                self.paced(rate, count)
            };
            let thread = std::thread::Builder::new().name("flows".to_owned()).spawn_scoped(scope, work)?;
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    fn paced(&mut self, rate: u32, count: u32) -> Result<Sent> {
        let begin = Instant::now();
        let mut sent = 0;
        while sent < count {
            let mut burst = (count - sent).min(BURST as u32);
            if rate > 0 {
                let elapsed = begin.elapsed();
                let due = (elapsed.as_secs_f64() * f64::from(rate)) as u32 + 1;
                if due <= sent {
                    let wait = Duration::from_secs_f64(f64::from(sent) / f64::from(rate)).saturating_sub(elapsed);
                    if wait > SPIN {
                        std::thread::sleep(wait - SPIN);
                    }
                    continue;
                }
                burst = burst.min(due - sent);
            }
            let through = self.burst(burst)?;
            sent += through;
            self.next += through;
        }
        Ok(Sent { flows: sent, duration: begin.elapsed() })
    }

    /// Sends so many frames in one call; how many went.
    fn burst(&self, count: u32) -> Result<u32> {
        let frames: Vec<Frame> = (self.next..self.next + count).map(|flow| frame(&self.template, flow)).collect();
        let slices: Vec<_> = frames.iter().map(|frame| [IoSlice::new(frame)]).collect();
        let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(slices.len(), None);
        let nowhere = vec![None; slices.len()];
        match sendmmsg(self.socket.as_raw_fd(), &mut headers, &slices, &nowhere, [], MsgFlags::empty()) {
            Ok(results) => Ok(u32::try_from(results.count())?),
            // The path is full for a moment: what is not sent now is sent next.
            Err(nix::errno::Errno::ENOBUFS | nix::errno::Errno::EAGAIN) => Ok(0),
            Err(error) => Err(error).context("the generator cannot send"),
        }
    }
}

/// Number of the flow that has this destination and source port; `None` for what the generator has not made.
pub fn flow_number(destination: Ipv4Addr, source_port: u16) -> Option<usize> {
    let host = destination.to_bits().checked_sub(DESTINATIONS.to_bits()).filter(|host| *host < 1 << 17)?;
    let port = u32::from(source_port).checked_sub(FIRST_PORT).filter(|port| *port < PORTS)?;
    usize::try_from(host * PORTS + port).ok()
}

/// Ethernet, IPv4 and UDP of every flow, but for what tells them apart.
fn template(to: [u8; 6]) -> Frame {
    let mut frame = [0; 60];
    put(&mut frame, 0, &to);
    put(&mut frame, 6, &[0x02, 0x0f, 0, 0, 0, 2, 0x08, 0x00]);
    // IPv4, 46 bytes, time to live 64, UDP.
    put(&mut frame, 14, &[0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17]);
    put(&mut frame, 26, &SOURCE.octets());
    put(&mut frame, 36, &DESTINATION_PORT.to_be_bytes());
    // 26 bytes, no checksum.
    put(&mut frame, 38, &[0, 26, 0, 0]);
    frame
}

fn frame(template: &Frame, flow: u32) -> Frame {
    let mut frame = *template;
    put(&mut frame, 30, &(DESTINATIONS.to_bits() + flow / PORTS).to_be_bytes());
    // Below 65 536: 1024 and less than 60 000.
    put(&mut frame, 34, &((FIRST_PORT + flow % PORTS) as u16).to_be_bytes());
    let words = frame[14..34].chunks_exact(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    put(&mut frame, 24, &(!(folded + (folded >> 16)) as u16).to_be_bytes());
    frame
}

fn put(frame: &mut Frame, at: usize, bytes: &[u8]) {
    for (slot, byte) in frame.iter_mut().skip(at).zip(bytes) {
        *slot = *byte;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each flow's frame has a sound header (RFC 1071: its words sum up to all ones), and its addresses lead back to its number.
    #[test]
    fn frames_lead_back_to_their_flow() {
        let template = template([2, 0, 0, 0, 0, 1]);
        for flow in [0, 1, 59_999, 60_000, 1_000_000, 3_999_999] {
            let frame = frame(&template, flow);
            let sum: u32 = frame[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "flow {flow}");
            let destination = Ipv4Addr::new(frame[30], frame[31], frame[32], frame[33]);
            let port = u16::from_be_bytes([frame[34], frame[35]]);
            assert_eq!(flow_number(destination, port), Some(flow as usize));
        }
        assert_eq!(flow_number(Ipv4Addr::new(198, 17, 255, 255), 2000), None);
        assert_eq!(flow_number(DESTINATIONS, 80), None);
    }
}
