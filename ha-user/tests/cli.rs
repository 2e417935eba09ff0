//! The binary as a person or a script meets it, without privileges and without a daemon.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

const PACKAGED: &str = include_str!("../../packaging/twinwall.toml");

fn twinwall(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_twinwall"))
        .args(arguments)
        .env_remove("TWINWALL_NODE")
        .env_remove("TWINWALL_SOCKET")
        .output()
        .expect("the binary was built with the test")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A directory with the packaged configuration and a secret made by `keygen`.
struct Etc {
    directory: tempfile::TempDir,
}

impl Etc {
    fn new() -> Self {
        let etc = Self { directory: tempfile::tempdir().unwrap() };
        let output = twinwall(&["keygen", "--output", etc.path("secret").to_str().unwrap()]);
        assert!(output.status.success(), "{}", stderr(&output));
        etc
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the packaged configuration with its secret's path replaced and `change` applied.
    fn config(&self, change: impl FnOnce(String) -> String) -> String {
        let text = PACKAGED.replace("/etc/twinwall/secret", self.path("secret").to_str().unwrap());
        let path = self.path("twinwall.toml");
        std::fs::write(&path, change(text)).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

/// `keygen` makes a private file of the documented form, tells where to copy it, and never overwrites unasked.
#[test]
fn keygen() {
    let etc = Etc::new();
    let path = etc.path("secret");
    let text = std::fs::read_to_string(&path).unwrap();
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    assert_eq!((words[0], words[1], words[2].len()), ("twinwall-secret-v1", "1", 64));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    let refused = twinwall(&["keygen", "--output", path.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("exists already"), "{}", stderr(&refused));
    let forced = twinwall(&["keygen", "--force", "--output", path.to_str().unwrap()]);
    assert!(stdout(&forced).contains("epoch 2") && stdout(&forced).contains("scp -p"), "{}", stdout(&forced));
    assert_ne!(std::fs::read_to_string(&path).unwrap(), text);
}

/// The packaged configuration is usable, with the one warning that its sync link is shared; `--strict` refuses it.
#[test]
fn check_of_the_packaged_file() {
    let etc = Etc::new();
    let config = etc.config(|text| text);
    let output = twinwall(&["check", "--config", &config, "--node", "fw2"]);
    assert_eq!(output.status.code(), Some(0), "{}", stdout(&output));
    assert!(stdout(&output).contains("0 errors, 1 warning"), "{}", stdout(&output));
    assert!(stdout(&output).contains("2 nodes, 2 vips with 2 addresses on eth0, eth1; as fw2"), "{}", stdout(&output));
    let strict = twinwall(&["check", "--strict", "--config", &config, "--node", "fw2"]);
    assert_eq!(strict.status.code(), Some(1));
}

/// A misspelt key is an error with file, line, column, key and remedy, in text and in JSON.
#[test]
fn check_of_a_wrong_file() {
    let etc = Etc::new();
    let config = etc.config(|text| text.replace("gateway =", "gatway ="));
    let output = twinwall(&["check", "--config", &config, "--node", "fw1"]);
    assert_eq!(output.status.code(), Some(1));
    let expected =
        format!("{config}:16:1: error: vip[1].gatway: is not a known key\n    remedy: did you mean `gateway`?");
    assert!(stdout(&output).contains(&expected), "{}", stdout(&output));
    let json = twinwall(&["check", "--json", "--config", &config, "--node", "fw1"]);
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(value["usable"], false);
    let problem = &value["problems"][0];
    assert_eq!((problem["line"].as_u64(), problem["column"].as_u64()), (Some(16), Some(1)));
    assert_eq!((problem["key"].as_str(), problem["severity"].as_str()), (Some("vip[1].gatway"), Some("error")));
}

/// What cannot be read at all ends with 2 and names the file.
#[test]
fn check_of_a_missing_file() {
    let output = twinwall(&["check", "--config", "/nonexistent/twinwall.toml"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("/nonexistent/twinwall.toml"), "{}", stderr(&output));
}

/// Without a daemon every question ends with 3 and says what to do.
#[test]
fn questions_without_a_daemon() {
    let socket = tempfile::tempdir().unwrap().path().join("none.sock");
    let commands: [&[&str]; 4] = [&["status"], &["flows"], &["resync"], &["demote", "works", "50", "--for", "10m"]];
    for command in commands {
        let output = twinwall(&[command, &["--socket", socket.to_str().unwrap()]].concat());
        assert_eq!(output.status.code(), Some(3), "{command:?}");
        assert!(stderr(&output).contains("twinwall is not running here"), "{}", stderr(&output));
    }
}

/// Every command's help ends with an example.
#[test]
fn help_shows_examples() {
    for command in ["run", "check", "keygen", "status", "flows", "resync", "demote"] {
        let output = twinwall(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{command}");
        let text = stdout(&output);
        let (_, example) = text.split_once("Example:").unwrap_or_else(|| panic!("{command}: {text}"));
        assert!(example.contains(&format!("twinwall {command}")), "{text}");
    }
}

/// The daemon refuses a wrong configuration before it touches anything, with all errors at once.
#[test]
fn run_refuses_a_wrong_file() {
    let etc = Etc::new();
    let config = etc.config(|text| text.replace("vhid = 3", "vhid = 300").replace("/26", "/99"));
    let socket = etc.path("fw1.sock");
    let output = twinwall(&["run", "--config", &config, "--node", "fw1", "--socket", socket.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    let text = stderr(&output);
    assert!(text.contains("vip[0].vhid: 300") && text.contains("vip[1].addresses[0]"), "{text}");
    assert!(!socket.exists() && !etc.path("fw1.lock").exists());
}
