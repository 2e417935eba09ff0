//! `cargo xtask test --kernel`: Debian's packaged kernel in an emulator, with the daemon and tests in its memory.
//!
//! Emulation needs neither hardware support nor rights beyond root's package manager, and is some twenty times slower than
//! the machine: what is tested there is what the kernel accepts and does, and a failover by CARP's own timers.

mod image;

use crate::setup::{self, Scope};
use crate::shell;
use anyhow::{Context, Result, bail, ensure};
use ha_tests::netns::checked;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Depends on the newest build of Debian's 6.1 for virtual machines.
const META_PACKAGE: &str = "linux-image-cloud-amd64";
/// Test programs, and what they are told to run.
const TESTS: [(&str, &[&str]); 2] =
    [("netns_xdp", &["netns_", "--skip", "netns_long_"]), ("netns_other_kernel", &["netns_"])];
/// Of the whole run in the emulator.
const PATIENCE: Duration = Duration::from_secs(1800);
const MEMORY_MIB: &str = "3072";

/// Boots the kernel and runs the tests there.
///
/// # Errors
/// When something cannot be installed or built, the kernel does not boot, or a test fails: the console is kept and named.
pub fn test() -> Result<()> {
    setup::ensure(Scope::Kernel)?;
    crate::build::daemon(Scope::Test)?;
    let kernel = Kernel::fetch()?;
    let programs = test_programs()?;
    let image = image::build(&kernel, &programs)?;
    println!("kernel: booting {} in an emulator, {} test programs", kernel.release, programs.len());
    let console = kernel.directory.join("console.log");
    boot(&kernel, &image, &console)?;
    let said = String::from_utf8_lossy(&fs::read(&console)?).into_owned();
    judge(&said, &kernel.release).with_context(|| format!("the console is in {}", console.display()))
}

/// An unpacked kernel package.
pub struct Kernel {
    pub release: String,
    pub directory: PathBuf,
}

impl Kernel {
    /// The package's files: `boot/vmlinuz-…`, `lib/modules/…`.
    pub fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// Downloads and unpacks the newest, unless it is here.
    fn fetch() -> Result<Self> {
        let depends = checked(Command::new("apt-cache").args(["depends", META_PACKAGE]))?;
        let package = depends
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: ").filter(|d| d.starts_with("linux-image-")));
        let package = package.with_context(|| {
            format!("{META_PACKAGE} depends on no kernel; is the package list there (apt-get update)?")
        })?;
        let release = package.trim_start_matches("linux-image-").to_owned();
        let directory = shell::root().join("target/kernels").join(&release);
        let kernel = Self { release, directory };
        if kernel.root().join("lib/modules").is_dir() {
            return Ok(kernel);
        }
        println!("kernel: downloading {package} (Debian, 27 MB) into target/kernels");
        fs::create_dir_all(&kernel.directory)?;
        shell::run(Command::new("apt-get").args(["-qq", "download", package]).current_dir(&kernel.directory))?;
        let debs = fs::read_dir(&kernel.directory)?.flatten().map(|entry| entry.path());
        let deb = debs.into_iter().find(|path| path.extension().is_some_and(|kind| kind == "deb"));
        let deb = deb.context("apt-get download left no package")?;
        shell::run(Command::new("dpkg-deb").arg("-x").arg(&deb).arg(kernel.root()))?;
        fs::remove_file(deb)?;
        Ok(kernel)
    }
}

/// A test program, and the words it is run with.
pub struct TestProgram {
    pub name: &'static str,
    pub path: PathBuf,
    pub filters: &'static [&'static str],
}

/// Builds them; cargo says where they are.
fn test_programs() -> Result<Vec<TestProgram>> {
    let mut programs = Vec::new();
    for (name, filters) in TESTS {
        let line = ["test", "--package", "ha-tests", "--test", name, "--no-run", "--message-format", "json"];
        let output = shell::cargo().args(line).stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "{name} cannot be built");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let messages = said.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let is_it =
            |message: &serde_json::Value| message.pointer("/target/name").and_then(|n| n.as_str()) == Some(name);
        let mut paths =
            messages.filter(is_it).filter_map(|message| Some(message.get("executable")?.as_str()?.to_owned()));
        let path = paths.next_back().with_context(|| format!("cargo names no program of {name}"))?.into();
        programs.push(TestProgram { name, path, filters });
    }
    Ok(programs)
}

fn boot(kernel: &Kernel, image: &PathBuf, console: &PathBuf) -> Result<()> {
    let vmlinuz = kernel.root().join("boot").join(format!("vmlinuz-{}", kernel.release));
    let mut emulator = Command::new("timeout");
    emulator.arg(PATIENCE.as_secs().to_string()).args(["qemu-system-x86_64", "-M", "pc", "-accel", "tcg,thread=multi"]);
    emulator.args(["-cpu", "max", "-smp", "2", "-m", MEMORY_MIB, "-nographic", "-no-reboot", "-kernel"]).arg(vmlinuz);
    emulator.arg("-initrd").arg(image).args(["-append", "console=ttyS0 panic=-1 quiet"]);
    emulator.stdin(Stdio::null()).stdout(fs::File::create(console)?);
    let status = emulator.status().context("cannot start qemu-system-x86_64")?;
    ensure!(
        status.success(),
        "the emulator ended with {status} (124: after {} s); see {}",
        PATIENCE.as_secs(),
        console.display()
    );
    Ok(())
}

/// Prints what the tests said, and fails unless each program ran and passed on this kernel.
fn judge(said: &str, release: &str) -> Result<()> {
    let lines = || said.lines().map(str::trim_end);
    lines().skip_while(|line| !line.contains(image::BEGIN)).for_each(|line| println!("  {line}"));
    ensure!(
        lines().any(|line| line.ends_with(&format!("{}{release}", image::BEGIN))),
        "the kernel {release} did not boot"
    );
    for (name, _) in TESTS {
        let ended = lines().find_map(|line| line.strip_prefix(&format!("{}{name} ", image::ENDED)));
        match ended {
            Some("0") => {}
            Some(code) => bail!("{name} failed on {release} ({code})"),
            None => bail!("{name} did not end on {release}"),
        }
    }
    println!("kernel: {release} passes");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only a console on which every program ended well on the right kernel passes.
    #[test]
    fn a_console_is_judged_by_its_ends() {
        let ends = |codes: [&str; 2]| {
            let ended = TESTS.iter().zip(codes).map(|((name, _), code)| format!("{}{name} {code}\r\n", image::ENDED));
            format!("noise\r\n{}6.1.0\r\n{}", image::BEGIN, ended.collect::<String>())
        };
        assert!(judge(&ends(["0", "0"]), "6.1.0").is_ok());
        assert!(judge(&ends(["0", "101"]), "6.1.0").is_err());
        assert!(judge(&ends(["0", "0"]), "6.1.1").is_err());
        assert!(judge(&ends(["0", "0"]).replace(TESTS[1].0, "another"), "6.1.0").is_err());
    }
}
