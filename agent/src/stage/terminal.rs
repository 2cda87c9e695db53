// SPDX-License-Identifier: Apache-2.0
//! A terminal out of the container's own devpts: the process gets the slave side, the agent the master.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstatfs, mknodat};
use rustix::io::Errno;
use rustix::mount::mount_bind;
use rustix::process::ioctl_tiocsctty;
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};
use rustix::termios::{Winsize, tcsetwinsize};

use super::WindowSize;
use super::error::StageError;
use super::root::{Root, proc_path};
use crate::cause::Cause;

/// `DEVPTS_SUPER_MAGIC` of linux/magic.h.
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// Both sides.
pub struct Terminal {
    /// For the agent.
    pub master: OwnedFd,
    slave: OwnedFd,
}

impl Terminal {
    /// A new one.
    pub fn open(root: &Root, window: Option<WindowSize>) -> Result<Self, StageError> {
        let failed = |action| {
            move |source: io::Error| StageError::Terminal {
                action,
                source: source.into(),
            }
        };
        let master = root
            .find(
                Path::new("/dev/pts/ptmx"),
                OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW,
            )
            .map_err(failed("open /dev/pts/ptmx of the container for"))?;
        // A further process finds what earlier ones of the container left there.
        if fstatfs(&master)
            .map_err(|e| failed("examine")(e.into()))?
            .f_type
            != DEVPTS_MAGIC
        {
            return Err(StageError::Terminal {
                action: "open /dev/pts/ptmx of the container for",
                source: Cause::new("it is not a devpts"),
            });
        }
        let open_slave = || {
            unlockpt(&master)?;
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            ioctl_tiocgptpeer(&master, flags)
        };
        let slave = open_slave().map_err(|e| failed("open the process's side of")(e.into()))?;
        if let Some(size) = window {
            resize(&master, size).map_err(failed("resize"))?;
        }
        Ok(Self { master, slave })
    }

    /// Makes it /dev/console of the container.
    pub fn be_console(&self, root: &Root) -> Result<(), StageError> {
        let bind = || -> io::Result<()> {
            let console = Path::new("/dev/console");
            let (parent, name) = root.make_parent(console)?;
            // A node or file that the image brought along will do: it is covered, never opened.
            match mknodat(
                &parent,
                name,
                FileType::RegularFile,
                Mode::RUSR | Mode::WUSR,
                0,
            ) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            let place = root.find(console, OFlags::PATH | OFlags::NOFOLLOW)?;
            Ok(mount_bind(proc_path(&self.slave), proc_path(&place))?)
        };
        bind().map_err(|source| StageError::Terminal {
            action: "make /dev/console of",
            source: source.into(),
        })
    }

    /// Makes it the controlling terminal and the three standard streams of this process, which must lead
    /// its session; hands the master side over.
    pub fn take(self) -> Result<OwnedFd, StageError> {
        let take = || {
            ioctl_tiocsctty(&self.slave)?;
            dup2_stdin(&self.slave)?;
            dup2_stdout(&self.slave)?;
            dup2_stderr(&self.slave)
        };
        take().map_err(|errno| StageError::Terminal {
            action: "take over",
            source: errno.into(),
        })?;
        Ok(self.master)
    }
}

/// Tells a terminal and the processes on it how large it is.
pub fn resize(master: &OwnedFd, size: WindowSize) -> io::Result<()> {
    Ok(tcsetwinsize(
        master,
        Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        },
    )?)
}
