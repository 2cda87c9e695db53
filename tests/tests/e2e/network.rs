// SPDX-License-Identifier: Apache-2.0
//! Containers in the networks of their clients: `ctr --cni`, and namespaces that somebody else has made.

use cube_net::table;
use cube_net::wire::Namespace;
use rustix::process::{Pid, Signal, kill_process};

use cube_tests::bed::Bed;
use cube_tests::bounded::{Program, STEP_LIMIT, eventually};
use cube_tests::cni::{Cni, Netns};
use cube_tests::ctr::BUSYBOX;
use cube_tests::series::our_programs;
use cube_tests::suite::{Case, case};

use crate::{ALSO_MAIN, MAIN};

pub const CASES: &[Case] = &[
    case(
        "container_has_the_plug_ins_addresses_routes_and_mtu",
        plugged,
    ),
    case("two_containers_reach_each_other", neighbours).on(MAIN),
    case("container_without_a_network_has_none", none).on(ALSO_MAIN),
    case("ps_shows_addresses", shown).on(ALSO_MAIN).ours(),
    case(
        "interface_that_vanishes_takes_the_guests_link_down",
        vanished,
    )
    .on(MAIN)
    .ours(),
    case("missing_plug_in_is_reported_and_leaves_nothing", no_plug_in).on(MAIN),
    case(
        "address_that_is_taken_is_reported_and_leaves_nothing",
        taken,
    )
    .on(ALSO_MAIN),
    case("given_namespace_is_left_as_it_was", given)
        .on(MAIN)
        .ours(),
    case("given_namespace_is_cleaned_after_a_crash", crashed)
        .on(ALSO_MAIN)
        .ours(),
    case("second_sandbox_in_a_namespace_is_refused", shared)
        .on(ALSO_MAIN)
        .ours(),
];

/// `ctr run` in a network of plug-ins.
fn run(bed: &mut Bed, cni: &Cni, flags: &[&str], id: &str, script: &str) -> Program {
    let flags = [&["--cni"], flags].concat();
    let client = bed.run(&flags, BUSYBOX, id, &["sh", "-c", script]);
    cni.client(bed, &client)
}

fn plugged(bed: &mut Bed) {
    let cni = Cni::bridge(bed);
    let id = bed.id("plugged");
    let script = "cat /sys/class/net/eth0/mtu
        ip -o addr show dev eth0
        ip route; ip -6 route
        ping -c 1 -W 20 10.77.0.1 >/dev/null && echo reaches 4
        ping -6 -c 1 -W 20 fd77::1 >/dev/null && echo reaches 6";
    let said = run(bed, &cni, &["--rm"], &id, script).run().succeeded();
    let said = said.out();
    for word in [
        "1400",
        "inet 10.77.0.2/24",
        "inet6 fd77::2/64",
        "default via 10.77.0.1 dev eth0",
        "default via fd77::1 dev eth0",
        "reaches 4",
        "reaches 6",
    ] {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
}

/// Ends and removes a container: whoever kills one with `ctr` unplugs it too.
#[track_caller]
pub fn end(bed: &Bed, cni: &Cni, id: &str) {
    let kill = bed.ctr(&["task", "kill", "-s", "SIGKILL", id]);
    cni.client(bed, &kill).run().succeeded();
    bed.await_state(id, "STOPPED");
    bed.delete_task(id, 137);
    bed.ctr(&["container", "delete", id]).run().succeeded();
}

/// The IPv4 address of a container.
#[track_caller]
fn address(bed: &mut Bed, id: &str) -> String {
    let line = "ip -o -4 addr show dev eth0 | sed 's|.* inet \\([0-9.]*\\)/.*|\\1|'";
    bed.exec(id, line).run().succeeded().out()
}

fn neighbours(bed: &mut Bed) {
    let cni = Cni::bridge(bed);
    let server = bed.id("server");
    let serve = "dd if=/dev/urandom of=/srv.bin bs=1M count=8 2>/dev/null
        md5sum </srv.bin >/srv.sum; exec httpd -f -p 80 -h /";
    run(bed, &cni, &["-d"], &server, serve).run().succeeded();
    let at = address(bed, &server);
    eventually("served file", STEP_LIMIT, || {
        bed.exec(&server, "wget -q -O /dev/null http://127.0.0.1/srv.sum")
            .run()
            .code()
            == 0
    });
    let client = bed.id("client");
    let fetch = format!(
        "ping -c 1 -W 20 {at} >/dev/null || exit 3
         wget -q -O - http://{at}/srv.bin | md5sum; wget -q -O - http://{at}/srv.sum"
    );
    let said = run(bed, &cni, &["--rm"], &client, &fetch).run().succeeded();
    let said = said.out();
    let sums: Vec<_> = said.lines().collect();
    assert_eq!((sums.len(), sums[0]), (2, sums[1]), "{said}");
    end(bed, &cni, &server);
}

fn none(bed: &mut Bed) {
    let script = "ip -o addr | grep -v ' lo '; ip route; ip -6 route | grep -v ' lo '; true";
    assert_eq!(bed.sh("none", &[], script).succeeded().out(), "");
}

fn shown(bed: &mut Bed) {
    let cni = Cni::bridge(bed);
    let id = bed.id("shown");
    run(bed, &cni, &["-d"], &id, "sleep 100000")
        .run()
        .succeeded();
    let ps = |flags: &[&str]| {
        let cube = Program::new(our_programs().join("cube"));
        let cube = cube.env("CUBE_CONFIG", bed.config()).args(["ps"]);
        cube.args(flags).run().succeeded().out()
    };
    let list: serde_json::Value = serde_json::from_str(&ps(&["--json"])).expect("it is JSON");
    let rows = list.as_array().expect("it is a list");
    let row = rows.iter().find(|row| row["id"] == id.as_str());
    let addresses = row.expect("it runs")["addresses"].to_string();
    assert!(addresses.contains("10.77.0.2/24"), "{addresses}");
    assert!(ps(&[]).contains("10.77.0.2,fd77::2"), "{}", ps(&[]));
    end(bed, &cni, &id);
}

fn vanished(bed: &mut Bed) {
    let cni = Cni::bridge(bed);
    let id = bed.id("vanished");
    run(bed, &cni, &["-d"], &id, "sleep 100000")
        .run()
        .succeeded();
    let carrier = "cat /sys/class/net/eth0/carrier";
    let said = bed.exec(&id, carrier).run().succeeded().out();
    assert_eq!(said, "1");
    let netns = format!("--net=/proc/{}/ns/net", bed.task_pid(&id));
    Program::new("nsenter")
        .args([netns.as_str(), "ip", "link", "del", "eth0"])
        .run()
        .succeeded();
    eventually("link that is down", STEP_LIMIT, || {
        bed.exec(&id, carrier).run().succeeded().out() == "0"
    });
    end(bed, &cni, &id);
}

/// The task of a client that failed after Create is the client's; it can be removed.
fn remove_created(bed: &Bed, id: &str) {
    bed.ctr(&["task", "delete", "--force", id]).run();
    bed.ctr(&["container", "delete", id]).run().succeeded();
}

fn no_plug_in(bed: &mut Bed) {
    let cni = Cni::without_plug_in(bed);
    let id = bed.id("no-plug-in");
    run(bed, &cni, &[], &id, "true")
        .run()
        .refused(&["no-such-plug-in"]);
    remove_created(bed, &id);
}

fn taken(bed: &mut Bed) {
    let cni = Cni::bridge_for_one(bed);
    let (first, second) = (bed.id("first"), bed.id("second"));
    run(bed, &cni, &["-d"], &first, "sleep 100000")
        .run()
        .succeeded();
    run(bed, &cni, &[], &second, "true")
        .run()
        .refused(&["10.77.0.9"]);
    remove_created(bed, &second);
    assert_eq!(address(bed, &first), "10.77.0.9");
    end(bed, &cni, &first);
}

/// A namespace with an interface, and the one that the interface leads to.
struct Given {
    near: Netns,
    far: Netns,
}

impl Given {
    fn new(bed: &mut Bed) -> Self {
        let given = Self {
            near: Netns::new(&bed.id("near")),
            far: Netns::new(&bed.id("far")),
        };
        given.near.plug("eth0", &given.far, "far0");
        given
            .near
            .ip(&["addr", "add", "10.78.0.2/24", "dev", "eth0"]);
        given
            .far
            .ip(&["addr", "add", "10.78.0.1/24", "dev", "far0"]);
        given
    }

    fn start(&self, bed: &mut Bed, about: &str) -> (String, Program) {
        let id = bed.id(about);
        let netns = format!("network:{}", self.near.path().display());
        let flags = ["-d", "--with-ns", &netns];
        let run = bed.run(&flags, BUSYBOX, &id, &["sleep", "100000"]);
        (id, run)
    }

    /// Whether there is a table and a tap of a sandbox.
    fn wired(&self) -> (bool, bool) {
        let namespace = Namespace::open(&self.near.path()).expect("it is there");
        let table = namespace.run(table::is_installed).expect("it is entered");
        let tap = self.near.ip(&["link", "show"]).contains("cube0");
        (table.expect("the kernel tells"), tap)
    }
}

const WIRED: (bool, bool) = (true, true);
const EMPTY: (bool, bool) = (false, false);

fn given(bed: &mut Bed) {
    let given = Given::new(bed);
    assert_eq!(given.wired(), EMPTY);
    let (id, run) = given.start(bed, "given");
    run.run().succeeded();
    assert_eq!(given.wired(), WIRED);
    bed.exec(&id, "ping -c 1 -W 20 10.78.0.1").run().succeeded();
    bed.kill_and_delete(&id);
    eventually("namespace as it was", STEP_LIMIT, || given.wired() == EMPTY);
    let left = given.near.ip(&["addr", "show", "dev", "eth0"]);
    assert!(left.contains("10.78.0.2/24"), "{left}");
}

fn crashed(bed: &mut Bed) {
    let given = Given::new(bed);
    let (id, run) = given.start(bed, "crashed");
    run.run().succeeded();
    let shim = Pid::from_raw(bed.shim_pid(&id)).expect("no process has number zero");
    kill_process(shim, Signal::KILL).expect("it is there");
    // The VMM ends with its control socket; the table is for the shim's `delete` to find.
    eventually("end of the task", STEP_LIMIT, || {
        matches!(&*bed.task_state(&id), "" | "STOPPED" | "UNKNOWN")
    });
    eventually("namespace as it was", STEP_LIMIT, || given.wired() == EMPTY);
    bed.ctr(&["task", "delete", &id]).run();
    bed.ctr(&["container", "delete", &id]).run().succeeded();
    // And a second sandbox finds nothing of the first.
    let (id, run) = given.start(bed, "after");
    run.run().succeeded();
    assert_eq!(given.wired(), WIRED);
    bed.kill_and_delete(&id);
}

fn shared(bed: &mut Bed) {
    let given = Given::new(bed);
    let (first, run) = given.start(bed, "first");
    run.run().succeeded();
    let (second, run) = given.start(bed, "second");
    run.run().refused(&["cube0", "eth0", "another sandbox's"]);
    remove_created(bed, &second);
    assert_eq!(given.wired(), WIRED);
    bed.exec(&first, "ping -c 1 -W 20 10.78.0.1")
        .run()
        .succeeded();
    bed.kill_and_delete(&first);
}
