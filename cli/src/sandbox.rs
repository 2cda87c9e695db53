// SPDX-License-Identifier: Apache-2.0
//! Finding a sandbox that runs, by the name of its container, and the containerd that it belongs to.

use std::path::{Path, PathBuf};

use anyhow::bail;
use cube_containerd::Containerd;
use cube_runtime::layout::SandboxState;
use cube_runtime::{Layout, SandboxKey};

/// A sandbox that runs.
#[derive(Debug)]
pub struct Found {
    /// Its directory.
    pub dir: PathBuf,
    /// What is in it.
    pub state: SandboxState,
}

/// Finds one: ID, or NAMESPACE/ID where several have the same.
pub fn find(layout: &Layout, wanted: &str) -> anyhow::Result<Found> {
    let mut found = Vec::new();
    for dir in layout.list()? {
        let Some(state) = SandboxState::read(&dir)?.filter(|state| state.vmm.is_alive()) else {
            continue;
        };
        let SandboxKey { namespace, id, .. } = &state.key;
        if id == wanted || format!("{namespace}/{id}") == wanted {
            found.push(Found { dir, state });
        }
    }
    match found.len() {
        0 => bail!("no sandbox {wanted:?} runs here; see `cube ps`"),
        1 => Ok(found.remove(0)),
        _ => bail!("several sandboxes are named {wanted:?}; say NAMESPACE/ID"),
    }
}

impl Found {
    /// Has its runtime carry out what an annotation says.
    pub async fn annotate(&self, key: &str, value: &str) -> anyhow::Result<()> {
        let SandboxKey {
            address,
            namespace,
            id,
        } = &self.state.key;
        let containerd = Containerd::connect(Path::new(address), namespace).await?;
        Ok(containerd.annotate(id, key, value).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sandbox_that_is_not_there_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let error = find(&Layout::new(dir.path()), "web").unwrap_err();
        assert!(error.to_string().contains("\"web\""), "{error}");
    }
}
