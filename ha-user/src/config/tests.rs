//! Golden reports and resolved values of whole files.

mod sync_keys;

use super::identity::Machine;
use super::track::{Method, Rhythm};
use super::*;
use std::net::{Ipv4Addr, Ipv6Addr};

const PACKAGED: &str = include_str!("../../../packaging/twinwall.toml");

/// A directory with a secret, and the text with its path in place of the packaged one.
struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        secret::generate(&directory.path().join("secret"), false).unwrap();
        Self { directory }
    }

    fn resolve(&self, text: &str) -> Result<(Resolved, Report), ConfigError> {
        let path = self.directory.path().join("secret");
        let text = text.replace("/etc/twinwall/secret", path.to_str().unwrap());
        let choice = Choice { file: "t.toml".into(), node: None, socket: None };
        let machine = Machine { host_name: "fw1".to_owned(), has_address: |_| false };
        resolve_text(&text, &choice, &machine, Severity::Error)
    }

    /// The report as printed, whatever the outcome; the temporary path is replaced.
    fn report(&self, text: &str) -> String {
        let report = match self.resolve(text) {
            Ok((_, report)) => report.to_string(),
            Err(error) => error.to_string(),
        };
        report.replace(self.directory.path().to_str().unwrap(), "DIR")
    }
}

/// The packaged file, resolved for fw1.
pub fn packaged() -> Resolved {
    Files::new().resolve(PACKAGED).unwrap().0
}

/// The packaged file is the mission's pair: it resolves, completed by the right defaults, and the only
/// warning is that state and clients share eth0.
#[test]
fn packaged_file_resolves() {
    let files = Files::new();
    let (resolved, _) = files.resolve(PACKAGED).unwrap();
    insta::assert_snapshot!(files.report(PACKAGED), @r#"
    t.toml:6:22: warning: sync.interface: eth0 also carries clients (vip[0].interface)
        remedy: a dedicated link keeps state traffic private and undisturbed
    "#);
    assert_eq!(resolved.cluster, "edge");
    assert_eq!(resolved.node, NodeId(0));
    assert_eq!(
        resolved.nodes.iter().map(|n| (n.name.as_str(), n.advskew)).collect::<Vec<_>>(),
        [("fw1", 0), ("fw2", 100)]
    );
    assert_eq!(resolved.interfaces, ["eth0", "eth1"]);
    let [lan, wan] = resolved.vips.as_slice() else { panic!("two vips") };
    assert_eq!((lan.vhid, lan.interface, lan.gateway), (3, InterfaceId(0), None));
    assert_eq!(lan.addresses, [(IpAddr::from([192, 168, 103, 210]), 24)]);
    assert_eq!(lan.label.as_deref(), Some("eth0:twinwall"));
    assert_eq!(wan.gateway, Some(IpAddr::from([157, 159, 40, 129])));
    assert_eq!(*wan.password, *b"toto");
    let multicast = Transport::Multicast { v4: Ipv4Addr::new(224, 0, 0, 18), v6: "ff02::12".parse().unwrap() };
    assert_eq!(wan.transport, multicast);
    assert_eq!((resolved.election.advbase, resolved.election.dead_ratio, resolved.election.preempt), (1, 3, false));
    assert_eq!(resolved.sync.port, 3780);
    assert_eq!(resolved.sync.keys[0].secret.len(), secret::SECRET_LEN);
    for own in [IpAddr::from([157, 159, 40, 139]), IpAddr::from([192, 168, 103, 209]), IpAddr::V6(Ipv6Addr::LOCALHOST)]
    {
        assert!(resolved.sync.filter.local.contains(own), "{own}");
    }
    assert_eq!(resolved.metrics_listen, Some("127.0.0.1:9112".parse().unwrap()));
    assert_eq!(resolved.control_socket, Path::new("/run/twinwall/fw1.sock"));
    assert_eq!(resolved.state_directory, Path::new("/var/lib/twinwall"));
    let paths = vec!["eth0".to_owned(), "eth1".to_owned()];
    assert_eq!(resolved.heartbeat, heartbeat::Heartbeat { paths, ..heartbeat::Heartbeat::default() });
    assert_eq!(resolved.election.timing, timing::Timing::default());
}

/// With the equal advskews of the mission's own files the tie-break is warned of as well.
#[test]
fn equal_advskew_is_warned_of() {
    let text = PACKAGED.replace(", advskew = 0", "").replace(", advskew = 100", "");
    insta::assert_snapshot!(Files::new().report(&text), @r#"
    t.toml:5:7: warning: nodes.fw2.advskew: 0 is also the advskew of fw1: the tie-break of addresses decides between them
        remedy: give the standby a higher advskew, like 100
    t.toml:6:22: warning: sync.interface: eth0 also carries clients (vip[0].interface)
        remedy: a dedicated link keeps state traffic private and undisturbed
    "#);
}

/// Every error of a file full of them is reported at its place with its remedy, errors first.
#[test]
fn all_semantic_errors_are_reported() {
    let text = r#"
[cluster]
name = "edge"
secret_fil = "/etc/twinwall/secret"
[nodes.fw1]
sync_address = "10.77.9.1"
advskew = 255
[nodes.fw2]
sync_address = "fd00::2"
[nodes."fw/3"]
sync_address = "10.77.9.1"
[sync]
interface = "interface-too-long"
mode = "alram"
port = "3780"
[sync.filter]
protocols = ["tpc", "sctp", 47]
[[vip]]
vhid = 0
interface = "eth0"
adresses = ["192.168.103.210/24"]
password = "12345678901234567890"
[[vip]]
vhid = 4
interface = "eth1"
addresses = ["157.159.40.139", "157.159.40.191/26", "10.77.9.1/24"]
gateway = "157.159.40.191"
password = "toto"
password_file = "/nowhere"
[[vip]]
vhid = 4
interface = "eth1"
addresses = ["157.159.40.191/26"]
gateway = "157.159.40.1"
label = "eth0:x"
peers = ["224.0.0.18"]
multicast_v4 = "224.0.0.19"
[datapath]
xdp = "nativ"
[metric]
listen = "9112"
[log]
level = "twinwall=loud"
"#;
    insta::assert_snapshot!(Files::new().report(text));
}

/// An empty file says which tables are needed.
#[test]
fn empty_file() {
    insta::assert_snapshot!(Files::new().report(""), @r#"
    t.toml:1:1: error: cluster: is missing
        remedy: add a table [cluster]
    t.toml:1:1: error: nodes: is missing
        remedy: add a table [nodes]
    t.toml:1:1: error: sync: is missing
        remedy: add a table [sync]
    t.toml:1:1: error: vip: is missing
        remedy: add a [[vip]] with vhid, interface, addresses and password
    "#);
}

/// Broken TOML is reported with its place, and nothing is concluded from the rest.
#[test]
fn syntax_errors() {
    insta::assert_snapshot!(Files::new().report("[cluster]\nname = \"edge\nsecret_file = 'x'\n[nodes\n"), @r#"
    t.toml:2:13: error: this is not TOML: invalid basic string, expected `"`
    t.toml:4:7: error: this is not TOML: unclosed table, expected `]`
    "#);
}

/// Wrong kinds of value are named, each at its place.
#[test]
fn wrong_kinds() {
    let text = PACKAGED
        .replace("vhid = 3", "vhid = \"3\"")
        .replace("addresses = [\"157.159.40.139/26\"]", "addresses = \"157.159.40.139/26\"")
        .replace("sync = { interface = \"eth0\" }", "sync = { interface = 3 }")
        + "[election]\npreempt = \"yes\"\nadvbase = 0\nannounce_burst_ms = []\nannounce_refresh = \"1h\"\n";
    insta::assert_snapshot!(Files::new().report(&text), @r#"
    t.toml:6:22: error: sync.interface: found the integer 3 instead of a string
        remedy: put it in double quotes
    t.toml:8:8: error: vip[0].vhid: found the string "3" instead of an integer
        remedy: choose 1 to 255
    t.toml:15:13: error: vip[1].addresses: found the string "157.159.40.139/26" instead of a list
        remedy: write addresses = [ … ]
    t.toml:19:11: error: election.preempt: found the string "yes" instead of true or false
        remedy: write true or false, unquoted
    t.toml:20:11: error: election.advbase: 0 is out of range
        remedy: choose 1 to 254
    t.toml:21:21: error: election.announce_burst_ms: is an empty list
        remedy: write at least one element, or remove the key for the default
    t.toml:22:20: error: election.announce_refresh: found the string "1h" instead of a duration
        remedy: write a duration from 1s to 3600s, like "250ms", "5s" or "2min"
    "#);
}

/// Foreign masters are obeyed unless the file says otherwise, in a word that is known.
#[test]
fn foreign_masters() {
    let with = |line: &str| Files::new().resolve(&format!("{PACKAGED}[election]\n{line}")).unwrap().0;
    assert_eq!(with("").election.foreign_masters, ForeignMasters::Follow);
    assert_eq!(with("foreign_masters = \"refuse\"\n").election.foreign_masters, ForeignMasters::Refuse);
    insta::assert_snapshot!(Files::new().report(&format!("{PACKAGED}[election]\nforeign_masters = \"refuze\"\n")), @r#"
    t.toml:19:19: error: election.foreign_masters: "refuze" is not one of "follow", "refuse"
        remedy: did you mean `refuse`?
    t.toml:6:22: warning: sync.interface: eth0 also carries clients (vip[0].interface)
        remedy: a dedicated link keeps state traffic private and undisturbed
    "#);
}

/// IPv6 throughout: addresses, sync link, gateway by link-local address, and the reminder of icmpv6.
#[test]
fn ipv6_pair() {
    let text = PACKAGED
        .replace("192.168.103.208", "fd00:9::1")
        .replace("192.168.103.209", "fd00:9::2")
        .replace("sync = { interface = \"eth0\" }", "sync = { interface = \"eth2\" }")
        .replace("192.168.103.210/24", "2001:db8:1::1/64")
        .replace("157.159.40.139/26", "2001:db8:2::1/64")
        .replace("157.159.40.129", "fe80::1")
        .replace("\"eth2\" }", "\"eth2\", filter = { protocols = [\"TCP\", \"icmp\"] } }");
    let files = Files::new();
    insta::assert_snapshot!(files.report(&text), @r#"
    t.toml:6:53: warning: sync.filter.protocols: icmp is IPv4's alone, and there are IPv6 addresses
        remedy: add "icmpv6"
    "#);
    let (resolved, _) = files.resolve(&text).unwrap();
    assert_eq!(
        resolved.vips.iter().filter_map(|vip| vip.gateway).collect::<Vec<_>>(),
        ["fe80::1".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(resolved.sync.filter.protocols, [1, 6].into_iter().collect());
}

/// Heartbeats, lease and state directory as the file says; a slow interval takes the lease along.
#[test]
fn heartbeat_and_lease_keys() {
    let text = PACKAGED.replace("sync = { interface = \"eth0\" }", "sync = { interface = \"eth2\" }")
        + "[heartbeat]\ninterval = \"10ms\"\nmultiplier = 10\n[election]\nadvbase = 2\nlease_alone = \"3s\"\n\
           preempt_delay = \"0s\"\nlinger = \"0ms\"\n[daemon]\nstate_directory = \"/var/lib/other\"\n";
    let (resolved, report) = Files::new().resolve(&text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.problems, []);
    let heartbeat = &resolved.heartbeat;
    assert_eq!((heartbeat.interval, heartbeat.multiplier), (Duration::from_millis(10), 10));
    assert_eq!(
        (heartbeat.dead_after_max, heartbeat.paths.join(" ")),
        (Duration::from_millis(200), "eth2 eth0 eth1".into())
    );
    let timing = resolved.election.timing;
    assert_eq!((timing.lease, timing.lease_alone), (Duration::from_millis(50), Duration::from_secs(3)));
    assert_eq!((timing.linger, timing.restart_grace), (Duration::ZERO, Duration::from_secs(5)));
    assert_eq!(resolved.state_directory, Path::new("/var/lib/other"));
}

/// Heartbeat and lease keys that contradict each other, or what CARP's timers leave room for, are named.
#[test]
fn wrong_heartbeat_and_lease() {
    let text = PACKAGED.to_owned()
        + "[heartbeat]\ninterval = \"10ms\"\ndead_after_max = \"20ms\"\npaths = [\"eth0\", \"eth0\", \"eth3\"]\nmultiplier = 2\n\
           [election]\nlease = \"15ms\"\nlease_alone = \"1600ms\"\nrestart_grace = \"31s\"\nlinger = \"off\"\n\
           [daemon]\nstate_directory = \"lib\"\n";
    insta::assert_snapshot!(Files::new().report(&text));
    let text = PACKAGED.to_owned() + "[heartbeat]\npaths = [\"eth1\"]\n[election]\ndead_ratio = 1\n";
    insta::assert_snapshot!(Files::new().report(&text));
    let third = "nodes.fw2 = { sync_address = \"192.168.103.209\", advskew = 100 }";
    let text = PACKAGED
        .replace(third, &format!("{third}\nnodes.fw3 = {{ sync_address = \"192.168.103.207\", advskew = 200 }}"));
    let (resolved, _) =
        Files::new().resolve(&(text + "[heartbeat]\nenabled = true\n")).unwrap_or_else(|error| panic!("{error}"));
    assert!(!resolved.heartbeat.enabled);
}

/// Whatever stands in the place of a password, no report repeats it.
#[test]
fn no_report_tells_a_password() {
    let files = Files::new();
    for wrong in
        ["424242", "4242.5", "[\"hunter2\"]", "{ a = \"hunter2\" }", "\"hunter2", "\"hunter2-hunter2-hunter2\""]
    {
        let report = files.report(&PACKAGED.replace("password = \"toto\"", &format!("password = {wrong}")));
        assert!(report.contains("error"), "{report}");
        assert!(!report.contains("4242") && !report.contains("hunter2"), "{report}");
    }
}

/// Unicast peers, a password file with a line end, an own label and "off" values arrive in the resolved form.
#[test]
fn optional_keys() {
    use std::os::unix::fs::PermissionsExt;
    let files = Files::new();
    let password = files.directory.path().join("password");
    std::fs::write(&password, "s3cret\n").unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    let text = PACKAGED.replacen(
        "password = \"toto\"",
        &format!("password_file = {password:?}\npeers = [\"192.168.103.209\"]\nlabel = \"\""),
        1,
    ) + "[metrics]\nlisten = \"off\"\n[election]\nannounce_refresh = \"off\"\nannounce_burst_ms = [0, 50]\n[datapath]\nxdp = \"off\"\npin_directory = \"off\"\n[log]\nformat = \"json\"\n";
    let (resolved, report) = files.resolve(&text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.errors(), 0);
    let lan = &resolved.vips[0];
    assert_eq!(*lan.password, *b"s3cret");
    assert_eq!(lan.transport, Transport::Unicast(vec![IpAddr::from([192, 168, 103, 209])]));
    assert_eq!(lan.label, None);
    assert_eq!(resolved.metrics_listen, None);
    assert_eq!(resolved.election.announce_refresh, None);
    assert_eq!(resolved.election.announce_burst, [Duration::ZERO, Duration::from_millis(50)]);
    assert_eq!((resolved.xdp, resolved.log.format), (XdpChoice::Off, LogFormat::Json));
    assert_eq!(resolved.pin_directory, None);
}

/// Everything that can be tracked, and hooks, with the defaults of what is left out.
#[test]
fn tracked_causes_and_hooks() {
    let text = format!(
        "{PACKAGED}{}",
        r#"
[election]
link_up_delay = "2s"
link_down_delay = "100ms"
[[track.interface]]
name = "eth3"
weight = 50
[[track.script]]
name = "bgp"
command = ["/usr/local/bin/check-bgp", "--peer", "10.0.0.1"]
interval = "1s"
weight = 254
[[track.file]]
path = "/run/drain"
weight = 100
[[track.path]]
interface = "eth1"
target = "157.159.40.129"
interval = "200ms"
weight = 50
[[track.path]]
interface = "eth1"
target = "2001:db8::1"
method = "icmpv6"
weight = 50
fall = 1
[track.conntrack]
high = 50
weight = 20
[hooks]
up = ["/etc/twinwall/up"]
any = ["/a", "/b"]
xparam = "x y"
"#
    );
    let (resolved, report) = Files::new().resolve(&text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(report.warnings(), 1, "{report}");
    let track = &resolved.track;
    let causes: Vec<_> = track.causes().collect();
    let expected =
        ["interface:eth3", "script:bgp", "file:/run/drain", "path:157.159.40.129", "path:2001:db8::1", "conntrack"];
    assert_eq!(causes, expected);
    let ms = Duration::from_millis;
    assert_eq!(track.interfaces[0].up_delay, ms(1000));
    let script = &track.scripts[0];
    assert_eq!((script.program.as_path(), script.arguments.len()), (Path::new("/usr/local/bin/check-bgp"), 2));
    let rhythm = |interval, timeout, rise, fall| Rhythm { interval: ms(interval), timeout: ms(timeout), rise, fall };
    assert_eq!(script.rhythm, rhythm(1000, 1000, 2, 3), "the timeout's default is not longer than the interval");
    assert_eq!((track.paths[0].method, track.paths[0].rhythm), (Method::Neighbour, rhythm(200, 200, 2, 3)));
    assert_eq!((track.paths[1].method, track.paths[1].rhythm), (Method::Echo, rhythm(1000, 500, 2, 1)));
    let conntrack = track.conntrack.unwrap();
    assert_eq!((conntrack.high, conntrack.low), (50, 49));
    assert_eq!((resolved.hooks.up.len(), resolved.hooks.down.len(), resolved.hooks.any.len()), (1, 0, 2));
    assert_eq!((resolved.hooks.timeout, resolved.hooks.xparam.as_deref()), (ms(10_000), Some("x y")));
    assert_eq!((resolved.election.link_up_delay, resolved.election.link_down_delay), (ms(2000), ms(100)));
}

/// What cannot be tracked or run is refused at its place, all of it at once.
#[test]
fn wrong_causes_and_hooks() {
    let text = format!(
        "{PACKAGED}{}",
        r#"
[[track.interface]]
name = "eth3"
[[track.script]]
name = "b g p"
command = ["check-bgp"]
weight = 255
[[track.script]]
name = "bgp"
command = ["check-bgp"]
weight = 1
interval = "off"
[[track.file]]
path = "drain"
weight = 0
[[track.path]]
interface = "eth1"
target = "157.159.40.129"
method = "nd"
weight = 1
timeout = "2s"
[[track.path]]
interface = "eth0"
target = "157.159.40.129"
weight = 1
[track.conntrack]
high = 50
low = 50
weight = 1
[hooks]
up = ["up"]
timeut = "1s"
"#
    );
    insta::assert_snapshot!(Files::new().report(&text));
}

/// A password file that others may read is refused.
#[test]
fn exposed_password_file() {
    use std::os::unix::fs::PermissionsExt;
    let files = Files::new();
    let password = files.directory.path().join("password");
    std::fs::write(&password, "s3cret\n").unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o644)).unwrap();
    let text = PACKAGED.replacen("password = \"toto\"", &format!("password_file = {password:?}"), 1);
    assert!(files.report(&text).contains("chmod 600"), "{}", files.report(&text));
}

/// `check` works on a machine that is none of the nodes: a warning, and the first node is completed.
#[test]
fn check_on_a_stranger() {
    let files = Files::new();
    let text = PACKAGED.replace("/etc/twinwall/secret", files.directory.path().join("secret").to_str().unwrap());
    let choice = Choice { file: "t.toml".into(), node: None, socket: Some("/x.sock".into()) };
    let machine = Machine { host_name: "laptop".to_owned(), has_address: |_| false };
    let (resolved, report) = resolve_text(&text, &choice, &machine, Severity::Warning).unwrap();
    assert_eq!((resolved.node, report.warnings()), (NodeId(0), 2));
    assert_eq!(resolved.control_socket, Path::new("/x.sock"));
    assert!(resolve_text(&text, &choice, &machine, Severity::Error).is_err());
}

/// Whatever prefix of a right file is read, reading it ends without a panic.
#[test]
fn truncations_never_panic() {
    let files = Files::new();
    for end in (0..PACKAGED.len()).filter(|&end| PACKAGED.is_char_boundary(end)) {
        let _ = files.report(&PACKAGED[..end]);
    }
}
