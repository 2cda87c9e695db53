// SPDX-License-Identifier: Apache-2.0
//! What a sandbox may send to, with a root in it who tries everything else; and ports that need no network.

use serde_json::Value;

use cube_tests::bed::Bed;
use cube_tests::bounded::{Program, STEP_LIMIT, eventually};
use cube_tests::cni::Cni;
use cube_tests::ctr::BUSYBOX;
use cube_tests::series::our_programs;
use cube_tests::suite::{Case, case};

use crate::network::end;
use crate::{ALSO_MAIN, MAIN};

pub const CASES: &[Case] = &[
    case("policy_holds_against_a_root_in_the_guest", hostile)
        .on(MAIN)
        .ours(),
    case("policy_that_is_none_is_refused_by_its_entry", malformed)
        .on(ALSO_MAIN)
        .ours(),
    case("port_is_reached_without_a_network", port)
        .on(ALSO_MAIN)
        .ours(),
];

/// Serves a file on two ports of TCP.
const SERVE: &str = "echo served >/index.html
    httpd -p 81 -h /
    exec httpd -f -p 80 -h /";

/// Tries one thing after the other; each line says what came of it.
const TRY: &str = r#"
try() { name=$1; shift; if "$@" >/dev/null 2>&1; then echo "$name: yes"; else echo "$name: no"; fi; }
fetch() { timeout 5 wget -q -O - "http://$1/" | grep -q served; }
# Sends UDP, to a port that nobody listens on, which the other side says.
ask() { timeout 10 traceroute -n -q 1 -m 1 -w 4 "$1" | grep -q ' ms'; }
try allowed fetch $V4
try port fetch $V4:81
try v6 fetch "[$V6]"
try udp ask $V4
try ping ping -c 1 -W 4 $V4
try metadata fetch 169.254.169.254
ip addr add 10.77.0.99/24 dev eth0
try source ping -c 1 -W 4 -I 10.77.0.99 $V4
ip addr del 10.77.0.99/24 dev eth0
mac=$(cat /sys/class/net/eth0/address)
be() { ip link set eth0 down; ip link set eth0 address $1; ip link set eth0 up; ip route add 10.77.0.0/24 dev eth0; }
be 02:00:00:00:00:99
try mac fetch $V4
be $mac
try again fetch $V4
"#;

/// The `cube` command on a bed's sandboxes.
pub fn cube(bed: &Bed, arguments: &[&str]) -> Program {
    Program::new(our_programs().join("cube"))
        .env("CUBE_CONFIG", bed.config())
        .args(arguments)
}

/// A container that serves; its addresses.
fn server(bed: &mut Bed, cni: &Cni, id: &str) -> (String, String) {
    let run = bed.run(&["--cni", "-d"], BUSYBOX, id, &["sh", "-c", SERVE]);
    cni.client(bed, &run).run().succeeded();
    let mut address = |family: &str, begin: &str| {
        let line = format!(
            "ip -o {family} addr show dev eth0 | sed -n 's|.* inet6* \\({begin}[0-9a-f.:]*\\)/.*|\\1|p'"
        );
        bed.exec(id, &line).run().succeeded().out()
    };
    let addresses = (address("-4", "10"), address("-6", "fd"));
    eventually("served file", STEP_LIMIT, || {
        let asked = bed.exec(id, "wget -q -O /dev/null http://127.0.0.1/");
        asked.run().code() == 0
    });
    addresses
}

fn hostile(bed: &mut Bed) {
    let cni = Cni::bridge(bed);
    let served = bed.id("served");
    let (v4, v6) = server(bed, &cni, &served);
    let policy = format!(r#"io.cube.egress={{"default":"deny","allow":["{v4} tcp:80"]}}"#);
    let (v4, v6) = (format!("V4={v4}"), format!("V6={v6}"));
    let mut tries = |about: &str, more: &[&str]| {
        let id = bed.id(about);
        let flags = [
            "--rm",
            "--cni",
            "--cap-add",
            "CAP_NET_ADMIN",
            "--env",
            &v4,
            "--env",
            &v6,
        ];
        let run = bed.run(&[&flags, more].concat(), BUSYBOX, &id, &["sh", "-c", TRY]);
        cni.client(bed, &run).run().succeeded().out()
    };
    let said = tries("hostile", &["--annotation", &policy]);
    let expect = "allowed: yes\nport: no\nv6: no\nudp: no\nping: no\nmetadata: no\nsource: no\nmac: no\nagain: yes";
    assert_eq!(said, expect);
    // The same tries without a policy: what is not a lie gets through.
    let said = tries("unbound", &[]);
    let expect = "allowed: yes\nport: yes\nv6: yes\nudp: yes\nping: yes\nmetadata: no\nsource: no\nmac: no\nagain: yes";
    assert_eq!(said, expect);
    end(bed, &cni, &served);
}

fn malformed(bed: &mut Bed) {
    let id = bed.id("malformed");
    let flags = [
        "--annotation",
        r#"io.cube.egress={"allow":["10.0.0.0/40"]}"#,
    ];
    bed.run(&flags, BUSYBOX, &id, &["true"])
        .run()
        .refused(&["io.cube.egress", "10.0.0.0/40"]);
    bed.ctr(&["container", "delete", &id]).run().succeeded();
}

fn port(bed: &mut Bed) {
    let id = bed.id("port");
    let serve = "echo served >/index.html; exec httpd -f -p 127.0.0.1:8080 -h /";
    bed.run(&["-d"], BUSYBOX, &id, &["sh", "-c", serve])
        .run()
        .succeeded();
    let request = "GET /index.html HTTP/1.0\r\n\r\n";
    eventually("answer", STEP_LIMIT, || {
        let asked = cube(bed, &["connect", &id, "8080"]).input(request).run();
        asked.code() == 0 && asked.out().contains("served")
    });
    cube(bed, &["connect", &id, "8081"])
        .run()
        .refused(&["nobody listens", "8081"]);
    let list = cube(bed, &["ps", "--json"]).run().succeeded().out();
    let list: Value = serde_json::from_str(&list).expect("it is JSON");
    let rows = list.as_array().expect("it is a list");
    let row = rows.iter().find(|row| row["id"] == id.as_str());
    assert_eq!(row.expect("it runs")["egress"], Value::Null);
    bed.kill_and_delete(&id);
}
