// SPDX-License-Identifier: Apache-2.0
//! The host's side of a sandbox's network.
//!
//! A client (a CNI plug-in, docker, nerdctl) furnishes a network namespace with interfaces. Here they
//! are found, and each is tied to a tap that the sandbox's machine holds the other end of, so that the
//! guest takes the interface's place: its hardware address, its addresses, its routes.
//!
//! ```text
//!  the client's network ── eth0 ══ nftables, netdev family ══ cube0 ── cube-vmm ── the guest's eth0
//!                                  wiring in one table, which holds the policy
//! ```
//!
//! All of it is netlink from within this process: nothing is executed, no daemon is asked. It makes no
//! taps (`cube_vmm::tap` does), knows neither machines nor guests, and is called by `cube-runtime` alone.
//!
//! | module | what |
//! |---|---|
//! | [`dns`] | questions of a guest, whether they may be asked, and the addresses in answers |
//! | [`netlink`] | one blocking exchange with the kernel after the other |
//! | [`policy`] | what a sandbox may send to, as text and as data |
//! | [`table`] | wiring interfaces to taps, and what goes through, in one transaction |
//! | [`wire`] | namespaces; what is in them; taps brought up; interfaces watched |

pub mod dns;
pub mod netlink;
mod nft;
pub mod policy;
pub mod table;
pub mod wire;

pub use ipnet::IpNet;
