//! Every state × every event.

use super::*;

/// Brings a node (skew 100, as the peer's 1/0, 1/100, 1/200 are better, equal, worse) into `role`.
fn in_role(role: Role) -> Rig {
    match role {
        Role::Init => Rig::new(config(100)),
        Role::Backup => Rig::backup(config(100)),
        Role::Master => Rig::master(config(100)),
        Role::Fault => {
            let mut rig = Rig::backup(config(100));
            rig.link(1, LinkState::default());
            rig
        }
    }
}

type Event = fn(&mut Rig);

const EVENTS: [(&str, Event); 13] = [
    ("better advert", |rig| rig.hear(LAN, 1, 0)),
    ("equal, lower address", |rig| rig.hear(LAN, 1, 100)),
    ("equal, higher address", |rig| rig.hear_from(LAN, THIRD[0], 1, 100)),
    ("worse advert", |rig| rig.hear(LAN, 1, 200)),
    ("much longer interval", |rig| rig.hear(LAN, 4, 0)),
    ("goodbye", |rig| rig.hear(LAN, 255, 255)),
    ("timer, nothing due", |rig| rig.input(Input::Timer)),
    ("next timer due", |rig| {
        rig.now = rig.election.poll_at().unwrap_or(rig.now);
        rig.input(Input::Timer);
    }),
    ("a link down", |rig| rig.link(0, LinkState::default())),
    ("both links up", |rig| {
        rig.link(0, link(0));
        let mut first = core::mem::take(&mut rig.actions);
        rig.link(1, link(1));
        first.append(&mut rig.actions);
        rig.actions = first;
    }),
    ("peer alive, in sync", |rig| rig.sync(true, true)),
    ("step down", |rig| rig.input(Input::Command(Command::HandOver { force: true }))),
    ("stop", |rig| rig.input(Input::Command(Command::Stop))),
];

fn table(role: Role) -> String {
    let mut table = String::new();
    for (name, event) in EVENTS {
        let mut rig = in_role(role);
        event(&mut rig);
        table += format!("{name}: {} {}", rig.role(), rig.summary()).trim_end();
        table += "\n";
    }
    table
}

/// The transition table as a whole, one row a combination: the role afterwards, and the actions in order.
#[test]
fn init() {
    insta::assert_snapshot!(table(Role::Init), @r"
    better advert: init
    equal, lower address: init
    equal, higher address: init
    worse advert: init
    much longer interval: init
    goodbye: init
    timer, nothing due: init
    next timer due: init
    a link down: init
    both links up: backup init>backup(start) vips-
    peer alive, in sync: init
    step down: init Refused(NotMaster)
    stop: init init>init(stop) vips-
    ");
}

/// See `init`.
#[test]
fn backup() {
    insta::assert_snapshot!(table(Role::Backup), @r"
    better advert: backup
    equal, lower address: backup
    equal, higher address: backup
    worse advert: backup
    much longer interval: master backup>master(goodbye) lease=1 vips+ announce0 announce1 adv0=1/100 adv1=1/100
    goodbye: master backup>master(goodbye) lease=1 vips+ announce0 announce1 adv0=1/100 adv1=1/100
    timer, nothing due: backup
    next timer due: master backup>master(master_down) lease=1 vips+ announce0 announce1 adv0=1/100 adv1=1/100
    a link down: fault backup>fault(link_down)
    both links up: backup
    peer alive, in sync: backup
    step down: backup Refused(NotMaster)
    stop: init backup>init(stop) vips-
    ");
}

/// See `init`.
#[test]
fn master() {
    insta::assert_snapshot!(table(Role::Master), @r"
    better advert: backup master>backup(better_master) closed adv0=255/255 adv1=255/255 adv0=255/255 adv1=255/255 vips-
    equal, lower address: backup master>backup(tie_break) closed adv0=255/255 adv1=255/255 adv0=255/255 adv1=255/255 vips-
    equal, higher address: master adv0=1/100 announce0
    worse advert: master adv0=1/100 announce0
    much longer interval: master adv0=1/100 announce0
    goodbye: master
    timer, nothing due: master
    next timer due: master announce0 announce1
    a link down: fault master>fault(link_down) closed adv1=255/255 adv1=255/255 vips-
    both links up: master
    peer alive, in sync: master
    step down: backup master>backup(step_down) closed adv0=255/255 adv1=255/255 adv0=255/255 adv1=255/255 vips-
    stop: init master>init(stop) closed adv0=255/255 adv1=255/255 adv0=255/255 adv1=255/255 vips-
    ");
}

/// See `init`.
#[test]
fn fault() {
    insta::assert_snapshot!(table(Role::Fault), @r"
    better advert: fault
    equal, lower address: fault
    equal, higher address: fault
    worse advert: fault
    much longer interval: fault
    goodbye: fault
    timer, nothing due: fault
    next timer due: fault
    a link down: fault
    both links up: backup fault>backup(link_up)
    peer alive, in sync: fault
    step down: fault Refused(NotMaster)
    stop: init fault>init(stop) vips-
    ");
}
