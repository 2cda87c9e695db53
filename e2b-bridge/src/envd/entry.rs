// SPDX-License-Identifier: Apache-2.0
//! What is at a path, as SDKs read it.

use cube_runtime::plane::{Entry, EntryKind};
use serde_json::{Value, json};

use crate::moment::Moment;

/// As a message of `filesystem.Filesystem`.
pub fn to_json(entry: &Entry) -> Value {
    let kind = match entry.kind {
        EntryKind::File => "FILE_TYPE_FILE",
        EntryKind::Directory => "FILE_TYPE_DIRECTORY",
        EntryKind::Other => "FILE_TYPE_UNSPECIFIED",
    };
    let modified = entry.modified.duration_since(std::time::UNIX_EPOCH);
    let mut json = json!({
        "name": entry.name,
        "type": kind,
        "path": entry.path,
        "size": entry.size.to_string(),
        "mode": entry.mode,
        "permissions": entry.permissions,
        "owner": entry.owner,
        "group": entry.group,
        // Before the epoch nothing was written.
        "modifiedTime": Moment::from_epoch(modified.unwrap_or_default()).rfc3339(),
        "metadata": entry.metadata,
    });
    if let Some(target) = &entry.symlink_target {
        json["symlinkTarget"] = target.as_str().into();
    }
    json
}

/// For clients that refuse fields which they do not know.
pub fn trimmed(entry: &Entry) -> Value {
    let all = to_json(entry);
    json!({"name": all["name"], "type": all["type"], "path": all["path"]})
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn sizes_are_strings_and_targets_optional() {
        let mut entry = Entry {
            name: "a".into(),
            kind: EntryKind::File,
            path: "/a".into(),
            size: 5,
            mode: 0o644,
            permissions: "-rw-r--r--".into(),
            owner: "user".into(),
            group: "user".into(),
            modified: UNIX_EPOCH + Duration::from_millis(1500),
            symlink_target: None,
            metadata: Default::default(),
        };
        let json = to_json(&entry);
        assert_eq!(json["size"], "5");
        assert_eq!(json["mode"], 420);
        assert_eq!(json["modifiedTime"], "1970-01-01T00:00:01.500Z");
        assert!(json.get("symlinkTarget").is_none());
        entry.symlink_target = Some("/b".into());
        assert_eq!(to_json(&entry)["symlinkTarget"], "/b");
        assert_eq!(trimmed(&entry).as_object().unwrap().len(), 3);
    }
}
