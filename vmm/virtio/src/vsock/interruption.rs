// SPDX-License-Identifier: Apache-2.0
//! After a restore: the connections of before are gone, and the guest has to hear of it.
//!
//! ```text
//!  Unannounced ─ buffer in the event queue: TRANSPORT_RESET ─► Announced ─ another one ─► over
//! ```
//! The driver answers the event (virtio 1.2, section 5.10.6.6) by resetting every socket that is
//! connected, whenever it gets to it; those that listen stay. A connection made after the restore
//! but before that moment would be among them, so nothing is delivered until the driver has put
//! a buffer into the event queue again, which Linux does when it is through with the event. The
//! packets that it sends in the meantime are taken, and answered afterwards.
//!
//! A device that had no connections when it was saved has no interruption.

use super::InterruptionState;
use crate::queue::{QueueError, Virtqueue};

/// VIRTIO_VSOCK_EVENT_TRANSPORT_RESET, the one event there is: struct virtio_vsock_event.
const TRANSPORT_RESET: [u8; 4] = 0u32.to_le_bytes();

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Interruption {
    /// Connections of before that the guest does not know to be gone.
    lost: u32,
    /// The guest was told when it had made so many event buffers available.
    announced: Option<u16>,
}

impl Interruption {
    /// `connections` are those that were not lost before.
    pub fn save(&self, connections: u32) -> InterruptionState {
        match (self.lost.saturating_add(connections), self.announced) {
            (0, None) => InterruptionState::None,
            (0, Some(available)) => InterruptionState::Announced { available },
            (connections, _) => InterruptionState::Unannounced { connections },
        }
    }

    pub fn restore(state: InterruptionState) -> Self {
        match state {
            InterruptionState::None => Self::default(),
            InterruptionState::Unannounced { connections } => Self {
                lost: connections,
                announced: None,
            },
            InterruptionState::Announced { available } => Self {
                lost: 0,
                announced: Some(available),
            },
        }
    }

    /// Whether packets may be delivered.
    pub fn is_over(&self) -> bool {
        self.lost == 0 && self.announced.is_none()
    }

    /// Goes on as far as the driver lets it.
    pub fn proceed(&mut self, events: &mut Virtqueue) -> Result<(), QueueError> {
        if self.lost > 0 {
            // Counted before the driver can know of the event, let alone answer it.
            let available = events.available()?;
            if !announce(events)? {
                return Ok(());
            }
            *self = Self {
                lost: 0,
                announced: Some(available),
            };
        }
        if let Some(available) = self.announced
            && events.watch(available)?
        {
            self.announced = None;
        }
        Ok(())
    }
}

/// Puts the event into the driver's next buffer; false when there is none. One that is too small
/// is returned unused.
fn announce(events: &mut Virtqueue) -> Result<bool, QueueError> {
    loop {
        let Some(chain) = events.pop()? else {
            if events.enable_notification()? {
                continue;
            }
            return Ok(false);
        };
        let buffer = chain.writable(events.memory());
        let fits = buffer.len() >= TRANSPORT_RESET.len();
        let mut written = 0;
        if fits {
            buffer.write(&TRANSPORT_RESET)?;
            written = 4;
        }
        events.complete(chain, written)?;
        events.signal()?;
        if fits {
            return Ok(true);
        }
    }
}
