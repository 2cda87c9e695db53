// SPDX-License-Identifier: Apache-2.0
//! Why containerd did not do what it was asked.

use std::path::PathBuf;

use thiserror::Error;
use tonic::{Code, Status};

/// A call that failed, or an answer that is of no use.
#[derive(Debug, Error)]
pub enum ContainerdError {
    /// Nobody listens there.
    #[error("cannot connect to containerd at {}", socket.display())]
    Connect {
        /// Its socket.
        socket: PathBuf,
        /// Why.
        source: tonic::transport::Error,
    },
    /// A header takes printable ASCII only.
    #[error("{namespace:?} is no name for a namespace")]
    Namespace {
        /// The name.
        namespace: String,
    },
    /// The same for a lease.
    #[error("{id:?} is no name for a lease")]
    Lease {
        /// The name.
        id: String,
    },
    /// containerd refused, or what it asked did.
    #[error("cannot {attempt} {subject}: {message}")]
    Call {
        /// What was attempted.
        attempt: &'static str,
        /// On what.
        subject: String,
        /// The class of the answer.
        code: Code,
        /// containerd's own words.
        message: String,
    },
    /// The image's name is unknown.
    #[error("there is no image {name} in this namespace: `ctr image pull` it first")]
    NoImage {
        /// Its name.
        name: String,
    },
    /// The image has something that is not understood.
    #[error("the image {name} cannot be used: {why}")]
    Image {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
}

impl ContainerdError {
    /// Whether the subject of the call does not exist.
    pub fn is_not_found(&self) -> bool {
        self.has(Code::NotFound)
    }

    /// Whether it exists already.
    pub fn is_already_exists(&self) -> bool {
        self.has(Code::AlreadyExists)
    }

    fn has(&self, wanted: Code) -> bool {
        matches!(self, ContainerdError::Call { code, .. } if *code == wanted)
    }
}

/// From the answer to a call to an error that says what was attempted.
pub(super) fn failed(
    attempt: &'static str,
    subject: &str,
) -> impl FnOnce(Status) -> ContainerdError + use<> {
    let subject = subject.to_owned();
    move |status| ContainerdError::Call {
        attempt,
        subject,
        code: status.code(),
        message: status.message().to_owned(),
    }
}
