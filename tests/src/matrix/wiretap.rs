//! A stranger at the switch, between the two firewalls: he hears what one says to the other, and says what he likes.

use crate::packet;
use crate::topology::{Node, Pair, Port};
use crate::torture::plan::Random;
use anyhow::Result;
use socket2::Socket;
use std::io::Read;
use std::time::{Duration, Instant};

const ETHERNET: usize = 14;
const BROADCAST: [u8; 6] = [0xff; 6];
const TYPE_IPV4: [u8; 2] = [0x08, 0x00];
const CARP: u8 = 112;
/// Frames that are remembered.
const RECORDED_MAX: usize = 4096;
/// Most bytes of a frame.
const FRAME_MAX: usize = 2048;

/// One path, towards one firewall.
pub struct Wiretap {
    ear: Socket,
    mouth: Socket,
    /// What may reach the firewall: for itself, or for all.
    to: [u8; 6],
    pub recorded: Vec<Vec<u8>>,
}

impl Wiretap {
    /// Between `victim` and its peer on this path.
    pub fn open(pair: &Pair, victim: Node, path: Port) -> Result<Self> {
        let open = |node: Node| pair.switch.enter(|| packet::open(&path.at_switch(node), libc::ETH_P_ALL as u16))?;
        Ok(Self { ear: open(victim.peer())?, mouth: open(victim)?, to: victim.mac(path), recorded: Vec::new() })
    }

    /// Takes down what the peer says to the victim for this long: adverts, heartbeats, state.
    pub fn record(&mut self, time: Duration) {
        let until = Instant::now() + time;
        let mut buffer = [0; FRAME_MAX];
        while Instant::now() < until && self.recorded.len() < RECORDED_MAX {
            let Ok(length) = (&self.ear).read(&mut buffer) else {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            };
            let frame = &buffer[..length];
            let is_for_victim = frame.len() > ETHERNET && (frame[..6] == self.to || frame[0] & 1 == 1);
            if is_for_victim {
                self.recorded.push(frame.to_vec());
            }
        }
    }

    /// Says a frame to the victim; whether it was taken (a full queue is an attack that did not happen).
    pub fn say(&self, frame: &[u8]) -> bool {
        self.mouth.send(frame).is_ok()
    }

    /// What looks like something the daemon reads, and is noise behind its headers: of a kind that was recorded on this path, or
    /// plain IPv4 and unknown types.
    pub fn noise(&self, random: &mut Random) -> Vec<u8> {
        let below = |random: &mut Random, limit: usize| usize::try_from(random.below(limit as u64)).unwrap_or(0);
        let length = ETHERNET + below(random, 300);
        let mut frame: Vec<u8> = (0..length).map(|_| u8::try_from(random.below(256)).unwrap_or(0)).collect();
        frame[..6].copy_from_slice(if random.below(2) == 0 { &self.to } else { &BROADCAST });
        frame[6] &= 0xfe;
        match random.below(4) {
            0 => {}
            1 => {
                frame[12..ETHERNET].copy_from_slice(&TYPE_IPV4);
                if let Some(header) = frame.get_mut(ETHERNET..ETHERNET + 20) {
                    (header[0], header[8], header[9]) = (0x45, 255, CARP);
                }
            }
            _ if self.recorded.is_empty() => {}
            _ => {
                // The beginning of a genuine frame, up to somewhere.
                let genuine = &self.recorded[below(random, self.recorded.len())];
                let kept = (ETHERNET + below(random, 60)).min(genuine.len()).min(frame.len());
                frame[..kept].copy_from_slice(&genuine[..kept]);
            }
        }
        frame
    }
}
