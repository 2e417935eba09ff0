//! What demotes a node and what is told to hooks, with daemons in the lab.

use anyhow::{Context, Result, ensure};
use ha_tests::daemon::{Settings, sample, scrape};
use ha_tests::lab::Lab;
use ha_tests::netns::wait_until;
use ha_tests::topology::{LAN_VIP, Naming, Node, Port, SERVER, WAN_VIP};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(10);

/// The causes that demote the node now, with weight and detail.
fn demotions(lab: &Lab, node: Node) -> Vec<(String, u64, String)> {
    let Ok(status) = lab.status(node) else { return Vec::new() };
    let rows = status.0.pointer("/election/demotions").and_then(Value::as_array).cloned().unwrap_or_default();
    let text = |row: &Value, key: &str| row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let row = |row: &Value| (text(row, "cause"), row["weight"].as_u64().unwrap_or(0), text(row, "detail"));
    rows.iter().map(row).collect()
}

/// Waits until exactly these causes demote fw1.
fn wait_for(lab: &Lab, causes: &[&str]) -> Result<()> {
    wait_until(&format!("the causes are {causes:?}"), LIMIT, || {
        let found = demotions(lab, Node::Fw1);
        found.iter().map(|(cause, ..)| cause.as_str()).collect::<Vec<_>>() == causes
    })
    .with_context(|| format!("{:?}\n{}", demotions(lab, Node::Fw1), lab.files(Node::Fw1).log_tail()))
}

/// A lab where only fw1 runs, configured with `extra`.
fn one_node(extra: String, ipv6: bool) -> Result<Lab> {
    let mut lab = Lab::new(&Settings { extra, ipv6, ..Settings::default() }, Naming::OfProcess)?;
    lab.start(Node::Fw1)?;
    Ok(lab)
}

fn write_script(path: &Path, text: &str) -> Result<()> {
    // Under another name first: a program that is being written cannot be executed.
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755))?;
    fs::rename(&new, path)?;
    Ok(())
}

/// A script, a file and an interface without virtual addresses begin to fail one after the other and recover: status
/// and metrics show each cause with weight and detail, and the sum.
#[test]
fn netns_script_file_and_interface_demote() -> Result<()> {
    let work = tempfile::tempdir()?;
    let (flag, drain) = (work.path().join("flag"), work.path().join("drain"));
    let extra = format!(
        r#"
[[track.interface]]
name = "eth3"
weight = 30
up_delay = "200ms"
[[track.script]]
name = "bgp"
command = ["/bin/sh", "-c", "echo no session; test ! -e {}"]
interval = "100ms"
timeout = "90ms"
rise = 2
fall = 2
weight = 50
[[track.file]]
path = "{}"
interval = "100ms"
weight = 100
"#,
        flag.display(),
        drain.display()
    );
    let lab = one_node(extra, false)?;
    wait_for(&lab, &["interface:eth3"])?;
    assert_eq!(demotions(&lab, Node::Fw1)[0].2, "there is no such interface");
    let fw1 = &lab.pair[Node::Fw1];
    fw1.ip("link add eth3 type veth peer name eth3far\nlink set eth3 up")?;
    wait_until("it is there without carrier", LIMIT, || {
        demotions(&lab, Node::Fw1).first().is_some_and(|row| row.2 == "down or without carrier")
    })?;
    fw1.ip("link set eth3far up")?;
    wait_for(&lab, &[])?;

    fs::write(&flag, "")?;
    wait_for(&lab, &["script:bgp"])?;
    assert_eq!(demotions(&lab, Node::Fw1)[0], ("script:bgp".into(), 50, "exit code 1: no session".into()));
    fs::write(&drain, "2\n")?;
    fw1.ip("link set eth3far down")?;
    let file = format!("file:{}", drain.display());
    wait_for(&lab, &[&file, "interface:eth3", "script:bgp"])?;
    let metrics = scrape(fw1)?;
    assert_eq!(sample(&metrics, &["twinwall_demotion{", "script:bgp"]), Some(50.0));
    assert_eq!(sample(&metrics, &["twinwall_demotion{", "file:"]), Some(200.0));
    assert_eq!(sample(&metrics, &["twinwall_demotion_total_weight"]), Some(280.0));

    fs::remove_file(&flag)?;
    fs::remove_file(&drain)?;
    fw1.ip("link set eth3far up")?;
    wait_for(&lab, &[])?;
    let metrics = scrape(fw1)?;
    assert_eq!(sample(&metrics, &["twinwall_demotion{", "script:bgp"]), Some(0.0));
    Ok(())
}

/// Next hops of both families vanish and come back, asked by ARP, neighbour solicitation and echo; the detail says that
/// nobody answers. The others are not disturbed.
#[test]
fn netns_a_vanished_next_hop_demotes() -> Result<()> {
    let path = |target: &str, method: &str| {
        format!(
            "[[track.path]]\ninterface = \"eth1\"\ntarget = \"{target}\"\nmethod = \"{method}\"\nweight = 40\n\
             interval = \"100ms\"\ntimeout = \"100ms\"\nrise = 2\nfall = 2\n"
        )
    };
    let (arp, nd, icmp, icmpv6) = ("157.159.40.141", "fd00:40::141", "157.159.40.142", "fd00:40::142");
    let extra = [
        path(arp, "arp"),
        path(nd, "nd"),
        path(icmp, "icmp"),
        path(icmpv6, "icmpv6"),
        path(&SERVER.to_string(), "arp"),
    ];
    let mut lab = Lab::new(&Settings { extra: extra.concat(), ipv6: true, ..Settings::default() }, Naming::OfProcess)?;
    let server = &lab.pair.server;
    server.sysctl("net.ipv4.icmp_echo_ignore_all", "0")?;
    let address = |verb: &str, address: &str| {
        let length = if address.contains(':') { 64 } else { 26 };
        server.ip(&format!("address {verb} {address}/{length} dev eth0"))
    };
    for target in [arp, nd, icmp, icmpv6] {
        address("add", target)?;
    }
    // An own address to send echoes from: the virtual ones may be on the other node.
    lab.pair[Node::Fw1].ip("address add fd00:40::1/64 dev eth1")?;
    lab.start(Node::Fw1)?;
    lab.wait_role(Node::Fw1, "master", LIMIT)?;
    wait_for(&lab, &[])?;
    let server = &lab.pair.server;
    for target in [arp, nd, icmp, icmpv6] {
        let length = if target.contains(':') { 64 } else { 26 };
        let cause = format!("path:{target}");
        server.ip(&format!("address del {target}/{length} dev eth0"))?;
        wait_for(&lab, &[&cause])?;
        assert_eq!(demotions(&lab, Node::Fw1)[0].1, 40);
        assert_eq!(demotions(&lab, Node::Fw1)[0].2, "no answer within 100ms");
        server.ip(&format!("address add {target}/{length} dev eth0"))?;
        wait_for(&lab, &[])?;
    }
    Ok(())
}

/// A demotion by hand appears, runs out by itself, and can be cleared before; a wrong one is refused in words.
#[test]
fn netns_demotions_by_hand() -> Result<()> {
    let lab = one_node(String::new(), false)?;
    let files = lab.files(Node::Fw1);
    let demote = |arguments: &[&str]| -> Result<String> {
        let output = files.command(&[&["demote"], arguments].concat())?.output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
    };
    demote(&["works", "70", "--for", "2s"])?;
    demote(&["drain", "20"])?;
    let begin = Instant::now();
    wait_for(&lab, &["operator:drain", "operator:works"])?;
    wait_for(&lab, &["operator:drain"])?;
    ensure!(begin.elapsed() > Duration::from_millis(1500), "it ended after {:?}", begin.elapsed());
    demote(&["drain", "0"])?;
    wait_for(&lab, &[])?;
    let refused = demote(&["drain", "0"])?;
    ensure!(refused.contains("no demotion drain is set by hand"), "{refused}");
    Ok(())
}

/// Hooks that write what they see: who holds the address, and their arguments.
struct Hooks {
    work: tempfile::TempDir,
}

impl Hooks {
    fn new() -> Result<Self> {
        let hooks = Self { work: tempfile::tempdir()? };
        for name in ["up", "down", "any"] {
            // The address as the kernel has it while the hook runs: it must be there before `up`.
            let text = format!(
                "#!/bin/sh\nheld=$(ip -o address show | grep -c -F 'inet {LAN_VIP}/')\n\
                 echo \"$TWINWALL_NODE {name} $* held=$held $TWINWALL_FROM-$TWINWALL_TO\" >>{0}/log\n\
                 cat /proc/$$/stat /proc/$$/status >{0}/seen\n\
                 test -e {0}/$TWINWALL_NODE.{name}.hang && sleep 60\nexit 0\n",
                hooks.work.path().display()
            );
            write_script(&hooks.work.path().join(name), &text)?;
        }
        Ok(hooks)
    }

    fn extra(&self) -> String {
        let path = self.work.path().display();
        format!(
            "[hooks]\nup = [\"{path}/up\"]\ndown = [\"{path}/down\"]\nany = [\"{path}/any\"]\n\
             timeout = \"3s\"\nxparam = \"x\"\n"
        )
    }

    /// The daemon's real-time priority and locked memory are not handed down.
    fn ran_as_ordinary_process(&self) -> Result<()> {
        let seen = fs::read_to_string(self.work.path().join("seen"))?;
        // rt_priority is field 40 and policy field 41; the name (field 2) stands in parentheses (proc(5)).
        let fields: Vec<&str> = seen.split_once(") ").context("no stat")?.1.split_whitespace().collect();
        assert_eq!((fields.get(40 - 3), fields.get(41 - 3)), (Some(&"0"), Some(&"0")), "{seen}");
        ensure!(seen.contains("VmLck:\t       0 kB"), "{seen}");
        Ok(())
    }

    fn hang(&self, node: Node, name: &str) -> Result<()> {
        Ok(fs::write(self.work.path().join(format!("{}.{name}.hang", node.name())), "")?)
    }

    fn log(&self, node: Node) -> Vec<String> {
        let text = fs::read_to_string(self.work.path().join("log")).unwrap_or_default();
        let prefix = format!("{} ", node.name());
        text.lines().filter_map(|line| line.strip_prefix(&prefix)).map(str::to_owned).collect()
    }

    fn wait_for(&self, node: Node, expected: &[String]) -> Result<()> {
        wait_until(&format!("hooks of {}: {expected:#?}", node.name()), LIMIT, || self.log(node) == expected)
            .with_context(|| format!("{:#?}", self.log(node)))
    }
}

/// From start to takeover to stop: the hooks get ucarp's and keepalived's arguments, in order, `up` only once the
/// address is there and `down` once it is gone.
#[test]
fn netns_hooks_follow_the_addresses() -> Result<()> {
    let hooks = Hooks::new()?;
    let mut lab = Lab::running(&Settings { extra: hooks.extra(), ..Settings::default() })?;
    let three = |name: &str, state: &str, held: u8, change: &str, priority: u8| {
        [
            format!("{name} eth0 {LAN_VIP} x held={held} {change}"),
            format!("{name} eth1 {WAN_VIP} x held={held} {change}"),
            format!("any GROUP edge {state} {priority} held={held} {change}"),
        ]
    };
    let mut first = three("down", "BACKUP", 0, "init-backup", 254).to_vec();
    first.extend(three("up", "MASTER", 1, "backup-master", 254));
    hooks.wait_for(Node::Fw1, &first)?;
    let mut second = three("down", "BACKUP", 0, "init-backup", 154).to_vec();
    hooks.wait_for(Node::Fw2, &second)?;

    lab.stop(Node::Fw1)?;
    first.extend(three("down", "STOP", 0, "master-init", 254));
    assert_eq!(hooks.log(Node::Fw1), first, "the stop waits for its hooks");
    second.extend(three("up", "MASTER", 1, "backup-master", 154));
    hooks.wait_for(Node::Fw2, &second)?;
    let metrics = scrape(&lab.pair[Node::Fw2])?;
    assert_eq!(sample(&metrics, &["twinwall_hook_runs_total{", "\"up\"", "\"ok\""]), Some(2.0));
    assert_eq!(sample(&metrics, &["twinwall_hook_runs_total{", "\"up\"", "\"failed\""]), Some(0.0));
    hooks.ran_as_ordinary_process()
}

/// While a hook of the backup hangs, it takes over as fast as ever, goes on sending adverts, and the hook is killed and
/// counted.
#[test]
fn netns_a_hanging_hook_delays_nothing() -> Result<()> {
    let hooks = Hooks::new()?;
    hooks.hang(Node::Fw2, "down")?;
    let mut lab = Lab::new(&Settings { extra: hooks.extra(), ..Settings::default() }, Naming::OfProcess)?;
    lab.start(Node::Fw1)?;
    lab.wait_role(Node::Fw1, "master", LIMIT)?;
    lab.start(Node::Fw2)?;
    wait_until("the hook hangs", LIMIT, || hooks.log(Node::Fw2).len() == 1)?;
    lab.wait_role(Node::Fw2, "backup", LIMIT)?;
    let begin = Instant::now();
    lab.stop(Node::Fw1)?;
    wait_until("fw2 takes over", LIMIT, || lab.holds(Node::Fw2))?;
    // fw1's own hooks are part of its stop; the hanging one would take three seconds.
    ensure!(begin.elapsed() < Duration::from_millis(1500), "the takeover took {:?}", begin.elapsed());
    ensure!(hooks.log(Node::Fw2).len() == 1, "the hook did not hang: {:?}", hooks.log(Node::Fw2));
    let sent = lab.status(Node::Fw2)?.number("/election/adverts_sent");
    wait_until("adverts go on", LIMIT, || {
        lab.status(Node::Fw2).is_ok_and(|status| status.number("/election/adverts_sent") > sent)
    })?;
    wait_until("the newest change is told", LIMIT, || {
        hooks.log(Node::Fw2).last().is_some_and(|line| line.starts_with("any GROUP edge MASTER"))
    })?;
    let status = lab.status(Node::Fw2)?;
    assert_eq!(status.number("/hooks/runs/down/timed_out"), 1);
    assert_eq!(status.number("/hooks/runs/down/skipped"), 1);
    Ok(())
}

/// A member's link that was lost counts as up only after the delay, status says so meanwhile, and the group comes back.
#[test]
fn netns_a_returning_link_is_debounced() -> Result<()> {
    let settings = Settings { link_up_delay: "2s", ..Settings::default() };
    let mut lab = Lab::new(&settings, Naming::OfProcess)?;
    lab.start(Node::Fw1)?;
    lab.wait_role(Node::Fw1, "master", LIMIT)?;
    lab.plug(Node::Fw1, Port::Lan, false)?;
    lab.wait_role(Node::Fw1, "fault", LIMIT)?;
    let back = Instant::now();
    lab.plug(Node::Fw1, Port::Lan, true)?;
    wait_until("status shows the wait", Duration::from_millis(1900), || {
        lab.status(Node::Fw1).is_ok_and(|status| {
            status.role() == "fault"
                && status.0.pointer("/election/interfaces/0/up_in_seconds").is_some_and(Value::is_f64)
        })
    })?;
    wait_until("it counts as up", LIMIT, || lab.status(Node::Fw1).is_ok_and(|status| status.role() != "fault"))?;
    ensure!(back.elapsed() >= Duration::from_secs(2), "it counted as up after {:?}", back.elapsed());
    lab.wait_role(Node::Fw1, "master", LIMIT)
}
