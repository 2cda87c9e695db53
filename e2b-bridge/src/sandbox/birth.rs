// SPDX-License-Identifier: Apache-2.0
//! The steps of making a sandbox, in their order. What a failed one leaves, the caller removes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cube_containerd::{
    ContainerRecord, Containerd, ContainerdError, Extension, Image, ImageConfig,
};

use super::record::Size;
use super::start::{self, StartError};
use super::{EXTENSION, NewSandbox, Sandbox, SandboxId, SandboxRecord, Sandboxes, spec};
use crate::error::ApiError;
use crate::moment::Moment;
use crate::template::TemplateConfig;

/// Who processes belong to unless a client says otherwise.
const USER: &str = "user";
/// A lease on an image that is being unpacked outlives any of that.
const LEASE_LIFETIME: Duration = Duration::from_secs(3600);
const MIB: u64 = 1 << 20;

/// Makes a sandbox's container and has it run until it can be used. The record comes first: it is where the
/// sandbox is found after a crash, and what keeps its disk from containerd's garbage collection.
pub async fn give_birth(
    sandboxes: &Sandboxes,
    sandbox: &Arc<Sandbox>,
    wanted: &NewSandbox,
) -> Result<(), ApiError> {
    let containerd = sandboxes.containerd();
    let settings = sandboxes.settings();
    let image = unpacked_image(sandboxes, &wanted.template.image).await?;
    let (id, record) = (sandbox.id().as_str(), sandbox.record());

    let own = own_environment(sandbox.id(), &record);
    let environment = spec::environment(image.config(), &own, &record.env);
    let spec = spec::container(&settings.namespace, sandbox.id(), &environment);
    let data = record.to_json();
    let stored = ContainerRecord {
        id,
        image: image.name(),
        runtime: &settings.runtime,
        snapshotter: &settings.snapshotter,
        spec: &spec,
        labels: &[("io.cube.e2b/team", &record.team)],
        extension: Some(Extension {
            name: EXTENSION,
            data: &data,
        }),
    };
    containerd.create_container(stored).await?;
    let parent = image.chain_id();
    let rootfs = containerd
        .prepare(&settings.snapshotter, id, parent)
        .await?;
    containerd.create_task(id, rootfs).await?;
    containerd.start(id, "").await?;

    let size = settle_in(sandbox, &wanted.template, image.config())
        .await
        .map_err(|source| ApiError::Unanswered {
            id: id.into(),
            source: Box::new(source),
        })?;
    let timeout = wanted.timeout;
    let begin = move |record: &mut SandboxRecord| {
        record.size = size;
        record.begin(Moment::now(), timeout);
    };
    sandbox.change(containerd, begin).await
}

/// What every process of a sandbox finds in its environment.
pub fn own_environment(id: &SandboxId, record: &SandboxRecord) -> BTreeMap<String, String> {
    [
        ("E2B_SANDBOX", "true"),
        ("E2B_SANDBOX_ID", id.as_str()),
        ("E2B_TEMPLATE_ID", &record.template),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

async fn settle_in(
    sandbox: &Arc<Sandbox>,
    template: &TemplateConfig,
    image: &ImageConfig,
) -> Result<Size, StartError> {
    let plane = sandbox.plane().await?;
    plane.ensure_user(USER).await?;
    start::start(sandbox, plane, template, image).await?;
    let metrics = plane.metrics().await?;
    Ok(Size {
        cpu_count: metrics.cpu_count,
        memory_mib: metrics.memory_total / MIB,
        disk_mib: metrics.disk_total / MIB,
    })
}

/// Looks the template's image up and has the snapshotter unpack it if nobody did yet.
async fn unpacked_image(sandboxes: &Sandboxes, name: &str) -> Result<Image, ApiError> {
    let containerd = sandboxes.containerd();
    let image = match containerd.image(name).await {
        Err(ContainerdError::NoImage { name }) => return Err(ApiError::NoTemplate { name }),
        other => other?,
    };
    let snapshotter = &sandboxes.settings().snapshotter;
    if containerd.is_unpacked(&image, snapshotter).await? {
        return Ok(image);
    }
    let _turn = sandboxes.unpacking.lock().await;
    unpack(containerd.clone(), &image, snapshotter).await?;
    Ok(image)
}

async fn unpack(
    mut containerd: Containerd,
    image: &Image,
    snapshotter: &str,
) -> Result<(), ApiError> {
    let lease = format!(
        "cube-e2b-unpack-{}",
        SandboxId::random().map_err(ApiError::Random)?
    );
    containerd.take_lease(&lease, LEASE_LIFETIME).await?;
    let unpacked = containerd.unpack(image, snapshotter, &lease).await;
    containerd.end_lease(&lease).await?;
    Ok(unpacked?)
}
