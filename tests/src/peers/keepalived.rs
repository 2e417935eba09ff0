//! keepalived with VRRPv3: one instance for the LAN, one for the WAN, tied together in a sync group.

use crate::extra_vips::extra_vips;
use crate::netns::{Netns, Process};
use crate::topology::{LAN_VIP, Node, Port, WAN_VIP};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// The parent process of one node; its child does the work.
#[derive(Debug)]
pub struct Keepalived {
    process: Process,
    log: PathBuf,
}

/// What differs between runs.
#[derive(Clone, Debug)]
pub struct KeepalivedOptions {
    /// `advert_int`, seconds with up to two decimals.
    pub interval: &'static str,
    /// Further addresses on the LAN: `virtual_ipaddress_excluded`, because an advert has room for 20 or so.
    pub more_vips: u16,
    /// Shell lines for `notify_master`.
    pub to_master: String,
    /// Shell lines for `notify_backup` and `notify_fault`.
    pub to_backup: String,
}

impl Keepalived {
    /// Starts it in the foreground, logging to a file in `dir`.
    ///
    /// # Errors
    /// When keepalived is not installed (Debian package `keepalived`), ends at once, or a file cannot be written.
    pub fn start(namespace: &Netns, node: Node, options: &KeepalivedOptions, dir: &Path) -> Result<Self> {
        let file = |suffix: &str| dir.join(format!("keepalived-{}{suffix}", node.name()));
        let to_master = super::script(dir, &format!("keepalived-{}-master", node.name()), &options.to_master)?;
        let to_backup = super::script(dir, &format!("keepalived-{}-backup", node.name()), &options.to_backup)?;
        let config = file(".conf");
        fs::write(&config, configuration(node, options, &to_master, &to_backup))?;
        // keepalived takes the file of a killed one whose number is in use again for a running daemon.
        let (own, child) = (file(".pid"), file("-vrrp.pid"));
        for stale in [&own, &child] {
            let _ = fs::remove_file(stale);
        }
        let log = file(".log");
        let output = fs::File::create(&log)?;
        let mut command = Command::new("keepalived");
        command.args(["--dont-fork", "--log-console", "--vrrp", "--use-file"]).arg(&config);
        command.arg("--pid").arg(&own).arg("--vrrp_pid").arg(&child);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let mut process = namespace.spawn(command)?;
        std::thread::sleep(Duration::from_millis(50));
        let ended = process.ended();
        let keepalived = Self { process, log };
        ensure!(ended.is_none(), "keepalived ended at its start: {}", keepalived.log());
        Ok(keepalived)
    }

    /// The parent process, to signal it.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).with_context(|| format!("{}", self.log.display())).unwrap_or_default()
    }
}

fn configuration(node: Node, options: &KeepalivedOptions, to_master: &Path, to_backup: &Path) -> String {
    let KeepalivedOptions { interval, more_vips, .. } = options;
    let priority = if node == Node::Fw1 { 150 } else { 100 };
    let (name, master, backup) = (node.name(), to_master.display(), to_backup.display());
    let excluded: String = extra_vips(*more_vips).map(|vip| format!("  {vip}/32 dev eth0\n")).collect();
    let excluded =
        if excluded.is_empty() { excluded } else { format!(" virtual_ipaddress_excluded {{\n{excluded} }}\n") };
    let instance = |port: Port, id: u8, vip: String, more: &str| {
        let interface = port.interface();
        format!(
            "vrrp_instance {interface} {{\n interface {interface}\n state BACKUP\n virtual_router_id {id}\n \
             priority {priority}\n advert_int {interval}\n virtual_ipaddress {{\n  {vip} dev {interface}\n }}\n{more}}}\n"
        )
    };
    let lan = instance(Port::Lan, 3, format!("{LAN_VIP}/24"), &excluded);
    let wan = instance(Port::Wan, 4, format!("{WAN_VIP}/26"), "");
    format!(
        "global_defs {{\n vrrp_version 3\n router_id {name}\n script_user root\n}}\n\
         vrrp_sync_group pair {{\n group {{\n  eth0\n  eth1\n }}\n notify_master \"{master}\"\n \
         notify_backup \"{backup}\"\n notify_fault \"{backup}\"\n}}\n{lan}{wan}"
    )
}
