//! The kernel edge seen from userspace: loads the XDP programs, attaches them, reads adverts and counters.
//!
//! Nothing is pinned: programs, maps and attachments live as long as the process, so even SIGKILL leaves no
//! program behind. Each interface ends native, generic or, when XDP cannot be had, with the sockets.

mod attach;
mod counters;
pub mod load;
mod plan;
mod pod;
mod ring;
mod socket_counters;

pub use attach::Attachment;
pub use counters::{CounterMaps, Counters, InterfaceCounters, MemberCounters, Path, PeerCounters, Snapshot};
pub use load::{LoadError, Programs};
pub use plan::{InterfacePlan, Plan};
pub use socket_counters::SocketCounters;

use crate::config::XdpChoice;
use attach::Attached;
use ha_common::election::{InterfaceId, ReceivedAdvert};
use std::os::fd::BorrowedFd;

/// The XDP programs of this process and what they are attached to.
pub struct Datapath {
    programs: Option<Programs>,
    interfaces: Vec<Interface>,
    choice: XdpChoice,
    counters: Counters,
}

struct Interface {
    plan: InterfacePlan,
    attachment: Attachment,
    attached: Option<Attached>,
}

impl Datapath {
    /// Loads the programs and attaches them to every interface that is there. Never fails as a whole: what XDP
    /// cannot do is left to the sockets, and [`Datapath::attachment`] says why.
    pub fn start(plan: &Plan) -> Self {
        let (programs, reason) = match plan.choice {
            XdpChoice::Off => (None, "XDP is switched off in the configuration".to_owned()),
            XdpChoice::Auto | XdpChoice::Native | XdpChoice::Generic => match Programs::load(plan) {
                Ok(programs) => (Some(programs), String::new()),
                Err(error) => {
                    tracing::warn!(%error, "no XDP: adverts and frames come through sockets");
                    (None, error.to_string())
                }
            },
        };
        let counters = Counters::new(plan, programs.as_ref().map(Programs::counter_maps));
        let idle = |plan: &InterfacePlan| Interface {
            plan: plan.clone(),
            attachment: Attachment::Socket { reason: reason.clone() },
            attached: None,
        };
        let interfaces = plan.interfaces.iter().map(idle).collect();
        let mut datapath = Self { programs, interfaces, choice: plan.choice, counters };
        for interface in &plan.interfaces {
            datapath.attach(interface.id);
        }
        datapath
    }

    /// Attaches again where that is needed: the interface appeared, or was re-created with another index. Cheap
    /// when nothing changed, so every link event may end here. `None`: no such interface in the plan.
    pub fn attach(&mut self, id: InterfaceId) -> Option<&Attachment> {
        let interface = self.interfaces.iter_mut().find(|interface| interface.plan.id == id)?;
        if let Some(programs) = &mut self.programs {
            interface.refresh(programs, self.choice);
        }
        Some(&interface.attachment)
    }

    /// How this interface's adverts and frames come in. `None`: no such interface in the plan.
    pub fn attachment(&self, id: InterfaceId) -> Option<&Attachment> {
        self.interfaces.iter().find(|interface| interface.plan.id == id).map(|interface| &interface.attachment)
    }

    /// The descriptor to poll for adverts; `None` when there is no XDP.
    pub fn ring_fd(&self) -> Option<BorrowedFd<'_>> {
        self.programs.as_ref().map(Programs::ring_fd)
    }

    /// The next advert from XDP; call until `None` after the ring became readable.
    pub fn next_advert(&mut self) -> Option<ReceivedAdvert> {
        self.programs.as_mut()?.next_advert()
    }

    /// The descriptor to poll for log lines of the programs; `None` unless debug logs of target `ha_ebpf` are on.
    pub fn log_fd(&self) -> Option<BorrowedFd<'_>> {
        self.programs.as_ref()?.log_fd()
    }

    /// Hands the programs' log lines to the `log` crate.
    pub fn flush_log(&mut self) {
        if let Some(programs) = &mut self.programs {
            programs.flush_log();
        }
    }

    /// A reader of all counters for other threads; it stays valid when the datapath is gone.
    pub fn counters(&self) -> Counters {
        self.counters.clone()
    }
}

impl Interface {
    fn refresh(&mut self, programs: &mut Programs, choice: XdpChoice) {
        let name = &self.plan.name;
        let ifindex = attach::ifindex(name);
        if let (Some(attached), Ok(ifindex)) = (&self.attached, &ifindex)
            && attached.ifindex == *ifindex
        {
            return;
        }
        // The old device is gone: its link is void, and its index may be given to another device.
        if let Some(old) = self.attached.take() {
            programs.clear_interface(old.ifindex);
        }
        let result = ifindex.and_then(|ifindex| attach::attach(programs, &self.plan, ifindex, choice));
        self.attachment = match result {
            Ok((attached, attachment)) => {
                self.attached = Some(attached);
                attachment
            }
            Err(error) => Attachment::Socket { reason: error.to_string() },
        };
        match self.attachment.note() {
            None => tracing::info!(interface = %name, "XDP attached in native mode"),
            Some(note) => tracing::warn!(interface = %name, mode = self.attachment.name(), note, "XDP is not native"),
        }
    }
}
