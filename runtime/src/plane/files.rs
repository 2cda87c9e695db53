// SPDX-License-Identifier: Apache-2.0
//! Files of a container, as the container sees them.

use std::collections::BTreeMap;
use std::future::Future;

use cube_protocol::FrameKind;
use cube_protocol::v1::agent::Empty;
use cube_protocol::v1::plane as wire;
use cube_protocol::v1::plane::answer::Answer;
use cube_protocol::v1::plane::opening::Wanted;
use cube_protocol::v1::plane_ttrpc::PlaneClient;
use protobuf::MessageField;
use ttrpc::context::Context;

use super::channel::Channel;
use super::connection::CALL_TIMEOUT;
use super::place::{Entry, Place};
use super::{Plane, PlaneError};

/// Most bytes of a file in one frame: few enough for several transfers at once in the guest's memory.
const CHUNK: usize = 128 * 1024;

/// A file that is being read: bytes until its end, whatever its size was said to be.
#[derive(Debug)]
pub struct FileReader {
    channel: Channel,
    entry: Entry,
    has_ended: bool,
}

/// A file that is being written. Dropping it before [`FileWriter::finish`] leaves what was written.
#[derive(Debug)]
pub struct FileWriter {
    channel: Channel,
}

/// What is in a directory, page by page.
#[derive(Debug)]
pub struct Listing {
    channel: Channel,
    has_ended: bool,
}

impl Plane {
    /// What is at a path; a link is not followed, but its kind is that of what it leads to.
    pub async fn stat(&self, place: &Place) -> Result<Entry, PlaneError> {
        let request = self.path_request(place);
        self.entry("look at the path", |client, context| async move {
            client.stat(context, &request).await
        })
        .await
    }

    /// Makes a directory, and what is missing above it; all of it the user's.
    pub async fn make_directory(&self, place: &Place) -> Result<Entry, PlaneError> {
        let request = self.path_request(place);
        self.entry("make the directory", |client, context| async move {
            client.make_directory(context, &request).await
        })
        .await
    }

    /// Gives something another path, in the place of what was there.
    pub async fn rename(&self, source: &Place, destination: &Place) -> Result<Entry, PlaneError> {
        let request = wire::RenameRequest {
            container_id: self.container_id(),
            source: MessageField::some(source.to_wire()),
            destination: MessageField::some(destination.to_wire()),
            ..Default::default()
        };
        self.entry("move the path", |client, context| async move {
            client.rename(context, &request).await
        })
        .await
    }

    /// Removes what is at a path, with everything below. Nothing there is fine.
    pub async fn remove(&self, place: &Place) -> Result<(), PlaneError> {
        let request = self.path_request(place);
        let call = self.connection.call(
            "remove the path",
            Some(CALL_TIMEOUT),
            |client, context| async move { client.remove(context, &request).await },
        );
        call.await.map(|Empty { .. }| ())
    }

    /// Writes files one after the other into one, and removes them. `sources` are paths like the
    /// destination's.
    pub async fn compose(
        &self,
        sources: &[String],
        destination: &Place,
    ) -> Result<Entry, PlaneError> {
        let request = wire::ComposeRequest {
            container_id: self.container_id(),
            sources: sources.to_vec(),
            destination: MessageField::some(destination.to_wire()),
            ..Default::default()
        };
        self.entry("put the files together", |client, context| async move {
            client.compose(context, &request).await
        })
        .await
    }

    /// Reads a file from an offset on; at most `length` bytes, if that is given.
    pub async fn read(
        &self,
        place: &Place,
        offset: u64,
        length: Option<u64>,
    ) -> Result<FileReader, PlaneError> {
        // The wire's 0 means all of it: one byte too many is left out below.
        let wanted = Wanted::Read(wire::ReadFile {
            place: MessageField::some(place.to_wire()),
            offset,
            length: length.map_or(0, |length| length.max(1)),
            ..Default::default()
        });
        match self.open_channel("read the file", wanted).await? {
            (channel, Answer::Entry(entry)) => Ok(FileReader {
                channel,
                entry: entry.into(),
                has_ended: length == Some(0),
            }),
            (channel, _) => Err(channel.malformed()),
        }
    }

    /// Writes a file in the place of what was in it. What is missing above it is made; file and directories
    /// made are the user's. `metadata` is all that the file has afterwards.
    pub async fn write(
        &self,
        place: &Place,
        metadata: &BTreeMap<String, String>,
    ) -> Result<FileWriter, PlaneError> {
        let wanted = Wanted::Write(wire::WriteFile {
            place: MessageField::some(place.to_wire()),
            metadata: metadata.clone().into_iter().collect(),
            ..Default::default()
        });
        let channel = self.begin_channel("write the file", wanted).await?;
        Ok(FileWriter { channel })
    }

    /// Lists a directory; with a depth of more than 1 also what is in those below.
    pub async fn list(&self, place: &Place, depth: u32) -> Result<Listing, PlaneError> {
        let wanted = Wanted::List(wire::ListDirectory {
            place: MessageField::some(place.to_wire()),
            depth,
            ..Default::default()
        });
        let (channel, _) = self.open_channel("list the directory", wanted).await?;
        Ok(Listing {
            channel,
            has_ended: false,
        })
    }

    fn path_request(&self, place: &Place) -> wire::PathRequest {
        wire::PathRequest {
            container_id: self.container_id(),
            place: MessageField::some(place.to_wire()),
            ..Default::default()
        }
    }

    async fn entry<F>(
        &self,
        what: &'static str,
        rpc: impl FnOnce(PlaneClient, Context) -> F,
    ) -> Result<Entry, PlaneError>
    where
        F: Future<Output = ttrpc::Result<wire::Entry>> + Send + 'static,
    {
        let call = self.connection.call(what, Some(CALL_TIMEOUT), rpc);
        call.await.map(Entry::from)
    }
}

impl FileReader {
    /// The file, as it was when it was opened.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The next bytes; none at the end. Nothing is lost when the caller stops waiting.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, PlaneError> {
        if self.has_ended {
            return Ok(None);
        }
        match self.channel.next().await? {
            Some((FrameKind::Output, bytes)) => Ok(Some(bytes)),
            Some((FrameKind::Message, payload)) => {
                self.channel.answer_in(&payload)?;
                self.has_ended = true;
                Ok(None)
            }
            Some(_) => Err(self.channel.malformed()),
            None => Err(self.channel.ended_early()),
        }
    }
}

impl FileWriter {
    /// Appends bytes. The guest's refusal (no such user, no space) is the error of this or of a later call.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), PlaneError> {
        for chunk in bytes.chunks(CHUNK) {
            self.channel.send(FrameKind::Output, chunk).await?;
        }
        Ok(())
    }

    /// Waits until all of it is in the file.
    pub async fn finish(mut self) -> Result<Entry, PlaneError> {
        self.channel.send(FrameKind::End, &[]).await?;
        match self.channel.answer().await? {
            Answer::Entry(entry) => Ok(entry.into()),
            _ => Err(self.channel.malformed()),
        }
    }
}

impl Listing {
    /// The next entries, in the order of their paths' parts; none at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<Entry>>, PlaneError> {
        if self.has_ended {
            return Ok(None);
        }
        match self.channel.next().await? {
            Some((FrameKind::Message, payload)) => {
                let page: wire::Entries = self.channel.message(&payload)?;
                Ok(Some(page.entries.into_iter().map(Entry::from).collect()))
            }
            Some((FrameKind::End, _)) => {
                self.has_ended = true;
                Ok(None)
            }
            Some(_) => Err(self.channel.malformed()),
            None => Err(self.channel.ended_early()),
        }
    }

    /// All of it.
    pub async fn all(mut self) -> Result<Vec<Entry>, PlaneError> {
        let mut entries = Vec::new();
        while let Some(page) = self.next().await? {
            if entries.len() + page.len() > MAX_ENTRIES {
                return Err(self.channel.malformed());
            }
            entries.extend(page);
        }
        Ok(entries)
    }
}

/// More than an agent lists: its own limit is an error of the listing.
const MAX_ENTRIES: usize = 200_000;
