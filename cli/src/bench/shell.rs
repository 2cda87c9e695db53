// SPDX-License-Identifier: Apache-2.0
//! `cube bench shell`: a bare virtual machine, in this process.

use std::fs::{File, OpenOptions};
use std::io;

use anyhow::Context as _;
use cube_vmm::probe;

use super::options::Shell;
use super::progress::Progress;
use super::report::SideReport;
use super::samples::{Sample, in_turn, milliseconds};

/// Machines one after the other. That KVM comes back from a guest at all is found out first, with a
/// deadline.
pub async fn measure(options: &Shell) -> anyhow::Result<Vec<SideReport>> {
    probe::measure(open_kvm().context("cannot open /dev/kvm")?.into())?;
    let mut progress = Progress::new("shell");
    let taken = in_turn(&[()], options.n, &mut progress, async |()| sample()).await;
    let reports = taken.into_iter();
    Ok(reports
        .map(|series| SideReport::new("KVM".to_owned(), series, None))
        .collect())
}

/// One machine, from `KVM_CREATE_VM` until its guest has run.
fn sample() -> anyhow::Result<Sample> {
    let device = open_kvm().context("cannot open /dev/kvm")?;
    let took = probe::shell(device.into())?;
    Ok(Sample {
        ms: milliseconds(took),
        stages: Vec::new(),
    })
}

/// The device, as every machine needs it.
pub fn open_kvm() -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open("/dev/kvm")
}
