//! A file that is rewritten under a running daemon, with a loop that notes what it is told.

use super::*;
use crate::config::XdpChoice;
use crate::config::track::TrackedConntrack;
use crate::loops::tests::loops;
use crate::mailbox::Mailbox;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

const CONFIG: &str = r#"
cluster = { name = "edge", secret_file = "DIR/secret" }
nodes.fw1 = { sync_address = "10.77.9.1", advskew = 0 }
nodes.fw2 = { sync_address = "10.77.9.2", advskew = 100 }
[sync]
interface = "eth2"
netlink_buffer = 1048576
[[vip]]
vhid = 3
interface = "eth0"
addresses = ["192.168.103.210/24"]
password = "toto"
"#;

struct File {
    directory: tempfile::TempDir,
}

impl File {
    fn new() -> (Self, Reloader) {
        let file = Self { directory: tempfile::tempdir().unwrap() };
        let secret = file.directory.path().join("secret");
        crate::config::secret::generate(&secret, false).unwrap();
        file.write(CONFIG);
        let choice = Choice { file: file.directory.path().join("t.toml"), node: Some("fw1".to_owned()), socket: None };
        let (resolved, _) = config::load(&choice).unwrap();
        (file, Reloader::new(choice, resolved))
    }

    fn write(&self, text: &str) {
        let text = text.replace("DIR", self.directory.path().to_str().unwrap());
        std::fs::write(self.directory.path().join("t.toml"), text).unwrap();
    }
}

/// Answers the sync loop's requests and returns what they were.
async fn reload(reloader: &mut Reloader, loops: &Loops, sync: &Mailbox<SyncRequest>) -> (ReloadReport, Vec<String>) {
    let mut seen = Vec::new();
    let serve = async {
        loop {
            match sync.next() {
                Some(SyncRequest::Filter { filter, reply }) => {
                    seen.push(format!("filter {} {}", filter.assured_only, filter.local.iter().count()));
                    reply.send(Ok(())).unwrap();
                }
                Some(SyncRequest::NetlinkBuffer { bytes, bytes_max, reply }) => {
                    seen.push(format!("buffer {bytes} {bytes_max}"));
                    reply.send(Err("no memory".to_owned())).unwrap();
                }
                Some(other) => panic!("{other:?}"),
                None => tokio::task::yield_now().await,
            }
        }
    };
    let report = tokio::select! {
        report = reloader.reload(loops) => report,
        () = serve => unreachable!(),
    };
    (report, seen)
}

fn done(applied: &[&str], failed: &[&str], restart: &[&str]) -> ReloadOutcome {
    let owned = |list: &[&str]| list.iter().map(|&text| text.to_owned()).collect();
    ReloadOutcome::Done { applied: owned(applied), failed: owned(failed), restart: owned(restart) }
}

/// One file after the other: nothing changed, the filter, a filter with a vip that needs a restart, and back. What is in
/// force is told once; what waits for a restart is named each time, and no part of it takes effect.
#[tokio::test]
async fn the_filter_takes_effect_and_the_rest_is_named() {
    let (file, mut reloader) = File::new();
    let (loops, _control, sync) = loops();
    let filtered = format!("{CONFIG}[sync.filter]\nassured_only = true\n");
    let with_vip = filtered.replace("210/24\"", "210/24\", \"192.168.103.211/24\"");
    let steps: [(&str, ReloadOutcome, &[&str]); 5] = [
        (CONFIG, done(&[], &[], &[]), &[]),
        (&filtered, done(&["sync.filter"], &[], &[]), &["filter true 5"]),
        (&filtered, done(&[], &[], &[]), &[]),
        (&with_vip, done(&[], &[], &["vip"]), &[]),
        (CONFIG, done(&["sync.filter"], &[], &[]), &["filter false 5"]),
    ];
    for (text, outcome, told) in steps {
        file.write(text);
        let (report, seen) = reload(&mut reloader, &loops, &sync).await;
        assert_eq!((report.outcome, seen.iter().map(String::as_str).collect::<Vec<_>>()), (outcome, told.to_vec()));
    }
}

/// A broken file and a secret that others may read are refused with their problems, and nothing takes effect, not even
/// what is right in the file.
#[tokio::test]
async fn a_broken_file_changes_nothing() {
    let (file, mut reloader) = File::new();
    let (loops, _control, sync) = loops();
    file.write(&format!("{CONFIG}[sync.filter]\nassured_only = true\ntcp_states = [\"ESTABLISHD\"]\n"));
    let (report, seen) = reload(&mut reloader, &loops, &sync).await;
    assert_eq!((&report.outcome, seen.len()), (&ReloadOutcome::Refused, 0));
    assert!(report.problems.iter().any(|problem| problem.contains("did you mean `ESTABLISHED`?")), "{report:?}");
    file.write(&format!("{CONFIG}[sync.filter]\nassured_only = true\n"));
    let secret = file.directory.path().join("secret");
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    let (report, seen) = reload(&mut reloader, &loops, &sync).await;
    assert_eq!((&report.outcome, seen.len()), (&ReloadOutcome::Refused, 0));
    assert!(report.problems.iter().any(|problem| problem.contains("chmod 600")), "{report:?}");
    std::fs::remove_file(file.directory.path().join("t.toml")).unwrap();
    let (report, _) = reload(&mut reloader, &loops, &sync).await;
    assert_eq!(report.outcome, ReloadOutcome::Refused);
}

/// A part that the loop refuses is named with its reason and tried again next time; a smaller buffer needs a restart.
#[tokio::test]
async fn what_fails_is_named() {
    let (file, mut reloader) = File::new();
    let (loops, _control, sync) = loops();
    file.write(&CONFIG.replace("1048576", "3145728"));
    for _ in 0..2 {
        let (report, seen) = reload(&mut reloader, &loops, &sync).await;
        assert_eq!(report.outcome, done(&[], &["sync.netlink_buffer: no memory"], &[]));
        assert_eq!(seen, ["buffer 3145728 8388608"]);
    }
    file.write(&CONFIG.replace("1048576", "65536"));
    let (report, _) = reload(&mut reloader, &loops, &sync).await;
    assert_eq!(report.outcome, done(&[], &[], &["sync.netlink_buffer"]));
}

/// A change is named by its table or key; equal configurations name none.
#[test]
fn changed_tables_are_named() {
    let old = crate::config::tests::packaged();
    assert!(changes(&old, &old).is_empty());
    let mut new = old.clone();
    new.xdp = XdpChoice::Native;
    new.vips[0].vhid = 9;
    new.sync.flows_max = 5;
    new.hooks.xparam = Some("x".to_owned());
    new.track.conntrack = Some(TrackedConntrack { high: 95, low: 85, weight: 20, interval: Duration::from_secs(1) });
    assert_eq!(changes(&old, &new), ["vip", "sync", "datapath", "track", "hooks"]);
}

/// Answers what both loops are asked about secrets, and returns it; the sync loop refuses when told so.
async fn reload_keys(
    reloader: &mut Reloader,
    (loops, control, sync): (&Loops, &Mailbox<ControlRequest>, &Mailbox<SyncRequest>),
    refusal: Option<&str>,
) -> (ReloadOutcome, Vec<String>) {
    let mut seen = Vec::new();
    let serve = async {
        loop {
            match (control.next(), sync.next()) {
                (Some(ControlRequest::Keys { keys, reply }), None) => {
                    seen.push(format!("programs {:?}", keys.iter().map(|key| key.epoch).collect::<Vec<_>>()));
                    reply.send(Ok(())).unwrap();
                }
                (None, Some(SyncRequest::Keys { keys, reply })) => {
                    seen.push(format!("engine {:?}", keys.iter().map(|key| key.epoch).collect::<Vec<_>>()));
                    reply.send(refusal.map_or(Ok(()), |why| Err(why.to_owned()))).unwrap();
                }
                (None, None) => tokio::task::yield_now().await,
                other => panic!("{other:?}"),
            }
        }
    };
    let report = tokio::select! {
        report = reloader.reload(loops) => report,
        () = serve => unreachable!(),
    };
    (report.outcome, seen)
}

/// A new secret is known to the programs before the engine speaks of it, and an old one after it has forgotten it. When the
/// engine refuses, the programs are as before, and the next reload tries again.
#[tokio::test]
async fn secrets_change_in_order() {
    let (file, mut reloader) = File::new();
    let (loops, control, sync) = loops();
    let loops = (&loops, &control, &sync);
    let secret = file.directory.path().join("secret");
    crate::config::secret::rotate(&secret).unwrap();
    let wanted = (done(&["cluster.secret_file"], &[], &[]), ["programs [1, 2]", "engine [1, 2]", "programs [1, 2]"]);
    let (outcome, seen) = reload_keys(&mut reloader, loops, None).await;
    assert_eq!((outcome, seen.as_slice()), (wanted.0, &wanted.1.map(str::to_owned)[..]));
    crate::config::secret::retire(&secret).unwrap();
    let (outcome, seen) = reload_keys(&mut reloader, loops, Some("not yet")).await;
    assert_eq!(outcome, done(&[], &["cluster.secret_file: not yet"], &[]));
    assert_eq!(seen, ["programs [1, 2]", "engine [2]", "programs [1, 2]"]);
    let (outcome, seen) = reload_keys(&mut reloader, loops, None).await;
    assert_eq!(outcome, done(&["cluster.secret_file"], &[], &[]));
    assert_eq!(seen, ["programs [1, 2]", "engine [2]", "programs [2]"]);
}

/// A file that has another secret of the epoch in use is not put in force: nobody could tell the two apart.
#[tokio::test]
async fn another_secret_of_the_same_epoch_is_refused() {
    let (file, mut reloader) = File::new();
    let (loops, control, sync) = loops();
    let secret = file.directory.path().join("secret");
    std::fs::write(&secret, format!("twinwall-secret-v1 1 {}\n", "5a".repeat(32))).unwrap();
    let (outcome, seen) = reload_keys(&mut reloader, (&loops, &control, &sync), None).await;
    let ReloadOutcome::Done { failed, .. } = outcome else { panic!("{outcome:?}") };
    assert!(failed[0].contains("--rotate") && seen.is_empty(), "{failed:?} {seen:?}");
}
