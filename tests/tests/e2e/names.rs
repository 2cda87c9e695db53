// SPDX-License-Identifier: Apache-2.0
//! Names that a policy allows, and a guest who tries others.

use std::net::{Ipv4Addr, SocketAddr};

use cube_tests::bed::{Bed, Settings};
use cube_tests::bounded::{STEP_LIMIT, eventually};
use cube_tests::cni::Cni;
use cube_tests::ctr::BUSYBOX;
use cube_tests::name_server::NameServer;
use cube_tests::suite::{Case, case};

use crate::MAIN;
use crate::egress::cube;
use crate::network::end;

pub const CASES: &[Case] = &[
    case("names_that_are_allowed_are_reached_and_no_others", names)
        .on(MAIN)
        .ours(),
];

/// Whom the runtime asks, in its own namespace.
const UPSTREAM: &str = "127.0.0.1:5399";
const SETTINGS: &str = "[egress]\ndns = [\"127.0.0.1:5399\"]";

/// The same server in the network of the containers: the bridge's address.
const DIRECT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

const SERVE: &str = "echo served >/index.html; exec httpd -f -p 80 -h /";

/// Tries one thing after the other; each line says what came of it.
const TRY: &str = r#"
try() { name=$1; shift; if "$@" >/dev/null 2>&1; then echo "$name: yes"; else echo "$name: no"; fi; }
fetch() { timeout 9 wget -q -O - "http://$1/" | grep -q served; }
ask() { timeout 12 nslookup "$1" $2 | grep -q "^Name:"; }
cat /etc/resolv.conf
try before fetch $V4
try allowed fetch allowed.test
try after fetch $V4
try below ask www.allowed.test
try other ask other.test
try another fetch other.test
try direct ask allowed.test $DIRECT
((printf '\001'; sleep 100000) | nc 127.0.0.53 53) >/dev/null 2>&1 &
for i in 1 2 3; do head -c 900 /dev/urandom | timeout 1 nc -u 127.0.0.53 53; done >/dev/null 2>&1
try again ask allowed.test
"#;

const EXPECT: &str = "nameserver 127.0.0.53\nbefore: no\nallowed: yes\nafter: yes\nbelow: no\n\
    other: no\nanother: no\ndirect: no\nagain: yes";

fn names(bed: &mut Bed) {
    let settings = Settings {
        more: SETTINGS,
        ..Settings::default()
    };
    bed.with_settings(&settings, |bed| {
        let cni = Cni::bridge(bed);
        let id = bed.id("served");
        let ip = server(bed, &cni, &id);
        let upstream: SocketAddr = UPSTREAM.parse().expect("it is an address");
        let _names = NameServer::of(&[("allowed.test", ip), ("other.test", ip)])
            .at(upstream, None)
            .at((DIRECT, 53).into(), Some(&cni.netns().path()));
        // Who has no policy asks whom he wants.
        let direct = format!("nslookup other.test {DIRECT}");
        let told = bed.exec(&id, &direct).run().succeeded().out();
        assert!(told.contains(&ip.to_string()), "{told}");
        assert_eq!(tries(bed, &cni, ip), EXPECT);
        // One who asks for himself can be allowed no names, and can be stopped asking.
        let named = r#"{"allow":["allowed.test"]}"#;
        cube(bed, &["egress", &id, named])
            .run()
            .refused(&["allowed.test", "start it with one"]);
        let denied = r#"{"default":"deny"}"#;
        cube(bed, &["egress", &id, denied]).run().succeeded();
        let told = bed.exec(&id, &format!("timeout 12 {direct}")).run();
        assert_ne!(told.code(), 0, "{}", told.out());
        end(bed, &cni, &id);
    });
}

/// A container that serves; its address.
fn server(bed: &mut Bed, cni: &Cni, id: &str) -> Ipv4Addr {
    let run = bed.run(&["--cni", "-d"], BUSYBOX, id, &["sh", "-c", SERVE]);
    cni.client(bed, &run).run().succeeded();
    eventually("served file", STEP_LIMIT, || {
        let asked = bed.exec(id, "wget -q -O /dev/null http://127.0.0.1/");
        asked.run().code() == 0
    });
    let line = r"ip -o -4 addr show dev eth0 | sed -n 's|.* inet \([0-9.]*\)/.*|\1|p'";
    let ip = bed.exec(id, line).run().succeeded().out();
    ip.parse()
        .unwrap_or_else(|_| panic!("{ip:?} is an address"))
}

fn tries(bed: &mut Bed, cni: &Cni, ip: Ipv4Addr) -> String {
    let id = bed.id("names");
    let policy = r#"io.cube.egress={"default":"deny","allow":["allowed.test"]}"#;
    let (v4, direct) = (format!("V4={ip}"), format!("DIRECT={DIRECT}"));
    let flags = [
        "--rm",
        "--cni",
        "--read-only",
        "--annotation",
        policy,
        "--env",
        &v4,
        "--env",
        &direct,
    ];
    let run = bed.run(&flags, BUSYBOX, &id, &["sh", "-c", TRY]);
    cni.client(bed, &run).run().succeeded().out()
}
