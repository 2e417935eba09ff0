//! `xtask setup`: what this machine needs to build, run and test twinwall, named and installed.
//!
//! Everything is found by looking for files, so that a complete machine costs milliseconds: the other verbs
//! call [`ensure`] each time.

use crate::shell;
use anyhow::{Result, bail, ensure};
use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const LINKER_VERSION: &str = "0.10.3";
const BPF_TARGET: &str = "bpfel-unknown-none";

#[derive(clap::Args)]
#[command(after_help = "Example: cargo xtask setup --no-install")]
pub struct Args {
    /// Only name what is missing, and fail when something is
    #[arg(long)]
    no_install: bool,
}

/// How much of it all a verb needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The BPF toolchain.
    Build,
    /// And what the lab's namespaces, firewalls and probes are made of.
    Lab,
    /// And the other CARP and the other state replication.
    Peers,
    /// And all else that twinwall is tested with.
    Test,
    /// [`Scope::Peers`] and what twinwall is only compared with.
    Bench,
    /// [`Scope::Lab`] and what another kernel is booted with.
    Kernel,
}

impl Scope {
    /// Whether a verb that needs `self` needs what belongs to `part`.
    const fn includes(self, part: Self) -> bool {
        match part {
            Self::Build => true,
            Self::Lab => !matches!(self, Self::Build),
            Self::Peers => matches!(self, Self::Peers | Self::Test | Self::Bench),
            Self::Test => matches!(self, Self::Test),
            Self::Bench => matches!(self, Self::Bench),
            Self::Kernel => matches!(self, Self::Kernel),
        }
    }
}

/// A Debian package that is there when this program is.
struct Package {
    name: &'static str,
    program: &'static str,
    scope: Scope,
    purpose: &'static str,
}

const fn package(scope: Scope, name: &'static str, program: &'static str, purpose: &'static str) -> Package {
    Package { name, program, scope, purpose }
}

const PACKAGES: [Package; 15] = [
    package(Scope::Lab, "iproute2", "ip", "network namespaces of the lab"),
    package(Scope::Lab, "nftables", "nft", "the lab's firewall rules"),
    package(Scope::Lab, "conntrack", "conntrack", "shows the connection tables"),
    package(Scope::Lab, "iputils-ping", "ping", "pings through the pair"),
    package(Scope::Lab, "procps", "sysctl", "kernel parameters of the lab"),
    package(Scope::Lab, "ethtool", "ethtool", "switches offloads of the lab's interfaces"),
    package(Scope::Peers, "ucarp", "ucarp", "the CARP peer of the interoperability tests"),
    package(Scope::Peers, "conntrackd", "conntrackd", "the peer of the comparisons"),
    package(Scope::Bench, "keepalived", "keepalived", "another tool of the failover bench"),
    package(Scope::Test, "prometheus", "promtool", "checks the metrics' form"),
    package(Scope::Test, "tcpdump", "tcpdump", "captures beside the XDP program"),
    package(Scope::Kernel, "qemu-system-x86", "qemu-system-x86_64", "the emulator that boots other kernels"),
    package(Scope::Kernel, "busybox-static", "busybox", "the first process in the emulator"),
    package(Scope::Kernel, "cpio", "cpio", "packs the emulator's memory disk"),
    package(Scope::Kernel, "kmod", "depmod", "lists the other kernel's modules"),
];

/// Debian's compiler with a prebuilt `core` for BPF.
const TOOLCHAIN: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

pub fn run(args: &Args) -> Result<()> {
    if args.no_install {
        let missing = missing(Scope::Test);
        missing.iter().for_each(|item| println!("missing: {}", item.describe()));
        ensure!(missing.is_empty(), "{} missing: `cargo xtask setup` installs them", missing.len());
    } else {
        ensure(Scope::Test)?;
    }
    println!("setup: complete");
    Ok(())
}

/// Installs what is missing for `scope`, one line for each thing; says and does nothing on a complete machine.
///
/// # Errors
/// When something is missing that this process cannot install.
pub fn ensure(scope: Scope) -> Result<()> {
    let missing = missing(scope);
    for item in &missing {
        println!("setup: installing {}", item.describe());
    }
    let packages: Vec<&str> = missing.iter().flat_map(Missing::packages).copied().collect();
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    // After the packages: they may bring the C linker that this build needs.
    if missing.contains(&Missing::Linker) {
        install_linker()?;
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Missing {
    Toolchain,
    Linker,
    /// Position in [`PACKAGES`].
    Package(usize),
}

impl Missing {
    fn describe(&self) -> String {
        match self {
            Self::Toolchain => format!("{} (Debian: a Rust compiler for BPF)", TOOLCHAIN.join(" ")),
            Self::Linker => format!("bpf-linker {LINKER_VERSION} (cargo, into target/tools; takes minutes)"),
            Self::Package(at) => format!("{} (Debian: {})", PACKAGES[*at].name, PACKAGES[*at].purpose),
        }
    }

    fn packages(&self) -> &[&'static str] {
        match self {
            Self::Toolchain => &TOOLCHAIN,
            Self::Linker => &[],
            Self::Package(at) => std::slice::from_ref(&PACKAGES[*at].name),
        }
    }
}

fn missing(scope: Scope) -> Vec<Missing> {
    let mut missing = Vec::new();
    if needs_bpf_toolchain() {
        if !has_bpf_toolchain() {
            missing.push(Missing::Toolchain);
        }
        if !tools_dir().join("bin/bpf-linker").exists() && !shell::has_program("bpf-linker") {
            missing.push(Missing::Linker);
        }
    }
    let wanted = PACKAGES.iter().enumerate().filter(|(_, package)| scope.includes(package.scope));
    missing.extend(wanted.filter(|(_, p)| !shell::has_program(p.program)).map(|(at, _)| Missing::Package(at)));
    missing
}

/// The same switches as in `ha-user/build.rs`.
fn needs_bpf_toolchain() -> bool {
    let is_set = |name: &str| env::var_os(name).is_some();
    let is_off = env::var_os("HA_BPF").is_some_and(|value| value == "off");
    let is_given = is_set("HA_BPF_OBJECT") || (is_set("HA_BPF_RUSTC") && is_set("HA_BPF_LINKER"));
    !(is_off || is_given)
}

/// Debian's compiler, or a nightly or stable one of rustup, with `core` for BPF or the sources to build it.
fn has_bpf_toolchain() -> bool {
    let home = env::var_os("RUSTUP_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".rustup")));
    let of_rustup = home.and_then(|home| fs::read_dir(home.join("toolchains")).ok()).into_iter().flatten().flatten();
    let usable = |path: &Path| {
        path.file_name().is_some_and(|name| {
            let name = name.to_string_lossy();
            name.starts_with("nightly-") || name.starts_with("stable-")
        })
    };
    let rustup = of_rustup.map(|entry| entry.path()).filter(|path| usable(path));
    let debian = Path::new("/usr/bin/rustc").exists().then(|| PathBuf::from("/usr"));
    debian.into_iter().chain(rustup).any(|sysroot| can_build_for_bpf(&sysroot))
}

fn can_build_for_bpf(sysroot: &Path) -> bool {
    let rustlib = sysroot.join("lib/rustlib");
    let libraries = fs::read_dir(rustlib.join(BPF_TARGET).join("lib")).into_iter().flatten().flatten();
    let has_core = libraries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("libcore-"));
    has_core || rustlib.join("src/rust/library/Cargo.lock").exists()
}

/// Where programs are put that are installed for this project alone.
pub fn tools_dir() -> PathBuf {
    shell::root().join("target/tools")
}

fn install_linker() -> Result<()> {
    let mut cargo = shell::cargo();
    // Not into the workspace's own target: the build would take that of the outer cargo for locked.
    cargo.args(["install", "--version", LINKER_VERSION, "--locked", "bpf-linker", "--root"]).arg(tools_dir());
    shell::run(&mut cargo)
}

/// Installs Debian packages.
///
/// # Errors
/// Without root, on another system, or when apt fails.
pub fn install_packages(packages: &[&str]) -> Result<()> {
    let line = format!("apt-get install --no-install-recommends {}", packages.join(" "));
    if !shell::has_program("apt-get") {
        bail!("this is no Debian system: install what the packages {} contain", packages.join(" "));
    }
    ensure!(shell::is_root(), "packages are missing and only root can install them: {line}");
    let _no_services = NoServices::begin()?;
    let apt = || {
        let mut apt = Command::new("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
        apt
    };
    shell::run(apt().arg("update"))?;
    shell::run(apt().args(["install", "-y", "--no-install-recommends"]).args(packages))
}

/// While it lives, packages do not start the services they bring: a conntrackd, keepalived or Prometheus started
/// by an installation would meddle with the machine. A policy that the administrator made is left alone.
struct NoServices {
    policy: Option<PathBuf>,
}

impl NoServices {
    fn begin() -> Result<Self> {
        let policy = PathBuf::from("/usr/sbin/policy-rc.d");
        if policy.exists() {
            return Ok(Self { policy: None });
        }
        // 101: action forbidden by policy (invoke-rc.d(8)).
        fs::write(&policy, "#!/bin/sh\nexit 101\n")?;
        fs::set_permissions(&policy, fs::Permissions::from_mode(0o755))?;
        Ok(Self { policy: Some(policy) })
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if let Some(policy) = &self.policy
            && let Err(error) = fs::remove_file(policy)
        {
            eprintln!("remove {} by hand, it keeps services from starting: {error}", policy.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sysroot counts when it has a prebuilt `core` for BPF or the library's sources, and not otherwise.
    #[test]
    fn both_arrangements_are_recognised() {
        let dir = env::temp_dir().join(format!("tw-setup-{}", std::process::id()));
        assert!(!can_build_for_bpf(&dir));
        for file in ["lib/rustlib/bpfel-unknown-none/lib/libcore-1.rlib", "lib/rustlib/src/rust/library/Cargo.lock"] {
            let path = dir.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            assert!(can_build_for_bpf(&dir), "{file}");
            fs::remove_dir_all(&dir).unwrap();
        }
    }

    /// Every wider scope contains the narrower ones, and only the bench wants what is only compared with.
    #[test]
    fn scopes_grow() {
        let wanted = |scope: Scope| {
            let packages = PACKAGES.iter().filter(move |package| scope.includes(package.scope));
            packages.map(|package| package.name).collect::<Vec<_>>()
        };
        let narrow = [Scope::Build, Scope::Lab, Scope::Peers, Scope::Test].map(wanted);
        for pair in narrow.windows(2) {
            assert!(pair[0].len() < pair[1].len() && pair[0].iter().all(|name| pair[1].contains(name)), "{pair:?}");
        }
        assert!(!wanted(Scope::Test).contains(&"keepalived"));
        let bench = wanted(Scope::Bench);
        assert!(wanted(Scope::Peers).iter().chain(&["keepalived"]).all(|name| bench.contains(name)), "{bench:?}");
    }
}
