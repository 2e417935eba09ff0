//! The XDP programs with those of the benches beside them, which no daemon embeds.

/// The object; `None` in a build without one (HA_BPF=off, or HA_BPF_OBJECT for the daemon).
#[cfg(not(ha_bpf_stub))]
pub static OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/ha-ebpf")));
#[cfg(ha_bpf_stub)]
pub static OBJECT: Option<&[u8]> = None;
