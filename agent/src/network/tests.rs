// SPDX-License-Identifier: Apache-2.0
//! Settings of the kernel's network, in a namespace of the test's own.

use std::fs;
use std::io::Write;

use cube_protocol::v1::agent as wire;
use netlink_packet_core::NLM_F_EXCL;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{InfoData, InfoKind, InfoVeth, LinkInfo};
use nix::sched::{CloneFlags, unshare};

use super::*;

/// Runs on a thread in a fresh namespace; where there can be none, prints a line that says why.
fn in_a_namespace(test: fn()) {
    let thread = std::thread::spawn(move || match unshare(CloneFlags::CLONE_NEWNET) {
        Ok(()) => test(),
        Err(error) => {
            let line = format!("skipped: no network namespace can be made here: {error}\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
        }
    });
    thread.join().unwrap();
}

/// Two interfaces, up.
fn two_interfaces() -> Kernel {
    let mut netlink = Netlink::open().unwrap();
    let mut peer = LinkMessage::default();
    peer.attributes = vec![LinkAttribute::IfName("b".into())];
    let mut pair = LinkMessage::default();
    pair.attributes = vec![
        LinkAttribute::IfName("a".into()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
        ]),
    ];
    let made = netlink.request(Message::NewLink(pair), NLM_F_CREATE | NLM_F_EXCL);
    made.unwrap();
    let mut numbers = BTreeMap::new();
    for name in ["a", "b"] {
        let number = fs::read_to_string("/proc/thread-self/net/dev_mcast").unwrap();
        let number = number_of(name, &number);
        let up = Message::SetLink(link(number, Some(true)));
        netlink.request(up, 0).unwrap();
        numbers.insert(name.to_owned(), number);
    }
    Kernel { netlink, numbers }
}

/// From lines of an interface's number and name.
fn number_of(name: &str, lines: &str) -> u32 {
    let words = lines.lines().map(|line| line.split_whitespace());
    let mut found = words.filter_map(|mut words| Some((words.next()?, words.next()?)));
    let (number, _) = found.find(|(_, is)| *is == name).unwrap();
    number.parse().unwrap()
}

fn link_local(interface: &str) -> wire::NetRoute {
    let mut destination = vec![0; 16];
    destination[..2].copy_from_slice(&[0xfe, 0x80]);
    wire::NetRoute {
        interface: interface.into(),
        destination,
        prefix_len: 64,
        metric: 256,
        family: 6,
        ..Default::default()
    }
}

fn interfaces_with_link_local_route() -> Vec<String> {
    let routes = fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap();
    let routes = routes
        .lines()
        .filter(|route| route.starts_with("fe800000000000000000000000000000 40 "));
    let names = routes.filter_map(|route| route.split_whitespace().last());
    let mut names: Vec<_> = names.map(str::to_owned).collect();
    names.sort();
    names.dedup();
    names
}

fn one_prefix_on_two_interfaces() {
    let mut kernel = two_interfaces();
    // Said twice: a second try finds what the first one did.
    for _ in 0..2 {
        let request = wire::NetworkRequest {
            routes: vec![link_local("a"), link_local("b")],
            ..Default::default()
        };
        kernel.routes(&Network::parse(request).unwrap()).unwrap();
        assert_eq!(interfaces_with_link_local_route(), ["a", "b"]);
    }
}

#[test]
fn interfaces_keep_their_routes_to_the_same_prefix() {
    in_a_namespace(one_prefix_on_two_interfaces);
}

#[test]
fn loopback_comes_up() {
    in_a_namespace(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect("127.0.0.1:9").expect_err("it is up already");
        raise_loopback().unwrap();
        socket.connect("127.0.0.1:9").unwrap();
    });
}

#[test]
fn an_interface_forgets_the_addresses_that_it_had() {
    in_a_namespace(|| {
        let mut kernel = two_interfaces();
        let number = kernel.number("a").unwrap();
        for ip in ["10.1.0.2", "10.1.0.3"] {
            let address = (ip.parse().unwrap(), 24);
            let message = Message::NewAddress(request::address(number, address.0, address.1));
            kernel.set(String::new, message).unwrap();
        }
        let other = kernel.number("b").unwrap();
        let message = Message::NewAddress(request::address(other, "10.2.0.2".parse().unwrap(), 24));
        kernel.set(String::new, message).unwrap();
        kernel.forget_addresses(number, "a").unwrap();
        let of = |kernel: &mut Kernel, number| {
            let all = kernel.netlink.addresses(number).unwrap();
            all.iter()
                .filter(|address| address.header.family == AddressFamily::Inet)
                .count()
        };
        assert_eq!(of(&mut kernel, number), 0);
        assert_eq!(of(&mut kernel, other), 1);
    });
}
