//! The memory disk: tools, modules, daemon and tests, packed by `cpio`.

use super::{Kernel, TestProgram};
use crate::shell;
use anyhow::{Context, Result, ensure};
use ha_tests::netns::checked;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the console shows before the kernel's release, and before a test program's name and exit code.
pub const BEGIN: &str = "kernel-test-begin ";
pub const ENDED: &str = "kernel-test-ended ";

const TOOLS: [&str; 13] = [
    "ip",
    "nft",
    "conntrack",
    "ping",
    "modprobe",
    "sysctl",
    "bash",
    "tc",
    "ethtool",
    "unshare",
    "nsenter",
    "setpriv",
    "timeout",
];
/// Names that busybox goes by.
const APPLETS: [&str; 9] = ["mount", "mkdir", "cat", "echo", "ls", "poweroff", "sleep", "grep", "uname"];
const FILES: [&str; 6] =
    ["/etc/protocols", "/etc/services", "/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/hosts"];
/// Parts of a kernel's modules; everything else a firewall pair in memory does not need.
const MODULES: [&str; 4] = ["kernel/net", "kernel/drivers/net", "kernel/lib", "kernel/crypto"];
const LOADED: &str = "veth tun bridge nf_conntrack nf_conntrack_netlink nf_tables nft_ct nft_nat nft_masq nft_redir nft_reject_inet \
                      nft_limit nft_numgen nft_chain_nat nf_nat nfnetlink_cttimeout nft_reject_bridge nft_meta_bridge nf_conntrack_bridge";

/// Builds it anew; returns the packed file.
///
/// # Errors
/// When a tool is missing or the disk has no room (120 MB).
pub fn build(kernel: &Kernel, programs: &[TestProgram]) -> Result<PathBuf> {
    let root = kernel.directory.join("image");
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    let disk = Disk { root: root.clone() };
    for directory in
        ["proc", "sys", "dev", "tmp", "run", "bin", "sbin", "usr/bin", "usr/sbin", "etc", "var", "root", "tests"]
    {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::copy("/bin/busybox", root.join("bin/busybox")).context("busybox-static")?;
    for applet in APPLETS {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    symlink("bash", root.join("bin/sh"))?;
    TOOLS.iter().try_for_each(|tool| disk.add_tool(tool))?;
    for file in FILES.iter().filter(|file| Path::new(file).exists()) {
        disk.add(Path::new(file))?;
    }
    disk.add_program(&shell::root().join("target/release/twinwall"), "tests/twinwall")?;
    for program in programs {
        disk.add_program(&program.path, &format!("tests/{}", program.name))?;
    }
    disk.add_modules(kernel)?;
    let init = root.join("init");
    fs::write(&init, script(programs))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    let packed = kernel.directory.join("initrd.gz");
    let line =
        format!("cd '{}' && find . | cpio --quiet -o -H newc | gzip -1 > '{}'", root.display(), packed.display());
    shell::run(Command::new("sh").args(["-c", &line]))?;
    fs::remove_dir_all(&root)?;
    Ok(packed)
}

/// The first process: prepares the machine, runs the tests one after the other, and switches it off.
fn script(programs: &[TestProgram]) -> String {
    let run = |program: &TestProgram| {
        let (name, filters) = (program.name, program.filters.join(" "));
        format!("/tests/{name} --test-threads 1 {filters}\necho \"{ENDED}{name} $?\"\n")
    };
    format!(
        "#!/bin/busybox sh\n\
         export PATH=/bin:/sbin:/usr/bin:/usr/sbin TWINWALL_BIN=/tests/twinwall RUST_BACKTRACE=0\n\
         mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev\n\
         mount -t tmpfs tmp /tmp; mount -t tmpfs run /run; mkdir -p /run/netns; mount -t bpf bpf /sys/fs/bpf\n\
         for module in {LOADED}; do modprobe $module || echo no module $module; done\n\
         ip link set lo up\n\
         echo \"{BEGIN}$(uname -r)\"\n\
         {}poweroff -f\n",
        programs.iter().map(run).collect::<String>()
    )
}

struct Disk {
    root: PathBuf,
}

impl Disk {
    /// A program by name, found by PATH, with its libraries.
    fn add_tool(&self, name: &str) -> Result<()> {
        let found = checked(Command::new("sh").args(["-c", &format!("command -v {name}")]));
        let path = PathBuf::from(found.with_context(|| format!("{name} is not installed"))?.trim());
        self.add(&path)?;
        self.add_libraries(&path)
    }

    /// A program of ours, without what only a debugger reads.
    fn add_program(&self, path: &Path, to: &str) -> Result<()> {
        shell::run(Command::new("strip").arg("-o").arg(self.root.join(to)).arg(path))?;
        self.add_libraries(path)
    }

    fn add_libraries(&self, program: &Path) -> Result<()> {
        // A static program has none, which ldd calls a failure.
        let Ok(listed) = checked(Command::new("ldd").arg(program)) else { return Ok(()) };
        let paths = listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
        paths.into_iter().try_for_each(|path| self.add(&path))
    }

    /// A file at its own place; what a link points to is copied under the link's name.
    fn add(&self, path: &Path) -> Result<()> {
        let to = self.root.join(path.strip_prefix("/").unwrap_or(path));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent)?;
        }
        if !to.exists() {
            fs::copy(path, &to).with_context(|| format!("cannot copy {}", path.display()))?;
        }
        Ok(())
    }

    fn add_modules(&self, kernel: &Kernel) -> Result<()> {
        let (from, to) = (kernel.root().join("lib/modules"), self.root.join("lib/modules").join(&kernel.release));
        let from = from.join(&kernel.release);
        ensure!(from.is_dir(), "the package has no modules in {}", from.display());
        fs::create_dir_all(&to)?;
        let copied = MODULES.iter().copied().chain(["modules.order", "modules.builtin", "modules.builtin.modinfo"]);
        for part in copied.filter(|part| from.join(part).exists()) {
            shell::run(Command::new("cp").args(["--parents", "-r", part]).arg(&to).current_dir(&from))?;
        }
        shell::run(Command::new("depmod").arg("-b").arg(&self.root).arg(&kernel.release))
    }
}
