// SPDX-License-Identifier: Apache-2.0
//! The one decision: use the template that is there, wait for whoever is making it, or make it.
//!
//! ```text
//! open ── fit ──────────────────────────────────────► restore
//!   │ missing, unfit
//!   ├─ somebody has the build lock ── wait, open again ──┐
//!   └─ lock ─ open again ─ put an unfit one away ─ make ─ publish ─ open
//! ```
//! Nothing here knows how the files of a template are made: that is a function of the caller.

use std::fs::{self, DirBuilder};
use std::future::Future;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::fs::statvfs;
use thiserror::Error;
use tokio::time::{Instant, sleep};

use super::build::BuildError;
use super::collect::Limits;
use super::lock::BuildLock;
use super::open::{self, Found, Lease, Template, Unfit};
use super::publish::Scratch;
use super::wanted::Wanted;
use crate::config::Config;
use crate::error::chain;
use crate::trace;

/// How often somebody who waits for another's build looks whether it is done.
const POLL: Duration = Duration::from_millis(20);

/// How long a failed build keeps others from trying: as long as nine starts that waited for it need to
/// notice, and shorter than an operator takes to mend the cause and try again.
const FAILURE_MEMORY: Duration = Duration::from_secs(30);

/// Directory of all templates.
#[derive(Clone, Debug)]
pub struct Store {
    dir: PathBuf,
    limits: Limits,
}

impl Store {
    /// The store that is configured. Its directory need not exist yet.
    pub fn of(config: &Config) -> Self {
        Self::new(&config.templates, config.template_limits())
    }

    /// The store in a directory.
    pub(super) fn new(dir: impl Into<PathBuf>, limits: Limits) -> Self {
        Self {
            dir: dir.into(),
            limits,
        }
    }

    /// When its templates are removed.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The directory itself.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Opens the template that is wanted if it is there. Blocking, for some ten microseconds.
    pub(crate) fn open(&self, wanted: &Wanted) -> Found {
        open::open(&self.dir.join(wanted.name()), wanted)
    }

    /// Opens the template that is wanted; makes it if it is missing or unfit, or waits, but not longer
    /// than `patience`, for somebody who is making it. `make` fills an empty directory.
    pub(crate) async fn claim<F>(
        &self,
        wanted: &Wanted,
        patience: Duration,
        make: impl FnOnce(PathBuf) -> F,
    ) -> Result<Template, Unavailable>
    where
        F: Future<Output = Result<(), BuildError>>,
    {
        let deadline = Instant::now() + patience;
        loop {
            let (store, looked_for) = (self.clone(), wanted.clone());
            match blocking(move || store.open_or_lock(&looked_for)).await? {
                Turn::Open(template) => return Ok(template),
                Turn::Build(lock) => return self.build(wanted, lock, make).await,
                Turn::Wait if Instant::now() < deadline => sleep(POLL).await,
                Turn::Wait => {
                    let waited_s = patience.as_secs();
                    return Err(StoreError::Waited { waited_s }.into());
                }
            }
        }
    }

    /// Takes a template away that turned out to be unfit when it was used. One that took its place
    /// meanwhile stays.
    pub(crate) fn condemn(&self, lease: &Lease, unfit: &Unfit) -> Result<(), StoreError> {
        let name = lease.name();
        // Who has the lock is making it anew already, or about to find it missing.
        let Some(_lock) = self.lock(&name)? else {
            return Ok(());
        };
        match lease.directory().is_current() {
            Ok(true) => self.put_away_unfit(&name, unfit),
            Ok(false) => Ok(()),
            Err(source) => Err(StoreError::Remove {
                path: self.dir.join(name),
                source,
            }),
        }
    }

    fn put_away_unfit(&self, name: &str, unfit: &Unfit) -> Result<(), StoreError> {
        tracing::warn!(template = name, reason = %chain(unfit), "a template cannot be used and is made anew");
        self.put_away(&self.dir.join(name))
    }

    /// One look at the state of things. Whoever gets the lock has looked again behind it.
    fn open_or_lock(&self, wanted: &Wanted) -> Result<Turn, StoreError> {
        if let Found::Template(template) = self.open(wanted) {
            return Ok(Turn::Open(template));
        }
        let Some(lock) = self.lock(wanted.name())? else {
            return Ok(Turn::Wait);
        };
        match self.open(wanted) {
            Found::Template(template) => return Ok(Turn::Open(template)),
            Found::Missing => {}
            Found::Unfit(unfit) => self.put_away_unfit(wanted.name(), &unfit)?,
        }
        match lock.recent_failure(FAILURE_MEMORY) {
            Some((reason, age)) => Err(StoreError::FailedBefore {
                reason,
                age_s: age.as_secs(),
            }),
            None => Ok(Turn::Build(lock)),
        }
    }

    async fn build<F>(
        &self,
        wanted: &Wanted,
        lock: BuildLock,
        make: impl FnOnce(PathBuf) -> F,
    ) -> Result<Template, Unavailable>
    where
        F: Future<Output = Result<(), BuildError>>,
    {
        let _stage = trace::stage("template");
        let built = self.build_locked(wanted, make).await;
        let noted = match &built {
            Ok(_) => lock.forget_failure(),
            Err(error) => lock.note_failure(&chain(error)),
        };
        if let Err(error) = noted {
            tracing::debug!(%error, "the outcome of a build was not noted");
        }
        built
    }

    async fn build_locked<F>(
        &self,
        wanted: &Wanted,
        make: impl FnOnce(PathBuf) -> F,
    ) -> Result<Template, Unavailable>
    where
        F: Future<Output = Result<(), BuildError>>,
    {
        let (store, about) = (self.clone(), wanted.clone());
        let scratch = blocking(move || store.scratch(&about)).await?;
        make(scratch.path().into())
            .await
            .map_err(|source| Unavailable::Build(Box::new(source)))?;
        let (store, about) = (self.clone(), wanted.clone());
        let found = blocking(move || {
            let _stage = trace::stage("template.publish");
            scratch.publish(&store.dir, &about)?;
            let found = store.open(&about);
            // Now that one more is there, and in use.
            if let Err(error) = store.collect(false) {
                tracing::warn!(error = %chain(&error), "old templates were not removed");
            }
            Ok(found)
        });
        match found.await? {
            Found::Template(template) => Ok(template),
            Found::Missing => Err(StoreError::Vanished.into()),
            Found::Unfit(source) => Err(StoreError::Unusable { source }.into()),
        }
    }

    fn scratch(&self, wanted: &Wanted) -> Result<Scratch, StoreError> {
        let path = self.dir.join(format!(".new.{}", wanted.name()));
        let failed = |source| StoreError::Write {
            path: path.clone(),
            source,
        };
        let space = statvfs(&self.dir).map_err(|errno| failed(errno.into()))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        if free < wanted.room_bytes {
            return Err(StoreError::Full {
                dir: self.dir.clone(),
                free_mib: free >> 20,
                needed_mib: wanted.room_bytes.div_ceil(1 << 20),
            });
        }
        Scratch::make(path.clone()).map_err(failed)
    }

    /// Takes the build lock of a template; `None` if somebody has it.
    pub(super) fn lock(&self, name: &str) -> Result<Option<BuildLock>, StoreError> {
        DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&self.dir)
            .map_err(|source| StoreError::Write {
                path: self.dir.clone(),
                source,
            })?;
        let path = self.dir.join(format!(".lock.{name}"));
        BuildLock::try_take(&path).map_err(|source| StoreError::Write { path, source })
    }

    /// Removes a template at once for everybody who looks for it, then its files. Clones that run keep
    /// theirs open and live on.
    pub(super) fn put_away(&self, path: &Path) -> Result<(), StoreError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = path.file_name().unwrap_or_default().display();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let gone = self
            .dir
            .join(format!(".gone.{name}.{}.{count}", std::process::id()));
        let failed = |source| StoreError::Remove {
            path: path.into(),
            source,
        };
        match fs::rename(path, &gone) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed)?,
        }
        remove(&gone).map_err(failed)
    }
}

/// Removes whatever is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => fs::remove_file(path),
        other => other,
    }
}

/// What somebody who wants a template does next.
enum Turn {
    Open(Template),
    Build(BuildLock),
    Wait,
}

/// Runs file work on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(StoreError::Abandoned))
}

/// Why there is no template to restore from.
#[derive(Debug, Error)]
pub enum Unavailable {
    /// The store is at fault; a machine can still be booted.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The template could not be made.
    #[error("the template could not be made")]
    Build(#[source] Box<BuildError>),
}

/// What can go wrong with the directory of all templates.
#[derive(Debug, Error)]
pub enum StoreError {
    /// Something could not be written.
    #[error(
        "{} could not be written: templates need a writable directory, which `templates` in the configuration names",
        path.display()
    )]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No room.
    #[error(
        "{} has {free_mib} MiB free, a template needs {needed_mib}: `cube template gc` makes room, `templates` in the configuration names another place",
        dir.display()
    )]
    Full {
        /// The directory.
        dir: PathBuf,
        /// What it has.
        free_mib: u64,
        /// What it takes.
        needed_mib: u64,
    },
    /// The last rename.
    #[error("the template {} could not be published", path.display())]
    Publish {
        /// Its directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A template would not go.
    #[error("the template {} could not be removed", path.display())]
    Remove {
        /// Its directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The store could not be read.
    #[error("the templates in {} could not be listed", path.display())]
    List {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No such template.
    #[error("there is no template {name}")]
    Unknown {
        /// As it was asked for.
        name: String,
    },
    /// Clones of it run.
    #[error("sandboxes that run were restored from the template {name}")]
    InUse {
        /// Its name.
        name: String,
    },
    /// Somebody is making it.
    #[error("the template {name} is just being made")]
    Busy {
        /// Its name.
        name: String,
    },
    /// Somebody else's build took too long.
    #[error("another process has been making the template for more than {waited_s} s")]
    Waited {
        /// How long it was waited for.
        waited_s: u64,
    },
    /// Somebody else's build failed a moment ago.
    #[error("making the template failed {age_s} s ago: {reason}")]
    FailedBefore {
        /// Why.
        reason: String,
        /// How long ago.
        age_s: u64,
    },
    /// What was just published is not there.
    #[error("the template was removed as soon as it was published")]
    Vanished,
    /// What was just published cannot be used.
    #[error("the template that was just made cannot be used")]
    Unusable {
        /// Why.
        source: Unfit,
    },
    /// This program is shutting down.
    #[error("the template was given up because this program is ending")]
    Abandoned,
}
