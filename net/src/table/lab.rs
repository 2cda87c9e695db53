// SPDX-License-Identifier: Apache-2.0
//! Namespaces with a table between them, for the tests of this module.

use std::io::{Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::time::Duration;

use crate::wire::lab::{self, Lab};
use crate::wire::{Namespace, Pair, raise, scan};

/// A namespace in the middle: `eth0` to a client's network, and a veth in place of a tap, with a namespace
/// in place of a guest behind it.
pub(super) struct Bench {
    pub(super) outside: Namespace,
    pub(super) middle: Namespace,
    pub(super) guest: Namespace,
}

pub(super) fn bench() -> Option<Bench> {
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

pub(super) fn pair() -> Pair {
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

/// How long something is waited for that is not to come, and longer than anything takes that is.
pub(super) const PATIENCE: Duration = Duration::from_millis(1500);

/// Whether a byte gets from one namespace to an address that another one has, and back.
pub(super) fn talk(from: &Namespace, to: &Namespace, address: &str) -> bool {
    talk_to(from, to, address, 0)
}

/// The same with a port; 0: any.
pub(super) fn talk_to(from: &Namespace, to: &Namespace, address: &str, port: u16) -> bool {
    connect(from, to, address, port).is_some_and(|mut both| both.echo())
}

/// Both ends of a connection.
pub(super) struct Connection {
    near: TcpStream,
    far: TcpStream,
}

impl Connection {
    /// Whether a byte gets there and back.
    pub(super) fn echo(&mut self) -> bool {
        let mut byte = [0];
        for end in [&self.near, &self.far] {
            end.set_read_timeout(Some(PATIENCE)).unwrap();
        }
        self.near.write_all(b"x").unwrap();
        if self.far.read_exact(&mut byte).is_err() {
            return false;
        }
        self.far.write_all(&byte).unwrap();
        self.near.read_exact(&mut byte).is_ok() && byte == *b"x"
    }
}

/// Opens a connection, if it can be.
pub(super) fn connect(
    from: &Namespace,
    to: &Namespace,
    address: &str,
    port: u16,
) -> Option<Connection> {
    let address: IpAddr = address.parse().unwrap();
    let listener = to
        .run(|| TcpListener::bind((address, port)).unwrap())
        .unwrap();
    let address = listener.local_addr().unwrap();
    let near = from
        .run(|| TcpStream::connect_timeout(&address, PATIENCE))
        .unwrap()
        .ok()?;
    let far = listener.accept().unwrap().0;
    Some(Connection { near, far })
}
