// SPDX-License-Identifier: Apache-2.0
//! Noticing that an interface goes away while a sandbox runs.
//!
//! What the kernel tells is only taken as a sign to look: so it does not matter if it had more to tell than
//! fits into a socket.

use std::collections::BTreeSet;
use std::io;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rustix::io::Errno;
use thiserror::Error;
use tokio::runtime::Handle;

use crate::netlink::{DATAGRAM, NetlinkError, Route};

/// `RTMGRP_LINK` of linux/rtnetlink.h.
const LINKS: u32 = 1;

/// A look at the interfaces of one namespace, which it keeps alive.
pub struct LinkWatch {
    signs: TokioSocket,
    netlink: Route,
}

impl LinkWatch {
    /// Begins to watch the calling thread's namespace, with the async runtime that will wait for it. To
    /// be begun before the interfaces are looked at: whatever changes from now on is noticed.
    pub fn open(runtime: &Handle) -> Result<Self, WatchError> {
        let _inside = runtime.enter();
        let open = || -> io::Result<TokioSocket> {
            let mut signs = TokioSocket::new(NETLINK_ROUTE)?;
            signs.socket_mut().bind(&SocketAddr::new(0, LINKS))?;
            Ok(signs)
        };
        Ok(Self {
            signs: open().map_err(WatchError::Open)?,
            netlink: Route::open().map_err(WatchError::Look)?,
        })
    }

    /// Waits for a change and returns the numbers of all interfaces that there are then.
    pub async fn changed(&mut self) -> Result<BTreeSet<u32>, WatchError> {
        let mut sign = Vec::with_capacity(DATAGRAM);
        match self.signs.recv(&mut sign).await {
            Ok(()) => {}
            // Signs were lost; the look is the same.
            Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => {}
            Err(error) => return Err(WatchError::Wait(error)),
        }
        let links = RouteNetlinkMessage::GetLink(LinkMessage::default());
        let links = self.netlink.dump(links).map_err(WatchError::Look)?;
        let numbers = links.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewLink(link) => Some(link.header.index),
            _ => None,
        });
        Ok(numbers.collect())
    }
}

impl std::fmt::Debug for LinkWatch {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("LinkWatch").finish_non_exhaustive()
    }
}

/// Why a namespace is not watched.
#[derive(Debug, Error)]
pub enum WatchError {
    /// There is no socket for it.
    #[error("a socket that tells of changed interfaces could not be opened")]
    Open(#[source] io::Error),
    /// There is no waiting.
    #[error("changed interfaces could not be waited for")]
    Wait(#[source] io::Error),
    /// The interfaces could not be listed.
    #[error("the interfaces could not be listed")]
    Look(#[source] NetlinkError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::lab::{self, Lab};

    #[tokio::test]
    async fn an_interface_that_goes_is_noticed_by_its_number() {
        let Some(namespace) = lab::namespace() else {
            return;
        };
        let runtime = Handle::current();
        let make = || {
            let mut lab = Lab::open();
            lab.veth("eth0", "far", 1500);
            lab.veth("eth1", "away", 1500);
            let watch = LinkWatch::open(&runtime).unwrap();
            let (goes, stays) = (lab.index("eth0"), lab.index("eth1"));
            lab.delete("eth0");
            (watch, goes, stays)
        };
        let (mut watch, goes, stays) = namespace.run(make).unwrap();
        let present = watch.changed().await.unwrap();
        assert!(!present.contains(&goes) && present.contains(&stays));
    }

    #[tokio::test]
    async fn an_interface_that_moves_away_is_gone() {
        let (Some(here), Some(there)) = (lab::namespace(), lab::namespace()) else {
            return;
        };
        let runtime = Handle::current();
        let make = || {
            let mut lab = Lab::open();
            lab.veth("eth0", "far", 1500);
            let watch = LinkWatch::open(&runtime).unwrap();
            let index = lab.index("eth0");
            lab.give("eth0", &there);
            (watch, index)
        };
        let (mut watch, index) = here.run(make).unwrap();
        // Its going down is a change too.
        while watch.changed().await.unwrap().contains(&index) {}
    }
}
