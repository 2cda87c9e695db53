// SPDX-License-Identifier: Apache-2.0
//! Removing what a sandbox left in a namespace that was given to it: after its VMM, which held the taps,
//! and from the file alone.

use std::path::PathBuf;

use cube_net::netlink::{NetlinkError, Route};
use cube_net::table::{self, TableError};
use cube_net::wire::{self, Namespace, NamespaceError, TapError};

use thiserror::Error;

use crate::layout::{NamespaceState, NetworkState};

/// Removes the table. Nothing to do if nothing was made, if the namespace was the VMM's own, or if it is
/// gone; so it can be done again. Blocking.
pub(crate) fn undo(network: &NetworkState) -> Result<(), UndoError> {
    let Some(given) = &network.namespace else {
        return Ok(());
    };
    if network.interfaces.is_empty() {
        return Ok(());
    }
    let found = Namespace::find(&given.path).map_err(|source| {
        let path = given.path.clone();
        UndoError::Namespace(NamespaceError::Open { path, source })
    })?;
    let Some(namespace) = found else {
        return Ok(());
    };
    // Another one took the path over; ours is gone, or will be with what still lives in it.
    if NamespaceState::of(&namespace).map_err(UndoError::Namespace)? != *given {
        return Ok(());
    }
    namespace
        .run(|| remove(given))
        .map_err(UndoError::Namespace)?
}

/// Removes the table of the calling thread's namespace, unless another sandbox lives there by now: the taps of
/// ours went with its VMM.
fn remove(given: &NamespaceState) -> Result<(), UndoError> {
    let mut netlink = Route::open().map_err(UndoError::Netlink)?;
    if wire::is_inhabited(&mut netlink).map_err(UndoError::Tap)? {
        return Ok(());
    }
    table::remove().map_err(|source| UndoError::Table {
        path: given.path.clone(),
        source,
    })
}

/// What would not go.
#[derive(Debug, Error)]
pub enum UndoError {
    /// The namespace cannot be worked in.
    #[error("there is no working in the sandbox's network namespace")]
    Namespace(#[source] NamespaceError),
    /// The kernel cannot be asked.
    #[error("there is no asking the kernel about the sandbox's network")]
    Netlink(#[source] NetlinkError),
    /// It cannot be told whether another sandbox is there.
    #[error("it is not known whose the sandbox's namespace is")]
    Tap(#[source] TapError),
    /// The table stays.
    #[error("the sandbox's table in the network namespace {} could not be removed", path.display())]
    Table {
        /// Where the namespace is.
        path: PathBuf,
        /// Why.
        source: TableError,
    },
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::thread::{JoinHandle, spawn};

    use super::*;
    use crate::layout::InterfaceState;

    /// A namespace that has a path for as long as this is there.
    struct Given {
        path: PathBuf,
        inhabitant: Option<(Sender<()>, JoinHandle<()>)>,
    }

    impl Given {
        /// None, with a line that says why, where this process may not make one.
        fn new() -> Option<Self> {
            let (leave, stay): (Sender<()>, Receiver<()>) = channel();
            let (tell, told) = channel();
            let inhabitant = spawn(move || {
                let made = nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET);
                tell.send(made.map(|()| rustix::thread::gettid().as_raw_nonzero()))
                    .unwrap();
                stay.recv().ok(); // an error is the other end's going away, which is the sign
            });
            match told.recv().unwrap() {
                Ok(tid) => Some(Self {
                    path: format!("/proc/self/task/{tid}/ns/net").into(),
                    inhabitant: Some((leave, inhabitant)),
                }),
                Err(error) => {
                    let line = format!("skipped: no network namespace can be made here: {error}\n");
                    std::io::stderr().write_all(line.as_bytes()).unwrap();
                    None
                }
            }
        }

        fn end(&mut self) {
            if let Some((leave, inhabitant)) = self.inhabitant.take() {
                drop(leave);
                inhabitant.join().unwrap();
            }
        }

        fn state(&self) -> NetworkState {
            let namespace = Namespace::open(&self.path).unwrap();
            NetworkState {
                namespace: Some(NamespaceState::of(&namespace).unwrap()),
                interfaces: vec![InterfaceState {
                    name: "eth0".into(),
                    addresses: Vec::new(),
                }],
                egress: None,
            }
        }

        fn has_table(&self) -> bool {
            let namespace = Namespace::open(&self.path).unwrap();
            namespace.run(table::is_installed).unwrap().unwrap()
        }

        fn install(&self) {
            let namespace = Namespace::open(&self.path).unwrap();
            namespace
                .run(|| table::install(&[], None))
                .unwrap()
                .unwrap();
        }
    }

    impl Drop for Given {
        fn drop(&mut self) {
            self.end();
        }
    }

    #[test]
    fn a_table_goes_once_and_a_second_time() {
        let Some(given) = Given::new() else { return };
        given.install();
        assert!(given.has_table());
        for _ in 0..2 {
            undo(&given.state()).unwrap();
            assert!(!given.has_table());
        }
    }

    #[test]
    fn a_namespace_that_is_gone_is_done() {
        let Some(mut given) = Given::new() else {
            return;
        };
        let state = given.state();
        given.end();
        undo(&state).unwrap();
    }

    #[test]
    fn another_namespace_at_the_same_path_is_left_alone() {
        let Some(given) = Given::new() else { return };
        given.install();
        let mut state = given.state();
        state.namespace.as_mut().unwrap().inode += 1;
        undo(&state).unwrap();
        assert!(given.has_table());
    }

    #[test]
    fn nothing_is_touched_where_nothing_was_made() {
        let Some(given) = Given::new() else { return };
        given.install();
        let mut state = given.state();
        state.interfaces.clear();
        undo(&state).unwrap();
        assert!(given.has_table());
    }
}
