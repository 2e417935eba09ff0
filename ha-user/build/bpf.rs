//! Builds the XDP programs from `ha-ebpf` for a build script, and leaves the object in its OUT_DIR.
//!
//! Two scripts use it: that of ha-user, for what the daemon embeds, and that of `tests/programs`, for the same programs with
//! those of the benches beside them.
//!
//! aya-build cannot drive a toolchain with a prebuilt `core` for BPF (`ebpf` section 10), so this script looks for
//! one itself: HA_BPF_RUSTC, Debian's rustc, rustup's nightly and stable, whatever is on PATH. The first serves
//! that has `core` for BPF prebuilt, or the library's sources to build it from. See CONTRIBUTING.md for a
//! machine without any.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const TARGET: &str = "bpfel-unknown-none";
const OBJECT: &str = "ha-ebpf";
const LINKER_VERSION: &str = "0.10.3";
/// What decides about the object; cargo runs this script again when one of them changes.
const VARIABLES: [&str; 5] = ["HA_BPF", "HA_BPF_OBJECT", "HA_BPF_RUSTC", "HA_BPF_LINKER", "PATH"];
const SOURCES: [&str; 4] = ["ha-ebpf/src", "ha-ebpf/Cargo.toml", "ha-ebpf/Cargo.lock", "ha-common/Cargo.toml"];
/// The part of ha-common that is compiled into the programs: an edit of the rest rebuilds no object.
const SHARED_SOURCES: [&str; 4] =
    ["ha-common/src/abi.rs", "ha-common/src/lib.rs", "ha-common/src/reason.rs", "ha-common/src/wire"];
/// Set by the cargo that runs this script, and wrong for the one that it starts.
const INHERITED: [&str; 10] = [
    "RUSTC",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTFLAGS",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET",
    "RUSTUP_TOOLCHAIN",
    "CARGO_MAKEFLAGS",
    "MAKEFLAGS",
];

/// Which object is built.
pub struct Request {
    /// The workspace's directory, from the package's.
    pub root: &'static str,
    /// Features of ha-ebpf, separated by commas.
    pub features: &'static str,
    /// Directory below the target directory: two objects of one name in one directory would overwrite each other.
    pub directory: &'static str,
}

/// What a build script does: it ends the process with a text for people when there can be no object.
pub fn run(request: &Request) {
    println!("cargo::rustc-check-cfg=cfg(ha_bpf_stub)");
    for variable in VARIABLES {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    for path in SOURCES.iter().chain(&SHARED_SOURCES) {
        println!("cargo::rerun-if-changed={}/{path}", request.root);
    }
    // An object that was built elsewhere is the daemon's, without further programs.
    let is_elsewhere = env::var_os("HA_BPF_OBJECT").is_some() && !request.features.is_empty();
    if is_elsewhere || env::var("HA_BPF").is_ok_and(|value| value == "off") {
        println!("cargo::rustc-cfg=ha_bpf_stub");
        return;
    }
    if let Err(problem) = place_object(request, &path_variable("OUT_DIR")) {
        eprintln!("\nthe XDP programs cannot be built: {problem}\n");
        eprintln!("Or set HA_BPF=off to build without XDP (twinwall then uses sockets),");
        eprintln!("or HA_BPF_OBJECT=/path/to/ha-ebpf to embed an object built elsewhere.\n");
        exit(1);
    }
}

/// Puts the object into OUT_DIR: a ready one, or one built here.
fn place_object(request: &Request, out_dir: &Path) -> Result<(), String> {
    let place = out_dir.join(OBJECT);
    if let Some(ready) = env::var_os("HA_BPF_OBJECT") {
        println!("cargo::rerun-if-changed={}", Path::new(&ready).display());
        return copy(Path::new(&ready), &place).map_err(|error| format!("HA_BPF_OBJECT: {error}"));
    }
    let root = path_variable("CARGO_MANIFEST_DIR").join(request.root);
    let toolchain = find_toolchain()?;
    let linker = find_linker(&root)?;
    let llvm_dir = only_llvm(&toolchain, &out_dir.join("llvm"))?;
    let object = build(request, &root, &toolchain, &linker, &llvm_dir)?;
    copy(&object, &place)
}

/// A compiler that can build for BPF.
struct Toolchain {
    rustc: PathBuf,
    cargo: PathBuf,
    sysroot: PathBuf,
    /// `core` must be built from the library's sources.
    build_core: bool,
    /// Major version of its LLVM.
    llvm: String,
}

fn find_toolchain() -> Result<Toolchain, String> {
    if let Some(rustc) = env::var_os("HA_BPF_RUSTC") {
        let message = format!("HA_BPF_RUSTC={} has neither `core` for {TARGET} nor rust-src", rustc.display());
        return probe(&rustc, &[]).ok_or(message);
    }
    probe(&"/usr/bin/rustc".into(), &[])
        .or_else(|| probe(&"rustup".into(), &["run", "nightly", "rustc"]))
        .or_else(|| probe(&"rustup".into(), &["run", "stable", "rustc"]))
        .or_else(|| probe(&"rustc".into(), &[]))
        .ok_or_else(|| {
            format!(
                "no Rust toolchain has `core` for {TARGET} or the sources to build it. Install one of\n  \
                 Debian 12: apt-get install rustc-web cargo-web libstd-rust-web-dev-bpf\n  \
                 rustup:    rustup toolchain install nightly --component rust-src\n\
                 (`cargo xtask setup` does it)"
            )
        })
}

/// Asks one compiler; `None` when it does not run or cannot build for BPF.
fn probe(program: &OsString, arguments: &[&str]) -> Option<Toolchain> {
    let ask = |question: &[&str]| output_of(cleaned(program).args(arguments).args(question));
    let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?);
    let version = ask(&["-vV"])?;
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?.split('.').next()?.to_owned();
    let libraries = sysroot.join("lib/rustlib").join(TARGET).join("lib");
    let has_core = entries(&libraries).iter().any(|path| file_name(path).starts_with("libcore-"));
    let has_source = sysroot.join("lib/rustlib/src/rust/library/Cargo.lock").exists();
    if !has_core && !has_source {
        return None;
    }
    // A rustup proxy would choose a toolchain again, so its own binary is called directly.
    let rustc = if Path::new(program).is_absolute() { program.into() } else { sysroot.join("bin/rustc") };
    let own_cargo = sysroot.join("bin/cargo");
    let cargo = if own_cargo.exists() { own_cargo } else { PathBuf::from(env::var_os("CARGO")?) };
    Some(Toolchain { rustc, cargo, sysroot, build_core: !has_core, llvm })
}

fn find_linker(root: &Path) -> Result<PathBuf, String> {
    if let Some(linker) = env::var_os("HA_BPF_LINKER") {
        return Ok(linker.into());
    }
    let own = root.join("target/tools/bin/bpf-linker");
    let on_path = env::var_os("PATH").unwrap_or_default();
    let linker = [own].into_iter().chain(env::split_paths(&on_path).map(|dir| dir.join("bpf-linker")));
    // The linker is started in another directory: a relative path would not be found there.
    linker.into_iter().find_map(|path| path.canonicalize().ok()).ok_or_else(|| {
        format!(
            "bpf-linker is neither in target/tools/bin nor on PATH. Install it with\n  \
             cargo install --root target/tools --version {LINKER_VERSION} --locked bpf-linker\n\
             (`cargo xtask setup` does it)"
        )
    })
}

/// A directory with one libLLVM, that of the compiler: bpf-linker takes the first it meets (`ebpf` section 10).
fn only_llvm(toolchain: &Toolchain, dir: &Path) -> Result<PathBuf, String> {
    let arch = variable("CARGO_CFG_TARGET_ARCH");
    let major = &toolchain.llvm;
    let places = ["lib".to_owned(), format!("lib/{arch}-linux-gnu"), format!("lib/llvm-{major}/lib")];
    let is_llvm = |path: &PathBuf| {
        let name = file_name(path);
        let named = name.starts_with(&format!("libLLVM.so.{major}")) || name.starts_with(&format!("libLLVM-{major}"));
        // rustup's libLLVM-N.so may be a linker script of a few bytes that points to the library.
        named && name.contains(".so") && fs::metadata(path).is_ok_and(|meta| meta.len() > 1 << 20)
    };
    let library = places.iter().flat_map(|place| entries(&toolchain.sysroot.join(place))).find(is_llvm);
    let library = library.ok_or_else(|| {
        let sysroot = toolchain.sysroot.display();
        format!("no shared library of LLVM {major} under {sysroot} (Debian: apt-get install libllvm{major})")
    })?;
    let link = dir.join("libLLVM.so");
    let linked = fs::create_dir_all(dir)
        .and_then(|()| if link.is_symlink() { fs::remove_file(&link) } else { Ok(()) })
        .and_then(|()| std::os::unix::fs::symlink(&library, &link));
    linked.map(|()| dir.to_owned()).map_err(|error| format!("{}: {error}", link.display()))
}

fn build(
    request: &Request,
    root: &Path,
    toolchain: &Toolchain,
    linker: &Path,
    llvm_dir: &Path,
) -> Result<PathBuf, String> {
    // One directory for debug, release, test and clippy: the object is the same for all of them.
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let target = target.join(request.directory);
    let flags = [
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        format!("-Clinker={}", linker.display()),
        format!("--cfg=bpf_target_arch=\"{}\"", variable("CARGO_CFG_TARGET_ARCH")),
    ];
    let mut cargo = cleaned(&toolchain.cargo.clone().into_os_string());
    cargo.current_dir(root.join("ha-ebpf"));
    cargo.args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"]).arg(absolute(&target)?);
    cargo.args(["--features", request.features]);
    if toolchain.build_core {
        cargo.args(["-Z", "build-std=core"]);
    }
    // BOOTSTRAP: aya-ebpf needs an unstable feature (inline assembly), which a stable compiler has under lock only.
    cargo.env("RUSTC", &toolchain.rustc).env("RUSTC_BOOTSTRAP", "1").env("LD_LIBRARY_PATH", llvm_dir);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    let name = toolchain.cargo.display();
    let output = cargo.output().map_err(|error| format!("{name}: {error}"))?;
    if !output.status.success() {
        let rustc = toolchain.rustc.display();
        return Err(format!("{name} (with {rustc}) failed:\n{}", String::from_utf8_lossy(&output.stderr)));
    }
    Ok(target.join(TARGET).join("release").join(OBJECT))
}

/// A command without what the outer cargo set for its own use.
fn cleaned(program: &OsString) -> Command {
    let mut command = Command::new(program);
    for name in INHERITED {
        command.env_remove(name);
    }
    command
}

fn output_of(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn absolute(path: &Path) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to).map(|_| ()).map_err(|error| format!("{}: {error}", from.display()))
}

fn path_variable(name: &str) -> PathBuf {
    PathBuf::from(variable(name))
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name} for build scripts"))
}
