//! One interface: native XDP, else generic, else nothing, and the reason in words.

use super::load::{EDGE, LoadError, Programs};
use super::plan::InterfacePlan;
use crate::config::XdpChoice;
use aya::programs::links::FdLink;
use aya::programs::{ProgramError, XdpMode};
use rustix::net::netdevice::name_to_index;
use rustix::net::{AddressFamily, SocketType, socket};
use std::error::Error;

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
    NoInterface { name: String, source: rustix::io::Errno },
    #[error("cannot attach in {mode} mode to {name}: {text}")]
    Refused { name: String, mode: &'static str, text: String },
    #[error(transparent)]
    Programs(#[from] LoadError),
}

/// A live attachment: dropping it, or the end of the process, detaches.
pub struct Attached {
    pub ifindex: u32,
    _link: FdLink,
}

/// The index of an interface by name.
///
/// # Errors
/// [`AttachError::NoInterface`].
pub fn ifindex(name: &str) -> Result<u32, AttachError> {
    socket(AddressFamily::INET, SocketType::DGRAM, None)
        .and_then(|any| name_to_index(any, name))
        .map_err(|source| AttachError::NoInterface { name: name.to_owned(), source })
}

/// Attaches in the first mode that the choice allows and the driver accepts.
///
/// # Errors
/// The refusals of all modes that were tried.
pub fn attach(
    programs: &mut Programs,
    plan: &InterfacePlan,
    ifindex: u32,
    choice: XdpChoice,
) -> Result<(Attached, Attachment), AttachError> {
    // Before the program runs, so that it judges the first packet already.
    programs.set_interface(ifindex, plan)?;
    let name = &plan.name;
    let attached = match choice {
        XdpChoice::Native => attach_native(programs, name, ifindex),
        XdpChoice::Generic => attach_generic(programs, name, ifindex, "chosen in the configuration".to_owned()),
        XdpChoice::Auto | XdpChoice::Off => attach_native(programs, name, ifindex).or_else(|native| {
            let note = native.to_string();
            attach_generic(programs, name, ifindex, note.clone()).map_err(|generic| AttachError::Refused {
                name: name.clone(),
                mode: "native or generic",
                text: format!("{note}; {generic}"),
            })
        }),
    };
    if attached.is_err() {
        programs.clear_interface(ifindex);
    }
    attached
}

fn attach_native(programs: &mut Programs, name: &str, ifindex: u32) -> Result<(Attached, Attachment), AttachError> {
    let link = link(programs, ifindex, XdpMode::Driver);
    let link = link.map_err(|text| AttachError::Refused { name: name.to_owned(), mode: "native", text })?;
    Ok((Attached { ifindex, _link: link }, Attachment::Native))
}

fn attach_generic(
    programs: &mut Programs,
    name: &str,
    ifindex: u32,
    note: String,
) -> Result<(Attached, Attachment), AttachError> {
    let link = link(programs, ifindex, XdpMode::Skb);
    let link = link.map_err(|text| AttachError::Refused { name: name.to_owned(), mode: "generic", text })?;
    Ok((Attached { ifindex, _link: link }, Attachment::Generic { note }))
}

/// A BPF link, which the kernel releases with its descriptor. aya falls back to an attachment by netlink, which
/// would outlive a killed process: that one is undone and refused.
fn link(programs: &mut Programs, ifindex: u32, mode: XdpMode) -> Result<FdLink, String> {
    let program = programs.program(EDGE).map_err(|error| error.to_string())?;
    let id = program.attach_to_if_index(ifindex, mode).map_err(|error| chain(&error))?;
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
