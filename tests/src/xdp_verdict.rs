//! The smallest XDP programs: the same verdict on every frame.
//!
//! On a veth pair a frame that a program sends back (XDP_TX) arrives only if the other end has a program as well
//! (`ebpf §11`), so the lab puts one that passes everything on the switch's side of every cable. Attached by netlink, not
//! by a link's descriptor, it lives and goes with its interface, in a kept lab too.

use crate::netns::Netns;
use anyhow::{Context, Result};
use std::io::Write;

/// What a program says of every frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// XDP_PASS: on to the stack.
    Pass,
    /// XDP_TX: back to where it came from.
    Bounce,
}

impl Verdict {
    /// `r0 = verdict; exit`, as instructions of eBPF.
    const fn program(self) -> [u8; 16] {
        let verdict = match self {
            Self::Pass => 2,
            Self::Bounce => 3,
        };
        [0xb7, 0, 0, 0, verdict, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0]
    }
}

const LICENSE: &[u8] = b"GPL\0";
/// Every name of the object; offsets into it are [`name`]'s.
const NAMES: &[u8] = b"\0xdp\0license\0verdict\0.symtab\0.strtab\0";
const ELF_HEADER: usize = 64;

/// Attaches the program to an interface of the namespace, in its driver's path.
///
/// # Errors
/// When `ip` cannot load an ELF object (it needs an iproute2 with libbpf) or the kernel has no XDP.
pub fn attach(namespace: &Netns, interface: &str, verdict: Verdict) -> Result<()> {
    let mut file = tempfile::Builder::new().prefix("xdp-verdict").suffix(".o").tempfile()?;
    file.write_all(&object(&verdict.program()))?;
    let path = file.path().display();
    namespace
        .ip(&format!("link set dev {interface} xdpdrv obj {path} sec xdp"))
        .with_context(|| format!("cannot attach an XDP program to {interface}"))
}

/// One section of the object, for its header.
struct Section<'a> {
    name: &'a [u8],
    kind: u32,
    flags: u64,
    content: &'a [u8],
    /// `sh_link` and `sh_info`.
    refers: [u32; 2],
    entry: u64,
}

/// The program as a relocatable ELF object with a section `xdp`, as a compiler would write it.
fn object(program: &[u8; 16]) -> Vec<u8> {
    const PROGBITS: u32 = 1;
    const SYMTAB: u32 = 2;
    const STRTAB: u32 = 3;
    let symbols = symbols();
    let section = |name, kind, flags, content| Section { name, kind, flags, content, refers: [0; 2], entry: 0 };
    let sections = [
        // SHF_ALLOC | SHF_EXECINSTR.
        section(b"xdp", PROGBITS, 6, program),
        section(b"license", PROGBITS, 3, LICENSE),
        // Names are in section 4; the first global symbol is number 1.
        Section { refers: [4, 1], entry: 24, ..section(b".symtab", SYMTAB, 0, &symbols) },
        section(b".strtab", STRTAB, 0, NAMES),
    ];
    let mut contents = Vec::new();
    let mut headers = vec![0; 64];
    for section in &sections {
        headers.extend(section.header(ELF_HEADER + contents.len()));
        contents.extend_from_slice(section.content);
        contents.resize(contents.len().next_multiple_of(8), 0);
    }
    [elf_header(ELF_HEADER + contents.len()), contents, headers].concat()
}

impl Section<'_> {
    fn header(&self, offset: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend(name(self.name).to_le_bytes());
        bytes.extend(self.kind.to_le_bytes());
        for word in [self.flags, 0, offset as u64, self.content.len() as u64] {
            bytes.extend(word.to_le_bytes());
        }
        bytes.extend(self.refers.iter().flat_map(|word| word.to_le_bytes()));
        for word in [8, self.entry] {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }
}

/// `e_type` relocatable, `e_machine` EM_BPF, five section headers of which number 4 holds the names.
fn elf_header(section_headers: usize) -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    bytes.resize(16, 0);
    bytes.extend([1_u16, 247].iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend([0, 0, section_headers as u64].iter().flat_map(|word| word.to_le_bytes()));
    bytes.extend(0_u32.to_le_bytes());
    bytes.extend([64_u16, 0, 0, 64, 5, 4].iter().flat_map(|word| word.to_le_bytes()));
    bytes
}

/// The empty symbol, and the program's: a global function of 16 bytes at the start of section 1.
fn symbols() -> Vec<u8> {
    let mut bytes = vec![0; 24];
    bytes.extend(name(b"verdict").to_le_bytes());
    bytes.extend([0x12, 0, 1, 0]);
    bytes.extend([0_u64, 16].iter().flat_map(|word| word.to_le_bytes()));
    bytes
}

/// Where a name stands in [`NAMES`]; 0, the empty name, when it is not there.
fn name(wanted: &[u8]) -> u32 {
    let at = NAMES.windows(wanted.len() + 2).position(|part| {
        part.first() == Some(&0) && part.last() == Some(&0) && part.get(1..=wanted.len()) == Some(wanted)
    });
    at.map_or(0, |at| u32::try_from(at + 1).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The section headers are where the header says, and name the program's section and its code: read back by hand.
    #[test]
    fn the_object_reads_back() {
        let object = object(&Verdict::Pass.program());
        let word = |at: usize| u64::from_le_bytes(object[at..at + 8].try_into().unwrap()) as usize;
        let headers = word(40);
        assert_eq!(object.len(), headers + 5 * 64);
        let xdp = headers + 64;
        let (offset, length) = (word(xdp + 24), word(xdp + 32));
        assert_eq!(object[offset..offset + length], Verdict::Pass.program());
        let names = word(headers + 4 * 64 + 24);
        let at = names + usize::try_from(u32::from_le_bytes(object[xdp..xdp + 4].try_into().unwrap())).unwrap();
        assert_eq!(&object[at..at + 4], b"xdp\0");
    }
}
