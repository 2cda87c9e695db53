// SPDX-License-Identifier: Apache-2.0
//! What a client put into a namespace: interfaces, addresses, routes, neighbours.
//!
//! Four dumps, one for each kind. Whatever a guest cannot have or use is left out: interfaces that carry
//! no ethernet, are down, or are ports of another one; routes of other tables than the main one. The routes
//! that the kernel made for an address are in: some plug-ins take them away (`ptp`), so that a guest that
//! made its own would have one too many.

use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use thiserror::Error;

use crate::netlink::{NetlinkError, Route as Netlink};

/// Most interfaces of a sandbox: network devices of a machine.
pub const MAX_INTERFACES: usize = 4;

/// What is in a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// At most [`MAX_INTERFACES`], in the order in which they were made.
    pub interfaces: Vec<Interface>,
    /// In an order in which they can be added one after the other.
    pub routes: Vec<Route>,
    /// The permanent ones.
    pub neighbours: Vec<Neighbour>,
}

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its number in the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its longest packet, without the ethernet header.
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<Address>,
}

/// An address and the network that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The address.
    pub ip: IpAddr,
    /// Bits of the network's prefix.
    pub prefix_len: u8,
}

/// One route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Name of the interface.
    pub interface: String,
    /// The family; a default route has no destination to tell it from.
    pub ipv6: bool,
    /// Where to; none is everywhere.
    pub destination: Option<IpAddr>,
    /// Bits of the destination's prefix.
    pub prefix_len: u8,
    /// By way of whom.
    pub gateway: Option<IpAddr>,
    /// With which source address.
    pub source: Option<IpAddr>,
    /// `rtm_scope`.
    pub scope: u8,
    /// `RTA_PRIORITY`; 0 where it has none.
    pub metric: u32,
    /// Whether the gateway counts as reachable, though no route says so.
    pub onlink: bool,
}

/// One permanent neighbour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Name of the interface.
    pub interface: String,
    /// Its address.
    pub ip: IpAddr,
    /// Its hardware address.
    pub mac: [u8; 6],
}

/// Looks around in the namespace of the socket.
pub fn scan(netlink: &mut Netlink) -> Result<Found, ScanError> {
    let mut dump = |what, message| {
        netlink
            .dump(message)
            .map_err(|source| ScanError::Dump { what, source })
    };
    use RouteNetlinkMessage::{GetAddress, GetLink, GetNeighbour, GetRoute};
    let links = dump("interfaces", GetLink(LinkMessage::default()))?;
    let mut interfaces: Vec<_> = links.iter().filter_map(interface).collect();
    // Without one there is nothing that the rest could belong to.
    if interfaces.is_empty() {
        return Ok(Found::default());
    }
    interfaces.sort_by_key(|interface| interface.index);
    if interfaces.len() > MAX_INTERFACES {
        return Err(ScanError::TooMany {
            names: interfaces.into_iter().map(|found| found.name).collect(),
        });
    }
    for message in dump("addresses", GetAddress(AddressMessage::default()))? {
        if let Some((index, address)) = address(&message)
            && let Some(interface) = interfaces.iter_mut().find(|found| found.index == index)
        {
            interface.addresses.push(address);
        }
    }
    let routes = dump("routes", GetRoute(RouteMessage::default()))?;
    let neighbours = dump("neighbours", GetNeighbour(NeighbourMessage::default()))?;
    let mut routes = routes
        .iter()
        .filter_map(|message| route(message, &interfaces))
        .collect::<Result<Vec<_>, _>>()?;
    // A gateway has to be reachable before a route can go by way of it.
    routes.sort_by_key(|route| route.gateway.is_some());
    Ok(Found {
        neighbours: neighbours
            .iter()
            .filter_map(|message| neighbour(message, &interfaces))
            .collect(),
        routes,
        interfaces,
    })
}

/// An interface that a guest can take the place of.
fn interface(message: &RouteNetlinkMessage) -> Option<Interface> {
    let RouteNetlinkMessage::NewLink(link) = message else {
        return None;
    };
    let ethernet = link.header.link_layer_type == LinkLayerType::Ether;
    if !ethernet || !link.header.flags.contains(LinkFlags::Up) {
        return None;
    }
    let mut found = Interface {
        index: link.header.index,
        name: String::new(),
        mac: [0; 6],
        mtu: 0,
        addresses: Vec::new(),
    };
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name.clone_from(name),
            LinkAttribute::Address(mac) => found.mac = mac.as_slice().try_into().ok()?,
            LinkAttribute::Mtu(mtu) => found.mtu = *mtu,
            // A port's packets are its bridge's or bond's.
            LinkAttribute::Controller(_) => return None,
            // Somebody's machine is at its other end, ours or another one.
            LinkAttribute::LinkInfo(info) if is_tap(info) => return None,
            _ => {}
        }
    }
    Some(found)
}

fn is_tap(info: &[LinkInfo]) -> bool {
    info.iter()
        .any(|part| matches!(part, LinkInfo::Kind(InfoKind::Tun)))
}

pub(super) fn address(message: &RouteNetlinkMessage) -> Option<(u32, Address)> {
    let RouteNetlinkMessage::NewAddress(message) = message else {
        return None;
    };
    let (mut local, mut peer) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            // Of a point-to-point link this is the other end, and `Local` is ours.
            AddressAttribute::Address(ip) => peer = Some(*ip),
            AddressAttribute::Local(ip) => local = Some(*ip),
            _ => {}
        }
    }
    let address = Address {
        ip: local.or(peer)?,
        prefix_len: message.header.prefix_len,
    };
    Some((message.header.index, address))
}

/// The route of a message, if it is one of these interfaces'.
fn route(
    message: &RouteNetlinkMessage,
    interfaces: &[Interface],
) -> Option<Result<Route, ScanError>> {
    let RouteNetlinkMessage::NewRoute(message) = message else {
        return None;
    };
    let header = &message.header;
    let family = [AddressFamily::Inet, AddressFamily::Inet6].contains(&header.address_family);
    if !family || header.kind != RouteType::Unicast || header.table != RouteHeader::RT_TABLE_MAIN {
        return None;
    }
    let mut route = Route {
        interface: String::new(),
        ipv6: header.address_family == AddressFamily::Inet6,
        destination: None,
        prefix_len: header.destination_prefix_length,
        gateway: None,
        source: None,
        scope: header.scope.into(),
        metric: 0,
        onlink: header.flags.contains(RouteFlags::Onlink),
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.interface = name(interfaces, *index)?,
            RouteAttribute::Destination(to) => route.destination = ip(to),
            RouteAttribute::Gateway(by) => route.gateway = ip(by),
            RouteAttribute::Via(RouteVia::Inet(by)) => route.gateway = Some((*by).into()),
            RouteAttribute::Via(RouteVia::Inet6(by)) => route.gateway = Some((*by).into()),
            RouteAttribute::PrefSource(from) => route.source = ip(from),
            RouteAttribute::Priority(metric) => route.metric = *metric,
            RouteAttribute::MultiPath(hops) => {
                let mut hops = hops.iter();
                hops.find(|hop| name(interfaces, hop.interface_index).is_some())?;
                let to = message.attributes.iter().find_map(destination);
                let to = Network(to, header.destination_prefix_length);
                return Some(Err(ScanError::Multipath { to }));
            }
            _ => {}
        }
    }
    (!route.interface.is_empty()).then_some(Ok(route))
}

fn neighbour(message: &RouteNetlinkMessage, interfaces: &[Interface]) -> Option<Neighbour> {
    let RouteNetlinkMessage::NewNeighbour(message) = message else {
        return None;
    };
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let interface = name(interfaces, message.header.ifindex)?;
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some((*v4).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some((*v6).into()),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    Some(Neighbour {
        interface,
        ip: ip?,
        mac: mac?,
    })
}

fn name(interfaces: &[Interface], index: u32) -> Option<String> {
    let found = interfaces.iter().find(|interface| interface.index == index);
    found.map(|interface| interface.name.clone())
}

fn destination(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Destination(to) => ip(to),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// A destination in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network(Option<IpAddr>, u8);

impl std::fmt::Display for Network {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Network(Some(ip), prefix_len) => write!(out, "{ip}/{prefix_len}"),
            Network(None, _) => out.write_str("everywhere"),
        }
    }
}

/// Why a namespace's network cannot be a guest's.
#[derive(Debug, Error)]
pub enum ScanError {
    /// The kernel did not tell.
    #[error("the {what} could not be listed")]
    Dump {
        /// Of what kind.
        what: &'static str,
        /// Why.
        source: NetlinkError,
    },
    /// More interfaces than a machine has network devices.
    #[error(
        "there are {} interfaces ({}), and a machine can have {MAX_INTERFACES}",
        names.len(),
        names.join(", ")
    )]
    TooMany {
        /// Their names.
        names: Vec<String>,
    },
    /// A route with several next hops.
    #[error("the route to {to} has several next hops, which is not supported: leave one")]
    Multipath {
        /// Where to.
        to: Network,
    },
}

#[cfg(test)]
mod tests;
