// SPDX-License-Identifier: Apache-2.0
//! Templates: the names that SDKs ask for, and the images that they mean.
//!
//! The configuration names some; any other image of the namespace is a template under its own name.

use serde::Deserialize;

/// A template of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateConfig {
    /// Its name.
    pub name: String,
    /// Further names.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The image, as containerd knows it.
    pub image: String,
    /// What runs in each of its sandboxes from the start on.
    #[serde(default)]
    pub start: StartConfig,
    /// A sandbox is ready once something listens on this port.
    #[serde(default)]
    pub ready_port: Option<u16>,
}

/// What runs in a sandbox besides what its users start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StartConfig {
    /// Nothing.
    #[default]
    Nothing,
    /// The image's own entry point and command.
    Image,
    /// This, by `/bin/sh -c`.
    Command(String),
}

impl TemplateConfig {
    /// What the SDKs ask for when their users name no template.
    pub fn defaults() -> Vec<Self> {
        vec![
            Self::of_image("base", "docker.io/library/base:latest"),
            Self {
                start: StartConfig::Image,
                ready_port: Some(49999),
                ..Self::of_image(
                    "code-interpreter-v1",
                    "docker.io/library/code-interpreter:latest",
                )
            },
        ]
    }

    /// An image under a name, and nothing else.
    fn of_image(name: &str, image: &str) -> Self {
        Self {
            name: name.into(),
            aliases: Vec::new(),
            image: image.into(),
            start: StartConfig::Nothing,
            ready_port: None,
        }
    }

    /// Whether it goes by this name.
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.iter().any(|alias| alias == name)
    }
}

/// Which template a name means: one of the configuration's, else the image of that name.
pub fn resolve(known: &[TemplateConfig], name: &str) -> TemplateConfig {
    let untagged = name.strip_suffix(":default").unwrap_or(name);
    let found = known.iter().find(|template| template.is_called(untagged));
    found
        .cloned()
        .unwrap_or_else(|| TemplateConfig::of_image(name, &full_image_name(name)))
}

/// The name of an image with what people leave out: registry, `library/` and tag.
fn full_image_name(name: &str) -> String {
    let is_registry = |part: &str| part == "localhost" || part.contains(['.', ':']);
    let with_registry = match name.split_once('/') {
        Some((first, _)) if is_registry(first) => name.to_owned(),
        Some(_) => format!("docker.io/{name}"),
        None => format!("docker.io/library/{name}"),
    };
    let last = with_registry.rsplit('/').next().unwrap_or_default();
    match last.contains([':', '@']) {
        true => with_registry,
        false => format!("{with_registry}:latest"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images_are_filled_up() {
        for (name, full) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("team/tool", "docker.io/team/tool:latest"),
            ("ghcr.io/team/tool:2", "ghcr.io/team/tool:2"),
            ("localhost:5000/tool", "localhost:5000/tool:latest"),
            ("localhost/tool@sha256:ab", "localhost/tool@sha256:ab"),
        ] {
            assert_eq!(full_image_name(name), full);
        }
    }

    #[test]
    fn what_sdks_ask_for_by_themselves_is_there() {
        let known = TemplateConfig::defaults();
        for name in ["base", "code-interpreter-v1", "base:default"] {
            let image = resolve(&known, name).image;
            assert!(
                known.iter().any(|template| template.image == image),
                "{name}"
            );
        }
    }

    #[test]
    fn any_other_name_is_an_image() {
        let template = resolve(&TemplateConfig::defaults(), "alpine:3");
        assert_eq!(template.image, "docker.io/library/alpine:3");
        assert_eq!(template.start, StartConfig::Nothing);
    }

    #[test]
    fn what_starts_is_written_in_one_of_three_ways() {
        let read = |start: &str| {
            let text = format!("name = \"a\"\nimage = \"b\"\n{start}");
            toml::from_str::<TemplateConfig>(&text).unwrap().start
        };
        assert_eq!(read(""), StartConfig::Nothing);
        assert_eq!(read("start = \"image\""), StartConfig::Image);
        assert_eq!(
            read("start = { command = \"serve\" }"),
            StartConfig::Command("serve".into())
        );
    }
}
