// SPDX-License-Identifier: Apache-2.0
//! Where containers are measured: a containerd, an image, and a ledger of what was made.
//!
//! Whatever a measurement makes is written down before it is made and struck off when it is gone, so
//! that [`Lab::close`] can remove the rest: after a failure, and after an interruption that dropped a
//! measurement in the middle. A lease keeps what no container refers to yet; it expires by itself, in
//! case this program is killed. Single-threaded: many containers are many futures of one task.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use cube_containerd::{ContainerRecord, Containerd, ContainerdError, Image, Mount};
use futures::{StreamExt as _, stream};
use tokio::sync::RwLock;
use tokio::time::{sleep, timeout};

use super::host;
use super::options::Containers;
use super::samples::{Series, Stopwatch};
use super::spec;

/// Longest time for a container's start or end. Ten cold boots at once in an emulated machine take one.
const LIMIT: Duration = Duration::from_secs(300);
/// What was just killed, or dropped in the middle, needs a moment until it can be removed.
const REMOVAL_RETRY: Duration = Duration::from_millis(100);
const REMOVAL_RETRIES: u32 = 300;
/// Removals under way at once: enough not to wait for each, too few to be a burst of their own.
const REMOVALS: usize = 4;
/// A lease outlives the longest measurement.
const LEASE_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// A process that ends only when it is killed. Longer than any measurement.
pub const SLEEP: [&str; 2] = ["sleep", "1000000"];
/// A process that does nothing.
pub const TRUE: [&str; 1] = ["true"];

/// A runtime that is measured, with its snapshotter.
#[derive(Clone, Debug)]
pub struct Side {
    /// containerd's name for the runtime.
    pub runtime: String,
    /// containerd's name for the snapshotter.
    pub snapshotter: String,
}

/// A container that was created.
#[derive(Clone, Debug)]
pub struct Created {
    /// Its name.
    pub id: String,
    /// Its task's process id.
    pub pid: u32,
}

/// See the top of this file.
#[derive(Debug)]
pub struct Lab {
    /// The daemon.
    pub containerd: Containerd,
    /// Its version.
    pub version: String,
    image: Image,
    namespace: String,
    /// The name of this run: the lease's, and the beginning of all others.
    run: String,
    serial: Cell<u32>,
    /// Container and its snapshotter.
    made: RefCell<BTreeMap<String, String>>,
    /// Shared by the tasks that are being created.
    creating: Arc<RwLock<()>>,
    /// Snapshotter and the file system of its disks.
    stores: RefCell<BTreeMap<String, String>>,
}

impl Lab {
    /// Connects, looks the image up and takes the lease.
    pub async fn open(options: &Containers) -> anyhow::Result<Self> {
        let mut containerd = Containerd::connect(&options.address, &options.namespace).await?;
        let version = containerd.version().await?;
        let image = containerd.image(&options.image).await?;
        // A process id comes again, and with it the lease of a run that was killed.
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let run = format!("cube-bench-{now:x}-{}", std::process::id());
        containerd.take_lease(&run, LEASE_LIFETIME).await?;
        Ok(Self {
            containerd,
            version,
            image,
            namespace: options.namespace.clone(),
            run,
            serial: Cell::new(0),
            made: RefCell::default(),
            creating: Arc::default(),
            stores: RefCell::default(),
        })
    }

    /// Has a snapshotter unpack the image, unless it has it.
    pub async fn unpack(&self, snapshotter: &str) -> anyhow::Result<()> {
        let unpack = async {
            let image = &self.image;
            if self.containerd.is_unpacked(image, snapshotter).await? {
                return Ok(());
            }
            let key = self.note_new(snapshotter);
            self.containerd.unpack(image, snapshotter, &key).await?;
            self.struck_off(&key);
            Ok(())
        };
        let name = self.image.name();
        within_limit(unpack)
            .await
            .with_context(|| format!("cannot unpack {name} for the snapshotter {snapshotter}"))
    }

    /// Prepares a disk, creates a container and its task: all but the start. Each is a stage.
    pub async fn create(
        &self,
        side: &Side,
        args: &[&str],
        watch: &mut Stopwatch,
    ) -> anyhow::Result<Created> {
        let id = self.note_new(&side.snapshotter);
        let spec = spec::container(&self.namespace, &id, args);
        let steps = async {
            let containerd = &self.containerd;
            let parent = self.image.chain_id();
            let rootfs = containerd.prepare(&side.snapshotter, &id, parent).await?;
            watch.lap("prepare");
            self.note_store(&side.snapshotter, &rootfs);
            let record = ContainerRecord {
                id: &id,
                image: self.image.name(),
                runtime: &side.runtime,
                snapshotter: &side.snapshotter,
                spec: &spec,
                labels: &[],
                extension: None,
            };
            containerd.create_container(record).await?;
            watch.lap("container");
            let pid = self.create_task(&id, rootfs).await?;
            watch.lap("create");
            anyhow::Ok(pid)
        };
        match within_limit(steps).await {
            Ok(pid) => Ok(Created { id, pid }),
            Err(error) => Err(self.removed_after(error, &id).await),
        }
    }

    /// Goes on when the caller is dropped, because containerd would give up a machine that is booting and
    /// leave it to itself; [`Lab::close`] waits for the end.
    async fn create_task(&self, id: &str, rootfs: Vec<Mount>) -> anyhow::Result<u32> {
        let under_way = self.creating.clone().read_owned().await;
        let (containerd, id) = (self.containerd.clone(), id.to_owned());
        let task = tokio::spawn(async move {
            let created = containerd.create_task(&id, rootfs).await;
            drop(under_way);
            created
        });
        Ok(task.await??)
    }

    /// Lets a created container run.
    pub async fn start(&self, id: &str, watch: &mut Stopwatch) -> anyhow::Result<()> {
        match within_limit(async { Ok(self.containerd.start(id, "").await?) }).await {
            Ok(()) => {
                watch.lap("start");
                Ok(())
            }
            Err(error) => Err(self.removed_after(error, id).await),
        }
    }

    /// A container that sleeps, running.
    pub async fn sleeper(&self, side: &Side, watch: &mut Stopwatch) -> anyhow::Result<Created> {
        let created = self.create(side, &SLEEP, watch).await?;
        self.start(&created.id, watch).await?;
        Ok(created)
    }

    /// A container that does not count: caches are warm after it, and what is made on first need is
    /// there. Its failure counts.
    pub async fn warm_up(&self, side: &Side, series: &mut Series) -> anyhow::Result<()> {
        match self.sleeper(side, &mut Stopwatch::start()).await {
            Ok(created) => self.remove(&created.id).await,
            Err(error) => {
                series.failures.push(format!("{error:#}"));
                Ok(())
            }
        }
    }

    /// Removes a container in whatever state it is, and strikes it off. Nothing happens if it is gone.
    pub async fn remove(&self, id: &str) -> anyhow::Result<()> {
        let Some(snapshotter) = self.made.borrow().get(id).cloned() else {
            return Ok(());
        };
        let mut retries = REMOVAL_RETRIES;
        loop {
            let removed = within_limit(self.remove_once(id, &snapshotter)).await;
            match removed {
                Ok(()) => break,
                Err(error) if retries == 0 => {
                    return Err(error).with_context(|| format!("{id} is left behind"));
                }
                Err(_) => sleep(REMOVAL_RETRY).await,
            }
            retries -= 1;
        }
        self.struck_off(id);
        Ok(())
    }

    /// Removes many, some at once.
    pub async fn remove_all(&self, ids: Vec<String>) -> Vec<anyhow::Error> {
        stream::iter(ids)
            .map(async |id| self.remove(&id).await)
            .buffer_unordered(REMOVALS)
            .filter_map(async |removed| removed.err())
            .collect()
            .await
    }

    /// A container was removed step by step.
    pub fn struck_off(&self, id: &str) {
        self.made.borrow_mut().remove(id);
    }

    /// The failure of a sample, after its container was removed; that this failed too is part of it.
    pub async fn removed_after(&self, error: anyhow::Error, id: &str) -> anyhow::Error {
        match self.remove(id).await {
            Ok(()) => error,
            Err(left) => error.context(format!("{left:#}")),
        }
    }

    /// Removes whatever is left, and ends the lease.
    pub async fn close(&self) -> anyhow::Result<()> {
        // After its limit a creation is not waited for: what comes of it is removed as far as it goes.
        timeout(LIMIT, self.creating.write()).await.ok();
        let left: Vec<String> = self.made.borrow().keys().cloned().collect();
        let failures = self.remove_all(left).await;
        self.containerd.end_lease(&self.run).await?;
        match failures.into_iter().next() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    /// The file system of a snapshotter's disks, once one was prepared.
    pub fn store(&self, snapshotter: &str) -> Option<String> {
        self.stores.borrow().get(snapshotter).cloned()
    }

    async fn remove_once(&self, id: &str, snapshotter: &str) -> anyhow::Result<()> {
        let containerd = &self.containerd;
        // It may have ended, or not have begun; Delete is what decides.
        if containerd.kill(id).await.is_ok() {
            containerd.wait(id, "").await.ok();
        }
        unless_gone(containerd.delete_task(id).await)?;
        unless_gone(containerd.delete_container(id).await)?;
        unless_gone(containerd.remove_snapshot(snapshotter, id).await)?;
        Ok(())
    }

    fn note_new(&self, snapshotter: &str) -> String {
        self.serial.set(self.serial.get() + 1);
        let id = format!("{}-{}", self.run, self.serial.get());
        let mut made = self.made.borrow_mut();
        made.insert(id.clone(), snapshotter.to_owned());
        id
    }

    fn note_store(&self, snapshotter: &str, rootfs: &[Mount]) {
        let mut stores = self.stores.borrow_mut();
        if !stores.contains_key(snapshotter)
            && let Some(filesystem) = host::filesystem_of(rootfs)
        {
            stores.insert(snapshotter.to_owned(), filesystem);
        }
    }
}

/// Gives a step of a measurement its limit.
pub async fn within_limit<T>(step: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    match timeout(LIMIT, step).await {
        Ok(result) => result,
        Err(_) => anyhow::bail!("not done after {} s", LIMIT.as_secs()),
    }
}

fn unless_gone(result: Result<(), ContainerdError>) -> Result<(), ContainerdError> {
    match result {
        Err(error) if error.is_not_found() => Ok(()),
        other => other,
    }
}
