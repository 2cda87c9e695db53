// SPDX-License-Identifier: Apache-2.0
//! The command line containerd gives a shim: flags in the style of Go's `flag` package, then one
//! action word. Parsed by hand: this runs on the start path of every container.

use std::path::PathBuf;

use thiserror::Error;

/// What the flags said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// containerd's namespace.
    pub namespace: String,
    /// The id of the container, or of the pod's sandbox.
    pub id: String,
    /// containerd's gRPC address.
    pub address: String,
    /// The bundle directory; only `delete` gets it, the others run in it.
    pub bundle: Option<PathBuf>,
    /// Whether the shim's log is to be verbose.
    pub debug: bool,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave a server behind and print its address.
    Start,
    /// Remove what a sandbox left.
    Delete,
    /// Be the server; only `start` asks for it.
    Serve,
    /// Describe the runtime to containerd.
    Info,
    /// Print the version for people.
    Version,
}

/// Why a command line was not understood.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ArgsError {
    /// Not one of ours.
    #[error("unknown flag {0:?}")]
    UnknownFlag(String),
    /// The value is missing.
    #[error("the flag {0:?} needs a value")]
    NoValue(String),
    /// A switch with a value that is neither true nor false.
    #[error("the flag {flag:?} is a switch and cannot be {value:?}")]
    NotASwitch {
        /// The flag.
        flag: String,
        /// What it was set to.
        value: String,
    },
    /// Not one of ours.
    #[error(
        "unknown action {0:?}: expected start or delete (containerd runs this program, not a person)"
    )]
    UnknownAction(String),
    /// The action needs this flag.
    #[error("the action needs the flag {0}")]
    Missing(&'static str),
}

impl Flags {
    /// Reads a command line without the program's own name.
    pub fn parse(args: impl IntoIterator<Item = String>) -> Result<(Self, Action), ArgsError> {
        let mut args = args.into_iter();
        let mut flags = Self::default();
        let mut word = None;
        let mut action = None;
        while let Some(arg) = args.next() {
            let Some(flag) = arg.strip_prefix('-') else {
                word.get_or_insert(arg);
                continue;
            };
            let flag = flag.strip_prefix('-').unwrap_or(flag);
            let (name, inline) = match flag.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (flag, None),
            };
            let on = || switch(name, inline.as_deref());
            let mut value = || {
                let value = inline.clone().or_else(|| args.next());
                value.ok_or_else(|| ArgsError::NoValue(name.to_owned()))
            };
            match name {
                "debug" => flags.debug = on()?,
                "info" => action = on()?.then_some(Action::Info).or(action),
                "v" | "version" => action = on()?.then_some(Action::Version).or(action),
                "namespace" => flags.namespace = value()?,
                "id" => flags.id = value()?,
                "address" => flags.address = value()?,
                "bundle" => flags.bundle = Some(value()?.into()),
                // Events go over ttrpc; the program that publishes them one by one is not needed.
                "publish-binary" => drop(value()?),
                _ => return Err(ArgsError::UnknownFlag(name.to_owned())),
            }
        }
        let action = match action {
            Some(action) => action,
            None => Action::from_word(word.as_deref().unwrap_or_default())?,
        };
        flags.check(action)?;
        Ok((flags, action))
    }

    fn check(&self, action: Action) -> Result<(), ArgsError> {
        if matches!(action, Action::Info | Action::Version) {
            return Ok(());
        }
        if self.namespace.is_empty() {
            return Err(ArgsError::Missing("-namespace"));
        }
        if self.id.is_empty() {
            return Err(ArgsError::Missing("-id"));
        }
        Ok(())
    }
}

impl Action {
    fn from_word(word: &str) -> Result<Self, ArgsError> {
        Ok(match word {
            "start" => Action::Start,
            "delete" => Action::Delete,
            "serve" => Action::Serve,
            _ => return Err(ArgsError::UnknownAction(word.to_owned())),
        })
    }
}

fn switch(flag: &str, value: Option<&str>) -> Result<bool, ArgsError> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(value) => Err(ArgsError::NotASwitch {
            flag: flag.to_owned(),
            value: value.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<(Flags, Action), ArgsError> {
        Flags::parse(line.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn the_line_of_containerd_1_6_is_understood() {
        let (flags, action) = parse(
            "-namespace default -address /run/containerd/containerd.sock \
             -publish-binary /usr/bin/containerd -id t1 start",
        )
        .unwrap();
        assert_eq!(action, Action::Start);
        assert_eq!(flags.namespace, "default");
        assert_eq!(flags.address, "/run/containerd/containerd.sock");
        assert_eq!(flags.id, "t1");
        assert!(!flags.debug);
    }

    #[test]
    fn delete_carries_its_bundle() {
        let (flags, action) =
            parse("-namespace k8s.io -address a -publish-binary p -id t1 -bundle /b -debug delete")
                .unwrap();
        assert_eq!(action, Action::Delete);
        assert_eq!(flags.bundle, Some("/b".into()));
        assert!(flags.debug);
    }

    #[test]
    fn gos_other_spellings_mean_the_same() {
        let (flags, action) = parse("--namespace=n --id=i -debug=false start").unwrap();
        assert_eq!((flags.namespace.as_str(), flags.id.as_str()), ("n", "i"));
        assert_eq!((flags.debug, action), (false, Action::Start));
    }

    #[test]
    fn info_and_version_need_no_names() {
        assert_eq!(parse("-info").unwrap().1, Action::Info);
        assert_eq!(parse("-v").unwrap().1, Action::Version);
        assert_eq!(
            parse("-v=false -namespace n -id i start").unwrap().1,
            Action::Start
        );
    }

    #[test]
    fn mistakes_are_named() {
        let check = |line: &str, expect: ArgsError| assert_eq!(parse(line), Err(expect));
        check("-id t start", ArgsError::Missing("-namespace"));
        check("-namespace n start", ArgsError::Missing("-id"));
        check("-namespace n -id", ArgsError::NoValue("id".into()));
        check("-nmespace n", ArgsError::UnknownFlag("nmespace".into()));
        check("-namespace n -id i", ArgsError::UnknownAction("".into()));
        let maybe = ArgsError::NotASwitch {
            flag: "debug".into(),
            value: "maybe".into(),
        };
        check("-debug=maybe start", maybe);
    }
}
