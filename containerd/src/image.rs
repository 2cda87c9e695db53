// SPDX-License-Identifier: Apache-2.0
//! From an image's name to the committed snapshot that its containers' disks grow from.
//!
//! A snapshot of an unpacked layer is named by its chain id (OCI image specification, "Layer ChainID"):
//! the digest of its parent's chain id and of the layer's own content. An image that nobody unpacked for
//! a snapshotter yet is unpacked here, as any of containerd's clients would.

use std::fmt::Write as _;

use serde::{Deserialize, Deserializer};
use sha2::{Digest, Sha256};

use super::Containerd;
use super::error::{ContainerdError, failed};
use super::wire::containerd::services::content::v1::ReadContentRequest;
use super::wire::containerd::services::content::v1::content_client::ContentClient;
use super::wire::containerd::services::diff::v1::ApplyRequest;
use super::wire::containerd::services::diff::v1::diff_client::DiffClient;
use super::wire::containerd::services::images::v1::GetImageRequest;
use super::wire::containerd::services::images::v1::images_client::ImagesClient;
use super::wire::containerd::services::snapshots::v1::snapshots_client::SnapshotsClient;
use super::wire::containerd::services::snapshots::v1::{
    CommitSnapshotRequest, StatSnapshotRequest,
};
use super::wire::containerd::types::Descriptor;

/// Largest manifest or configuration that is read: what registries accept for one.
const MAX_DOCUMENT: usize = 4 << 20;

const ARCHITECTURE: &str = "amd64";

/// An image's layers, the lowest first.
#[derive(Debug)]
pub struct Image {
    name: String,
    layers: Vec<Layer>,
    config: ImageConfig,
}

/// What an image says about the processes of its containers (OCI image specification, "config").
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageConfig {
    /// `NAME=value` each.
    #[serde(deserialize_with = "null_is_empty")]
    pub env: Vec<String>,
    /// The program and its first arguments.
    #[serde(deserialize_with = "null_is_empty")]
    pub entrypoint: Vec<String>,
    /// What follows it.
    #[serde(deserialize_with = "null_is_empty")]
    pub cmd: Vec<String>,
}

fn null_is_empty<'de, D: Deserializer<'de>>(list: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(list)?.unwrap_or_default())
}

#[derive(Debug)]
struct Layer {
    blob: Descriptor,
    chain_id: String,
}

impl Image {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it says about processes.
    pub fn config(&self) -> &ImageConfig {
        &self.config
    }

    /// The snapshot of all its layers.
    pub fn chain_id(&self) -> &str {
        self.layers.last().map_or("", |layer| &layer.chain_id)
    }
}

impl Containerd {
    /// Looks an image up by its full name.
    pub async fn image(&self, name: &str) -> Result<Image, ContainerdError> {
        let request = GetImageRequest { name: name.into() };
        let answer = ImagesClient::new(self.service()).get(request).await;
        let answer =
            answer
                .map_err(failed("look up the image", name))
                .map_err(|error| match error.is_not_found() {
                    true => ContainerdError::NoImage { name: name.into() },
                    false => error,
                })?;
        let unusable = |why: String| ContainerdError::Image {
            name: name.into(),
            why,
        };
        let image = answer.into_inner().image;
        let target = image
            .and_then(|image| image.target)
            .ok_or_else(|| unusable("it has no target".into()))?;
        let mut document = self.read_blob(&target.digest).await?;
        if let Some(digest) = manifest_in(&document).map_err(unusable)? {
            document = self.read_blob(&digest).await?;
        }
        let manifest: Manifest = parse(&document).map_err(unusable)?;
        let config: Config =
            parse(&self.read_blob(&manifest.config.digest).await?).map_err(unusable)?;
        let layers = layers(manifest, &config).map_err(unusable)?;
        Ok(Image {
            name: name.into(),
            layers,
            config: config.config.unwrap_or_default(),
        })
    }

    /// Whether a snapshotter has the whole image.
    pub async fn is_unpacked(
        &self,
        image: &Image,
        snapshotter: &str,
    ) -> Result<bool, ContainerdError> {
        self.has_snapshot(snapshotter, image.chain_id()).await
    }

    /// Gives a snapshotter those of the image's layers that it lacks. `key` names what is made on the way.
    pub async fn unpack(
        &self,
        image: &Image,
        snapshotter: &str,
        key: &str,
    ) -> Result<(), ContainerdError> {
        let mut parent = "";
        for layer in &image.layers {
            if !self.has_snapshot(snapshotter, &layer.chain_id).await? {
                self.unpack_layer(layer, snapshotter, parent, key).await?;
            }
            parent = &layer.chain_id;
        }
        Ok(())
    }

    async fn unpack_layer(
        &self,
        layer: &Layer,
        snapshotter: &str,
        parent: &str,
        key: &str,
    ) -> Result<(), ContainerdError> {
        let mounts = self.prepare(snapshotter, key, parent).await?;
        let request = ApplyRequest {
            diff: Some(layer.blob.clone()),
            mounts,
        };
        let applied = DiffClient::new(self.service()).apply(request).await;
        applied.map_err(failed("unpack the layer", &layer.blob.digest))?;
        let request = CommitSnapshotRequest {
            snapshotter: snapshotter.into(),
            name: layer.chain_id.clone(),
            key: key.into(),
        };
        let committed = SnapshotsClient::new(self.service()).commit(request).await;
        match committed.map_err(failed("commit the layer", &layer.chain_id)) {
            // Somebody else was quicker; what was made here goes the way of all garbage.
            Err(error) if error.is_already_exists() => self.remove_snapshot(snapshotter, key).await,
            other => other.map(drop),
        }
    }

    async fn has_snapshot(&self, snapshotter: &str, key: &str) -> Result<bool, ContainerdError> {
        let request = StatSnapshotRequest {
            snapshotter: snapshotter.into(),
            key: key.into(),
        };
        let answer = SnapshotsClient::new(self.service()).stat(request).await;
        match answer.map_err(failed("look for the snapshot", key)) {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn read_blob(&self, digest: &str) -> Result<Vec<u8>, ContainerdError> {
        let request = ReadContentRequest {
            digest: digest.into(),
            offset: 0,
            size: 0, // to the end
        };
        let answer = ContentClient::new(self.service()).read(request).await;
        let mut pieces = answer.map_err(failed("read", digest))?.into_inner();
        let mut blob = Vec::new();
        while let Some(piece) = pieces.message().await.map_err(failed("read", digest))? {
            blob.extend_from_slice(&piece.data);
            if blob.len() > MAX_DOCUMENT {
                return Err(ContainerdError::Image {
                    name: digest.into(),
                    why: format!("it has more than {MAX_DOCUMENT} bytes"),
                });
            }
        }
        Ok(blob)
    }
}

/// An OCI image index, or Docker's manifest list.
#[derive(Deserialize)]
struct Index {
    manifests: Vec<Blob>,
}

/// An OCI image manifest.
#[derive(Deserialize)]
struct Manifest {
    config: Blob,
    layers: Vec<Blob>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Blob {
    media_type: String,
    digest: String,
    size: i64,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

/// An OCI image configuration.
#[derive(Deserialize)]
struct Config {
    config: Option<ImageConfig>,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

fn parse<'a, T: Deserialize<'a>>(document: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(document).map_err(|error| error.to_string())
}

/// If this is an index, the digest of the manifest in it for this machine; one that names no platform
/// is for all.
fn manifest_in(document: &[u8]) -> Result<Option<String>, String> {
    let Ok(index) = parse::<Index>(document) else {
        return Ok(None);
    };
    let fits = |blob: &&Blob| {
        blob.platform
            .as_ref()
            .is_none_or(|platform| platform.os == "linux" && platform.architecture == ARCHITECTURE)
    };
    let manifest = index.manifests.iter().find(fits);
    let digest = manifest.map(|blob| Some(blob.digest.clone()));
    digest.ok_or_else(|| format!("it has nothing for linux/{ARCHITECTURE}"))
}

fn layers(manifest: Manifest, config: &Config) -> Result<Vec<Layer>, String> {
    let diff_ids = &config.rootfs.diff_ids;
    if manifest.layers.is_empty() || manifest.layers.len() != diff_ids.len() {
        let (blobs, ids) = (manifest.layers.len(), diff_ids.len());
        return Err(format!("it has {blobs} layers and {ids} layer ids"));
    }
    let with_ids = manifest.layers.into_iter().zip(chain_ids(diff_ids));
    let layers = with_ids.map(|(blob, chain_id)| Layer {
        blob: Descriptor {
            media_type: blob.media_type,
            digest: blob.digest,
            size: blob.size,
        },
        chain_id,
    });
    Ok(layers.collect())
}

fn chain_ids(diff_ids: &[String]) -> Vec<String> {
    let mut chain: Vec<String> = Vec::new();
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(parent) => digest(&format!("{parent} {diff_id}")),
        };
        chain.push(next);
    }
    chain
}

fn digest(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    hash.iter().fold("sha256:".to_owned(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes everything");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_id_is_made_of_the_one_below_and_the_layer() {
        let ids = ["sha256:aa", "sha256:bb"].map(str::to_owned);
        // printf 'sha256:aa sha256:bb' | sha256sum
        let both = "sha256:b68ad689d6d1ec110ea1c13617437ad6f3766d4b3b309f6a603a222e07a0164f";
        assert_eq!(chain_ids(&ids), ["sha256:aa", both]);
        assert_eq!(chain_ids(&ids[..1]), ["sha256:aa"]);
    }

    #[test]
    fn the_manifest_for_this_machine_is_taken_from_an_index() {
        let blob = |digest, architecture| {
            format!(
                r#"{{"mediaType":"m","digest":"{digest}","size":1,"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#
            )
        };
        let index = |blobs: &str| format!(r#"{{"manifests":[{blobs}]}}"#);
        let both = index(&format!("{},{}", blob("a", "arm64"), blob("b", "amd64")));
        assert_eq!(manifest_in(both.as_bytes()), Ok(Some("b".into())));
        let foreign = index(&blob("a", "arm64"));
        assert!(manifest_in(foreign.as_bytes()).is_err());
        let anybody = index(r#"{"mediaType":"m","digest":"c","size":1}"#);
        assert_eq!(manifest_in(anybody.as_bytes()), Ok(Some("c".into())));
        assert_eq!(manifest_in(br#"{"config":{},"layers":[]}"#), Ok(None));
    }

    #[test]
    fn what_an_image_says_about_processes_may_be_missing_or_null() {
        let read = |json: &str| parse::<Config>(json.as_bytes()).unwrap().config;
        let rootfs = r#""rootfs":{"diff_ids":[]}"#;
        assert_eq!(read(&format!("{{{rootfs}}}")), None);
        let some = read(&format!(
            r#"{{"config":{{"Env":["A=b"],"Entrypoint":null,"Cmd":["sh"],"User":"x"}},{rootfs}}}"#
        ));
        let expect = ImageConfig {
            env: vec!["A=b".into()],
            entrypoint: vec![],
            cmd: vec!["sh".into()],
        };
        assert_eq!(some, Some(expect));
    }

    #[test]
    fn layers_and_ids_have_to_match() {
        let config = |ids| Config {
            config: None,
            rootfs: RootFs { diff_ids: ids },
        };
        let manifest = || {
            parse::<Manifest>(
                br#"{"config":{"mediaType":"c","digest":"d","size":1},
                    "layers":[{"mediaType":"l","digest":"e","size":2}]}"#,
            )
            .unwrap()
        };
        let found = layers(manifest(), &config(vec!["sha256:aa".into()])).unwrap();
        assert_eq!(
            (&*found[0].chain_id, &*found[0].blob.digest),
            ("sha256:aa", "e")
        );
        layers(manifest(), &config(vec![])).unwrap_err();
    }
}
