// SPDX-License-Identifier: Apache-2.0
//! The machine's network, as the host wants it: interfaces in the place of a client's own.
//!
//! ```text
//! boot:       virtio_net is there and bound to nothing, so no interface is seen
//! configure:  bind the devices of the wanted slots -> hardware address, MTU, name, up -> addresses -> routes, neighbours
//! ```
//!
//! The host says all of it (`ConfigureNetwork`); nothing is asked of a network, and no address is tried for
//! a duplicate: the interface that it was taken from had it. Asked again, an interface that is named has
//! what is said of it and nothing else; one that is not named stays.

mod device;
mod dns;
mod netlink;
mod request;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage as Message;
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use thiserror::Error;

use crate::cause::Cause;
pub use device::load;
pub use dns::{RELAY, Relay};
use netlink::Netlink;
pub use request::{Interface, Neighbour, Network, Route};

/// Which step failed, and on what.
#[derive(Debug, Error)]
pub enum NetworkError {
    /// The wish makes no sense.
    #[error("{field} of the network is malformed")]
    Request {
        /// Which part of it.
        field: &'static str,
    },
    /// The device does not become an interface.
    #[error("cannot use the network device of slot {slot}")]
    Device {
        /// Its slot.
        slot: u32,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// The relay's place is taken.
    #[error("cannot listen for names on {address}")]
    Names {
        /// Its place.
        address: SocketAddr,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
    /// The kernel cannot be asked.
    #[error("cannot open a netlink socket")]
    Netlink(#[source] Cause),
    /// The kernel refused one setting.
    #[error("cannot {operation}")]
    Set {
        /// What, with its operands.
        operation: String,
        /// The kernel's answer.
        #[source]
        source: Cause,
    },
}

/// The loopback interface is the first of every network namespace.
const LOOPBACK: u32 = 1;

/// Brings the loopback interface up.
pub fn raise_loopback() -> io::Result<()> {
    let up = Message::SetLink(link(LOOPBACK, Some(true)));
    Netlink::open()?.request(up, 0)
}

/// Makes the machine's network this one.
pub fn configure(network: &Network) -> Result<(), NetworkError> {
    let mut kernel = Kernel {
        netlink: Netlink::open().map_err(|error| NetworkError::Netlink(error.into()))?,
        numbers: BTreeMap::new(),
    };
    for interface in &network.interfaces {
        kernel.interface(interface)?;
    }
    kernel.routes(network)?;
    for neighbour in &network.neighbours {
        let number = kernel.number(&neighbour.interface)?;
        let message = Message::NewNeighbour(neighbour.message(number));
        let operation = || format!("set the neighbour {}", neighbour.ip);
        kernel.set(operation, message)?;
    }
    Ok(())
}

/// The kernel's network, and the numbers of the interfaces that were set up.
struct Kernel {
    netlink: Netlink,
    numbers: BTreeMap<String, u32>,
}

impl Kernel {
    fn interface(&mut self, wanted: &Interface) -> Result<(), NetworkError> {
        let number = device::bind(wanted.slot).map_err(|source| NetworkError::Device {
            slot: wanted.slot,
            source,
        })?;
        let name = &wanted.name;
        // One that is up keeps its name and its hardware address.
        let message = Message::SetLink(link(number, Some(false)));
        self.set(|| format!("take {name} down"), message)?;
        // Of another sandbox, whose machine this one was restored of. Routes and neighbours went with the link.
        self.forget_addresses(number, name)?;
        let mut named = link(number, None);
        named.attributes = vec![
            LinkAttribute::Address(wanted.mac.to_vec()),
            LinkAttribute::Mtu(wanted.mtu),
            LinkAttribute::IfName(name.clone()),
        ];
        let message = Message::SetLink(named);
        self.set(
            || {
                format!(
                    "give {name} its name, its hardware address and its MTU of {}",
                    wanted.mtu
                )
            },
            message,
        )?;
        let message = Message::SetLink(link(number, Some(true)));
        self.set(|| format!("bring {name} up"), message)?;
        for (ip, prefix_len) in &wanted.addresses {
            let message = request::address(number, *ip, *prefix_len);
            let operation = || format!("give {name} the address {ip}/{prefix_len}");
            self.set(operation, Message::NewAddress(message))?;
        }
        self.numbers.insert(name.clone(), number);
        Ok(())
    }

    fn forget_addresses(&mut self, number: u32, name: &str) -> Result<(), NetworkError> {
        let addresses = self.netlink.addresses(number);
        let addresses = addresses.map_err(|error| NetworkError::Netlink(error.into()))?;
        for message in addresses {
            let message = Message::DelAddress(message);
            self.set(|| format!("take an address of {name} away"), message)?;
        }
        Ok(())
    }

    fn routes(&mut self, network: &Network) -> Result<(), NetworkError> {
        for route in &network.routes {
            let number = self.number(&route.interface)?;
            let message = Message::NewRoute(route.message(number));
            self.set(|| format!("set the route {route}"), message)?;
        }
        Ok(())
    }

    fn number(&self, interface: &str) -> Result<u32, NetworkError> {
        let number = self.numbers.get(interface).copied();
        number.ok_or(NetworkError::Request { field: "interface" })
    }

    fn set(
        &mut self,
        operation: impl FnOnce() -> String,
        message: Message,
    ) -> Result<(), NetworkError> {
        let (flags, is_done) = match message {
            Message::SetLink(_) => (0, None),
            // One that goes takes those along that are of its network.
            Message::DelAddress(_) => (0, Some(io::ErrorKind::AddrNotAvailable)),
            // A replaced route may be another interface's: fe80::/64 is everybody's.
            Message::NewRoute(_) => (
                NLM_F_CREATE | NLM_F_APPEND,
                Some(io::ErrorKind::AlreadyExists),
            ),
            _ => (NLM_F_CREATE | NLM_F_REPLACE, None),
        };
        match self.netlink.request(message, flags) {
            Err(error) if is_done == Some(error.kind()) => Ok(()),
            done => done.map_err(|error| NetworkError::Set {
                operation: operation(),
                source: error.into(),
            }),
        }
    }
}

fn link(number: u32, up: Option<bool>) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = number;
    if let Some(up) = up {
        link.header.flags.set(LinkFlags::Up, up);
        link.header.change_mask = LinkFlags::Up;
    }
    link
}
