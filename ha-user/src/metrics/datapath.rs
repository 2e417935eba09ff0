//! Metrics of the receive paths: every counter of the XDP maps, and the same of the sockets.

use super::text::{Kind, Page};
use crate::status::{DatapathStatus, InterfaceCounts, StreamCounts};

pub fn write(page: &mut Page, status: &DatapathStatus) {
    for (name, help, value) in INTERFACE_COUNTERS {
        let mut family = page.family(Kind::Counter, name, help);
        for row in &status.interfaces {
            family.sample(&[("interface", &row.interface), ("path", row.path)], value(row));
        }
    }
    let mut refused = page.family(
        Kind::Counter,
        "twinwall_datapath_refused_total",
        "Packets that the receive path refused, by reason.",
    );
    for row in &status.interfaces {
        for (reason, count) in &row.refused {
            refused.sample(&[("interface", &row.interface), ("path", row.path), ("reason", reason)], *count);
        }
    }
    write_vhids(page, status);
    for (name, help, value) in STREAM_COUNTERS {
        let mut family = page.family(Kind::Counter, name, help);
        for row in &status.streams {
            family.sample(&[("peer", &row.peer), ("kind", row.kind), ("path", row.path)], value(row));
        }
    }
}

fn write_vhids(page: &mut Page, status: &DatapathStatus) {
    let vhids: Vec<String> = status.vhids.iter().map(|row| row.vhid.to_string()).collect();
    let rows = || status.vhids.iter().zip(&vhids);
    let mut adverts = page.family(
        Kind::Counter,
        "twinwall_datapath_vhid_adverts_total",
        "Well-formed adverts for the vhid, by receive path.",
    );
    for (row, vhid) in rows() {
        adverts.sample(&[("interface", &row.interface), ("vhid", vhid), ("path", row.path)], row.adverts);
    }
    let mut refused = page.family(
        Kind::Counter,
        "twinwall_datapath_vhid_refused_total",
        "Adverts for the vhid that the receive path refused, by reason.",
    );
    for (row, vhid) in rows() {
        for (reason, count) in &row.refused {
            let labels =
                [("interface", row.interface.as_str()), ("vhid", vhid), ("path", row.path), ("reason", reason)];
            refused.sample(&labels, *count);
        }
    }
}

/// A counter of a row.
type Counter<T> = (&'static str, &'static str, fn(&T) -> u64);

const INTERFACE_COUNTERS: [Counter<InterfaceCounts>; 3] = [
    ("twinwall_datapath_packets_total", "Packets that the receive path saw.", |row| row.packets),
    ("twinwall_datapath_adverts_total", "Well-formed adverts for known vhids.", |row| row.adverts),
    ("twinwall_datapath_frames_total", "Well-formed sync frames of known peers.", |row| row.frames),
];
const STREAM_COUNTERS: [Counter<StreamCounts>; 5] = [
    ("twinwall_datapath_stream_frames_total", "Sync frames of the peer, by kind and path.", |row| row.frames),
    ("twinwall_datapath_stream_bytes_total", "Bytes of these frames.", |row| row.bytes),
    ("twinwall_datapath_stream_gaps_total", "Times that sequence numbers were skipped.", |row| row.gaps),
    ("twinwall_datapath_stream_lost_total", "Sequence numbers that were skipped.", |row| row.lost),
    ("twinwall_datapath_stream_duplicates_total", "Frames whose number was seen already, or that came late.", |row| {
        row.duplicates
    }),
];
