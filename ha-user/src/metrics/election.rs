//! Metrics of role, adverts, virtual addresses and interfaces.

use super::text::{Kind, Page};
use crate::status::ControlStatus;
use ha_common::role::Role;

/// Every role has its own series, so that a change of role is a change of value and not of label.
const ROLES: [Role; 4] = [Role::Init, Role::Backup, Role::Master, Role::Fault];
const MODES: [&str; 3] = ["native", "generic", "socket"];

pub fn write(page: &mut Page, status: &ControlStatus) {
    write_role(page, status);
    write_members(page, status);
    write_interfaces(page, status);
}

fn write_role(page: &mut Page, status: &ControlStatus) {
    let mut role = page.family(Kind::Gauge, "twinwall_role", "1 for the node's role now, 0 for the others.");
    for known in ROLES {
        role.sample(&[("role", known.name())], status.role == known.name());
    }
    page.single(Kind::Gauge, "twinwall_role_age_seconds", "How long the node has its role.", status.role_since_seconds);
    page.single(Kind::Counter, "twinwall_transitions_total", "Changes of role since start.", status.transitions);
    if let Some(last) = &status.last_transition {
        let labels = [("from", last.from.as_str()), ("to", &last.to), ("cause", &last.cause)];
        page.family(
            Kind::Gauge,
            "twinwall_last_transition_age_seconds",
            "Age of the last change of role, and its cause.",
        )
        .sample(&labels, last.seconds_ago);
        if let Some(takeover_ms) = last.takeover_ms {
            page.single(
                Kind::Gauge,
                "twinwall_last_takeover_duration_seconds",
                "From the old master's last advert to the addresses being here, at the last takeover.",
                takeover_ms / 1000.0,
            );
        }
    }
    page.single(Kind::Counter, "twinwall_adverts_sent_total", "CARP adverts sent.", status.adverts_sent);
    page.single(
        Kind::Counter,
        "twinwall_adverts_accepted_total",
        "CARP adverts that passed every check.",
        status.adverts_accepted,
    );
    page.single(
        Kind::Counter,
        "twinwall_dual_master_contacts_total",
        "Adverts of another master heard while master.",
        status.dual_master_contacts,
    );
    let mut errors = page.family(
        Kind::Counter,
        "twinwall_vip_errors_total",
        "Failures to move or announce virtual addresses and routes, by operation.",
    );
    for (operation, count) in &status.vip_errors {
        errors.sample(&[("operation", operation)], *count);
    }
}

fn write_members(page: &mut Page, status: &ControlStatus) {
    let vhids: Vec<String> = status.members.iter().map(|member| member.vhid.to_string()).collect();
    let members = || status.members.iter().zip(&vhids);
    let mut held = page.family(Kind::Gauge, "twinwall_vip_held", "1 while the vhid's addresses are on this node.");
    for (member, vhid) in members() {
        held.sample(&[("interface", &member.interface), ("vhid", vhid)], member.held);
    }
    let mut received = page.family(
        Kind::Counter,
        "twinwall_adverts_received_total",
        "CARP adverts for the vhid, before its password is checked.",
    );
    for (member, vhid) in members() {
        received.sample(&[("interface", &member.interface), ("vhid", vhid)], member.adverts_received);
    }
    let mut refused =
        page.family(Kind::Counter, "twinwall_adverts_refused_total", "CARP adverts for the vhid refused, by reason.");
    for (member, vhid) in members() {
        for (reason, count) in &member.refused {
            refused.sample(&[("interface", &member.interface), ("vhid", vhid), ("reason", reason)], *count);
        }
    }
}

fn write_interfaces(page: &mut Page, status: &ControlStatus) {
    let mut up = page.family(Kind::Gauge, "twinwall_interface_up", "1 while the interface is up and has carrier.");
    for interface in &status.interfaces {
        up.sample(&[("interface", &interface.name)], interface.up);
    }
    let mut flapping = page.family(Kind::Gauge, "twinwall_interface_flapping", "1 while the interface comes and goes.");
    for interface in &status.interfaces {
        flapping.sample(&[("interface", &interface.name)], interface.flapping);
    }
    let mut mode = page.family(
        Kind::Gauge,
        "twinwall_datapath_mode",
        "1 for how the interface is received now: native XDP, generic XDP, or socket.",
    );
    for interface in &status.interfaces {
        for known in MODES {
            mode.sample(&[("interface", &interface.name), ("mode", known)], interface.datapath == known);
        }
    }
}
