// SPDX-License-Identifier: Apache-2.0
//! The scan of namespaces that a test has filled.

use super::*;
use crate::wire::lab::{self, Lab};

fn in_fresh(fill: impl FnOnce(&mut Lab) + Send) -> Option<Result<Found, ScanError>> {
    let namespace = lab::namespace()?;
    let scanned = namespace.run(|| {
        let mut lab = Lab::open();
        fill(&mut lab);
        scan(&mut lab.0)
    });
    Some(scanned.unwrap())
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn nothing_is_found_in_an_empty_namespace() {
    let Some(found) = in_fresh(|_| {}) else {
        return;
    };
    assert_eq!(found.unwrap(), Found::default());
}

#[test]
fn a_plug_ins_work_is_found_whole() {
    let fill = |lab: &mut Lab| {
        lab.veth("eth0", "far", 1400);
        lab.address("eth0", "10.7.0.2", 24);
        lab.address("eth0", "fd07::2", 64);
        lab.neighbour("eth0", "10.7.0.9", [2, 0, 0, 0, 0, 9]);
        lab.route("eth0", None, "10.7.0.1", 0);
        lab.route("eth0", Some(("10.9.0.0", 16)), "169.254.1.1", 50);
        lab.route("eth0", None, "fd07::1", 77);
        // Down again, as the far end of a real plug-in's pair is elsewhere.
        lab.up("far", false);
    };
    let Some(found) = in_fresh(fill) else { return };
    let found = found.unwrap();
    let [eth0] = &found.interfaces[..] else {
        panic!("{found:?}")
    };
    assert_eq!((eth0.name.as_str(), eth0.mtu), ("eth0", 1400));
    assert_ne!(eth0.mac, [0; 6]);
    let address = |text, prefix_len| Address {
        ip: ip(text),
        prefix_len,
    };
    assert!(
        eth0.addresses.contains(&address("10.7.0.2", 24)),
        "{eth0:?}"
    );
    assert!(eth0.addresses.contains(&address("fd07::2", 64)), "{eth0:?}");
    let route = |destination: Option<(&str, u8)>, gateway: &str, metric| Route {
        interface: "eth0".into(),
        ipv6: ip(gateway).is_ipv6(),
        destination: destination.map(|(to, _)| ip(to)),
        prefix_len: destination.map_or(0, |(_, prefix_len)| prefix_len),
        gateway: Some(ip(gateway)),
        source: None,
        scope: 0,
        metric,
        onlink: true,
    };
    for expected in [
        route(None, "10.7.0.1", 0),
        route(Some(("10.9.0.0", 16)), "169.254.1.1", 50),
        route(None, "fd07::1", 77),
    ] {
        assert!(
            found.routes.contains(&expected),
            "{expected:?} in {found:?}"
        );
    }
    let connected = found
        .routes
        .iter()
        .find(|route| route.destination == Some(ip("10.7.0.0")));
    let connected = connected.unwrap();
    assert_eq!(
        (connected.prefix_len, connected.gateway, connected.scope),
        (24, None, 253)
    );
    assert_eq!(connected.source, Some(ip("10.7.0.2")));
    let first_by_gateway = found
        .routes
        .iter()
        .position(|route| route.gateway.is_some());
    let last_direct = found
        .routes
        .iter()
        .rposition(|route| route.gateway.is_none());
    assert!(last_direct < first_by_gateway, "{found:?}");
    let expected = Neighbour {
        interface: "eth0".into(),
        ip: ip("10.7.0.9"),
        mac: [2, 0, 0, 0, 0, 9],
    };
    assert_eq!(found.neighbours, [expected]);
}

#[test]
fn interfaces_come_in_the_order_in_which_they_were_made() {
    let fill = |lab: &mut Lab| {
        lab.veth("zeta", "alpha", 1500);
        lab.veth("beta", "gamma", 1500);
    };
    let Some(found) = in_fresh(fill) else { return };
    let names: Vec<_> = found
        .unwrap()
        .interfaces
        .into_iter()
        .map(|found| found.name)
        .collect();
    assert_eq!(names.len(), 4);
    let at = |name: &str| names.iter().position(|other| other == name).unwrap();
    assert!(
        at("zeta").max(at("alpha")) < at("beta").min(at("gamma")),
        "{names:?}"
    );
}

#[test]
fn a_fifth_interface_is_refused_with_all_their_names() {
    let fill = |lab: &mut Lab| {
        for pair in [("a0", "b0"), ("a1", "b1"), ("a2", "b2")] {
            lab.veth(pair.0, pair.1, 1500);
        }
    };
    let Some(found) = in_fresh(fill) else { return };
    let error = found.unwrap_err().to_string();
    assert!(
        error.contains("6 interfaces") && error.contains("b2"),
        "{error}"
    );
}

#[test]
fn a_route_with_several_next_hops_is_refused_by_name() {
    let fill = |lab: &mut Lab| {
        lab.veth("eth0", "far", 1500);
        lab.address("eth0", "10.7.0.2", 24);
        lab.multipath("eth0", ("10.8.0.0", 16), &["10.7.0.1", "10.7.0.3"]);
    };
    let Some(found) = in_fresh(fill) else { return };
    let error = found.unwrap_err().to_string();
    assert!(error.contains("10.8.0.0/16"), "{error}");
}
