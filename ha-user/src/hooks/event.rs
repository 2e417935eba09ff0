//! A change of role as the hooks are told of it, and how changes that overtake slow hooks become one.

use crate::config::Resolved;
use ha_common::role::Role;
use std::path::PathBuf;

/// One change of role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub from: Role,
    pub to: Role,
    /// Why, as in status and metrics.
    pub cause: &'static str,
    /// keepalived's priority: 254 less advskew and demotion, 0 to 254; the higher is the better.
    pub priority: u8,
    /// Number of the mastership; 0 while it is not known.
    pub term: u64,
    /// Something may be up that `down` has to end.
    leaves: bool,
}

/// 254 less what the adverts carry.
pub fn priority(advskew: u8, demotion: u16) -> u8 {
    254u8.saturating_sub(u8::try_from(u16::from(advskew).saturating_add(demotion)).unwrap_or(u8::MAX))
}

/// On what occasion a program runs; the name is a metric label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Occasion {
    Up,
    Down,
    Any,
}

impl Occasion {
    pub const ALL: [Self; 3] = [Self::Up, Self::Down, Self::Any];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Any => "any",
        }
    }
}

/// One program to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub occasion: Occasion,
    pub program: PathBuf,
    pub arguments: Vec<String>,
    pub environment: Vec<(&'static str, String)>,
}

impl Event {
    pub fn new(from: Role, to: Role, cause: &'static str, priority: u8, term: u64) -> Self {
        // A crash may have left something up that the process before this one began.
        let leaves = matches!(from, Role::Master | Role::Init);
        Self { from, to, cause, priority, term, leaves }
    }

    /// The change from before `older` to after this one: `older` was not told, or not completely.
    #[must_use]
    pub fn after(self, older: &Event) -> Self {
        Self { from: older.from, leaves: self.leaves || older.leaves || older.to == Role::Master, ..self }
    }

    /// The programs to run, in order: `up` or `down` for each vip, then `any`.
    pub fn calls(&self, config: &Resolved) -> Vec<Call> {
        let hooks = &config.hooks;
        let each_vip = match (self.to, self.leaves) {
            (Role::Master, _) => Some((Occasion::Up, &hooks.up)),
            (Role::Backup | Role::Fault | Role::Init, true) => Some((Occasion::Down, &hooks.down)),
            (Role::Backup | Role::Fault | Role::Init, false) => None,
        };
        let mut calls = Vec::new();
        if let Some((occasion, programs)) = each_vip {
            for vip in &config.vips {
                calls.extend(programs.iter().map(|program| self.vip_call(config, occasion, program, vip)));
            }
        }
        calls.extend(hooks.any.iter().map(|program| Call {
            occasion: Occasion::Any,
            program: program.clone(),
            arguments: vec![
                "GROUP".to_owned(),
                config.cluster.clone(),
                self.state().to_owned(),
                self.priority.to_string(),
            ],
            environment: self.environment(config),
        }));
        calls
    }

    /// ucarp's arguments: interface, address, and the extra one where it is set.
    fn vip_call(
        &self,
        config: &Resolved,
        occasion: Occasion,
        program: &std::path::Path,
        vip: &crate::config::Vip,
    ) -> Call {
        let interface = config.interfaces.get(usize::from(vip.interface.0)).cloned().unwrap_or_default();
        let first = vip.addresses.first().map(|(address, _)| address.to_string()).unwrap_or_default();
        let addresses: Vec<_> = vip.addresses.iter().map(|(address, length)| format!("{address}/{length}")).collect();
        let mut environment = self.environment(config);
        environment.push(("TWINWALL_VHID", vip.vhid.to_string()));
        environment.push(("TWINWALL_ADDRESSES", addresses.join(" ")));
        let arguments = [interface, first].into_iter().chain(config.hooks.xparam.clone()).collect();
        Call { occasion, program: program.to_owned(), arguments, environment }
    }

    fn environment(&self, config: &Resolved) -> Vec<(&'static str, String)> {
        vec![
            ("TWINWALL_CLUSTER", config.cluster.clone()),
            ("TWINWALL_NODE", config.own_name().to_owned()),
            ("TWINWALL_FROM", self.from.name().to_owned()),
            ("TWINWALL_TO", self.to.name().to_owned()),
            ("TWINWALL_CAUSE", self.cause.to_owned()),
            ("TWINWALL_TERM", self.term.to_string()),
        ]
    }

    /// keepalived's word for the role; back to INIT is the end of the daemon.
    fn state(&self) -> &'static str {
        match self.to {
            Role::Init => "STOP",
            Role::Backup => "BACKUP",
            Role::Master => "MASTER",
            Role::Fault => "FAULT",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::hooks::Hooks;

    fn config() -> Resolved {
        let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect();
        let hooks = Hooks {
            up: paths(&["/up1", "/up2"]),
            down: paths(&["/down"]),
            any: paths(&["/any"]),
            xparam: Some("a b".to_owned()),
            ..Hooks::default()
        };
        Resolved { hooks, ..crate::fixture::config() }
    }

    fn event(from: Role, to: Role) -> Event {
        Event::new(from, to, "peer_dead", 154, 7)
    }

    fn lines(event: &Event, config: &Resolved) -> Vec<String> {
        let line =
            |call: &Call| format!("{} {} {}", call.occasion.name(), call.program.display(), call.arguments.join(","));
        event.calls(config).iter().map(line).collect()
    }

    /// Becoming master: ucarp's arguments once for each vip, then keepalived's, each with the environment.
    #[test]
    fn arguments_of_a_takeover() {
        let config = config();
        let event = event(Role::Backup, Role::Master);
        assert_eq!(
            lines(&event, &config),
            [
                "up /up1 eth0,10.77.1.210,a b",
                "up /up2 eth0,10.77.1.210,a b",
                "up /up1 eth1,10.77.2.139,a b",
                "up /up2 eth1,10.77.2.139,a b",
                "any /any GROUP,edge,MASTER,154",
            ]
        );
        let calls = event.calls(&config);
        let environment: Vec<_> = calls[0].environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            environment,
            [
                "TWINWALL_CLUSTER=edge",
                "TWINWALL_NODE=fw2",
                "TWINWALL_FROM=backup",
                "TWINWALL_TO=master",
                "TWINWALL_CAUSE=peer_dead",
                "TWINWALL_TERM=7",
                "TWINWALL_VHID=3",
                "TWINWALL_ADDRESSES=10.77.1.210/24 fd00:1::210/64",
            ]
        );
        assert_eq!(calls[4].environment.len(), 6);
        let plain = Resolved { hooks: Hooks { xparam: None, ..config.hooks.clone() }, ..config };
        assert_eq!(lines(&event, &plain)[0], "up /up1 eth0,10.77.1.210");
    }

    /// `down` runs when mastership is left and at the start, not between backup and fault; the end is STOP.
    #[test]
    fn when_down_runs() {
        let config = config();
        let is_down = |from, to| lines(&event(from, to), &config)[0].starts_with("down");
        assert!(is_down(Role::Master, Role::Backup) && is_down(Role::Master, Role::Fault));
        assert!(is_down(Role::Init, Role::Backup) && is_down(Role::Master, Role::Init));
        assert!(!is_down(Role::Backup, Role::Fault) && !is_down(Role::Fault, Role::Backup));
        let stop = lines(&event(Role::Master, Role::Init), &config);
        assert_eq!(stop.last().unwrap(), "any /any GROUP,edge,STOP,154");
    }

    /// Changes that were overtaken: `down` is still owed when any of them was, or made, a master.
    #[test]
    fn overtaken_changes_become_one() {
        let config = config();
        let merged = |events: &[(Role, Role)]| {
            let mut events = events.iter().map(|(from, to)| event(*from, *to));
            let first = events.next().unwrap();
            events.fold(first, |older, newer| newer.after(&older))
        };
        let there_and_back = merged(&[(Role::Backup, Role::Master), (Role::Master, Role::Backup)]);
        assert_eq!((there_and_back.from, there_and_back.to), (Role::Backup, Role::Backup));
        assert!(lines(&there_and_back, &config)[0].starts_with("down"));
        let fault = merged(&[(Role::Master, Role::Backup), (Role::Backup, Role::Fault)]);
        assert!(lines(&fault, &config)[0].starts_with("down"));
        let up = merged(&[(Role::Master, Role::Backup), (Role::Backup, Role::Master)]);
        assert!(lines(&up, &config)[0].starts_with("up"));
        let quiet = merged(&[(Role::Fault, Role::Backup), (Role::Backup, Role::Fault)]);
        assert_eq!(lines(&quiet, &config), ["any /any GROUP,edge,FAULT,154"]);
    }

    /// The priority is what the adverts carry, turned around, and never below zero.
    #[test]
    fn priorities() {
        assert_eq!(
            [(0, 0), (100, 0), (100, 50), (100, 900), (254, 1)].map(|(s, d)| priority(s, d)),
            [254, 154, 104, 0, 0]
        );
    }
}
