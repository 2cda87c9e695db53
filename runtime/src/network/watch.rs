// SPDX-License-Identifier: Apache-2.0
//! An interface that vanishes while its sandbox runs: the guest sees its link go down, and lives on.

use cube_net::wire::{LinkWatch, Pair};

use crate::error::chain;
use crate::vmm::Vmm;

/// Follows the interfaces by slot, until the machine has ended: a namespace that is watched stays, and
/// plug-ins rely on its going with the machine.
pub(super) async fn watch(vmm: Vmm, mut links: LinkWatch, pairs: Vec<Pair>) {
    let mut attached: Vec<(u8, Pair)> = (0..).zip(pairs).collect();
    let end = vmm.end().clone();
    while !attached.is_empty() {
        let present = tokio::select! {
            _ = end.wait() => return,
            present = links.changed() => present,
        };
        let present = match present {
            Ok(present) => present,
            Err(error) => {
                let error = chain(&error);
                tracing::warn!(error, "interfaces that vanish are not noticed any more");
                return;
            }
        };
        let (here, gone): (Vec<_>, Vec<_>) = attached
            .into_iter()
            .partition(|(_, pair)| present.contains(&pair.interface.index));
        attached = here;
        for (slot, pair) in gone {
            let interface = pair.interface.name;
            tracing::warn!(
                interface,
                "the interface is gone: the guest's link goes down"
            );
            if let Err(error) = vmm.detach_net(slot).await {
                let error = chain(&error);
                tracing::warn!(interface, error, "the guest's link stays up");
            }
        }
    }
}
