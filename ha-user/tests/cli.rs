//! The binary as a person or a script meets it, without privileges and without a daemon.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const PACKAGED: &str = include_str!("../../packaging/twinwall.toml");

fn twinwall(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_twinwall"))
        .args(arguments)
        .env_remove("TWINWALL_NODE")
        .env_remove("TWINWALL_SOCKET")
        .output()
        .expect("the binary was built with the test")
}

/// A daemon's control socket that gives one answer to one question.
struct OneAnswer {
    directory: tempfile::TempDir,
    asked: std::thread::JoinHandle<String>,
}

impl OneAnswer {
    fn new(reply: impl Into<String>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("fw1.sock")).unwrap();
        let reply = reply.into();
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut line = String::new();
            BufReader::new(&stream).read_line(&mut line).unwrap();
            stream.write_all(format!("{reply}\n").as_bytes()).unwrap();
            line.trim_end().to_owned()
        });
        Self { directory, asked }
    }

    /// A command that asks here.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_twinwall"));
        command.args(arguments).env("TWINWALL_SOCKET", self.directory.path().join("fw1.sock"));
        command
    }

    fn asked(self) -> String {
        self.asked.join().unwrap()
    }
}

/// Runs a command against one answer: exit code, what it said on either stream, and what was asked.
fn answered(reply: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let daemon = OneAnswer::new(reply);
    let output = daemon.command(arguments).output().unwrap();
    (output.status.code(), stdout(&output) + &stderr(&output), daemon.asked())
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

/// `keygen --rotate` and `--retire` tell what is to be done next, and exclude each other and `--force`.
#[test]
fn keygen_rotates() {
    let etc = Etc::new();
    let path = etc.path("secret");
    let path = path.to_str().unwrap();
    let lines = || std::fs::read_to_string(path).unwrap().lines().count();
    let rotated = twinwall(&["keygen", "--rotate", "--output", path]);
    assert!(
        stdout(&rotated).contains("epoch 2") && stdout(&rotated).contains("twinwall reload"),
        "{}",
        stdout(&rotated)
    );
    assert_eq!(lines(), 2);
    assert_eq!(twinwall(&["keygen", "--rotate", "--output", path]).status.code(), Some(1));
    assert_eq!(twinwall(&["keygen", "--rotate", "--force", "--output", path]).status.code(), Some(2));
    let retired = twinwall(&["keygen", "--retire", "--output", path]);
    assert!(stdout(&retired).contains("epoch 2 stays"), "{}", stdout(&retired));
    assert_eq!(lines(), 1);
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
    for command in [
        "status",
        "flows",
        "resync",
        "demote works 50 --for 10m",
        "failover",
        "maintenance on",
        "stop",
        "stop --keep-role",
    ] {
        let words = command.split(' ').chain(["--socket", socket.to_str().unwrap()]);
        let output = twinwall(&words.collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(3), "{command}");
        assert!(stderr(&output).contains("twinwall is not running here"), "{}", stderr(&output));
    }
}

/// Every command's help ends with an example.
#[test]
fn help_shows_examples() {
    for command in ["run", "check", "keygen", "status", "flows", "resync", "demote", "failover", "maintenance", "stop"]
    {
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

/// Each end of a hand-over has its words and its exit code, and the daemon is asked for what the arguments say.
#[test]
fn failover_tells_how_it_ended() {
    let (code, said, asked) = answered(
        r#"{"hand_over":{"to":"fw2","outcome":{"done":{"took_ms":3.21}}}}"#,
        &["failover", "--to", "fw2", "--wait", "--force", "--timeout", "2s"],
    );
    assert_eq!((code, said.as_str()), (Some(0), "fw2 is master; the hand-over took 3.2 ms\n"));
    assert_eq!(asked, r#"{"request":"failover","to":"fw2","force":true,"wait":true,"timeout_ms":2000}"#);
    let cases = [
        (r#"{"refused":"peer_unfit"}"#, Some(5), "--force does it all the same"),
        (r#"{"refused":"in_progress"}"#, Some(5), "going on already"),
        (r#"{"refused":"already_master"}"#, Some(0), "nothing to do"),
        (r#"{"unconfirmed":{"waited_ms":1000.0}}"#, Some(6), "did not confirm within 1000 ms"),
        ("null", Some(0), "has begun"),
    ];
    for (outcome, expected_code, expected) in cases {
        let reply = format!(r#"{{"hand_over":{{"to":"fw2","outcome":{outcome}}}}}"#);
        let (code, said, asked) = answered(&reply, &["failover"]);
        assert_eq!(code, expected_code, "{outcome}: {said}");
        assert!(said.contains(expected), "{outcome}: {said}");
        assert_eq!(asked, r#"{"request":"failover","to":null,"force":false,"wait":false,"timeout_ms":10000}"#);
    }
    let (code, said, _) = answered(r#"{"hand_over":{"to":"fw2","outcome":null}}"#, &["failover", "--wait"]);
    assert_eq!(code, Some(6), "{said}");
    let (code, said, _) = answered(r#"{"error":"no node \"fw3\" is configured"}"#, &["failover", "--to", "fw3"]);
    assert_eq!((code, said.contains("fw3")), (Some(1), true), "{said}");
    assert_eq!(twinwall(&["failover", "--timeout", "soon"]).status.code(), Some(2));
}

/// Maintenance says what is so now, and why it is not as asked.
#[test]
fn maintenance_tells_what_is_so() {
    let cases = [
        ("on", r#"{"set":{"took_ms":4.0}}"#, Some(0), "the peer is master, the hand-over took 4.0 ms"),
        ("on", r#"{"set":{"took_ms":null}}"#, Some(0), "takes nothing"),
        ("off", r#"{"set":{"took_ms":null}}"#, Some(0), "maintenance is off"),
        ("on", r#"{"refused":"peer_unknown"}"#, Some(5), "nobody can confirm (--force"),
        ("on", r#"{"unconfirmed":{"waited_ms":1000.0}}"#, Some(6), "stays as it was"),
    ];
    for (switch, outcome, expected_code, expected) in cases {
        let (code, said, asked) = answered(&format!(r#"{{"maintenance":{outcome}}}"#), &["maintenance", switch]);
        assert_eq!(code, expected_code, "{outcome}: {said}");
        assert!(said.contains(expected), "{outcome}: {said}");
        assert_eq!(asked, format!(r#"{{"request":"maintenance","on":{},"force":false}}"#, switch == "on"));
    }
}

/// `check` reads what is remembered on disk for the node, in text and in JSON.
#[test]
fn check_tells_of_maintenance() {
    let etc = Etc::new();
    let config = etc.config(|text| text + &format!("[daemon]\nstate_directory = {:?}\n", etc.path("state")));
    let check = |more: &[&str]| twinwall(&[&["check", "--config", &config, "--node", "fw1"], more].concat());
    assert!(!stdout(&check(&[])).contains("maintenance"));
    std::fs::create_dir(etc.path("state")).unwrap();
    std::fs::write(etc.path("state/fw1.maintenance"), "on\n").unwrap();
    assert!(stdout(&check(&[])).contains("maintenance is on"), "{}", stdout(&check(&[])));
    let json: serde_json::Value = serde_json::from_slice(&check(&["--json"]).stdout).unwrap();
    assert_eq!(json["maintenance"], true);
}

/// `stop` ends when the daemon's process has ended and not when it has answered.
#[test]
fn stop_waits_for_the_end() {
    let mut daemon = Command::new("sleep").arg("0.5").spawn().unwrap();
    let begin = Instant::now();
    let (code, said, asked) = answered(&format!(r#"{{"stopping":{{"pid":{}}}}}"#, daemon.id()), &["stop"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(begin.elapsed() >= Duration::from_millis(400), "{:?}", begin.elapsed());
    assert_eq!(asked, r#"{"request":"stop","keep_role":false}"#);
    assert!(daemon.wait().unwrap().success());
}

/// As `ExecStop=`: the role is kept exactly when systemd's list of jobs says that this unit is being restarted; without
/// a systemd that answers the stop is clean, and says so.
#[test]
fn stop_asks_systemd_whether_it_is_a_restart() {
    let bin = tempfile::tempdir().unwrap();
    let systemctl = bin.path().join("systemctl");
    let cases = [
        ("echo '  117 twinwall.service restart running'; echo '118 x.service stop waiting'", true),
        ("echo '117 twinwall.service stop running'", false),
        ("echo '117 twinwall@b.service restart running'", false),
        ("echo 'No jobs running.'", false),
        ("exit 1", false),
    ];
    for (answer, keeps) in cases {
        std::fs::write(&systemctl, format!("#!/bin/sh\n[ \"$1\" = list-jobs ] || exit 9\n{answer}\n")).unwrap();
        std::fs::set_permissions(&systemctl, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut ended = Command::new("true").stdin(Stdio::null()).spawn().unwrap();
        let daemon = OneAnswer::new(format!(r#"{{"stopping":{{"pid":{}}}}}"#, ended.id()));
        ended.wait().unwrap();
        let mut command = daemon.command(&["stop", "--systemd=twinwall.service"]);
        let output = command.env("PATH", bin.path()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{answer}: {}", stderr(&output));
        assert_eq!(daemon.asked(), format!(r#"{{"request":"stop","keep_role":{keeps}}}"#), "{answer}");
        assert_eq!(stderr(&output).contains("is not known"), answer == "exit 1", "{}", stderr(&output));
    }
}
