// SPDX-License-Identifier: Apache-2.0
//! What the tests of this module share: a directory visited as a container's root, and the host's end of a
//! channel. And files that pass through such a channel.

use std::fs;
use std::path::Path;

use cube_protocol::v1::plane as wire;
use cube_protocol::v1::plane::answer::Answer;
use cube_protocol::{FrameKind, encode_frame};
use protobuf::Message;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::channel::{Channel, Stop};
use super::fault::PlaneFault;
use super::view::View;
use super::visit::{Visit, Visitors};
use super::{MAX_CHANNELS, Plane, files, transfer, watch};
use crate::stage::Root;

/// A visit of this directory.
pub fn visit(root: &Path) -> Visit {
    let view = View::of(Root::open(root).unwrap()).unwrap();
    Visit::new(Visitors::default().enter().unwrap(), view)
}

/// The host's end.
pub struct Host(Channel<UnixStream>);

impl Host {
    /// With the agent's.
    pub fn pair() -> (Self, Channel<UnixStream>) {
        let (host, agent) = UnixStream::pair().unwrap();
        (Self(Channel::new(host)), Channel::new(agent))
    }

    async fn answer(&mut self) -> Answer {
        let (kind, payload) = self.0.next().await.unwrap().unwrap();
        assert_eq!(kind, FrameKind::Message);
        let answer = wire::Answer::parse_from_bytes(&payload).unwrap();
        answer.answer.unwrap()
    }

    /// Bytes up to the answer that ends them.
    async fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            match self.0.next().await.unwrap().unwrap() {
                (FrameKind::Output, more) => bytes.extend(more),
                (FrameKind::Message, payload) => {
                    let answer = wire::Answer::parse_from_bytes(&payload).unwrap();
                    assert!(matches!(answer.answer, Some(Answer::Ok(_))));
                    return bytes;
                }
                (kind, _) => panic!("{kind:?}"),
            }
        }
    }

    /// All entries of a list.
    pub async fn pages(mut self) -> Vec<wire::Entry> {
        let mut entries = Vec::new();
        let mut is_agreed = false;
        while let Some((kind, payload)) = self.0.next().await.unwrap() {
            match kind {
                FrameKind::Message if is_agreed => {
                    entries.extend(wire::Entries::parse_from_bytes(&payload).unwrap().entries);
                }
                FrameKind::Message => is_agreed = true,
                FrameKind::End => break,
                other => panic!("{other:?}"),
            }
        }
        entries
    }
}

fn place(path: &str) -> wire::Place {
    wire::Place {
        path: path.to_owned(),
        ..Default::default()
    }
}

async fn read(root: &Path, path: &str, offset: u64, length: u64) -> Result<Vec<u8>, Stop> {
    let visit = visit(root);
    let (mut host, mut agent) = Host::pair();
    let request = wire::ReadFile {
        place: Some(place(path)).into(),
        offset,
        length,
        ..Default::default()
    };
    let reader = tokio::spawn(async move {
        assert!(matches!(host.answer().await, Answer::Entry(_)));
        host.bytes().await
    });
    transfer::read(&visit, &mut agent, request).await?;
    Ok(reader.await.unwrap())
}

#[tokio::test]
async fn a_file_is_read_to_its_end_from_any_offset() {
    let dir = tempfile::tempdir().unwrap();
    let content: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    fs::write(dir.path().join("f"), &content).unwrap();
    assert!(read(dir.path(), "/f", 0, 0).await.unwrap() == content);
    assert!(read(dir.path(), "/f", 999_990, 0).await.unwrap() == content[999_990..]);
    assert!(read(dir.path(), "/f", 5, 10).await.unwrap() == content[5..15]);
    assert!(
        read(dir.path(), "/f", 2_000_000, 0)
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test]
async fn a_file_of_proc_has_bytes_although_its_size_is_nothing() {
    let bytes = read(Path::new("/"), "/proc/uptime", 0, 0).await.unwrap();
    assert!(!bytes.is_empty());
}

#[tokio::test]
async fn what_is_written_is_there_before_it_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let visit = visit(dir.path());
    let (mut host, mut agent) = Host::pair();
    let request = wire::WriteFile {
        place: Some(place("/a/f")).into(),
        ..Default::default()
    };
    let written = tokio::spawn(async move { transfer::write(&visit, &mut agent, request).await });
    for part in ["one ", "two"] {
        host.0
            .send(FrameKind::Output, part.as_bytes())
            .await
            .unwrap();
    }
    host.0.send(FrameKind::End, &[]).await.unwrap();
    let Answer::Entry(entry) = host.answer().await else {
        panic!("no entry");
    };
    assert_eq!((entry.path.as_str(), entry.size), ("/a/f", 7));
    assert_eq!(fs::read(dir.path().join("a/f")).unwrap(), b"one two");
    written.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_full_file_system_is_a_fault_of_its_own() {
    let root = Path::new("/");
    let visit = visit(root);
    let (mut host, mut agent) = Host::pair();
    let request = wire::WriteFile {
        place: Some(place("/dev/full")).into(),
        ..Default::default()
    };
    host.0.send(FrameKind::End, &[]).await.unwrap();
    let stop = transfer::write(&visit, &mut agent, request)
        .await
        .unwrap_err();
    // Not opened at all: it is a device.
    assert!(
        matches!(stop, Stop::Fault(PlaneFault::Special { .. })),
        "{stop}"
    );
}

#[tokio::test]
async fn a_watch_ends_with_its_connection_and_with_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("w")).unwrap();
    let watched = |path: &str| wire::WatchDirectory {
        place: Some(place(path)).into(),
        ..Default::default()
    };
    let (mut host, mut agent) = Host::pair();
    let (visit, request) = (visit(dir.path()), watched("/w"));
    let serving = {
        let visit = visit.clone();
        tokio::spawn(async move { watch::serve(&visit, &mut agent, request).await })
    };
    assert!(matches!(host.answer().await, Answer::Ok(_)));
    fs::write(dir.path().join("w/f"), "").unwrap();
    let (_, payload) = host.0.next().await.unwrap().unwrap();
    let event = wire::WatchEvent::parse_from_bytes(&payload).unwrap();
    assert_eq!(event.name, "f");
    drop(host);
    assert!(matches!(serving.await.unwrap(), Err(Stop::Channel(_))));

    let (mut host, mut agent) = Host::pair();
    let request = watched("/w");
    let serving = tokio::spawn(async move { watch::serve(&visit, &mut agent, request).await });
    assert!(matches!(host.answer().await, Answer::Ok(_)));
    fs::remove_dir_all(dir.path().join("w")).unwrap();
    while let Some((kind, _)) = host.0.next().await.unwrap() {
        if kind == FrameKind::End {
            break;
        }
    }
    serving.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_first_frame_that_is_no_opening_ends_the_connection() {
    let (mut host, mut agent) = UnixStream::pair().unwrap();
    host.write_all(&encode_frame(FrameKind::Output, b"x").unwrap())
        .await
        .unwrap();
    let mut channel = Channel::new(&mut agent);
    let closed = channel.closed().await;
    assert!(closed.to_string().contains("out of turn"), "{closed}");
}

#[tokio::test]
async fn what_is_more_than_a_limit_is_refused_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let (_host, mut agent) = Host::pair();
    let pairs = (0..65).map(|number| (number.to_string(), String::new()));
    let request = wire::WriteFile {
        place: Some(place("/f")).into(),
        metadata: pairs.collect(),
        ..Default::default()
    };
    let visit = visit(dir.path());
    let stop = transfer::write(&visit, &mut agent, request).await;
    let is_too_many = |stop| matches!(stop, Err(Stop::Fault(PlaneFault::TooMany { .. })));
    assert!(is_too_many(stop));
    assert!(!dir.path().join("f").exists());

    let sources = vec![String::new(); files::MAX_SOURCES + 1];
    let composed = files::compose(visit.view(), &sources, &place("/f"));
    assert!(matches!(composed, Err(PlaneFault::TooMany { .. })));

    let plane = Plane::default();
    let mut places: Vec<_> = (0..MAX_CHANNELS)
        .map(|_| plane.take_place().unwrap())
        .collect();
    assert!(plane.take_place().is_err());
    places.pop();
    assert!(plane.take_place().is_ok());
}
