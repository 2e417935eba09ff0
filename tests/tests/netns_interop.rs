//! Beside Debian's ucarp 1.5.2 on the same wires, and against adverts that nobody honest sends.

use ha_common::election::auth::Authenticator;
use ha_common::reason::DropReason;
use ha_common::wire::advert::Frame;
use ha_common::wire::carp::Advert;
use ha_tests::daemon::Settings;
use ha_tests::lab::Lab;
use ha_tests::netns::wait_until;
use ha_tests::peers::{Ucarp, UcarpOptions};
use ha_tests::topology::{Naming, Node, Port};
use ha_user::packet_socket::FrameSender;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// ucarp's own takeover: 3 to 4 s with skew 0, 4.2 to 5.2 s with skew 100 (carp-wire §7), and slack.
const UCARP: Duration = Duration::from_secs(8);
const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);

/// Both ways in which adverts reach the election.
fn on_both_paths(test: impl Fn(&Settings)) {
    for xdp in ["auto", "off"] {
        let settings = Settings { xdp, ..Settings::default() };
        test(&settings);
    }
}

fn lab_with_fw1(settings: &Settings) -> Lab {
    let mut lab = Lab::new(settings, Naming::OfProcess).unwrap();
    lab.start(Node::Fw1).unwrap();
    let path = if settings.xdp == "off" { "socket" } else { "native" };
    assert_eq!(lab.status(Node::Fw1).unwrap().datapath("eth0"), path);
    lab
}

fn ucarps(lab: &Lab, advskew: u8, preempt: bool) -> [Ucarp; 2] {
    [Port::Lan, Port::Wan].map(|port| {
        let options = UcarpOptions { advskew, preempt, ..UcarpOptions::of(Node::Fw2, port) };
        Ucarp::start(&lab.pair[Node::Fw2], &options, lab.dir()).unwrap()
    })
}

fn expect_holder(lab: &Lab, node: Node, limit: Duration) {
    wait_until(&format!("{} alone holds the addresses", node.name()), limit, || lab.holder() == Some(node))
        .map_err(|error| error.context(lab.files(Node::Fw1).log_tail()))
        .unwrap();
}

fn expect_steady(lab: &Lab, node: Node, duration: Duration) {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        assert_eq!(lab.holder(), Some(node));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// twinwall is master and ucarp its backup: ucarp accepts its adverts and stays quiet, takes both addresses when
/// twinwall's host dies, and keeps them when twinwall returns without preemption. Then the clean stop: with
/// preemption twinwall wins the addresses back, and its goodbye lets ucarp take over faster than its dead time.
#[test]
fn netns_twinwall_master_ucarp_backup() {
    on_both_paths(|settings| {
        let mut lab = lab_with_fw1(settings);
        expect_holder(&lab, Node::Fw1, UCARP);
        let _ucarps = ucarps(&lab, 100, false);
        expect_steady(&lab, Node::Fw1, Duration::from_secs(5));
        lab.pair.silence(Node::Fw1).unwrap();
        lab.kill(Node::Fw1);
        wait_until("ucarp takes over", UCARP, || lab.holds(Node::Fw2)).unwrap();
        lab.pair.reboot(Node::Fw1).unwrap();
        lab.start(Node::Fw1).unwrap();
        expect_steady(&lab, Node::Fw2, Duration::from_secs(4));
        assert_eq!(lab.status(Node::Fw1).unwrap().role(), "backup");
        lab.stop(Node::Fw1).unwrap();
        Settings { preempt: true, ..settings.clone() }.write(lab.dir()).unwrap();
        lab.start(Node::Fw1).unwrap();
        expect_holder(&lab, Node::Fw1, UCARP);
        lab.stop(Node::Fw1).unwrap();
        // pcap hands ucarp the goodbye up to a second late; its dead time would be 4.2 s.
        expect_holder(&lab, Node::Fw2, Duration::from_millis(2000));
    });
}

/// ucarp is master and twinwall its backup: twinwall accepts its adverts and stays quiet, takes both addresses when
/// ucarp is killed, and gives them up to a ucarp that preempts with a shorter interval.
#[test]
fn netns_ucarp_master_twinwall_backup() {
    on_both_paths(|settings| {
        let settings = Settings { advskew: [100, 0], ..settings.clone() };
        let mut lab = Lab::new(&settings, Naming::OfProcess).unwrap();
        let mut first = ucarps(&lab, 0, false);
        expect_holder(&lab, Node::Fw2, UCARP);
        lab.start(Node::Fw1).unwrap();
        expect_steady(&lab, Node::Fw2, Duration::from_secs(5));
        assert_eq!(lab.status(Node::Fw1).unwrap().role(), "backup");
        lab.pair.silence(Node::Fw2).unwrap();
        for ucarp in &mut first {
            ucarp.process().kill();
        }
        wait_until("twinwall takes over", UCARP, || lab.holds(Node::Fw1)).unwrap();
        // ucarp's host comes back as after a reboot.
        lab.pair.reboot(Node::Fw2).unwrap();
        let _second = ucarps(&lab, 0, true);
        expect_holder(&lab, Node::Fw2, UCARP);
        wait_until("twinwall is backup", UCARP, || lab.status(Node::Fw1).unwrap().role() == "backup").unwrap();
        expect_steady(&lab, Node::Fw2, Duration::from_secs(3));
    });
}

/// Equal parameters, both masters while the network is split: when it heals, the node whose address ucarp's
/// comparison finds lower stays master (fw1: .208 and .137), and both programs agree on that.
#[test]
fn netns_equal_skew_tie_is_broken_as_ucarp_does() {
    on_both_paths(|settings| {
        let settings = Settings { advskew: [0, 0], ..settings.clone() };
        let lab = lab_with_fw1(&settings);
        expect_holder(&lab, Node::Fw1, UCARP);
        lab.pair.silence(Node::Fw1).unwrap();
        let ucarps = ucarps(&lab, 0, false);
        wait_until("both are masters", UCARP, || lab.holds(Node::Fw1) && lab.holds(Node::Fw2)).unwrap();
        for node in Node::BOTH {
            lab.pair.unsilence(node).unwrap();
        }
        expect_holder(&lab, Node::Fw1, Duration::from_secs(5));
        expect_steady(&lab, Node::Fw1, Duration::from_secs(3));
        assert_eq!(lab.status(Node::Fw1).unwrap().role(), "master");
        for ucarp in &ucarps {
            assert!(ucarp.log().contains("BACKUP"), "{}", ucarp.log());
        }
    });
}

/// The same tie, but the node that must yield is twinwall (fw2's addresses are the higher ones): it goes to backup.
#[test]
fn netns_the_higher_address_yields_to_ucarp() {
    on_both_paths(|settings| {
        let settings = Settings { advskew: [0, 0], ..settings.clone() };
        let mut lab = Lab::new(&settings, Naming::OfProcess).unwrap();
        lab.start(Node::Fw2).unwrap();
        lab.pair.silence(Node::Fw1).unwrap();
        lab.pair.silence(Node::Fw2).unwrap();
        let _ucarps = [Port::Lan, Port::Wan]
            .map(|port| Ucarp::start(&lab.pair[Node::Fw1], &UcarpOptions::of(Node::Fw1, port), lab.dir()).unwrap());
        wait_until("both are masters", UCARP, || lab.holds(Node::Fw1) && lab.holds(Node::Fw2)).unwrap();
        for node in Node::BOTH {
            lab.pair.unsilence(node).unwrap();
        }
        expect_holder(&lab, Node::Fw1, Duration::from_secs(5));
        assert_eq!(lab.status(Node::Fw2).unwrap().role(), "backup");
    });
}

/// A host on the LAN (vhid 3) or the WAN (vhid 4) that speaks as if it were fw2.
struct Forger<'a> {
    lab: &'a Lab,
    sender: FrameSender,
    ifindex: u32,
    port: Port,
}

impl<'a> Forger<'a> {
    fn new(lab: &'a Lab, port: Port) -> Self {
        let host = match port {
            Port::Lan | Port::Sync => &lab.pair.client,
            Port::Wan => &lab.pair.server,
        };
        let shown = host.run("ip", &["-o", "link", "show", "eth0"]).unwrap();
        let ifindex = shown.split(':').next().unwrap().parse().unwrap();
        Self { lab, sender: host.enter(FrameSender::open).unwrap().unwrap(), ifindex, port }
    }

    /// A valid advert that beats every node of the tests.
    fn advert(&self, password: &str, counter: u64) -> Advert {
        let UcarpOptions { vhid, vip, .. } = UcarpOptions::of(Node::Fw2, self.port);
        let digest = Authenticator::new(vhid, &[IpAddr::V4(vip)], password.as_bytes()).digest(counter);
        Advert { vhid, advskew: 0, advbase: 1, demotion: 0, counter, digest }
    }

    fn frame(&self, advert: &Advert) -> Vec<u8> {
        let source_mac = [0, 0, 0x5e, 0, 0, advert.vhid];
        let source = UcarpOptions::of(Node::Fw2, self.port).address;
        Frame::multicast_v4(source_mac, source, GROUP, 1, advert).as_bytes().to_vec()
    }

    fn send(&self, frame: &[u8]) {
        self.sender.send(self.ifindex, frame).unwrap();
    }

    /// Sends frames made by `damage` from a better advert; exactly this reason's counter rises by their number, and
    /// the role stays.
    fn expect_refused(&self, reason: DropReason, damage: impl Fn(&mut Vec<u8>)) {
        let mut frame = self.frame(&self.advert("toto", 7));
        damage(&mut frame);
        self.expect_frame_refused(reason, &frame);
    }

    fn expect_frame_refused(&self, reason: DropReason, frame: &[u8]) {
        let before = self.lab.status(Node::Fw1).unwrap();
        for _ in 0..3 {
            self.send(frame);
        }
        let counted = before.refused(reason.name()) + 3;
        wait_until(reason.name(), Duration::from_secs(2), || {
            self.lab.status(Node::Fw1).unwrap().refused(reason.name()) >= counted
        })
        .map_err(|error| {
            error.context(format!("before: {}\nafter: {}", before.0, self.lab.status(Node::Fw1).unwrap().0))
        })
        .unwrap();
        let after = self.lab.status(Node::Fw1).unwrap();
        assert_eq!(after.refused(reason.name()), counted, "{}", reason.name());
        assert_eq!((after.role(), after.transitions()), (before.role(), before.transitions()), "{}", reason.name());
        assert_eq!(after.number("/election/adverts_accepted"), before.number("/election/adverts_accepted"));
    }
}

/// Bytes of an Ethernet and of an IPv4 header: where the advert begins is their sum.
const ETHERNET: usize = 14;
const CARP: usize = ETHERNET + 20;

/// Makes the IPv4 header right again after a change.
fn fix_ip_checksum(frame: &mut [u8]) {
    frame[ETHERNET + 10..ETHERNET + 12].fill(0);
    let sum = internet_checksum(&frame[ETHERNET..CARP]);
    frame[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
}

/// Makes CARP's own checksum right again after a change.
fn fix_carp_checksum(frame: &mut [u8]) {
    frame[CARP + 6..CARP + 8].fill(0);
    let sum = internet_checksum(&frame[CARP..]);
    frame[CARP + 6..CARP + 8].copy_from_slice(&sum.to_be_bytes());
}

/// RFC 1071; the tests must not share the code that they test.
fn internet_checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |byte| u32::from(*byte))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Each forged advert would win the election if it were believed. On both paths each changes one counter by name
/// and nothing else: no role, no transition, no accepted advert.
#[test]
fn netns_forged_adverts_change_only_a_counter() {
    on_both_paths(|settings| {
        let settings = Settings { advskew: [50, 0], ..settings.clone() };
        let lab = lab_with_fw1(&settings);
        lab.wait_role(Node::Fw1, "master", UCARP).unwrap();
        let forger = Forger::new(&lab, Port::Lan);
        let wrong = forger.frame(&forger.advert("tata", 7));
        forger.expect_frame_refused(DropReason::BadDigest, &wrong);
        forger.expect_refused(DropReason::BadDigest, |frame| {
            frame[CARP + 35] ^= 1;
            fix_carp_checksum(frame);
        });
        forger.expect_refused(DropReason::CarpChecksum, |frame| frame[CARP + 2] = 1);
        forger.expect_refused(DropReason::TtlNot255, |frame| {
            frame[ETHERNET + 8] = 254;
            fix_ip_checksum(frame);
        });
        forger.expect_refused(DropReason::IpChecksum, |frame| frame[ETHERNET + 1] ^= 4);
        forger.expect_refused(DropReason::CarpLength, |frame| {
            frame.truncate(CARP + 34);
            frame[ETHERNET + 3] -= 2;
            fix_ip_checksum(frame);
        });
        forger.expect_refused(DropReason::Truncated, |frame| {
            frame[ETHERNET + 3] = 200;
            fix_ip_checksum(frame);
        });
        forger.expect_refused(DropReason::IpLength, |frame| {
            frame[ETHERNET + 3] = 10;
            fix_ip_checksum(frame);
        });
        forger.expect_refused(DropReason::CarpVersion, |frame| {
            frame[CARP] = 0x41;
            fix_carp_checksum(frame);
        });
        forger.expect_refused(DropReason::CarpType, |frame| {
            frame[CARP] = 0x22;
            fix_carp_checksum(frame);
        });
        forger.expect_refused(DropReason::VhidUnknown, |frame| {
            frame[CARP + 1] = 99;
            fix_carp_checksum(frame);
        });
        expect_steady(&lab, Node::Fw1, Duration::from_millis(500));
    });
}

/// Adverts that were heard are sent again by another host: the repeats are counted and do not keep the backup
/// waiting, so it takes over when the genuine master has been silent for its dead time.
#[test]
fn netns_repeated_adverts_do_not_keep_a_dead_master_alive() {
    on_both_paths(|settings| {
        let lab = lab_with_fw1(settings);
        let forgers = [Port::Lan, Port::Wan].map(|port| Forger::new(&lab, port));
        let speak = |counter: u64| {
            for forger in &forgers {
                forger.send(&forger.frame(&forger.advert("toto", counter)));
            }
        };
        // A genuine master speaks once a second for a while: the backup must stay backup.
        for counter in 100..105 {
            speak(counter);
            std::thread::sleep(Duration::from_millis(900));
        }
        let before = lab.status(Node::Fw1).unwrap();
        assert_eq!(before.role(), "backup");
        assert_eq!(before.number("/election/adverts_accepted"), 10, "{}", before.0);
        let begin = Instant::now();
        while lab.status(Node::Fw1).unwrap().role() == "backup" {
            assert!(begin.elapsed() < Duration::from_secs(4), "repeats kept the backup waiting");
            speak(104);
            std::thread::sleep(Duration::from_millis(100));
        }
        let after = lab.status(Node::Fw1).unwrap();
        assert_eq!(after.role(), "master");
        assert!(after.refused("repeated_advert") >= 20, "{}", after.0);
        assert_eq!(after.number("/election/adverts_accepted"), 10, "{}", after.0);
    });
}

/// An advert that beats the master, in the name of a peer whose heartbeats say that it is backup: by CARP's rule the master
/// retires, and with `foreign_masters = "refuse"` it counts the advert and stays. Without XDP there are no heartbeats, and
/// nothing but CARP's rule.
#[test]
fn netns_a_foreign_master_is_followed_or_refused() {
    let refuse = "foreign_masters = \"refuse\"";
    for (xdp, election, stays) in [("auto", "", false), ("auto", refuse, true), ("off", refuse, false)] {
        let settings = Settings { xdp, advskew: [50, 100], election, ..Settings::default() };
        let mut lab = lab_with_fw1(&settings);
        lab.start(Node::Fw2).unwrap();
        expect_holder(&lab, Node::Fw1, UCARP);
        lab.wait_role(Node::Fw2, "backup", UCARP).unwrap();
        let before = lab.status(Node::Fw1).unwrap();
        let forger = Forger::new(&lab, Port::Lan);
        forger.send(&forger.frame(&forger.advert("toto", u64::MAX / 2)));
        let refused = || lab.status(Node::Fw1).unwrap().refused("foreign_master");
        if stays {
            wait_until("the advert is counted", UCARP, || refused() == 1).unwrap();
            expect_steady(&lab, Node::Fw1, Duration::from_millis(500));
        } else {
            let retired = || lab.status(Node::Fw1).unwrap().transitions() > before.transitions();
            wait_until("the master retires", UCARP, retired).unwrap();
            assert_eq!(refused(), 0);
        }
        let unmoved = lab.status(Node::Fw1).unwrap().transitions() == before.transitions();
        assert_eq!(unmoved, stays, "{xdp} {election}");
    }
}
