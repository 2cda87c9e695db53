// SPDX-License-Identifier: Apache-2.0
//! The table in namespaces that a test has filled, with packets through it.

use std::thread;
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;

use super::lab::{bench, pair, talk};
use super::*;
use crate::netlink::Route;
use crate::wire::Namespace;
use crate::wire::lab::{self, Lab};

/// How many of the links have a chain of ours in this namespace: an empty rule can be added to those alone.
fn chains() -> usize {
    let taken = |from: &str| {
        let mut change = Change::amend();
        change.rule(&format!("from {from}"), |_| {});
        change.commit().is_ok()
    };
    ["eth0", "cube0"]
        .into_iter()
        .filter(|from| taken(from))
        .count()
}

#[test]
fn a_guest_takes_the_place_of_an_interface() {
    let Some(bench) = bench() else { return };
    let install = || install(&[pair()], None).unwrap();
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
        install(std::slice::from_ref(&good), None).unwrap();
        let refused = install(&[good, bad], None);
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
                install(&[pair()], None).unwrap();
                assert!(is_installed().unwrap());
                // As after a crash: found by name, and again where nothing is left.
                remove().unwrap();
                remove().unwrap();
                assert!(!is_installed().unwrap());
                // A table does not keep its namespace.
                install(&[pair()], None).unwrap();
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
