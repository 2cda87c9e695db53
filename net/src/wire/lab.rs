// SPDX-License-Identifier: Apache-2.0
//! Namespaces and interfaces for tests, made and filled by the test alone.

use std::io::Write;
use std::net::IpAddr;
use std::path::Path;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteNextHop, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage as Message};

use super::Namespace;
use crate::netlink::{Request, Route};

/// A fresh namespace, or one printed line that says why there is none.
pub(crate) fn namespace() -> Option<Namespace> {
    let made = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        Ok::<_, nix::Error>(Namespace::open(Path::new("/proc/thread-self/ns/net")).unwrap())
    });
    match made.join().unwrap() {
        Ok(namespace) => Some(namespace),
        Err(error) => {
            let line = format!("skipped: no network namespace can be made here: {error}\n");
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            None
        }
    }
}

/// What a plug-in would do, as far as tests need it.
pub(crate) struct Lab(pub(crate) Route);

impl Lab {
    pub(crate) fn open() -> Self {
        Self(Route::open().unwrap())
    }

    fn make(&mut self, message: Message) {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.0.exchange([Request { message, flags }]).unwrap();
    }

    /// A pair of interfaces, both up.
    pub(crate) fn veth(&mut self, name: &str, peer: &str, mtu: u32) {
        let end = |name: &str| {
            let mut link = named(name);
            link.attributes.push(LinkAttribute::Mtu(mtu));
            link
        };
        let mut pair = end(name);
        let info = vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end(peer)))),
        ];
        pair.attributes.push(LinkAttribute::LinkInfo(info));
        self.make(Message::NewLink(pair));
        self.up(name, true);
        self.up(peer, true);
    }

    pub(crate) fn up(&mut self, name: &str, up: bool) {
        let mut link = named(name);
        link.header.flags.set(LinkFlags::Up, up);
        link.header.change_mask = LinkFlags::Up;
        self.make(Message::SetLink(link));
    }

    /// Gives an interface a hardware address.
    pub(crate) fn mac(&mut self, name: &str, mac: [u8; 6]) {
        let mut link = named(name);
        link.attributes.push(LinkAttribute::Address(mac.to_vec()));
        self.make(Message::SetLink(link));
    }

    /// Moves an interface into another namespace, where it is down.
    pub(crate) fn give(&mut self, name: &str, to: &Namespace) {
        use std::os::fd::{AsFd, AsRawFd};
        let mut link = named(name);
        link.attributes
            .push(LinkAttribute::NetNsFd(to.as_fd().as_raw_fd()));
        self.make(Message::SetLink(link));
    }

    /// A route with one next hop for each of these gateways.
    pub(crate) fn multipath(&mut self, name: &str, to: (&str, u8), by: &[&str]) {
        let to_ip: IpAddr = to.0.parse().unwrap();
        let mut message = RouteMessage::default();
        message.header.address_family = family(to_ip);
        message.header.destination_prefix_length = to.1;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.kind = RouteType::Unicast;
        let index = self.index(name);
        let hops = by.iter().map(|by| {
            let by: IpAddr = by.parse().unwrap();
            let mut hop = RouteNextHop::default();
            hop.interface_index = index;
            hop.attributes = vec![RouteAttribute::Gateway(by.into())];
            hop
        });
        message.attributes = vec![
            RouteAttribute::Destination(to_ip.into()),
            RouteAttribute::MultiPath(hops.collect()),
        ];
        self.make(Message::NewRoute(message));
    }

    pub(crate) fn delete(&mut self, name: &str) {
        let message = Message::DelLink(named(name));
        self.0.exchange([Request { message, flags: 0 }]).unwrap();
    }

    pub(crate) fn index(&mut self, name: &str) -> u32 {
        let message = Message::GetLink(named(name));
        let answers = self.0.exchange([Request { message, flags: 0 }]).unwrap();
        match &answers[..] {
            [Message::NewLink(link)] => link.header.index,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn address(&mut self, name: &str, ip: &str, prefix_len: u8) {
        let ip: IpAddr = ip.parse().unwrap();
        let mut message = AddressMessage::default();
        message.header.index = self.index(name);
        message.header.family = family(ip);
        message.header.prefix_len = prefix_len;
        message.attributes = vec![
            AddressAttribute::Address(ip),
            AddressAttribute::Local(ip),
            AddressAttribute::Flags(AddressFlags::Nodad),
        ];
        self.make(Message::NewAddress(message));
    }

    pub(crate) fn route(&mut self, name: &str, to: Option<(&str, u8)>, by: &str, metric: u32) {
        let by: IpAddr = by.parse().unwrap();
        let mut message = RouteMessage::default();
        message.header.address_family = family(by);
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Static;
        message.header.scope = RouteScope::Universe;
        message.header.kind = RouteType::Unicast;
        message.header.flags = RouteFlags::Onlink;
        message.attributes = vec![
            RouteAttribute::Oif(self.index(name)),
            RouteAttribute::Gateway(by.into()),
            RouteAttribute::Priority(metric),
        ];
        if let Some((to, prefix_len)) = to {
            let to: IpAddr = to.parse().unwrap();
            message.header.destination_prefix_length = prefix_len;
            message
                .attributes
                .push(RouteAttribute::Destination(to.into()));
        }
        self.make(Message::NewRoute(message));
    }

    pub(crate) fn neighbour(&mut self, name: &str, ip: &str, mac: [u8; 6]) {
        let ip: IpAddr = ip.parse().unwrap();
        let mut message = NeighbourMessage::default();
        message.header.family = family(ip);
        message.header.ifindex = self.index(name);
        message.header.state = NeighbourState::Permanent;
        message.attributes = vec![
            NeighbourAttribute::Destination(ip.into()),
            NeighbourAttribute::LinkLayerAddress(mac.to_vec()),
        ];
        self.make(Message::NewNeighbour(message));
    }
}

fn named(name: &str) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.attributes = vec![LinkAttribute::IfName(name.into())];
    link
}

fn family(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}
