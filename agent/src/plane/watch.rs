// SPDX-License-Identifier: Apache-2.0
//! Watches of directories (inotify(7)), for as long as their connection lives. The queue of what is not told
//! yet is the kernel's, which is bounded and says when it ran over.

use cube_protocol::FrameKind;
use cube_protocol::v1::plane as wire;
use rustix::fs::inotify::{CreateFlags, init};
use rustix::io::Errno;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

mod watcher;

use super::channel::{Channel, Stop};
use super::fault::PlaneFault;
use super::visit::Visit;
use crate::process::Connection;
use crate::sys;
use watcher::Watcher;

/// The kernel's own limit of watches at once (`fs.inotify.max_user_instances`), for its message.
const MAX_WATCHES: usize = 128;

/// Answers that it is watched, and sends events until the host closes or the directory is gone.
pub async fn serve<C: Connection>(
    visit: &Visit,
    channel: &mut Channel<C>,
    request: wire::WatchDirectory,
) -> Result<(), Stop> {
    let place = request.place.unwrap_or_default();
    let (recursive, include_entry) = (request.recursive, request.include_entry);
    let (fd, mut watcher) = visit
        .block(move |view| {
            let path = view.locate(&place)?.path;
            let fd = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(
                |errno| match errno {
                    Errno::MFILE => PlaneFault::TooMany {
                        what: "watches at once",
                        most: MAX_WATCHES,
                    },
                    other => PlaneFault::file("watch", &path)(other.into()),
                },
            )?;
            let fd =
                sys::watch(fd, Interest::READABLE).map_err(PlaneFault::file("watch", &path))?;
            let watcher = Watcher::begin(view, &fd, path, recursive, include_entry)?;
            Ok((fd, watcher))
        })
        .await?;
    let mut fd: AsyncFd<_> = fd;
    channel.agree().await?;
    loop {
        let readable = tokio::select! {
            readable = fd.readable() => readable.map(|mut guard| guard.clear_ready()),
            gone = channel.closed() => return Err(gone.into()),
        };
        readable.map_err(super::channel::ChannelError::from)?;
        // The next sign comes only after the queue was empty.
        loop {
            let events;
            (fd, watcher, events) = visit
                .block(move |view| {
                    let events = watcher.events(view, &fd)?;
                    Ok((fd, watcher, events))
                })
                .await?;
            let is_empty = events.is_empty();
            for event in events {
                channel.tell(&event).await?;
            }
            if watcher.is_over() {
                channel.send(FrameKind::End, &[]).await?;
                return Ok(());
            }
            if is_empty {
                break;
            }
        }
    }
}
