// SPDX-License-Identifier: Apache-2.0
//! What a guest tries and does not get, and what it gets all the same, with the kernel's own network stack as
//! the guest: whatever a root there can make with a few commands.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::thread;

use rustix::net::{AddressFamily, SendFlags, SocketAddrAny, SocketType, sendto, socket};

use super::lab::{Bench, PATIENCE, bench, connect, pair, talk, talk_to};
use super::*;
use crate::wire::Namespace;
use crate::wire::lab::Lab;

/// Who is outside, and the guest.
const OUTSIDE: [&str; 2] = ["10.7.0.1", "fd07::1"];
const GUEST: [&str; 2] = ["10.7.0.2", "fd07::2"];

fn never(these: &[&str]) -> Vec<IpNet> {
    Policy::never(these.iter().map(|ip| ip.parse().unwrap()))
}

/// A bench whose guest is under a policy.
fn under(policy: &str) -> Option<Bench> {
    let bench = bench()?;
    let policy = Policy::parse(policy).unwrap();
    let never = never(&[]);
    let rules = Rules {
        policy: &policy,
        never: &never,
    };
    bench
        .middle
        .run(|| install(&[pair()], Some(rules)).unwrap())
        .unwrap();
    Some(bench)
}

fn change(bench: &Bench, policy: &str, these: &[&str]) {
    let policy = Policy::parse(policy).unwrap();
    let never = never(these);
    let rules = Rules {
        policy: &policy,
        never: &never,
    };
    bench
        .middle
        .run(|| enforce(&[pair()], rules).unwrap())
        .unwrap();
}

/// Whether a datagram of this length gets there, and one back.
fn exchange(from: &Namespace, to: &Namespace, address: (&str, u16), length: usize) -> (bool, bool) {
    let ip: IpAddr = address.0.parse().unwrap();
    let unspecified: IpAddr = if ip.is_ipv4() {
        [0; 4].into()
    } else {
        [0; 16].into()
    };
    let far = to
        .run(|| UdpSocket::bind((ip, address.1)).unwrap())
        .unwrap();
    let near = from
        .run(|| UdpSocket::bind((unspecified, 0)).unwrap())
        .unwrap();
    for end in [&far, &near] {
        end.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    // It is the kernel's right to refuse: then nothing was sent.
    near.send_to(&vec![7; length], far.local_addr().unwrap())
        .ok();
    let mut buffer = vec![0; length + 1];
    let Ok((_, sender)) = far.recv_from(&mut buffer) else {
        return (false, false);
    };
    far.send_to(b"x", sender).unwrap();
    (true, near.recv_from(&mut buffer).is_ok())
}

#[test]
fn what_is_allowed_is_reached_and_nothing_else() {
    let policy = r#"{"default":"deny","allow":["10.7.0.1 tcp:4000-4009","10.7.0.1 udp:53"]}"#;
    let Some(bench) = under(policy) else { return };
    let to = |address, port| talk_to(&bench.guest, &bench.outside, address, port);
    assert!(to("10.7.0.1", 4000) && to("10.7.0.1", 4009));
    assert!(!to("10.7.0.1", 4010));
    assert!(!to("fd07::1", 4000), "IPv6 where only IPv4 is allowed");
    let datagram = |port| exchange(&bench.guest, &bench.outside, ("10.7.0.1", port), 20);
    assert_eq!(datagram(53), (true, true));
    assert_eq!(datagram(4000), (false, false), "UDP to a port of TCP");
}

#[test]
fn whoever_asks_the_guest_gets_an_answer() {
    let Some(bench) = under(r#"{"default":"deny"}"#) else {
        return;
    };
    for (outside, guest) in OUTSIDE.into_iter().zip(GUEST) {
        assert!(talk(&bench.outside, &bench.guest, guest));
        assert_eq!(
            exchange(&bench.outside, &bench.guest, (guest, 5000), 20),
            (true, true)
        );
        assert!(!talk(&bench.guest, &bench.outside, outside));
        assert!(!exchange(&bench.guest, &bench.outside, (outside, 5001), 20).0);
    }
}

#[test]
fn denying_leaves_the_rest_and_allowing_wins() {
    let policy = r#"{"deny":["10.7.0.0/24","fd07::/64"],"allow":["10.7.0.1 tcp:4000"]}"#;
    let Some(bench) = under(policy) else { return };
    assert!(talk_to(&bench.guest, &bench.outside, "10.7.0.1", 4000));
    assert!(!talk_to(&bench.guest, &bench.outside, "10.7.0.1", 4001));
    assert!(!talk(&bench.guest, &bench.outside, "fd07::1"));
    change(&bench, r#"{"deny":["10.8.0.0/16"]}"#, &[]);
    assert!(talk(&bench.guest, &bench.outside, "10.7.0.1"));
    assert!(talk(&bench.guest, &bench.outside, "fd07::1"));
}

#[test]
fn what_is_never_allowed_is_not_allowed_by_an_entry() {
    let policy = r#"{"allow":["0.0.0.0/0","::/0"]}"#;
    let Some(bench) = under(policy) else { return };
    assert!(talk(&bench.guest, &bench.outside, "10.7.0.1"));
    change(&bench, policy, &OUTSIDE);
    for (outside, guest) in OUTSIDE.into_iter().zip(GUEST) {
        assert!(!talk(&bench.guest, &bench.outside, outside));
        assert!(
            talk(&bench.outside, &bench.guest, guest),
            "the host may ask"
        );
    }
}

#[test]
fn a_change_cuts_what_it_denies_and_nothing_else() {
    let Some(bench) = under("{}") else { return };
    let mut outward = connect(&bench.guest, &bench.outside, "10.7.0.1", 0).unwrap();
    let mut inward = connect(&bench.outside, &bench.guest, "10.7.0.2", 0).unwrap();
    assert!(outward.echo() && inward.echo());
    change(&bench, r#"{"default":"deny"}"#, &[]);
    assert!(inward.echo());
    assert!(!outward.echo());
}

#[test]
fn names_are_reached_for_their_lifetime() {
    let Some(bench) = under(r#"{"default":"deny","allow":["example.org"]}"#) else {
        return;
    };
    let to = |address| talk(&bench.guest, &bench.outside, address);
    assert!(!to("10.7.0.1"));
    let addresses = OUTSIDE.map(|ip| ip.parse::<IpAddr>().unwrap());
    let lifetime = Duration::from_millis(2000);
    let admitted = || admit(&addresses, lifetime).unwrap();
    bench.middle.run(admitted).unwrap();
    // Again: the time starts anew.
    thread::sleep(Duration::from_millis(1200));
    bench.middle.run(admitted).unwrap();
    thread::sleep(Duration::from_millis(1200));
    assert!(to("10.7.0.1") && to("fd07::1"));
    thread::sleep(Duration::from_millis(2500));
    assert!(!to("10.7.0.1") && !to("fd07::1"));
    bench.middle.run(admitted).unwrap();
    change(&bench, r#"{"default":"deny","allow":["example.com"]}"#, &[]);
    assert!(!to("10.7.0.1"), "a name that is not allowed any more");
}

#[test]
fn connections_to_a_name_outlive_its_lifetime_but_not_the_policy() {
    let named = r#"{"default":"deny","allow":["example.org"]}"#;
    let Some(bench) = under(named) else { return };
    let addresses = OUTSIDE.map(|ip| ip.parse::<IpAddr>().unwrap());
    let admitted = || admit(&addresses, Duration::from_millis(1000)).unwrap();
    bench.middle.run(admitted).unwrap();
    let open = |address| connect(&bench.guest, &bench.outside, address, 0).unwrap();
    let mut held = OUTSIDE.map(open);
    assert!(held.iter_mut().all(|connection| connection.echo()));
    thread::sleep(Duration::from_millis(2500));
    assert!(held.iter_mut().all(|connection| connection.echo()));
    assert!(!talk(&bench.guest, &bench.outside, OUTSIDE[0]), "a new one");
    change(&bench, named, &[]);
    assert!(!held.iter_mut().any(|connection| connection.echo()));
}

#[test]
fn a_name_does_not_open_what_is_never_allowed() {
    let named = r#"{"default":"deny","allow":["example.org"]}"#;
    let Some(bench) = under(named) else { return };
    change(&bench, named, &OUTSIDE);
    let addresses = OUTSIDE.map(|ip| ip.parse::<IpAddr>().unwrap());
    let admitted = || admit(&addresses, Duration::from_secs(60)).unwrap();
    bench.middle.run(admitted).unwrap();
    for outside in OUTSIDE {
        assert!(!talk(&bench.guest, &bench.outside, outside));
    }
}

#[test]
fn addresses_of_names_are_so_many_and_no_more() {
    let Some(bench) = under(r#"{"default":"deny","allow":["example.org"]}"#) else {
        return;
    };
    let most = 16 << 10;
    let addresses: Vec<IpAddr> = (0..=most)
        .map(|n: u32| (0x0b00_0000 + n).to_be_bytes().into())
        .collect();
    let (one, all) = addresses.split_last().unwrap();
    let put = |some: &[IpAddr]| {
        let admitted = || admit(some, Duration::from_secs(600));
        bench.middle.run(admitted).unwrap()
    };
    for some in all.chunks(1000) {
        put(some).unwrap();
    }
    put(&all[..64]).unwrap();
    let full = put(&[*one]).unwrap_err();
    assert!(matches!(full, TableError::Admit(_)), "{full}");
}

#[test]
fn a_guest_speaks_for_its_own_addresses_alone() {
    let Some(bench) = bench() else { return };
    bench
        .middle
        .run(|| install(&[pair()], None).unwrap())
        .unwrap();
    let foreign = ["10.7.0.9", "fd07::9"];
    bench
        .guest
        .run(|| {
            let mut lab = Lab::open();
            lab.address("tap0", foreign[0], 24);
            lab.address("tap0", foreign[1], 64);
        })
        .unwrap();
    for ((own, foreign), outside) in GUEST.into_iter().zip(foreign).zip(OUTSIDE) {
        // Neither does it get questions (ARP, neighbour discovery) nor is it heard.
        assert!(!talk(&bench.outside, &bench.guest, foreign));
        let from = |source: &str| {
            let source = SocketAddr::new(source.parse().unwrap(), 0);
            let near = bench
                .guest
                .run(|| UdpSocket::bind(source).unwrap())
                .unwrap();
            let outside = SocketAddr::new(outside.parse().unwrap(), 4000);
            let far = bench
                .outside
                .run(|| UdpSocket::bind(outside).unwrap())
                .unwrap();
            far.set_read_timeout(Some(PATIENCE)).unwrap();
            near.send_to(b"x", outside).ok(); // a refusal is as good as silence
            far.recv(&mut [0; 8]).is_ok()
        };
        assert!(from(own));
        assert!(!from(foreign));
    }
}

#[test]
fn a_guest_keeps_its_hardware_address() {
    let Some(bench) = bench() else { return };
    bench
        .middle
        .run(|| install(&[pair()], None).unwrap())
        .unwrap();
    assert!(talk(&bench.guest, &bench.outside, "10.7.0.1"));
    bench
        .guest
        .run(|| Lab::open().mac("tap0", [2, 9, 9, 9, 9, 9]))
        .unwrap();
    assert!(!talk(&bench.guest, &bench.outside, "10.7.0.1"));
}

#[test]
fn fragments_do_not_pass_a_policy() {
    let Some(bench) = under(r#"{"default":"deny","allow":["10.7.0.1","fd07::1"]}"#) else {
        return;
    };
    for outside in OUTSIDE {
        let datagram = |length| exchange(&bench.guest, &bench.outside, (outside, 4000), length);
        assert_eq!(datagram(1000), (true, true));
        assert_eq!(datagram(4000), (false, false));
    }
    bench.middle.run(|| remove().unwrap()).unwrap();
    bench
        .middle
        .run(|| install(&[pair()], None).unwrap())
        .unwrap();
    let datagram = |length| exchange(&bench.guest, &bench.outside, ("10.7.0.1", 4000), length);
    assert_eq!(datagram(4000), (true, true));
}

/// Whether an IPv4 packet of some protocol gets there, sent by root through a raw socket.
fn raw(bench: &Bench, protocol: u8) -> bool {
    let open = || {
        let protocol = rustix::net::Protocol::from_raw(u32::from(protocol).try_into().unwrap());
        socket(AddressFamily::INET, SocketType::RAW, Some(protocol)).unwrap()
    };
    let far = bench.outside.run(open).unwrap();
    let near = bench.guest.run(open).unwrap();
    rustix::net::sockopt::set_socket_timeout(
        &far,
        rustix::net::sockopt::Timeout::Recv,
        Some(PATIENCE),
    )
    .unwrap();
    let to: SocketAddrAny = SocketAddr::new("10.7.0.1".parse().unwrap(), 0).into();
    // An echo's request, if it is ICMP.
    let payload = [8, 0, 0xf7, 0xff, 0, 0, 0, 0];
    sendto(&near, &payload, SendFlags::empty(), &to).unwrap();
    rustix::net::recv(&far, &mut [0; 64], rustix::net::RecvFlags::empty()).is_ok()
}

#[test]
fn raw_sockets_do_not_get_round_a_policy() {
    const ICMP: u8 = 1;
    const SCTP: u8 = 132;
    let Some(bench) = under("{}") else { return };
    assert!(raw(&bench, ICMP));
    assert!(!raw(&bench, SCTP), "a protocol that no policy can judge");
    change(&bench, r#"{"default":"deny"}"#, &[]);
    assert!(!raw(&bench, ICMP));
    change(&bench, r#"{"default":"deny","allow":["10.7.0.0/24"]}"#, &[]);
    assert!(raw(&bench, ICMP));
}
