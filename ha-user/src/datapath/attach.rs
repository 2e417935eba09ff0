//! One interface: native XDP, else generic, else nothing, and the reason in words.

use super::device::{self, Device};
use super::load::{EDGE, LoadError, Programs};
use super::pins::{LinkMode, Pins};
use super::plan::InterfacePlan;
use crate::config::XdpChoice;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::XdpLink;
use aya::programs::{ProgramError, XdpMode};
use std::error::Error;
use std::io;
use std::time::Duration;

/// Notes of a generic attachment.
const CHOSEN: &str = "chosen in the configuration";
const TAKEN_OVER: &str = "taken over as it was: stop and start the daemon to try native mode again";
/// The kernel detaches within half a second (`ebpf` section 7).
const BUSY_ATTEMPTS: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// How adverts and frames of an interface come in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// XDP in the driver.
    Native,
    /// XDP in the stack, after the driver made a socket buffer; `note` says why not native.
    Generic { note: String },
    /// No XDP: the sockets do it.
    Socket { reason: String },
}

impl Attachment {
    /// `native`, `generic` or `socket`.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic { .. } => "generic",
            Self::Socket { .. } => "socket",
        }
    }

    /// Why not native, when it is not.
    pub fn note(&self) -> Option<&str> {
        match self {
            Self::Native => None,
            Self::Generic { note } => Some(note),
            Self::Socket { reason } => Some(reason),
        }
    }

    /// True when adverts come through the ring, and the advert socket need not be read.
    pub const fn is_xdp(&self) -> bool {
        match self {
            Self::Native | Self::Generic { .. } => true,
            Self::Socket { .. } => false,
        }
    }
}

/// Why an interface has no XDP program.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error("interface {name} does not exist (it is attached when it appears): {source}")]
    NoInterface { name: String, source: io::Error },
    #[error("cannot attach in {mode} mode to {name}: {text}")]
    Refused { name: String, mode: &'static str, text: String },
    #[error(transparent)]
    Programs(#[from] LoadError),
}

/// A live attachment: dropping it, or the end of the process, detaches, unless it is pinned.
pub struct Attached {
    pub device: Device,
    pub mode: LinkMode,
    pub is_pinned: bool,
    _link: FdLink,
}

/// The device of an interface by name.
///
/// # Errors
/// [`AttachError::NoInterface`].
pub fn device(name: &str) -> Result<Device, AttachError> {
    device::find(name).map_err(|source| AttachError::NoInterface { name: name.to_owned(), source })
}

/// Where a program is to be attached.
#[derive(Clone, Copy)]
struct Place<'a> {
    pins: Option<&'a Pins>,
    name: &'a str,
    device: Device,
    /// A link of the process before was there a moment ago: the kernel detaches in the background.
    was_taken: bool,
}

/// Takes over what the process before left on the interface, or attaches in the first mode that the choice allows and
/// the driver accepts.
///
/// # Errors
/// The refusals of all modes that were tried.
pub fn attach(
    programs: &mut Programs,
    pins: Option<&Pins>,
    plan: &InterfacePlan,
    device: Device,
    choice: XdpChoice,
) -> Result<(Attached, Attachment), AttachError> {
    // Before the program runs, so that it judges the first packet already.
    programs.set_interface(device.ifindex, device.mac, plan)?;
    let mut place = Place { pins, name: &plan.name, device, was_taken: false };
    if let Some(pins) = pins
        && let Some((pinned, mode)) = pins.link(device.ifindex)
    {
        match adopt(programs, pins, place, (pinned, mode), choice) {
            Ok(adopted) => return Ok(adopted),
            Err(reason) => {
                tracing::warn!(interface = %plan.name, reason, "the program of the process before is removed");
                // The end of the last descriptor detaches at once; the end of the last pin, in the background.
                let held = pins.link(device.ifindex);
                pins.remove_link(device.ifindex);
                drop(held);
                place.was_taken = true;
            }
        }
    }
    let attached = attach_anew(programs, place, choice);
    if attached.is_err() {
        programs.clear_interface(device.ifindex);
    }
    attached
}

/// Exchanges the program in a pinned link; says why not.
fn adopt(
    programs: &mut Programs,
    pins: &Pins,
    place: Place<'_>,
    (pinned, mode): (PinnedLink, LinkMode),
    choice: XdpChoice,
) -> Result<(Attached, Attachment), String> {
    let attachment = match (choice, mode) {
        (XdpChoice::Auto | XdpChoice::Native, LinkMode::Native) => Attachment::Native,
        (XdpChoice::Generic, LinkMode::Generic) => Attachment::Generic { note: CHOSEN.to_owned() },
        (XdpChoice::Auto, LinkMode::Generic) => Attachment::Generic { note: TAKEN_OVER.to_owned() },
        (XdpChoice::Native, LinkMode::Generic) | (XdpChoice::Generic, LinkMode::Native) | (XdpChoice::Off, _) => {
            return Err(format!("it is attached in {} mode, which is not what is configured", mode.name()));
        }
    };
    let link = exchange(programs, pinned)?;
    let link = pins.keep(link, place.device.ifindex, mode).map_err(|error| error.to_string())?;
    Ok((Attached { device: place.device, mode, is_pinned: true, _link: link }, attachment))
}

/// Puts this process' program into a link (`BPF_LINK_UPDATE`): no packet meets the interface without one.
fn exchange(programs: &mut Programs, pinned: PinnedLink) -> Result<FdLink, String> {
    let program = programs.program(EDGE).map_err(|error| error.to_string())?;
    let link = XdpLink::try_from(FdLink::from(pinned)).map_err(|error| error.to_string())?;
    let id = program.attach_to_link(link).map_err(|error| chain(&error))?;
    let link = program.take_link(id).map_err(|error| chain(&error))?;
    FdLink::try_from(link).map_err(|error| error.to_string())
}

fn attach_anew(
    programs: &mut Programs,
    place: Place<'_>,
    choice: XdpChoice,
) -> Result<(Attached, Attachment), AttachError> {
    let mut attach_in = |mode| attach_in(programs, place, mode);
    let native = |attached| (attached, Attachment::Native);
    let generic = |note| move |attached| (attached, Attachment::Generic { note });
    match choice {
        XdpChoice::Native => attach_in(LinkMode::Native).map(native),
        XdpChoice::Generic => attach_in(LinkMode::Generic).map(generic(CHOSEN.to_owned())),
        XdpChoice::Auto | XdpChoice::Off => attach_in(LinkMode::Native).map(native).or_else(|refused| {
            let note = refused.to_string();
            attach_in(LinkMode::Generic).map(generic(note.clone())).map_err(|refused| AttachError::Refused {
                name: place.name.to_owned(),
                mode: "native or generic",
                text: format!("{note}; {refused}"),
            })
        }),
    }
}

fn attach_in(programs: &mut Programs, place: Place<'_>, mode: LinkMode) -> Result<Attached, AttachError> {
    let Place { pins, name, device, was_taken } = place;
    let refused = |text| AttachError::Refused { name: name.to_owned(), mode: mode.name(), text };
    let link = link(programs, device.ifindex, mode, was_taken).map_err(refused)?;
    let Some(pins) = pins else { return Ok(Attached { device, mode, is_pinned: false, _link: link }) };
    match pins.keep(link, device.ifindex, mode) {
        Ok(link) => Ok(Attached { device, mode, is_pinned: true, _link: link }),
        Err(error) => {
            tracing::warn!(interface = %name, %error, "the program lives with the process: it cannot be pinned");
            let link = self::link(programs, device.ifindex, mode, true).map_err(refused)?;
            Ok(Attached { device, mode, is_pinned: false, _link: link })
        }
    }
}

/// A BPF link, which the kernel releases with its descriptor. aya falls back to an attachment by netlink, which
/// would outlive a killed process: that one is undone and refused.
fn link(programs: &mut Programs, ifindex: u32, mode: LinkMode, was_taken: bool) -> Result<FdLink, String> {
    let program = programs.program(EDGE).map_err(|error| error.to_string())?;
    let xdp_mode = match mode {
        LinkMode::Native => XdpMode::Driver,
        LinkMode::Generic => XdpMode::Skb,
    };
    let mut attempts = if was_taken { BUSY_ATTEMPTS } else { 0 };
    let id = loop {
        match program.attach_to_if_index(ifindex, xdp_mode) {
            Ok(id) => break id,
            Err(ProgramError::SyscallError(error))
                if error.io_error.raw_os_error() == Some(libc::EBUSY) && attempts > 0 =>
            {
                attempts -= 1;
                std::thread::sleep(BUSY_PAUSE);
            }
            Err(error) => return Err(chain(&error)),
        }
    };
    let link = program.take_link(id).map_err(|error| chain(&error))?;
    FdLink::try_from(link).map_err(|_| "the kernel has no BPF links for XDP (needs Linux 5.9)".to_owned())
}

/// An error of aya with its causes: the outermost names the call only.
fn chain(error: &ProgramError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}
