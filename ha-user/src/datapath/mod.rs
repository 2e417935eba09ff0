//! The kernel edge seen from userspace: loads the XDP programs, attaches them, reads adverts and counters.
//!
//! Each interface ends native, generic or, when XDP cannot be had, with the sockets. Links, lease and fence are pinned
//! where that is possible, and outlive the process then until [`Datapath::unpin`].

mod attach;
mod counters;
mod device;
mod heartbeat;
mod keys;
pub mod load;
pub mod pins;
mod plan;
mod pod;
mod ring;
mod sessions;
mod socket_counters;

pub use attach::Attachment;
pub use counters::{CounterMaps, Counters, InterfaceCounters, MemberCounters, Path, PeerCounters, Snapshot};
pub use heartbeat::HeartbeatMaps;
pub use load::{LoadError, Programs};
pub use pins::Inherited;
pub use plan::{DatapathKey, HeartbeatPlan, InterfacePlan, LinkPlan, Plan, SyncPlan};
pub use sessions::SessionTable;
pub use socket_counters::SocketCounters;

use crate::config::XdpChoice;
use attach::Attached;
use ha_common::abi::{FenceEntry, SelfEntry};
use ha_common::election::{InterfaceId, ReceivedAdvert};
use ha_common::liveness::{PathId, PathReply};
use pins::Pins;
use std::os::fd::BorrowedFd;

/// The XDP programs of this process and what they are attached to.
pub struct Datapath {
    programs: Option<Programs>,
    interfaces: Vec<Interface>,
    choice: XdpChoice,
    counters: Counters,
    pins: Option<Pins>,
    inherited: Option<Inherited>,
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
        let pins = open_pins(plan);
        let inherited = pins.as_ref().and_then(Pins::inherited);
        let (programs, reason) = match plan.choice {
            XdpChoice::Off => (None, "XDP is switched off in the configuration".to_owned()),
            XdpChoice::Auto | XdpChoice::Native | XdpChoice::Generic => match Programs::load(plan, pins.as_ref()) {
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
        let mut datapath = Self { programs, interfaces, choice: plan.choice, counters, pins, inherited };
        for interface in &plan.interfaces {
            datapath.attach(interface.id);
        }
        datapath.forget_strangers();
        datapath
    }

    /// What the process before said last and what its programs closed, if it was killed or left on purpose.
    pub fn inherited(&self) -> Option<Inherited> {
        self.inherited
    }

    /// Says what this node is. From the first time on, requests for virtual addresses need the lease that it holds.
    ///
    /// # Errors
    /// When the kernel refuses the entry. Without XDP there is nobody to tell, which is no error.
    pub fn publish(&mut self, entry: &SelfEntry) -> Result<(), LoadError> {
        self.programs.as_mut().map_or(Ok(()), |programs| programs.heartbeat_mut().publish(entry))
    }

    /// Where the sync loop says whose sessions are current; `None` without XDP, and from the second time on.
    pub fn take_sessions(&mut self) -> Option<SessionTable> {
        self.programs.as_mut().and_then(Programs::take_sessions)
    }

    /// These secrets are valid from now on, and no other.
    ///
    /// # Errors
    /// When the kernel refuses an entry. Without XDP there is nobody to tell, which is no error.
    pub fn set_keys(&mut self, keys: &[DatapathKey]) -> Result<(), LoadError> {
        self.programs.as_mut().map_or(Ok(()), |programs| programs.set_keys(keys))
    }

    /// What the programs closed for good.
    pub fn fence(&self) -> FenceEntry {
        self.programs.as_ref().map_or_else(FenceEntry::default, |programs| programs.heartbeat().fence())
    }

    /// The newest answer of the peer on a path; `None` when there is none, or one is being written this moment.
    pub fn reply(&self, path: PathId) -> Option<PathReply> {
        self.programs.as_ref()?.heartbeat().reply(path)
    }

    /// True when requests for virtual addresses that come in there need a lease.
    pub fn is_enforced(&self, id: InterfaceId) -> bool {
        self.attachment(id).is_some_and(Attachment::is_xdp)
    }

    /// True when the interface's program outlives the process.
    pub fn is_pinned(&self, id: InterfaceId) -> bool {
        let interface = self.interfaces.iter().find(|interface| interface.plan.id == id);
        interface.and_then(|interface| interface.attached.as_ref()).is_some_and(|attached| attached.is_pinned)
    }

    /// Detaches everywhere and leaves nothing behind: the clean end. Without it, what is pinned stays.
    pub fn unpin(&mut self) {
        if let Some(pins) = self.pins.take() {
            pins.remove_all();
        }
        for interface in &mut self.interfaces {
            interface.attached = None;
            interface.attachment = Attachment::Socket { reason: "the daemon is stopping".to_owned() };
        }
        self.programs = None;
    }

    /// Removes pins that no interface of the plan uses: with them go the programs of interfaces that are no longer
    /// configured. Without programs there is nobody who could serve the ones that the process before left.
    fn forget_strangers(&mut self) {
        let Some(pins) = &self.pins else { return };
        if self.programs.is_none() {
            pins.remove_all();
            self.pins = None;
            return;
        }
        let attached = self.interfaces.iter().filter_map(|interface| interface.attached.as_ref());
        let kept: Vec<_> = attached.map(|attached| (attached.device.ifindex, attached.mode)).collect();
        pins.keep_only(&kept);
    }

    /// Attaches again where that is needed: the interface appeared, was re-created with another index, or changed its
    /// hardware address. Cheap when nothing changed, so every link event may end here. `None`: no such interface in the plan.
    pub fn attach(&mut self, id: InterfaceId) -> Option<&Attachment> {
        let interface = self.interfaces.iter_mut().find(|interface| interface.plan.id == id)?;
        if let Some(programs) = &mut self.programs {
            interface.refresh(programs, self.pins.as_ref(), self.choice);
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
    fn refresh(&mut self, programs: &mut Programs, pins: Option<&Pins>, choice: XdpChoice) {
        let name = &self.plan.name;
        let device = attach::device(name);
        if let (Some(attached), Ok(device)) = (&mut self.attached, &device)
            && attached.device.ifindex == device.ifindex
        {
            if attached.device.mac != device.mac {
                attached.device.mac = device.mac;
                if let Err(error) = programs.set_interface(device.ifindex, device.mac, &self.plan) {
                    tracing::warn!(interface = %name, %error, "answers to heartbeats bear the old hardware address");
                }
            }
            return;
        }
        // The old device is gone: its link is void, and its index may be given to another device.
        if let Some(old) = self.attached.take() {
            programs.clear_interface(old.device.ifindex);
            if let Some(pins) = pins {
                pins.remove_link(old.device.ifindex);
            }
        }
        let result = device.and_then(|device| attach::attach(programs, pins, &self.plan, device, choice));
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

fn open_pins(plan: &Plan) -> Option<Pins> {
    match Pins::open(plan.pin_directory.as_ref()?) {
        Ok(pins) => Some(pins),
        Err(error) => {
            tracing::warn!(%error, "programs and lease live with the process: nothing is pinned");
            None
        }
    }
}
