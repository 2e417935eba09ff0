//! Compiles `proto/sync.proto` without protoc: protox parses, prost-build generates.

fn main() {
    println!("cargo::rerun-if-changed=proto/sync.proto");
    #[cfg(feature = "protocol")]
    protocol();
}

#[cfg(feature = "protocol")]
fn protocol() {
    let descriptors = match protox::compile(["proto/sync.proto"], ["proto"]) {
        Ok(descriptors) => descriptors,
        Err(error) => panic!("cannot compile proto/sync.proto: {error} (correct the file)"),
    };
    let mut config = prost_build::Config::new();
    // Few flows have it: the others need not carry the room for it.
    config.boxed(".twinwall.sync.v1.Flow.extra");
    if let Err(error) = config.compile_fds(descriptors) {
        panic!("cannot generate Rust from proto/sync.proto: {error}");
    }
}
