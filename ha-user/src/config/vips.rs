//! The `[[vip]]` tables: which address on which interface, with which password, spoken how.

use super::error::{Found, FoundList, Problems};
use super::resolve::{check_host_address, check_password, refuse_repeated};
use super::{Vip, schema, secret};
use ha_common::election::{InterfaceId, Transport};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use zeroize::Zeroizing;

/// One byte counts members and interfaces.
const VIPS_MAX: usize = 255;
const ADDRESSES_MAX: usize = 512;
const PEERS_MAX: usize = 32;
/// `IFNAMSIZ` without the final zero.
const LABEL_BYTES_MAX: usize = 15;
/// A password of 19 bytes and a line end; what is longer is read far enough to be measured.
const PASSWORD_FILE_BYTES_MAX: u64 = 1024;
const MULTICAST_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);
const MULTICAST_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);

/// What must be unique over all VIPs, with the place where it was met first.
#[derive(Default)]
struct Seen {
    vhids: BTreeMap<(String, u8), String>,
    addresses: BTreeMap<IpAddr, String>,
    gateways: BTreeMap<bool, String>,
}

/// The interfaces that carry virtual addresses, in order of appearance, and the VIPs that are right.
pub fn resolve(file: &schema::File, problems: &mut Problems<'_>) -> (Vec<String>, Vec<Vip>) {
    if file.vips.len() > VIPS_MAX {
        let remedy = format!("keep at most {VIPS_MAX}: one vhid can have many addresses");
        problems.error(&file.vips_at, format!("{} are too many", file.vips.len()), remedy);
        return (Vec::new(), Vec::new());
    }
    let mut interfaces: Vec<String> = Vec::new();
    let mut seen = Seen::default();
    for node in file.nodes.iter().flatten() {
        if let Some(address) = &node.sync_address {
            seen.addresses.entry(address.value).or_insert_with(|| address.at.key.clone());
        }
    }
    let vips = file.vips.iter().filter_map(|vip| resolve_vip(vip, &mut interfaces, &mut seen, problems)).collect();
    (interfaces, vips)
}

fn resolve_vip(
    vip: &schema::Vip,
    interfaces: &mut Vec<String>,
    seen: &mut Seen,
    problems: &mut Problems<'_>,
) -> Option<Vip> {
    if let (Some(vhid), Some(interface)) = (&vip.vhid, &vip.interface) {
        let shown = format!("vhid {} on {}", vhid.value, interface.value);
        let key = (interface.value.clone(), vhid.value);
        refuse_repeated(&mut seen.vhids, key, &vhid.at, shown, "give each vip of an interface its own vhid", problems);
    }
    let addresses = resolve_addresses(vip, seen, problems);
    let gateway = vip.gateway.as_ref().map(|gateway| {
        check_gateway(gateway, vip, seen, problems);
        gateway.value
    });
    let password = resolve_password(vip, problems);
    let transport = resolve_transport(vip, problems);
    let interface = vip.interface.as_ref().map(|interface| &interface.value);
    let label = interface.and_then(|interface| resolve_label(vip.label.as_ref(), interface, problems));
    let interface = interface?;
    let position = interfaces.iter().position(|known| known == interface).unwrap_or_else(|| {
        interfaces.push(interface.clone());
        interfaces.len() - 1
    });
    Some(Vip {
        vhid: vip.vhid.as_ref()?.value,
        interface: InterfaceId(u8::try_from(position).ok()?),
        addresses: addresses?,
        label,
        gateway,
        password: password?.into(),
        transport,
    })
}

fn resolve_addresses(vip: &schema::Vip, seen: &mut Seen, problems: &mut Problems<'_>) -> Option<Vec<(IpAddr, u8)>> {
    let list = vip.addresses.as_ref()?;
    let count = list.value.len();
    if count > ADDRESSES_MAX {
        problems.error(
            &list.at,
            format!("has {count} addresses"),
            format!("keep at most {ADDRESSES_MAX} for one vhid"),
        );
        return None;
    }
    for address in &list.value {
        check_host_address(&Found { value: address.value.0, at: address.at.clone() }, problems);
        check_not_subnet_edge(address, problems);
        let (shown, key) = (address.value.0, address.value.0);
        refuse_repeated(&mut seen.addresses, key, &address.at, shown, "keep it in one place", problems);
    }
    Some(list.value.iter().map(|address| address.value).collect())
}

/// An IPv4 subnet's first and last address belong to the subnet, except in /31 and /32.
fn check_not_subnet_edge(address: &Found<(IpAddr, u8)>, problems: &mut Problems<'_>) {
    let (IpAddr::V4(v4), prefix @ 1..=30) = address.value else { return };
    let host_mask = u32::MAX >> prefix;
    let host = v4.to_bits() & host_mask;
    if host == 0 || host == host_mask {
        let what = if host == 0 { "network" } else { "broadcast" };
        problems.error(
            &address.at,
            format!("{v4} is the {what} address of its /{prefix}"),
            "check address and prefix length: use the interface's own prefix length",
        );
    }
}

fn check_gateway(gateway: &Found<IpAddr>, vip: &schema::Vip, seen: &mut Seen, problems: &mut Problems<'_>) {
    check_host_address(gateway, problems);
    let family = if gateway.value.is_ipv4() { "IPv4" } else { "IPv6" };
    let shown = format!("a default gateway of {family}");
    let remedy = "keep one per family: the master has one default route";
    refuse_repeated(&mut seen.gateways, gateway.value.is_ipv4(), &gateway.at, shown, remedy, problems);
    if let Some(place) = seen.addresses.get(&gateway.value) {
        let message = format!("{} is this pair's own address ({place})", gateway.value);
        problems.error(&gateway.at, message, "write the router's address");
    }
    let link_local = matches!(gateway.value, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let Some(addresses) = &vip.addresses else { return };
    if !link_local && !addresses.value.iter().any(|address| in_subnet(gateway.value, address.value)) {
        problems.warning(
            &gateway.at,
            format!("{} is in no subnet of this vip's addresses", gateway.value),
            "check the prefix length; unless the interface's own address reaches it, the route cannot be set",
        );
    }
}

fn in_subnet(address: IpAddr, (subnet, prefix): (IpAddr, u8)) -> bool {
    match (address, subnet) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= prefix.into(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros() >= prefix.into(),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

fn resolve_password(vip: &schema::Vip, problems: &mut Problems<'_>) -> Option<Zeroizing<Vec<u8>>> {
    match (&vip.password, &vip.password_file) {
        (Some(password), None) => {
            check_password(Zeroizing::new(password.value.as_bytes().to_vec()), &password.at, problems)
        }
        (None, Some(file)) => match secret::read_private(&file.value, PASSWORD_FILE_BYTES_MAX) {
            Ok(mut password) => {
                // An editor ends the line; that is not part of the password.
                while password.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                    password.pop();
                }
                check_password(password, &file.at, problems)
            }
            Err(secret::SecretError::Unreadable { file: path, source }) => {
                let message = format!("cannot read {}: {source}", path.display());
                problems.error(&file.at, message, "put the password into it, mode 0600");
                None
            }
            Err(secret::SecretError::Malformed { .. }) => {
                problems.error(&file.at, "the file is too long for a password", "shorten it to 19 bytes");
                None
            }
            Err(error) => {
                problems.error(&file.at, error.to_string(), "");
                None
            }
        },
        (Some(_), Some(file)) => {
            problems.error(&file.at, "password stands there as well", "keep one of the two");
            None
        }
        // Absence was reported where the keys were read.
        (None, None) => None,
    }
}

fn resolve_transport(vip: &schema::Vip, problems: &mut Problems<'_>) -> Transport {
    let v4 = multicast_group(vip.multicast_v4.as_ref(), vip, problems);
    let v6 = multicast_group(vip.multicast_v6.as_ref(), vip, problems);
    let v4 = match v4.map(|found| (found.value, &found.at)) {
        Some((IpAddr::V4(v4), _)) => v4,
        Some((IpAddr::V6(v6), at)) => {
            problems.error(at, format!("{v6} is an IPv6 group"), "write an IPv4 group like \"224.0.0.18\"");
            MULTICAST_V4
        }
        None => MULTICAST_V4,
    };
    let v6 = match v6.map(|found| (found.value, &found.at)) {
        Some((IpAddr::V6(v6), _)) => v6,
        Some((IpAddr::V4(v4), at)) => {
            problems.error(at, format!("{v4} is an IPv4 group"), "write an IPv6 group like \"ff02::12\"");
            MULTICAST_V6
        }
        None => MULTICAST_V6,
    };
    let Some(peers) = &vip.peers else { return Transport::Multicast { v4, v6 } };
    check_peers(peers, vip, problems);
    Transport::Unicast(peers.value.iter().map(|peer| peer.value).collect())
}

fn multicast_group<'a>(
    found: Option<&'a Found<IpAddr>>,
    vip: &schema::Vip,
    problems: &mut Problems<'_>,
) -> Option<&'a Found<IpAddr>> {
    let found = found?;
    if !found.value.is_multicast() {
        problems.error(
            &found.at,
            format!("{} is no multicast group", found.value),
            "write a group like \"224.0.0.18\" or \"ff02::12\"; for unicast use peers = [ … ]",
        );
    }
    if vip.peers.is_some() {
        problems.error(&found.at, "adverts go to peers, not to a group", "remove this key or peers");
    }
    Some(found)
}

fn check_peers(peers: &FoundList<IpAddr>, vip: &schema::Vip, problems: &mut Problems<'_>) {
    let count = peers.value.len();
    if count > PEERS_MAX {
        problems.error(&peers.at, format!("has {count} addresses"), format!("write 1 to {PEERS_MAX}"));
    }
    let mut seen = BTreeMap::new();
    for peer in &peers.value {
        check_host_address(peer, problems);
        refuse_repeated(&mut seen, peer.value, &peer.at, peer.value, "name each peer once", problems);
        let virtual_address = vip.addresses.iter().flat_map(|list| &list.value).any(|a| a.value.0 == peer.value);
        if virtual_address {
            let message = format!("{} is the virtual address itself", peer.value);
            problems.error(&peer.at, message, "write the other nodes' own addresses");
        }
    }
}

/// `IFACE:twinwall` cut to fit, unless the file says otherwise; "" for none.
fn resolve_label(label: Option<&Found<String>>, interface: &str, problems: &mut Problems<'_>) -> Option<String> {
    let Some(label) = label else {
        let full = format!("{interface}:twinwall");
        let cut = full.get(..LABEL_BYTES_MAX.min(full.len())).unwrap_or(interface);
        return Some(cut.trim_end_matches(':').to_owned());
    };
    let text = &label.value;
    if text.is_empty() {
        return None;
    }
    // As `ip-address(8)` demands, and old tools rely on.
    let suffix = text.strip_prefix(interface);
    let well_formed = suffix.is_some_and(|suffix| suffix.is_empty() || suffix.starts_with(':'));
    if !well_formed || text.len() > LABEL_BYTES_MAX || !text.bytes().all(|b| b.is_ascii_graphic()) {
        let message = format!("\"{text}\" is no label for an address on {interface}");
        let remedy = format!("write \"{interface}:NAME\", at most {LABEL_BYTES_MAX} bytes, or \"\" for none");
        problems.error(&label.at, message, remedy);
    }
    Some(text.clone())
}
