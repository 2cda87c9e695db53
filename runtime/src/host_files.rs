// SPDX-License-Identifier: Apache-2.0
//! Files of the host in a container: /etc/hosts, /etc/resolv.conf and the like.
//!
//! Nothing of the host is mounted into a machine. A bind mount of a small regular file becomes a copy,
//! made at Create and followed: what is written to the file of the host, or put in its place, is written
//! to the copy, which stays the same file. nerdctl does so with /etc/hosts when a container joins a
//! network, a kubelet by turning a symbolic link beside the file (`..data`). What the container writes
//! stays in the machine. Where a sandbox's names are relayed, its /etc/resolv.conf says so in the copy. Anything else that a client wants to bind is refused by name in [`crate::spec`].
//!
//! Called by [`crate::container`].

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use cube_protocol::v1::agent::HostFile;
use oci_spec::runtime::{Mount, Spec};
use rustix::fs::OFlags;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use thiserror::Error;
use tokio::net::unix::pipe::Receiver;
use tokio::task::AbortHandle;

use crate::error::chain;
use crate::guest::Guest;
use crate::network::Servers;
use crate::resolv_conf;

/// Longest file that is copied: the agent's own limit. Files of names and addresses have some kilobytes.
pub(crate) const MAX_BYTES: u64 = 1 << 20;

/// Most of all files of a container: they travel in one message of at most 4 MiB (ttrpc).
const MAX_TOTAL_BYTES: usize = 3 << 20;

/// What a client writes in one go arrives as several events.
const SETTLE: Duration = Duration::from_millis(20);

/// A file of the host could not be copied.
#[derive(Debug, Error)]
pub enum HostFileError {
    /// It cannot be read.
    #[error("cannot read {} for the container", path.display())]
    Read {
        /// On the host.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It grew past the limit, or became something else, since it was looked at.
    #[error("{} is not a regular file of at most {MAX_BYTES} bytes", path.display())]
    Unfit {
        /// On the host.
        path: PathBuf,
    },
    /// Together they are too long.
    #[error(
        "the files of the host that the container binds have {bytes} bytes, more than {MAX_TOTAL_BYTES}"
    )]
    TooMuch {
        /// Of all files.
        bytes: usize,
    },
    /// It cannot be followed.
    #[error("cannot watch {} for changes", path.display())]
    Watch {
        /// The directory, on the host.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The files of one container, as they were last read.
#[derive(Debug)]
pub(crate) struct HostFiles {
    files: Vec<Copied>,
    watch: Option<Receiver>,
    relayed: Option<Relayed>,
}

/// That a container's names are relayed, and who wants to know whom the client would have asked.
#[derive(Clone, Debug)]
pub(crate) struct Relayed {
    /// Its name.
    pub(crate) container: String,
    /// To be told.
    pub(crate) servers: Servers,
}

#[derive(Debug)]
struct Copied {
    path: PathBuf,
    destination: PathBuf,
    content: Vec<u8>,
    mode: u32,
    uid: u32,
    gid: u32,
}

impl Copied {
    fn is_resolv_conf(&self) -> bool {
        self.destination == Path::new(resolv_conf::PATH)
    }

    /// What the container sees of it.
    fn shown(&self, relayed: Option<&Relayed>) -> Vec<u8> {
        match relayed {
            Some(relayed) if self.is_resolv_conf() => {
                relayed.servers.heard(&relayed.container, &self.content);
                resolv_conf::relayed(&self.content)
            }
            _ => self.content.clone(),
        }
    }
}

/// Sends changes of the host's files for as long as it lives.
#[derive(Debug)]
pub(crate) struct Following(AbortHandle);

/// Whether a bind mount's source is what is copied: a regular file that is not too long, at the end of
/// whatever symbolic links its owner made.
pub(crate) fn is_file(mount: &Mount) -> bool {
    let source = mount.source().as_deref().map(fs::metadata);
    matches!(source, Some(Ok(metadata)) if metadata.is_file() && metadata.len() <= MAX_BYTES)
}

/// A file that a spec binds.
#[derive(Debug)]
pub(crate) struct Bound {
    source: PathBuf,
    destination: PathBuf,
}

/// The files that a spec binds.
pub(crate) fn wanted(spec: &Spec) -> Vec<Bound> {
    let mounts = spec.mounts().iter().flatten();
    let files = mounts.filter(|mount| crate::spec::is_bind(mount) && is_file(mount));
    let bound = files.filter_map(|mount| {
        Some(Bound {
            source: mount.source().clone()?,
            destination: mount.destination().clone(),
        })
    });
    bound.collect()
}

impl HostFiles {
    /// Reads the files of [`wanted`]. The watch begins first, so that no change is missed. Blocking; in the
    /// context of an asynchronous runtime.
    pub(crate) fn read(wanted: &[Bound], relayed: Option<Relayed>) -> Result<Self, HostFileError> {
        if wanted.is_empty() {
            return Ok(Self {
                files: Vec::new(),
                watch: None,
                relayed,
            });
        }
        let watch = watch(wanted.iter().map(|bound| bound.source.as_path()));
        let watch = watch.inspect_err(|error| {
            // A host's limit of watches is no reason not to start a container.
            tracing::warn!(error = %chain(error), "files of the host are copied and not followed");
        });
        let files = wanted
            .iter()
            .map(|bound| copy(&bound.source, &bound.destination))
            .collect::<Result<Vec<_>, _>>()?;
        let bytes = files.iter().map(|file| file.content.len()).sum();
        if bytes > MAX_TOTAL_BYTES {
            return Err(HostFileError::TooMuch { bytes });
        }
        Ok(Self {
            files,
            watch: watch.ok(),
            relayed,
        })
    }

    /// For the guest.
    pub(crate) fn messages(&self) -> Vec<HostFile> {
        let relayed = self.relayed.as_ref();
        let message = |file: &Copied| HostFile {
            destination: file.destination.display().to_string(),
            content: file.shown(relayed),
            mode: file.mode,
            uid: file.uid,
            gid: file.gid,
            ..Default::default()
        };
        let mut messages: Vec<_> = self.files.iter().map(message).collect();
        if relayed.is_some() && !self.files.iter().any(Copied::is_resolv_conf) {
            messages.push(HostFile {
                destination: resolv_conf::PATH.into(),
                content: resolv_conf::relayed(&[]),
                mode: 0o644,
                ..Default::default()
            });
        }
        messages
    }

    /// Sends all of them to a container that was saved with others. One that it was saved without cannot be added.
    pub(crate) async fn send_all(&self, guest: &Guest, container: &str) {
        for file in self.messages() {
            let destination = Path::new(&file.destination);
            let sent = guest.update_file(container, destination, &file.content);
            if let Err(error) = sent.await {
                tracing::warn!(container, destination = file.destination, error = %chain(&error), "a file of the host is not in the container");
            }
        }
    }

    /// Sends every change from now on to the container of this name; `None` if there is nothing to follow.
    pub(crate) fn follow(mut self, guest: Guest, container: &str) -> Option<Following> {
        let watch = self.watch.take()?;
        let container = container.to_owned();
        let task = tokio::spawn(async move {
            let ended = loop {
                if let Err(error) = wait(&watch).await {
                    break error;
                }
                tokio::time::sleep(SETTLE).await;
                self.send_changes(&guest, &container).await;
            };
            tracing::warn!(container, error = %ended, "files of the host are not followed any more");
        });
        Some(Following(task.abort_handle()))
    }

    /// Sends what has changed since it was last read. A file that cannot be read is being replaced, or gone:
    /// the container keeps what it has.
    pub(crate) async fn send_changes(&mut self, guest: &Guest, container: &str) {
        for file in &mut self.files {
            let (path, destination) = (file.path.clone(), file.destination.clone());
            let read = tokio::task::spawn_blocking(move || copy(&path, &destination));
            let fresh = match read.await {
                Ok(Ok(fresh)) if fresh.content != file.content => fresh,
                Ok(Ok(_)) | Err(_) => continue,
                Ok(Err(error)) => {
                    tracing::debug!(container, error = %chain(&error), "a file of the host is not read");
                    continue;
                }
            };
            let shown = fresh.shown(self.relayed.as_ref());
            let sent = guest.update_file(container, &fresh.destination, &shown);
            match sent.await {
                Ok(()) => file.content = fresh.content,
                Err(error) => {
                    tracing::warn!(container, error = %chain(&error), "a changed file of the host did not reach its container");
                }
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Watches the directories: a file that is replaced is another one under the same name.
fn watch<'p>(sources: impl Iterator<Item = &'p Path>) -> Result<Receiver, HostFileError> {
    let failed = |path: &Path| {
        let path = path.to_path_buf();
        move |source: io::Error| HostFileError::Watch { path, source }
    };
    let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
        .map_err(|errno| failed(Path::new("/"))(errno.into()))?;
    let changes =
        WatchFlags::CLOSE_WRITE | WatchFlags::MODIFY | WatchFlags::MOVED_TO | WatchFlags::CREATE;
    for source in sources {
        let directory = source.parent().unwrap_or(Path::new("/"));
        inotify::add_watch(&fd, directory, changes)
            .map_err(|errno| failed(directory)(errno.into()))?;
    }
    // A descriptor that is read as it comes: what kind of one it is makes no difference.
    Receiver::from_owned_fd_unchecked(fd).map_err(failed(Path::new("/")))
}

fn copy(source: &Path, destination: &Path) -> Result<Copied, HostFileError> {
    let failed = |error| HostFileError::Read {
        path: source.into(),
        source: error,
    };
    // What takes the file's place may be a pipe, which would be waited for otherwise.
    let mut options = OpenOptions::new();
    options
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed());
    let file = options.open(source).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mut content = Vec::new();
    if metadata.is_file() {
        let bounded = file.take(MAX_BYTES + 1).read_to_end(&mut content);
        bounded.map_err(failed)?;
    }
    if !metadata.is_file() || content.len() as u64 > MAX_BYTES {
        return Err(HostFileError::Unfit {
            path: source.into(),
        });
    }
    Ok(Copied {
        path: source.into(),
        destination: destination.into(),
        content,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
    })
}

/// Waits for an event and takes all that are there. What they say does not matter: the files do.
async fn wait(watch: &Receiver) -> io::Result<()> {
    watch.readable().await?;
    let mut events = [0; 4096];
    loop {
        match watch.try_read(&mut events) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(mounts: &[(&Path, &str)]) -> Spec {
        let mount = |(source, destination): &(&Path, &str)| json!({"destination": destination, "type": "bind", "source": source});
        let mounts: Vec<_> = mounts.iter().map(mount).collect();
        serde_json::from_value(
            json!({"ociVersion": "1.1.0", "mounts": mounts, "root": {"path": "r"}}),
        )
        .unwrap()
    }

    #[tokio::test]
    async fn small_files_are_read_with_mode_and_owner() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let hosts = dir.path().join("hosts");
        fs::write(&hosts, "127.0.0.1 me\n").unwrap();
        fs::set_permissions(&hosts, fs::Permissions::from_mode(0o640)).unwrap();
        let files = HostFiles::read(&wanted(&spec(&[(&hosts, "/etc/hosts")])), None).unwrap();
        let messages = files.messages();
        assert_eq!(messages.len(), 1);
        assert_eq!(messages[0].destination, "/etc/hosts");
        assert_eq!(messages[0].content, b"127.0.0.1 me\n");
        assert_eq!(messages[0].mode, 0o640);
    }

    #[test]
    fn only_regular_files_of_a_bounded_length_are_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("small"), "x").unwrap();
        fs::File::create(path("long"))
            .unwrap()
            .set_len(MAX_BYTES + 1)
            .unwrap();
        std::os::unix::fs::symlink("small", path("link")).unwrap();
        for (source, expect) in [
            (path("small"), true),
            (path("link"), true),
            (path("long"), false),
            (path("missing"), false),
            (dir.path().into(), false),
            ("/dev/null".into(), false),
        ] {
            let spec = spec(&[(&source, "/x")]);
            let mount = &spec.mounts().as_ref().unwrap()[0];
            assert_eq!(is_file(mount), expect, "{}", source.display());
        }
    }

    #[tokio::test]
    async fn files_that_are_too_much_together_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let paths: Vec<_> = (0..4)
            .map(|number| dir.path().join(number.to_string()))
            .collect();
        for path in &paths {
            fs::write(path, vec![b'x'; 1 << 20]).unwrap();
        }
        let mounts: Vec<_> = paths
            .iter()
            .map(|path| (path.as_path(), path.to_str().unwrap()))
            .collect();
        let error = HostFiles::read(&wanted(&spec(&mounts)), None).unwrap_err();
        assert!(matches!(error, HostFileError::TooMuch { bytes } if bytes == 4 << 20));
        assert!(HostFiles::read(&wanted(&spec(&mounts[..3])), None).is_ok());
    }

    #[test]
    fn a_pipe_in_a_files_place_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipe");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &path,
            rustix::fs::FileType::Fifo,
            0o600.into(),
            0,
        )
        .unwrap();
        let error = copy(&path, Path::new("/x")).unwrap_err();
        assert!(matches!(error, HostFileError::Unfit { .. }), "{error}");
    }

    #[tokio::test]
    async fn where_names_are_relayed_a_container_asks_the_relay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, "search a.example\nnameserver 10.0.0.1\n").unwrap();
        let relayed = || Relayed {
            container: "one".into(),
            servers: Servers::new(&crate::config::EgressConfig::default()),
        };
        let bound = wanted(&spec(&[(&path, "/etc/resolv.conf")]));
        let files = HostFiles::read(&bound, Some(relayed())).unwrap();
        let expect: &[u8] = b"nameserver 127.0.0.53\nsearch a.example\n";
        assert_eq!(files.messages()[0].content, expect);
        assert_eq!(files.messages().len(), 1);
        let none = HostFiles::read(&[], Some(relayed())).unwrap().messages();
        assert_eq!(none.len(), 1);
        assert_eq!(none[0].destination, "/etc/resolv.conf");
        assert_eq!(none[0].content, b"nameserver 127.0.0.53\n");
    }

    #[tokio::test]
    async fn a_change_is_noticed_whether_written_or_put_in_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        fs::write(&path, "old").unwrap();
        let files = HostFiles::read(&wanted(&spec(&[(&path, "/etc/resolv.conf")])), None).unwrap();
        let watch = files.watch.unwrap();
        fs::write(&path, "new").unwrap();
        wait(&watch).await.unwrap();
        let other = dir.path().join("other");
        fs::write(&other, "newer").unwrap();
        fs::rename(&other, &path).unwrap();
        wait(&watch).await.unwrap();
        assert_eq!(copy(&path, Path::new("/x")).unwrap().content, b"newer");
    }
}
