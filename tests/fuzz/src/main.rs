//! libFuzzer's end: `TWINWALL_FUZZ_TARGET` names the target. Run by `cargo xtask fuzz`.
#![no_main]

use ha_fuzz::Target;
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static TARGET: LazyLock<Target> = LazyLock::new(|| {
    let name = std::env::var("TWINWALL_FUZZ_TARGET").unwrap_or_default();
    Target::named(&name).unwrap_or_else(|| panic!("TWINWALL_FUZZ_TARGET={name} is none of the targets"))
});

fuzz_target!(|input: &[u8]| TARGET.run(input));
