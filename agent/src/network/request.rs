// SPDX-License-Identifier: Apache-2.0
//! What the host wants, checked, and as messages of the kernel.

use std::fmt;
use std::net::IpAddr;

use cube_protocol::v1::agent as wire;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};

use super::NetworkError;

/// All of a machine's network.
#[derive(Debug, PartialEq, Eq)]
pub struct Network {
    /// The interfaces.
    pub interfaces: Vec<Interface>,
    /// The main table, in the order in which it can be filled.
    pub routes: Vec<Route>,
    /// Permanent neighbours.
    pub neighbours: Vec<Neighbour>,
    /// Whether the host answers names.
    pub dns_relay: bool,
}

impl Network {
    /// The machine's addresses.
    pub fn addresses(&self) -> Vec<IpAddr> {
        let all = self
            .interfaces
            .iter()
            .flat_map(|interface| &interface.addresses);
        all.map(|(ip, _)| *ip).collect()
    }
}

/// One interface.
#[derive(Debug, PartialEq, Eq)]
pub struct Interface {
    /// Of its device.
    pub slot: u32,
    /// Its name.
    pub name: String,
    /// Its hardware address.
    pub mac: [u8; 6],
    /// Its longest packet.
    pub mtu: u32,
    /// Its addresses and the lengths of their prefixes.
    pub addresses: Vec<(IpAddr, u8)>,
}

/// One route.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    /// The interface.
    pub interface: String,
    ipv6: bool,
    destination: Option<IpAddr>,
    prefix_len: u8,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
    scope: u8,
    metric: u32,
    onlink: bool,
}

/// One neighbour.
#[derive(Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The interface.
    pub interface: String,
    /// Its address.
    pub ip: IpAddr,
    mac: [u8; 6],
}

impl Network {
    /// Checks a request.
    pub fn parse(request: wire::NetworkRequest) -> Result<Self, NetworkError> {
        let dns_relay = request.dns_relay;
        let interfaces = request.interfaces.into_iter().map(interface);
        let routes = request.routes.into_iter().map(route);
        let neighbours = request.neighbours.into_iter().map(neighbour);
        Ok(Self {
            interfaces: interfaces.collect::<Result<_, _>>()?,
            routes: routes.collect::<Result<_, _>>()?,
            neighbours: neighbours.collect::<Result<_, _>>()?,
            dns_relay,
        })
    }
}

fn interface(wanted: wire::NetInterface) -> Result<Interface, NetworkError> {
    let addresses = wanted.addresses.iter().map(|address| {
        let ip = ip(&address.ip, "address")?;
        Ok((ip, prefix(address.prefix_len, ip.is_ipv6())?))
    });
    Ok(Interface {
        slot: wanted.slot,
        mac: mac(&wanted.mac)?,
        mtu: wanted.mtu,
        addresses: addresses.collect::<Result<_, NetworkError>>()?,
        name: wanted.name,
    })
}

fn route(wanted: wire::NetRoute) -> Result<Route, NetworkError> {
    let ipv6 = match wanted.family {
        4 => false,
        6 => true,
        _ => return Err(malformed("family")),
    };
    let optional = |bytes: &[u8], field| match bytes {
        [] => Ok(None),
        bytes => match ip(bytes, field)? {
            ip if ip.is_ipv6() == ipv6 => Ok(Some(ip)),
            _ => Err(malformed(field)),
        },
    };
    Ok(Route {
        ipv6,
        destination: optional(&wanted.destination, "destination")?,
        prefix_len: prefix(wanted.prefix_len, ipv6)?,
        gateway: optional(&wanted.gateway, "gateway")?,
        source: optional(&wanted.source, "source")?,
        scope: u8::try_from(wanted.scope).map_err(|_| malformed("scope"))?,
        metric: wanted.metric,
        onlink: wanted.onlink,
        interface: wanted.interface,
    })
}

fn neighbour(wanted: wire::NetNeighbour) -> Result<Neighbour, NetworkError> {
    Ok(Neighbour {
        ip: ip(&wanted.ip, "neighbour")?,
        mac: mac(&wanted.mac)?,
        interface: wanted.interface,
    })
}

fn ip(bytes: &[u8], field: &'static str) -> Result<IpAddr, NetworkError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(v4.into());
    }
    let v6 = <[u8; 16]>::try_from(bytes).map_err(|_| malformed(field))?;
    Ok(v6.into())
}

fn mac(bytes: &[u8]) -> Result<[u8; 6], NetworkError> {
    bytes.try_into().map_err(|_| malformed("mac"))
}

fn prefix(len: u32, ipv6: bool) -> Result<u8, NetworkError> {
    let most = if ipv6 { 128 } else { 32 };
    let len = u8::try_from(len).ok().filter(|len| *len <= most);
    len.ok_or(malformed("prefix_len"))
}

fn malformed(field: &'static str) -> NetworkError {
    NetworkError::Request { field }
}

fn family(ipv6: bool) -> AddressFamily {
    match ipv6 {
        true => AddressFamily::Inet6,
        false => AddressFamily::Inet,
    }
}

/// An address that is not tried for duplicates and brings no route: the routes are told.
pub(super) fn address(number: u32, ip: IpAddr, prefix_len: u8) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = number;
    message.header.family = family(ip.is_ipv6());
    message.header.prefix_len = prefix_len;
    message.attributes = vec![
        AddressAttribute::Address(ip),
        AddressAttribute::Local(ip),
        AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute),
    ];
    message
}

impl Route {
    pub(super) fn message(&self, number: u32) -> RouteMessage {
        let mut message = RouteMessage::default();
        let header = &mut message.header;
        header.address_family = family(self.ipv6);
        header.destination_prefix_length = self.prefix_len;
        header.table = RouteHeader::RT_TABLE_MAIN;
        header.protocol = RouteProtocol::Static;
        header.scope = RouteScope::from(self.scope);
        header.kind = RouteType::Unicast;
        header.flags.set(RouteFlags::Onlink, self.onlink);
        let attributes = [
            Some(RouteAttribute::Oif(number)),
            self.destination
                .map(|ip| RouteAttribute::Destination(ip.into())),
            self.gateway.map(|ip| RouteAttribute::Gateway(ip.into())),
            self.source.map(|ip| RouteAttribute::PrefSource(ip.into())),
            (self.metric != 0).then_some(RouteAttribute::Priority(self.metric)),
        ];
        message.attributes = attributes.into_iter().flatten().collect();
        message
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.destination {
            Some(ip) => write!(f, "to {ip}/{}", self.prefix_len)?,
            None => f.write_str("to everywhere")?,
        }
        if let Some(gateway) = self.gateway {
            write!(f, " by {gateway}")?;
        }
        write!(f, " on {}", self.interface)
    }
}

impl Neighbour {
    pub(super) fn message(&self, number: u32) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.family = family(self.ip.is_ipv6());
        message.header.ifindex = number;
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(self.ip.into()),
            NeighbourAttribute::LinkLayerAddress(self.mac.to_vec()),
        ];
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(request: wire::NetworkRequest, field: &str) {
        let error = Network::parse(request).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }

    fn route(change: impl FnOnce(&mut wire::NetRoute)) -> wire::NetworkRequest {
        let mut route = wire::NetRoute::new();
        route.family = 4;
        change(&mut route);
        let mut request = wire::NetworkRequest::new();
        request.routes.push(route);
        request
    }

    #[test]
    fn malformed_parts_are_refused_by_name() {
        refused(route(|route| route.family = 5), "family");
        refused(route(|route| route.prefix_len = 33), "prefix_len");
        refused(route(|route| route.gateway = vec![1, 2, 3]), "gateway");
        refused(route(|route| route.gateway = vec![0; 16]), "gateway");
        refused(route(|route| route.scope = 256), "scope");
        let mut request = wire::NetworkRequest::new();
        request.interfaces.push(wire::NetInterface::new());
        refused(request, "mac");
    }

    #[test]
    fn a_route_says_where_it_leads() {
        let said = |request| Network::parse(request).unwrap().routes[0].to_string();
        assert_eq!(said(route(|_| {})), "to everywhere on ");
        let request = route(|route| {
            route.interface = "eth0".into();
            route.destination = vec![10, 0, 0, 0];
            route.prefix_len = 8;
            route.gateway = vec![10, 1, 1, 1];
        });
        assert_eq!(said(request), "to 10.0.0.0/8 by 10.1.1.1 on eth0");
    }

    #[test]
    fn a_metric_of_zero_is_the_kernels_choice() {
        let parsed = Network::parse(route(|route| route.metric = 9)).unwrap();
        let attributes = parsed.routes[0].message(3).attributes;
        assert!(attributes.contains(&RouteAttribute::Priority(9)));
        let parsed = Network::parse(route(|_| {})).unwrap();
        assert_eq!(
            parsed.routes[0].message(3).attributes,
            [RouteAttribute::Oif(3)]
        );
    }
}
