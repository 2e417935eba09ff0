//! How many packets this host's IP stack has forwarded: the first sign that a new master does its work.
//!
//! The counters are the host's (of this network namespace) and not one address's; on a firewall that was standby a
//! moment ago they stand still until neighbours send to it. Packets that a flowtable or another XDP program forwards
//! do not count.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Both files are some kilobytes long.
const BYTES_MAX: usize = 16 << 10;

/// Reads the counters of both families, some twenty microseconds each time.
#[derive(Debug)]
pub struct Forwarded {
    v4: File,
    /// Absent without IPv6.
    v6: Option<File>,
}

impl Forwarded {
    /// Opens the counters of the calling thread's network namespace.
    ///
    /// # Errors
    /// When `/proc` does not show them.
    pub fn open() -> std::io::Result<Self> {
        Ok(Self { v4: File::open("/proc/thread-self/net/snmp")?, v6: File::open("/proc/thread-self/net/snmp6").ok() })
    }

    /// IpForwDatagrams and Ip6OutForwDatagrams together; `None` when they cannot be read.
    pub fn read(&self) -> Option<u64> {
        let mut buffer = vec![0; BYTES_MAX];
        let v4 = self.v4.read_at(&mut buffer, 0).ok().and_then(|length| v4_count(text(&buffer, length)?))?;
        let v6 = self.v6.as_ref().and_then(|file| {
            let length = file.read_at(&mut buffer, 0).ok()?;
            v6_count(text(&buffer, length)?)
        });
        Some(v4.wrapping_add(v6.unwrap_or(0)))
    }
}

fn text(buffer: &[u8], length: usize) -> Option<&str> {
    std::str::from_utf8(buffer.get(..length)?).ok()
}

/// A line of names begins with `Ip:`, the next one holds their values.
fn v4_count(text: &str) -> Option<u64> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip:"));
    let (names, values) = (lines.next()?, lines.next()?);
    let mut pairs = names.split_ascii_whitespace().zip(values.split_ascii_whitespace());
    pairs.find(|(name, _)| *name == "ForwDatagrams")?.1.parse().ok()
}

fn v6_count(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("Ip6OutForwDatagrams"))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's own files are understood, again and again through the same descriptors, and other texts are not.
    #[test]
    fn the_kernels_counters_are_read() {
        let counters = Forwarded::open().unwrap();
        let first = counters.read().unwrap();
        assert!(counters.read().unwrap() >= first);
        let snmp = "Ip: Forwarding ForwDatagrams InDiscards\nIp: 1 4711 3\nIcmp: InMsgs\nIcmp: 1\n";
        assert_eq!(v4_count(snmp), Some(4711));
        assert_eq!(v4_count("Ip: Forwarding\nIp: 1\n"), None);
        assert_eq!(v4_count(""), None);
        assert_eq!(v6_count("Ip6InReceives \t7\nIp6OutForwDatagrams             \t12\n"), Some(12));
    }
}
