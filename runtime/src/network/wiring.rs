// SPDX-License-Identifier: Apache-2.0
//! The part of a network that is done inside its namespace, on one thread.

use std::os::fd::OwnedFd;

use cube_net::netlink::Route;
use cube_net::table;
use cube_net::wire::{
    self, Address, Found, Interface, LinkWatch, Pair, raise, raise_loopback, tap_name,
};
use tokio::runtime::Handle;

use super::NetworkError;
use super::egress::Bounded;
use crate::layout::{InterfaceState, NetworkState, Record};
use crate::trace;

/// What came of it. Dropping the taps removes them.
#[derive(Debug)]
pub(super) struct Wiring {
    pub(super) found: Found,
    /// By slot, in the order of the interfaces.
    pub(super) taps: Vec<OwnedFd>,
    pub(super) pairs: Vec<Pair>,
    pub(super) watch: LinkWatch,
}

/// Finds the interfaces of the calling thread's namespace and ties each to a tap of its own. `None` if
/// there are none.
pub(super) fn wire(
    record: &Record,
    bounded: Option<&Bounded>,
    runtime: &Handle,
) -> Result<Option<Wiring>, NetworkError> {
    let mut netlink = Route::open().map_err(NetworkError::Netlink)?;
    let network = record.network();
    if network.namespace.is_none() {
        raise_loopback(&mut netlink).map_err(NetworkError::Tap)?;
    }
    // Before the look, so that nothing goes unnoticed in between.
    let watch = LinkWatch::open(runtime).map_err(NetworkError::Watch)?;
    let found = {
        let _stage = trace::stage("network.scan");
        wire::scan(&mut netlink).map_err(NetworkError::Scan)?
    };
    if found.interfaces.is_empty() {
        return Ok(None);
    }
    let _stage = trace::stage("network.wire");
    let mut taps = Vec::new();
    let mut pairs = Vec::new();
    for (slot, interface) in (0..).zip(&found.interfaces) {
        let (tap, pair) = pair(&mut netlink, slot, interface)?;
        taps.push(tap);
        pairs.push(pair);
    }
    // Before the table and after the taps: these go with whoever holds them, and from a sandbox that found them
    // taken nothing is left to be removed.
    let taken = found.interfaces.iter().map(state_of).collect();
    let network = NetworkState {
        interfaces: taken,
        ..network
    };
    record.set_network(network).map_err(NetworkError::Record)?;
    table::install(&pairs, bounded.map(Bounded::rules)).map_err(NetworkError::Table)?;
    Ok(Some(Wiring {
        found,
        taps,
        pairs,
        watch,
    }))
}

/// Makes the tap of an interface, with the interface's MTU.
fn pair(
    netlink: &mut Route,
    slot: u8,
    interface: &Interface,
) -> Result<(OwnedFd, Pair), NetworkError> {
    let name = tap_name(slot);
    let tap = cube_vmm::tap::create(&name).map_err(|source| NetworkError::MakeTap {
        tap: name.clone(),
        interface: interface.name.clone(),
        source,
    })?;
    let index = raise(netlink, &name, interface.mtu).map_err(NetworkError::Tap)?;
    let pair = Pair {
        tap: name,
        tap_index: index,
        interface: interface.clone(),
    };
    Ok((tap, pair))
}

fn state_of(interface: &Interface) -> InterfaceState {
    let shown = |address: &Address| format!("{}/{}", address.ip, address.prefix_len);
    InterfaceState {
        name: interface.name.clone(),
        addresses: interface.addresses.iter().map(shown).collect(),
    }
}
