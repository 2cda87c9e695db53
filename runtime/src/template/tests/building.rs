// SPDX-License-Identifier: Apache-2.0
//! Who builds, who waits, and what a failure or a death leaves.

use super::*;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

/// Tells a copy of this program which directory its store has and what to do there.
const CHILD: &str = "CUBE_TEMPLATE_TEST_CHILD";

#[tokio::test]
async fn the_first_builds_and_the_next_finds_it() {
    let bed = Bed::new();
    assert!(matches!(bed.store.open(&wanted()), Found::Missing));
    for _ in 0..3 {
        let template = bed.claim().await.unwrap();
        assert!(template.files.working_set.is_some());
        assert_eq!(template.lease.name(), wanted().name());
    }
    assert_eq!(bed.builds(), 1);
    assert_eq!(bed.names(), [wanted().name()]);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(bed.store.dir()), 0o700);
    assert_eq!(mode(&bed.path("")), 0o700);
}

#[tokio::test]
async fn ten_tasks_at_once_build_one() {
    let bed = Arc::new(Bed::new());
    let claims = (0..10).map(|_| {
        let bed = bed.clone();
        tokio::spawn(async move {
            let builds = bed.builds.clone();
            let wanted = wanted();
            let made = bed.store.claim(&wanted, PATIENCE, |into| async move {
                builds.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(200)).await;
                make_files(&into)
            });
            made.await.map(|template| template.lease.name())
        })
    });
    for claim in claims.collect::<Vec<_>>() {
        assert_eq!(claim.await.unwrap().unwrap(), wanted().name());
    }
    assert_eq!(bed.builds(), 1);
}

/// Runs the test of this name in another process, which finds the store in its environment.
fn child(test: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            &format!("template::tests::building::{test}"),
            "--nocapture",
        ])
        .env(CHILD, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn as_child() -> Option<PathBuf> {
    std::env::var_os(CHILD).map(Into::into)
}

#[tokio::test]
async fn ten_processes_at_once_build_one() {
    if let Some(dir) = as_child() {
        let store = Store::new(dir.join("t"), LIMITS);
        let wanted = wanted();
        let made = store.claim(&wanted, PATIENCE, |into| async move {
            // Each that builds leaves a file of its own.
            fs::write(dir.join(format!("built-{}", std::process::id())), "").unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            make_files(&into)
        });
        made.await.unwrap();
        return;
    }
    let bed = Bed::new();
    let children: Vec<_> = (0..10)
        .map(|_| child("ten_processes_at_once_build_one", bed.dir.path()))
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let built = fs::read_dir(bed.dir.path()).unwrap();
    let built = built.filter(|entry| {
        let name = entry.as_ref().unwrap().file_name();
        name.to_str().unwrap().starts_with("built-")
    });
    assert_eq!(built.count(), 1);
    assert_eq!(bed.names(), [wanted().name()]);
}

#[tokio::test]
async fn a_builder_that_is_killed_leaves_a_directory_that_the_next_one_removes() {
    if let Some(dir) = as_child() {
        let store = Store::new(dir.join("t"), LIMITS);
        let wanted = wanted();
        let made = store.claim(&wanted, PATIENCE, |into| async move {
            make_files(&into).unwrap();
            println!("half made");
            std::future::pending().await
        });
        made.await.unwrap();
        unreachable!("this process is killed while it builds");
    }
    let bed = Bed::new();
    let mut builder = child(
        "a_builder_that_is_killed_leaves_a_directory_that_the_next_one_removes",
        bed.dir.path(),
    );
    let lines = BufReader::new(builder.stdout.take().unwrap()).lines();
    assert!(
        lines
            .map_while(Result::ok)
            .any(|line| line.contains("half made"))
    );
    let soon = Duration::from_millis(100);
    let wanted_here = wanted();
    let waiting = bed.store.claim(&wanted_here, soon, |_| async { Ok(()) });
    let error = waiting.await.unwrap_err();
    assert!(
        matches!(error, Unavailable::Store(StoreError::Waited { .. })),
        "{error}"
    );

    builder.kill().unwrap();
    builder.wait().unwrap();
    assert_eq!(bed.names(), [format!(".new.{}", wanted().name())]);
    bed.claim().await.unwrap();
    assert_eq!(bed.names(), [wanted().name()]);
}

#[tokio::test]
async fn a_failed_build_publishes_nothing_and_is_not_tried_again_at_once() {
    let bed = Bed::new();
    let fail = |_: &Path| -> Result<(), BuildError> { Err(BuildError::Abandoned) };
    let error = bed.claim_this(&wanted(), fail).await.unwrap_err();
    assert!(matches!(error, Unavailable::Build(_)), "{error}");
    assert!(bed.names().is_empty());
    let error = bed.claim().await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("could not be made") && text.contains("given up"),
        "{text}"
    );
    assert_eq!(bed.builds(), 1);

    let lock = bed.store.dir().join(format!(".lock.{}", wanted().name()));
    let lock = File::options().write(true).open(lock).unwrap();
    lock.set_modified(SystemTime::now() - Duration::from_secs(60))
        .unwrap();
    bed.claim().await.unwrap();
    assert_eq!(bed.builds(), 2);
}

#[tokio::test]
async fn a_builder_that_makes_no_memory_is_an_error_that_names_it() {
    let bed = Bed::new();
    let make = |into: &Path| {
        make_files(into).unwrap();
        fs::remove_file(into.join(MEMORY)).unwrap();
        Ok(())
    };
    let error = bed.claim_this(&wanted(), make).await.unwrap_err();
    assert!(error.to_string().contains(MEMORY), "{error}");
    assert!(bed.names().is_empty());
}
