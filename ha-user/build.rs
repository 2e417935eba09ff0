//! Leaves the object of the XDP programs in OUT_DIR, where `datapath` embeds it.

#[path = "build/bpf.rs"]
mod bpf;

fn main() {
    bpf::run(&bpf::Request { root: "..", features: "", directory: "bpf" });
}
