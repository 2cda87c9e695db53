// SPDX-License-Identifier: Apache-2.0
//! Bytes of files, in both directions. A file is read until it ends, whatever its size was said to be.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use cube_protocol::FrameKind;
use cube_protocol::v1::plane as wire;
use cube_protocol::v1::plane::answer::Answer;

use super::channel::{Channel, ChannelError, Stop};
use super::fault::PlaneFault;
use super::visit::Visit;
use super::{entry, files};
use crate::process::Connection;

/// Most bytes of a file in one frame: what one turn of a thread reads.
const CHUNK: usize = 128 * 1024;

/// Most pairs of metadata; the kernel bounds their bytes.
const MAX_METADATA: usize = 64;

/// Answers what the file is, sends its bytes, and answers whether that was all.
pub async fn read<C: Connection>(
    visit: &Visit,
    channel: &mut Channel<C>,
    request: wire::ReadFile,
) -> Result<(), Stop> {
    let (offset, most) = (request.offset, request.length);
    let place = request.place.unwrap_or_default();
    let (path, mut file, found) = visit
        .block(move |view| {
            let path = view.locate(&place)?.path;
            let mut file = files::open_file(view, &path)?;
            let failed = |error| PlaneFault::file("read", &path)(error);
            let entry = entry::look(view, &path)?;
            if offset > 0 {
                file.seek(SeekFrom::Start(offset)).map_err(failed)?;
            }
            Ok((path, file, entry))
        })
        .await?;
    channel.answer(Answer::Entry(found)).await?;
    let mut rest = if most == 0 { u64::MAX } else { most };
    while rest > 0 {
        let chunk = usize::try_from(rest).unwrap_or(CHUNK).min(CHUNK);
        let (again, bytes) = read_chunk(visit, &path, file, chunk).await?;
        if bytes.is_empty() {
            break;
        }
        file = again;
        rest = rest.saturating_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        channel.send(FrameKind::Output, &bytes).await?;
    }
    channel.agree().await?;
    Ok(())
}

async fn read_chunk(
    visit: &Visit,
    path: &Path,
    mut file: File,
    most: usize,
) -> Result<(File, Vec<u8>), PlaneFault> {
    let path = path.to_path_buf();
    visit
        .block(move |_| {
            let mut bytes = vec![0; most];
            let len = match file.read(&mut bytes) {
                // A file of the kernel that has no more to say now.
                Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
                other => other.map_err(PlaneFault::file("read", &path))?,
            };
            bytes.truncate(len);
            Ok((file, bytes))
        })
        .await
}

/// Takes bytes until the host says that it is the end, and answers what the file is then.
pub async fn write<C: Connection>(
    visit: &Visit,
    channel: &mut Channel<C>,
    request: wire::WriteFile,
) -> Result<(), Stop> {
    if request.metadata.len() > MAX_METADATA {
        return Err(Stop::Fault(PlaneFault::TooMany {
            what: "pairs of metadata",
            most: MAX_METADATA,
        }));
    }
    let (place, metadata) = (request.place.unwrap_or_default(), request.metadata);
    let (path, mut file) = visit
        .block(move |view| {
            let located = view.locate(&place)?;
            let file = files::open_new(view, &located)?;
            let path = located.path;
            entry::set_metadata(&file, &metadata)
                .map_err(PlaneFault::file("set the metadata of", &path))?;
            Ok((path, file))
        })
        .await?;
    loop {
        match channel.next().await? {
            Some((FrameKind::Output, bytes)) => {
                file = write_chunk(visit, &path, file, bytes).await?;
            }
            Some((FrameKind::End, _)) => break,
            Some((kind, _)) => return Err(ChannelError::Unexpected { kind }.into()),
            // The client went away in the middle: what is written stays, as with any other program.
            None => return Ok(()),
        }
    }
    drop(file);
    let written = visit.block(move |view| entry::look(view, &path)).await?;
    channel.answer(Answer::Entry(written)).await?;
    Ok(())
}

async fn write_chunk(
    visit: &Visit,
    path: &Path,
    mut file: File,
    bytes: Vec<u8>,
) -> Result<File, PlaneFault> {
    let path: PathBuf = path.to_path_buf();
    visit
        .block(move |_| {
            let written = file.write_all(&bytes);
            written.map_err(PlaneFault::file("write", &path))?;
            Ok(file)
        })
        .await
}
