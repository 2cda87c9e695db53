// SPDX-License-Identifier: Apache-2.0
//! The table in namespaces that a test has filled, with packets through it.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;

use super::*;
use crate::netlink::Route;
use crate::wire::lab::{self, Lab};
use crate::wire::{Namespace, raise, scan};

/// A namespace in the middle: `eth0` to a client's network, and a veth in place of a tap, with a namespace
/// in place of a guest behind it.
struct Bench {
    outside: Namespace,
    middle: Namespace,
    guest: Namespace,
}

fn bench() -> Option<Bench> {
    let (outside, middle, guest) = (lab::namespace()?, lab::namespace()?, lab::namespace()?);
    outside
        .run(|| {
            let mut lab = Lab::open();
            lab.veth("out0", "eth0", 1500);
            lab.address("out0", "10.7.0.1", 24);
            lab.address("out0", "fd07::1", 64);
            lab.give("eth0", &middle);
        })
        .unwrap();
    middle
        .run(|| {
            let mut lab = Lab::open();
            lab.up("eth0", true);
            lab.address("eth0", "10.7.0.2", 24);
            lab.address("eth0", "fd07::2", 64);
            lab.veth("cube0", "tap0", 1500);
            lab.give("tap0", &guest);
        })
        .unwrap();
    let mac = middle.run(|| pair().interface.mac).unwrap();
    guest
        .run(|| {
            let mut lab = Lab::open();
            lab.mac("tap0", mac);
            lab.up("tap0", true);
            lab.address("tap0", "10.7.0.2", 24);
            lab.address("tap0", "fd07::2", 64);
        })
        .unwrap();
    Some(Bench {
        outside,
        middle,
        guest,
    })
}

fn pair() -> Pair {
    let mut lab = Lab::open();
    let tap_index = raise(&mut lab.0, "cube0", 1500).unwrap();
    let found = scan(&mut lab.0).unwrap().interfaces;
    let interface = found.into_iter().find(|found| found.name == "eth0");
    Pair {
        tap: "cube0".into(),
        tap_index,
        interface: interface.unwrap(),
    }
}

/// How many of the links have a chain of ours in this namespace: an empty rule can be added to those alone.
fn chains() -> usize {
    let taken = |from: &str| {
        let mut batch = Batch::new();
        batch.add(Kind::NewTable, Family::Netdev, |table| {
            table.text(TABLE_NAME, TABLE);
        });
        batch.add(Kind::NewRule, Family::Netdev, |rule| {
            rule.text(RULE_TABLE, TABLE);
            rule.text(RULE_CHAIN, &format!("from {from}"));
            rule.nested(RULE_EXPRESSIONS, |_| {});
        });
        batch.commit().is_ok()
    };
    ["eth0", "cube0"]
        .into_iter()
        .filter(|from| taken(from))
        .count()
}

/// Whether a byte gets from one namespace to an address that another one has, and back.
fn talk(from: &Namespace, to: &Namespace, address: &str) -> bool {
    let address: IpAddr = address.parse().unwrap();
    let listener = to.run(|| TcpListener::bind((address, 0)).unwrap()).unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream.write_all(&byte).unwrap();
    });
    let limit = Duration::from_millis(1500);
    let connected = from.run(|| TcpStream::connect_timeout(&SocketAddr::new(address, port), limit));
    let Ok(mut stream) = connected.unwrap() else {
        return false;
    };
    stream.write_all(b"x").unwrap();
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    echo.join().unwrap();
    byte == *b"x"
}

#[test]
fn a_guest_takes_the_place_of_an_interface() {
    let Some(bench) = bench() else { return };
    let install = || install(&[pair()]).unwrap();
    bench.middle.run(install).unwrap();
    assert!(talk(&bench.outside, &bench.guest, "10.7.0.2"));
    assert!(talk(&bench.guest, &bench.outside, "10.7.0.1"));
    assert!(talk(&bench.outside, &bench.guest, "fd07::2"));
    // Again and away, each time a second time.
    bench.middle.run(install).unwrap();
    assert!(talk(&bench.guest, &bench.outside, "fd07::1"));
    for _ in 0..2 {
        bench.middle.run(|| remove().unwrap()).unwrap();
    }
    assert!(!talk(&bench.outside, &bench.guest, "10.7.0.2"));
}

#[test]
fn a_refusal_names_the_links_and_leaves_what_was_there() {
    let Some(namespace) = lab::namespace() else {
        return;
    };
    let work = || {
        let mut lab = Lab::open();
        lab.veth("eth0", "cube0", 1500);
        let good = pair();
        let mut bad = good.clone();
        bad.interface.name = "no-interface-has-this-name".into();
        install(std::slice::from_ref(&good)).unwrap();
        let refused = install(&[good, bad]);
        (refused.unwrap_err(), chains())
    };
    let (error, left) = namespace.run(work).unwrap();
    let error = error.to_string();
    assert!(
        error.contains("no-interface-has-this-name to cube0"),
        "{error}"
    );
    assert_eq!(left, 2);
}

/// How many links a namespace has.
fn links(namespace: &Namespace) -> usize {
    let links = RouteNetlinkMessage::GetLink(LinkMessage::default());
    namespace
        .run(|| Route::open().unwrap().dump(links).unwrap().len())
        .unwrap()
}

#[test]
fn two_hundred_namespaces_are_wired_and_none_is_left() {
    const COUNT: usize = 200;
    let Some(outside) = lab::namespace() else {
        return;
    };
    let before = links(&outside);
    let namespaces: Vec<_> = (0..COUNT).filter_map(|_| lab::namespace()).collect();
    for (number, namespace) in namespaces.iter().enumerate() {
        outside
            .run(|| {
                let mut lab = Lab::open();
                lab.veth(&format!("out{number}"), "eth0", 1500);
                lab.give("eth0", namespace);
            })
            .unwrap();
        namespace
            .run(|| {
                let mut lab = Lab::open();
                lab.up("eth0", true);
                lab.veth("cube0", "far0", 1500);
                install(&[pair()]).unwrap();
                assert!(is_installed().unwrap());
                // As after a crash: found by name, and again where nothing is left.
                remove().unwrap();
                remove().unwrap();
                assert!(!is_installed().unwrap());
                // A table does not keep its namespace.
                install(&[pair()]).unwrap();
            })
            .unwrap();
    }
    assert_eq!(links(&outside), before + COUNT);
    drop(namespaces);
    // The end of a pair goes with the namespace of the other one, which the kernel ends in the background.
    let deadline = Instant::now() + Duration::from_secs(60);
    while links(&outside) > before {
        assert!(
            Instant::now() < deadline,
            "{} are left",
            links(&outside) - before
        );
        thread::sleep(Duration::from_millis(20));
    }
}
