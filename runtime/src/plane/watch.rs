// SPDX-License-Identifier: Apache-2.0
//! What happens in a directory of a container.

use cube_protocol::FrameKind;
use cube_protocol::v1::plane as wire;
use cube_protocol::v1::plane::opening::Wanted;
use protobuf::MessageField;

use super::channel::Channel;
use super::place::{Entry, Place};
use super::{Plane, PlaneError};

/// A directory that is watched until this is dropped.
#[derive(Debug)]
pub struct Watch {
    channel: Channel,
    has_ended: bool,
}

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// What.
    pub kind: WatchKind,
    /// To whom, relative to the directory.
    pub name: String,
    /// What is there now, if that was asked for and there is something.
    pub entry: Option<Entry>,
}

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchKind {
    /// More than could be told: look at the directory anew.
    Overflow,
    /// It is there now.
    Create,
    /// Its content changed.
    Write,
    /// It is gone.
    Remove,
    /// It has another name now, which a creation tells if that is watched too.
    Rename,
    /// Its mode, owner, time or metadata changed.
    Chmod,
}

impl Plane {
    /// Watches a directory; with `recursive` also those below, and those that come. It is watched when this
    /// answers.
    pub async fn watch(
        &self,
        place: &Place,
        recursive: bool,
        include_entry: bool,
    ) -> Result<Watch, PlaneError> {
        let wanted = Wanted::Watch(wire::WatchDirectory {
            place: MessageField::some(place.to_wire()),
            recursive,
            include_entry,
            ..Default::default()
        });
        let (channel, _) = self.open_channel("watch the directory", wanted).await?;
        Ok(Watch {
            channel,
            has_ended: false,
        })
    }
}

impl Watch {
    /// What happens next; none once the directory is gone. Nothing is lost when the caller stops waiting.
    pub async fn next(&mut self) -> Result<Option<WatchEvent>, PlaneError> {
        if self.has_ended {
            return Ok(None);
        }
        match self.channel.next().await? {
            Some((FrameKind::Message, payload)) => {
                let event: wire::WatchEvent = self.channel.message(&payload)?;
                Ok(Some(event.into()))
            }
            Some((FrameKind::End, _)) => {
                self.has_ended = true;
                Ok(None)
            }
            Some(_) => Err(self.channel.malformed()),
            None => Err(self.channel.ended_early()),
        }
    }
}

impl From<wire::WatchEvent> for WatchEvent {
    fn from(event: wire::WatchEvent) -> Self {
        use wire::WatchKind as Wire;
        Self {
            kind: match event.kind.enum_value_or_default() {
                Wire::OVERFLOW => WatchKind::Overflow,
                Wire::CREATE => WatchKind::Create,
                Wire::WRITE => WatchKind::Write,
                Wire::REMOVE => WatchKind::Remove,
                Wire::RENAME => WatchKind::Rename,
                Wire::CHMOD => WatchKind::Chmod,
            },
            name: event.name,
            entry: event.entry.into_option().map(Entry::from),
        }
    }
}
