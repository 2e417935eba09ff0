//! Leaves the object in OUT_DIR.

#[path = "../../ha-user/build/bpf.rs"]
mod bpf;

fn main() {
    bpf::run(&bpf::Request { root: "../..", features: "bench", directory: "bpf-bench" });
}
