// SPDX-License-Identifier: Apache-2.0
//! The configuration file, `/etc/cube/config.toml`. Every field has a default; no file is a full one.
//!
//! Environment variables win over the file: `CUBE_CONFIG` names it, `CUBE_IMAGE`, `CUBE_RUN`,
//! `CUBE_TEMPLATES`, `CUBE_VMM`, `CUBE_COLD`, `CUBE_PREFAULT` and `CUBE_TRACE` replace single fields.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cube_net::IpNet;
use cube_net::policy::{Policy, PolicyError};
use cube_vmm::config::{MAX_MEMORY_MIB, MAX_VCPUS, MIN_MEMORY_MIB};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::network::NameServer;
use crate::template::Limits;

/// Where the configuration is looked for.
pub const DEFAULT_PATH: &str = "/etc/cube/config.toml";

/// Most processes of a Linux host (`PID_MAX_LIMIT`): a VMM's user id is a base plus its process id.
const PID_LIMIT: u32 = 1 << 22;

/// What an operator may set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Directory of the guest image: `vmlinuz`, `initramfs`, `manifest.json`.
    pub image: PathBuf,
    /// Directory of live sandboxes. Short: a socket path in it may have 107 bytes.
    pub run: PathBuf,
    /// Directory of the templates that sandboxes are restored from.
    pub templates: PathBuf,
    /// Directory of snapshots of sandboxes: on the file system of their disks, which is the snapshotter's.
    pub snapshots: PathBuf,
    /// Days after its last use that a template is removed.
    pub templates_max_days: u32,
    /// Most MiB on the disk for all templates; the longest unused are removed.
    pub templates_max_mib: u64,
    /// The `cube-vmm` binary; none: beside the running program, then PATH.
    pub vmm: Option<PathBuf>,
    /// Added to the guest's kernel command line.
    pub cmdline: String,
    /// Virtual processors of a sandbox that asks for none.
    pub vcpus: u8,
    /// Memory in MiB of a sandbox that asks for none.
    pub memory_mib: u32,
    /// Memory in MiB that a guest needs besides its containers: added to a container's limit.
    pub memory_overhead_mib: u32,
    /// First of the 2^22 user and group ids that VMMs run as: each takes this plus its process id.
    pub vmm_uid_base: u32,
    /// Longest time in seconds from the VMM's start to the agent's first answer.
    pub boot_timeout_s: u64,
    /// Longest time in milliseconds from a restored guest's first instruction to its agent's word that it
    /// has an identity of its own.
    pub claim_timeout_ms: u64,
    /// Whether every sandbox is booted instead of restored: to measure what templates are good for.
    pub cold: bool,
    /// Whether the pages that a start touches are read in ahead: off to measure what that is good for.
    pub prefault: bool,
    /// `oom_score_adj` of the VMM, relative to that of the process that starts it.
    pub oom_score_adj: i32,
    /// Whether each stage of a start is logged with its time.
    pub trace: bool,
    /// Whether the shim offers containerd 2.0 to 2.2 version 3 of the task API (1.x cannot read that
    /// answer). Without it they use version 2, which lacks nothing but a faster start of a pod's
    /// further containers; from 2.3 on version 3 is agreed by itself.
    pub task_v3: bool,
    /// What sandboxes may send to.
    pub egress: EgressConfig,
}

/// The operator's word on what sandboxes may send to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EgressConfig {
    /// The policy of sandboxes that bring none. None: they may send to anybody, as other runtimes'
    /// containers may.
    pub policy: Option<Policy>,
    /// What no policy can allow. None: link-local addresses and the addresses of the host.
    pub never: Option<Vec<IpNet>>,
    /// Who is asked for the names of sandboxes that have a policy. None: whom the client gave the sandbox's
    /// first container, or else the host's own.
    pub dns: Option<Vec<NameServer>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            image: "/var/lib/cube/image".into(),
            run: "/run/cube".into(),
            templates: "/var/lib/cube/templates".into(),
            snapshots: "/var/lib/cube/snapshotter/store/sandboxes".into(),
            templates_max_days: 14,
            // Some hundred of a usual size.
            templates_max_mib: 16 << 10,
            vmm: None,
            cmdline: String::new(),
            vcpus: 2,
            memory_mib: 2048,
            memory_overhead_mib: 256,
            // The range that no system-wide convention gives to anybody (systemd's UIDS-GIDS document).
            vmm_uid_base: 0x7000_0000,
            // Hardware needs less than a second; a host that emulates virtualisation 40 times that.
            boot_timeout_s: 120,
            // Hardware needs some milliseconds, an emulating host under load a second or two.
            claim_timeout_ms: 10_000,
            cold: false,
            prefault: true,
            oom_score_adj: 1,
            trace: false,
            task_v3: false,
            egress: EgressConfig::default(),
        }
    }
}

impl Config {
    /// Reads the file that `CUBE_CONFIG` names, or the default one if it exists; then the environment.
    pub fn load() -> Result<Self, ConfigError> {
        let mut config = match env::var_os("CUBE_CONFIG") {
            Some(path) => Self::read(Path::new(&path))?,
            None => match Self::read(Path::new(DEFAULT_PATH)) {
                Err(ConfigError::Read { source, .. })
                    if source.kind() == io::ErrorKind::NotFound =>
                {
                    Self::default()
                }
                other => other?,
            },
        };
        config.override_from(|name| env::var_os(name).map(PathBuf::from));
        config.check()?;
        Ok(config)
    }

    /// Reads one file.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
            path: path.into(),
            source,
        })?;
        toml::from_str(&text).map_err(|source| ConfigError::Parse {
            path: path.into(),
            source: Box::new(source),
        })
    }

    /// Longest time from the VMM's start to the agent's first answer.
    pub fn boot_timeout(&self) -> Duration {
        Duration::from_secs(self.boot_timeout_s)
    }

    /// Longest time from a restored guest's first instruction to its acknowledged claim.
    pub fn claim_timeout(&self) -> Duration {
        Duration::from_millis(self.claim_timeout_ms)
    }

    /// How long a start waits for another one's template: two machines come up one after the other,
    /// and their memory is written and read.
    pub(crate) fn build_patience(&self) -> Duration {
        self.boot_timeout().saturating_mul(2)
    }

    /// When templates are removed.
    pub fn template_limits(&self) -> Limits {
        const DAY_S: u64 = 86_400;
        Limits {
            age: Duration::from_secs(u64::from(self.templates_max_days) * DAY_S),
            bytes: self.templates_max_mib.saturating_mul(1 << 20),
        }
    }

    fn check(&self) -> Result<(), ConfigError> {
        let value = |field, why| Err(ConfigError::Value { field, why });
        if !(1..=MAX_VCPUS).contains(&self.vcpus) {
            return value("vcpus", "it must be 1 to 8");
        }
        if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&self.memory_mib) {
            return value("memory_mib", "it must be 128 to 524288");
        }
        if self.claim_timeout_ms == 0 {
            return value("claim_timeout_ms", "it must be 1 at least");
        }
        if let Some(policy) = &self.egress.policy {
            policy.check().map_err(ConfigError::Policy)?;
        }
        // Neither root's id, nor one that setresuid(2) takes for "leave it".
        if self.vmm_uid_base == 0 || self.vmm_uid_base >= u32::MAX - PID_LIMIT {
            return value("vmm_uid_base", "the 2^22 ids above it must exist");
        }
        Ok(())
    }

    fn override_from(&mut self, var: impl Fn(&str) -> Option<PathBuf>) {
        if let Some(image) = var("CUBE_IMAGE") {
            self.image = image;
        }
        if let Some(run) = var("CUBE_RUN") {
            self.run = run;
        }
        if let Some(templates) = var("CUBE_TEMPLATES") {
            self.templates = templates;
        }
        if let Some(vmm) = var("CUBE_VMM") {
            self.vmm = Some(vmm);
        }
        for (name, switch) in [
            ("CUBE_TRACE", &mut self.trace),
            ("CUBE_COLD", &mut self.cold),
            ("CUBE_PREFAULT", &mut self.prefault),
        ] {
            if let Some(value) = var(name) {
                *switch = value.as_os_str() != "0" && !value.as_os_str().is_empty();
            }
        }
    }
}

/// What can be wrong with the configuration.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("the configuration {} could not be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a configuration.
    #[error("the configuration {} is not valid", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// The policy of sandboxes that bring none.
    #[error("the configuration's `egress.policy` is not possible")]
    Policy(#[source] PolicyError),
    /// A field has a value that makes no machine.
    #[error("the configuration's `{field}` is not possible: {why}")]
    Value {
        /// The field.
        field: &'static str,
        /// What is.
        why: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_default() {
        assert_eq!(toml::from_str::<Config>("").unwrap(), Config::default());
    }

    #[test]
    fn an_unknown_field_is_refused_by_name() {
        let error = toml::from_str::<Config>("memori_mib = 1").unwrap_err();
        assert!(error.to_string().contains("memori_mib"), "{error}");
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let mut config: Config = toml::from_str("image = \"/a\"\nrun = \"/b\"").unwrap();
        config.override_from(|name| match name {
            "CUBE_IMAGE" => Some("/c".into()),
            "CUBE_TEMPLATES" => Some("/d".into()),
            "CUBE_TRACE" => Some("1".into()),
            "CUBE_PREFAULT" => Some("0".into()),
            "CUBE_COLD" => Some("".into()),
            _ => None,
        });
        assert_eq!(config.image, Path::new("/c"));
        assert_eq!(config.run, Path::new("/b"));
        assert_eq!(config.templates, Path::new("/d"));
        assert!(config.trace && !config.prefault && !config.cold);
    }

    #[test]
    fn impossible_values_are_refused_by_field() {
        Config::default().check().unwrap();
        for text in [
            "vcpus = 0",
            "vcpus = 9",
            "memory_mib = 1",
            "claim_timeout_ms = 0",
            "vmm_uid_base = 0",
            "vmm_uid_base = 4294967295",
        ] {
            let config: Config = toml::from_str(text).unwrap();
            let error = config.check().unwrap_err().to_string();
            let field = text.split(' ').next().unwrap();
            assert!(error.contains(field), "{error}");
        }
    }

    #[test]
    fn a_policy_is_a_section() {
        let text = "[egress]\nnever = [\"10.0.0.0/8\"]\n[egress.policy]\ndefault = \"deny\"\n\
                    allow = [\"example.org\"]";
        let config: Config = toml::from_str(text).unwrap();
        config.check().unwrap();
        assert_eq!(config.egress.policy.unwrap().names().count(), 1);
        let refused = text.replace("allow", "deny").replacen("deny", "allow", 1);
        let config: Config = toml::from_str(&refused).unwrap();
        assert!(
            config
                .check()
                .unwrap_err()
                .to_string()
                .contains("egress.policy")
        );
    }

    #[test]
    fn name_servers_have_a_port_or_the_usual_one() {
        let text = "[egress]\ndns = [\"10.0.0.53\", \"[fd00::53]:5353\"]";
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(config.egress.dns.unwrap().len(), 2);
        let error = toml::from_str::<Config>("[egress]\ndns = [\"ns.example\"]").unwrap_err();
        assert!(error.to_string().contains("ns.example"), "{error}");
    }

    #[test]
    fn a_missing_file_names_itself() {
        let error = Config::read(Path::new("/nonexistent/config.toml")).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/config.toml"));
    }
}
