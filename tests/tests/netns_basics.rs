//! The lab's own foundation: namespaces, cables and processes come and go as promised.

use ha_tests::netns::{self, Netns, cable};
use std::net::UdpSocket;
use std::process::Command;

/// Two namespaces joined by a cable exchange a datagram, and neither sees the other's interface. Proves that
/// `enter` and `cable` put sockets and links where they say.
#[test]
fn netns_cable_carries_datagrams() {
    let a = Netns::new("a").unwrap();
    let b = Netns::new("b").unwrap();
    cable((&a, "east"), (&b, "west")).unwrap();
    a.ip("addr add 10.99.0.1/24 dev east").unwrap();
    b.ip("addr add 10.99.0.2/24 dev west").unwrap();
    let receiver = b.enter(|| UdpSocket::bind("10.99.0.2:5000")).unwrap().unwrap();
    let sender = a.enter(|| UdpSocket::bind("10.99.0.1:0")).unwrap().unwrap();
    receiver.set_read_timeout(Some(std::time::Duration::from_secs(2))).unwrap();
    sender.send_to(b"hello", "10.99.0.2:5000").unwrap();
    let mut buffer = [0; 16];
    let (length, from) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!((&buffer[..length], from.ip().to_string()), (b"hello".as_slice(), "10.99.0.1".to_owned()));
    assert!(!a.run("ip", &["-br", "link"]).unwrap().contains("west"));
}

/// A namespace that is dropped takes its processes with it: a process started in it is gone, and so is the name.
#[test]
fn netns_drop_ends_what_runs_inside() {
    let space = Netns::new("gone").unwrap();
    let name = space.name().to_owned();
    let mut command = Command::new("sleep");
    command.arg("600");
    let mut process = space.spawn(command).unwrap();
    process.keep();
    assert_eq!(space.pids(), vec![process.pid()]);
    drop(space);
    assert!(process.wait(std::time::Duration::from_secs(2)).is_ok());
    assert!(!netns::names().contains(&name));
}

/// The sweeper removes what a dead process left and nothing else: a name with a pid that cannot exist goes,
/// a namespace of this process stays.
#[test]
fn netns_sweeper_takes_only_the_dead() {
    let own = Netns::new("own").unwrap();
    // The kernel's highest pid is 4194304: this one never lives.
    netns::remove("tw-4999999-0-stale");
    let mut stale = Netns::named("tw-4999999-0-stale").unwrap();
    stale.keep();
    netns::sweep_stale();
    let names = netns::names();
    assert!(names.contains(&own.name().to_owned()));
    assert!(!names.contains(&"tw-4999999-0-stale".to_owned()));
}
