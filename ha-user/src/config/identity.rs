//! Which of the configured nodes is this machine?

use super::error::{At, Problems, Severity};
use super::schema::Node;
use super::spelling::did_you_mean;
use std::net::{IpAddr, UdpSocket};

/// What the machine tells about itself; read once, so that the choice can be tested.
pub struct Machine {
    pub host_name: String,
    pub has_address: fn(IpAddr) -> bool,
}

impl Machine {
    /// This machine, as its kernel knows it.
    pub fn this() -> Self {
        let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        // An address is the machine's own when a socket can be bound to it: no list of interfaces is needed.
        Self { host_name, has_address: |address| UdpSocket::bind((address, 0)).is_ok() }
    }
}

/// The index of this machine's node: by name when one is given, else by host name, else by address.
///
/// That the machine is none of the nodes is reported with `severity`.
pub fn identify(
    nodes: &[Node],
    at: &At,
    name: Option<&str>,
    machine: &Machine,
    severity: Severity,
    problems: &mut Problems<'_>,
) -> Option<usize> {
    let names = || nodes.iter().map(|node| node.name.value.as_str());
    let all = || names().collect::<Vec<_>>().join(", ");
    if let Some(name) = name {
        let found = names().position(|known| known == name);
        if found.is_none() {
            let remedy = did_you_mean(name, names()).unwrap_or_else(|| format!("choose --node from {}", all()));
            problems.error(at, format!("there is no node \"{name}\""), remedy);
        }
        return found;
    }
    let short_name = machine.host_name.split('.').next().unwrap_or_default();
    let by_host_name = names().position(|known| known == machine.host_name);
    if let Some(index) = by_host_name.or_else(|| names().position(|known| known == short_name)) {
        return Some(index);
    }
    let has_address = |node: &Node| node.sync_address.as_ref().is_some_and(|a| (machine.has_address)(a.value));
    let by_address: Vec<usize> = (0..nodes.len()).filter(|&i| nodes.get(i).is_some_and(has_address)).collect();
    match by_address.as_slice() {
        [index] => Some(*index),
        [] => {
            let message = format!(
                "this host, \"{}\", is none of them: no node has its name, and no sync_address is on an interface",
                machine.host_name
            );
            let remedy = format!("choose --node (or TWINWALL_NODE) from {}", all());
            problems.report(severity, at, message, remedy);
            None
        }
        [_, _, ..] => {
            let message = "the sync_address of more than one node is on this host's interfaces";
            let remedy = format!("choose --node (or TWINWALL_NODE) from {}", all());
            problems.report(severity, at, message, remedy);
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::error::Found;
    use super::*;

    fn at() -> At {
        At { span: 0..0, key: "nodes".to_owned() }
    }

    fn found<T>(value: T) -> Found<T> {
        Found { value, at: at() }
    }

    fn nodes() -> Vec<Node> {
        let node = |name: &str, address: &str| Node {
            name: found(name.to_owned()),
            sync_address: Some(found(address.parse().unwrap())),
            advskew: None,
        };
        vec![node("fw1", "10.77.9.1"), node("fw2", "10.77.9.2")]
    }

    fn choose(name: Option<&str>, host_name: &str, has_address: fn(IpAddr) -> bool) -> Result<usize, String> {
        let mut problems = Problems::new("");
        let machine = Machine { host_name: host_name.to_owned(), has_address };
        identify(&nodes(), &at(), name, &machine, Severity::Error, &mut problems)
            .ok_or_else(|| problems.into_report("x".as_ref()).to_string())
    }

    /// The name given wins over the host name, which wins over the address; a domain is cut off.
    #[test]
    fn order_of_evidence() {
        let second = |address: IpAddr| address == IpAddr::from([10, 77, 9, 2]);
        assert_eq!(choose(Some("fw1"), "fw2", second), Ok(0));
        assert_eq!(choose(None, "fw1.example.org", second), Ok(0));
        assert_eq!(choose(None, "gandalf", second), Ok(1));
    }

    /// Without evidence, or with too much, the choice is left to the administrator.
    #[test]
    fn no_guess() {
        assert!(choose(None, "gandalf", |_| false).unwrap_err().contains("choose --node"));
        assert!(choose(None, "gandalf", |_| true).unwrap_err().contains("more than one"));
        assert!(choose(Some("fw3"), "fw1", |_| false).unwrap_err().contains("did you mean `fw1`?"));
    }
}
