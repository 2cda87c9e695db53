// SPDX-License-Identifier: Apache-2.0
//! Delivery to a containerd that is slow, away, or refuses.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use async_trait::async_trait;
use containerd_shim_protos::api::Empty;
use containerd_shim_protos::events::task::TaskOOM;
use containerd_shim_protos::shim_async::{Events, create_events};
use protobuf::Message;
use ttrpc::r#async::{Server, TtrpcContext};

use super::*;

const SOON: Duration = Duration::from_secs(10);

/// A containerd that keeps the names of the tasks it was told about.
#[derive(Clone, Default)]
struct Containerd {
    told: Arc<Mutex<Vec<String>>>,
}

#[async_trait]
impl Events for Containerd {
    async fn forward(&self, _: &TtrpcContext, request: ForwardRequest) -> ttrpc::Result<Empty> {
        let envelope = request.envelope.unwrap();
        assert_eq!(envelope.namespace, "default");
        assert_eq!(envelope.topic, "/tasks/oom");
        let event = TaskOOM::parse_from_bytes(&envelope.event.value).unwrap();
        if event.container_id == "refused" {
            let status = ttrpc::get_status(ttrpc::Code::INVALID_ARGUMENT, "no");
            return Err(ttrpc::Error::RpcStatus(status));
        }
        self.told.lock().unwrap().push(event.container_id);
        Ok(Empty::new())
    }
}

impl Containerd {
    async fn listen(&self, path: &Path) -> Server {
        let address = format!("unix://{}", path.display());
        let mut server = Server::new()
            .bind(&address)
            .unwrap()
            .register_service(create_events(Arc::new(self.clone())));
        server.start().await.unwrap();
        server
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().unwrap().clone()
    }
}

fn oom(task: impl ToString) -> Event {
    Event::OutOfMemory {
        task: task.to_string(),
    }
}

fn socket() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.ttrpc");
    (dir, path)
}

#[tokio::test]
async fn events_arrive_in_order_also_if_containerd_comes_later() {
    let (_dir, path) = socket();
    let publisher = Publisher::new(Some(path.display().to_string()), "default");
    for i in 0..100 {
        publisher.publish(oom(i));
    }
    tokio::time::sleep(FIRST_PAUSE * 2).await;
    let containerd = Containerd::default();
    let _server = containerd.listen(&path).await;
    publisher.flush(SOON).await;
    let expect: Vec<_> = (0..100).map(|i| i.to_string()).collect();
    assert_eq!(containerd.told(), expect);
}

#[tokio::test]
async fn a_restart_of_containerd_loses_nothing() {
    let (_dir, path) = socket();
    let containerd = Containerd::default();
    let publisher = Publisher::new(Some(path.display().to_string()), "default");
    let mut server = containerd.listen(&path).await;
    publisher.publish(oom("before"));
    publisher.flush(SOON).await;
    server.shutdown().await.unwrap();
    std::fs::remove_file(&path).unwrap();
    publisher.publish(oom("meanwhile"));
    publisher.publish(oom("and more"));
    let _server = containerd.listen(&path).await;
    publisher.flush(SOON).await;
    assert_eq!(containerd.told(), ["before", "meanwhile", "and more"]);
}

#[tokio::test]
async fn an_event_that_containerd_refuses_does_not_hold_up_the_others() {
    let (_dir, path) = socket();
    let containerd = Containerd::default();
    let _server = containerd.listen(&path).await;
    let publisher = Publisher::new(Some(path.display().to_string()), "default");
    publisher.publish(oom("refused"));
    publisher.publish(oom("next"));
    publisher.flush(SOON).await;
    assert_eq!(containerd.told(), ["next"]);
}

#[tokio::test]
async fn the_queue_is_bounded_and_drops_the_oldest() {
    let publisher = Publisher::collecting();
    for i in 0..MAX_PENDING + 2 {
        publisher.publish(oom(i));
    }
    let collected = publisher.collected();
    assert_eq!(collected.len(), MAX_PENDING);
    let first = TaskOOM::parse_from_bytes(&collected[0].message.value).unwrap();
    assert_eq!(first.container_id, "2");
    assert!(collected[0].at <= SystemTime::now());
}

#[tokio::test]
async fn flush_gives_up_at_its_limit() {
    let (_dir, path) = socket();
    let publisher = Publisher::new(Some(path.display().to_string()), "default");
    publisher.publish(oom("never"));
    publisher.flush(Duration::from_millis(50)).await;
}
