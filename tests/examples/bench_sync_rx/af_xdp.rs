//! An AF_XDP socket in copy mode: the only mode that veth has.
//!
//! What the socket layer does otherwise is done here: the payload is found behind Ethernet, IP and UDP with the parsers that the
//! program uses. Checksums are not: a veth pair leaves them undone, and the seal finds what is broken.

use crate::rig::PORT;
use crate::source::{BATCH, BUFFER_BYTES, Source};
use anyhow::{Context, Result, anyhow};
use aya::maps::{MapData, XskMap};
use ha_common::wire::{ethernet, frame, ip};
use std::time::Duration;
use xdp::nic::NicIndex;
use xdp::slab::{HeapSlab, Slab};
use xdp::socket::{PollTimeout, XdpSocket, XdpSocketBuilder};
use xdp::umem::{FrameSize, Umem, UmemCfgBuilder};
use xdp::{FillRing, RingConfigBuilder, RxRing};

/// Room for one packet of Ethernet with the kernel's headroom.
const CHUNK_BYTES: usize = 2048;
const CHUNKS: u32 = (BUFFER_BYTES / CHUNK_BYTES) as u32;
/// The only receive queue of the link.
const QUEUE: u32 = 0;

/// The order of the fields is that of their ends: the memory goes last.
pub struct AfXdp {
    _map: XskMap<MapData>,
    socket: XdpSocket,
    received: RxRing,
    free: FillRing,
    batch: HeapSlab,
    memory: Umem,
}

impl AfXdp {
    /// Opens a socket on the interface and puts it into the programs' map.
    ///
    /// # Errors
    /// When the kernel refuses memory, socket or map entry.
    pub fn open(ifindex: u32, mut map: XskMap<MapData>) -> Result<Self> {
        let config = UmemCfgBuilder {
            frame_size: FrameSize::TwoK,
            frame_count: CHUNKS,
            head_room: 0,
            ..UmemCfgBuilder::default()
        };
        let mut memory = Umem::map(config.build().map_err(|error| anyhow!("{error:?}"))?)?;
        let rings = RingConfigBuilder { rx_count: CHUNKS, tx_count: 0, fill_count: CHUNKS, ..Default::default() };
        let rings = rings.build().map_err(|error| anyhow!("{error:?}"))?;
        let mut builder = XdpSocketBuilder::new().context("the kernel has no AF_XDP sockets")?;
        let (rings, mut flags) = builder.build_rings(&memory, rings)?;
        flags.force_copy();
        let socket = builder.bind(NicIndex::new(ifindex), QUEUE, flags)?;
        map.set(QUEUE, socket.raw_fd(), 0)?;
        let received = rings.rx_ring.context("a socket without a receive ring")?;
        let mut free = rings.fill_ring;
        refill(&mut free, &mut memory);
        Ok(Self { _map: map, socket, received, free, batch: HeapSlab::with_capacity(BATCH), memory })
    }
}

impl Source for AfXdp {
    fn wait(&self, limit: Duration) -> Result<bool> {
        Ok(self.socket.poll_read(PollTimeout::new(Some(limit)))?)
    }

    #[expect(unsafe_code, reason = "packets point into the mapped memory")]
    fn read(&mut self, sink: &mut dyn FnMut(&[u8])) -> Result<bool> {
        // SAFETY: every packet of the batch is given back to `memory` below, and none leaves this function, so none
        // outlives `memory`.
        let count = unsafe { self.received.recv(&self.memory, &mut self.batch) };
        while let Some(packet) = self.batch.pop_back() {
            if let Some(payload) = payload(&packet) {
                sink(payload);
            }
            self.memory.free_packet(packet);
        }
        if count > 0 {
            refill(&mut self.free, &mut self.memory);
        }
        Ok(count == BATCH)
    }
}

/// Gives the kernel everything that is free.
#[expect(unsafe_code, reason = "the kernel writes into the mapped memory")]
fn refill(free: &mut FillRing, memory: &mut Umem) {
    let count = memory.allocatable();
    // SAFETY: the memory outlives the socket: `AfXdp` drops the socket first, and only it holds both.
    unsafe { free.enqueue(memory, count) };
}

/// The payload of a UDP packet for the sync port.
fn payload(packet: &[u8]) -> Option<&[u8]> {
    let header = ip::Header::behind(packet, ethernet::payload(packet)?)?;
    let place = frame::datagram(packet, &header, PORT)?;
    packet.get(place.offset..place.offset + place.len)
}
