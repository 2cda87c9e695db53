// SPDX-License-Identifier: Apache-2.0
//! End-to-end tests: real containerds, real images, `ctr` as the client. As root, where KVM is usable.
//!
//! ```text
//! make test-e2e                                 all, where KVM is
//! dev/vm target/debug/deps/e2e-* WORD...        only those whose name has one of the words
//! CUBE_E2E_SERIES=1.7                           only that containerd
//! CUBE_TEST_RUNTIME=runc                        the tests themselves, tested
//! ```
//!
//! A case is a function; the lists below say on which containerds it runs. See `cube_tests::suite`.

mod bad_input;
mod bench;
mod crashes;
mod e2b;
mod egress;
mod files;
mod lifecycle;
mod limits;
mod many;
mod names;
mod network;
mod processes;
mod readme;
mod snapshots;
mod streams;

use std::process::ExitCode;

use cube_tests::series::Series;
use cube_tests::suite;

/// The containerds for what does not depend on containerd: two, because development VMs that share
/// the work take a containerd each.
const MAIN: Series = Series::V1_7;
const ALSO_MAIN: Series = Series::V2_1;

fn main() -> ExitCode {
    suite::main(&[
        ("lifecycle", lifecycle::CASES),
        ("processes", processes::CASES),
        ("streams", streams::CASES),
        ("limits", limits::CASES),
        ("bad_input", bad_input::CASES),
        ("crashes", crashes::CASES),
        ("files", files::CASES),
        ("readme", readme::CASES),
        ("many", many::CASES),
        ("network", network::CASES),
        ("egress", egress::CASES),
        ("names", names::CASES),
        ("e2b", e2b::CASES),
        ("snapshots", snapshots::CASES),
        ("bench", bench::CASES),
    ])
}
