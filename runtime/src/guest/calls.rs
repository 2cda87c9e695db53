// SPDX-License-Identifier: Apache-2.0
//! The agent's calls, one method each: arguments to a request, limits, answers to own types.

use std::path::Path;

use cube_protocol::v1::agent::{
    AdoptContainerRequest, AdoptContainerResponse, BlockRoot, ContainerRequest,
    CreateContainerRequest, CreateProcessRequest, Empty, HostFile, NetworkRequest, ProcessRequest,
    ResizeTerminalRequest, SignalProcessRequest, StatsResponse, UpdateContainerRequest,
    UpdateFileRequest, WaitProcessResponse,
};
use protobuf::MessageField;

use super::{CALL_TIMEOUT, Guest, GuestError, SETUP_TIMEOUT};
use crate::process::Command;
use crate::sandbox::GuestPid;

impl Guest {
    pub(crate) async fn create_container(
        &self,
        id: &str,
        spec_json: Vec<u8>,
        root: BlockRoot,
        files: Vec<HostFile>,
    ) -> Result<(), GuestError> {
        let request = CreateContainerRequest {
            container_id: id.into(),
            spec_json,
            root: MessageField::some(root),
            files,
            ..Default::default()
        };
        self.call(
            "create the container",
            Some(SETUP_TIMEOUT),
            |client, context| async move { client.create_container(context, &request).await },
        )
        .await?;
        Ok(())
    }

    pub(crate) async fn update_file(
        &self,
        id: &str,
        destination: &Path,
        content: &[u8],
    ) -> Result<(), GuestError> {
        let request = UpdateFileRequest {
            container_id: id.into(),
            destination: destination.display().to_string(),
            content: content.into(),
            ..Default::default()
        };
        self.call(
            "update a file of the host",
            Some(CALL_TIMEOUT),
            |client, context| async move { client.update_file(context, &request).await },
        )
        .await?;
        Ok(())
    }

    pub(crate) async fn delete_container(&self, id: &str) -> Result<(), GuestError> {
        let request = container(id);
        self.call(
            "delete the container",
            Some(SETUP_TIMEOUT),
            |client, context| async move { client.delete_container(context, &request).await },
        )
        .await?;
        Ok(())
    }

    pub(crate) async fn pause_container(&self, id: &str) -> Result<(), GuestError> {
        let request = container(id);
        self.call(
            "pause the container",
            Some(CALL_TIMEOUT),
            |client, context| async move { client.pause_container(context, &request).await },
        )
        .await?;
        Ok(())
    }

    pub(crate) async fn resume_container(&self, id: &str) -> Result<(), GuestError> {
        let request = container(id);
        self.call(
            "resume the container",
            Some(CALL_TIMEOUT),
            |client, context| async move { client.resume_container(context, &request).await },
        )
        .await?;
        Ok(())
    }

    pub(crate) async fn update_container(
        &self,
        id: &str,
        resources_json: Vec<u8>,
    ) -> Result<(), GuestError> {
        let request = UpdateContainerRequest {
            container_id: id.into(),
            resources_json,
            ..Default::default()
        };
        self.call(
            "update the container",
            Some(CALL_TIMEOUT),
            |client, context| async move { client.update_container(context, &request).await },
        )
        .await?;
        Ok(())
    }

    pub(crate) async fn stats(&self, id: &str) -> Result<StatsResponse, GuestError> {
        let request = container(id);
        self.call(
            "tell the container's figures",
            Some(CALL_TIMEOUT),
            |client, context| async move { client.stats_container(context, &request).await },
        )
        .await
    }

    pub(crate) async fn pids(&self, id: &str) -> Result<Vec<GuestPid>, GuestError> {
        let request = container(id);
        let answer = self
            .call(
                "list the container's processes",
                Some(CALL_TIMEOUT),
                |client, context| async move { client.list_pids(context, &request).await },
            )
            .await?;
        let pids = answer.processes.into_iter().map(|process| GuestPid {
            pid: process.pid,
            exec_id: process.exec_id,
        });
        Ok(pids.collect())
    }

    pub(crate) async fn wait_oom(&self, id: &str) -> Result<(), GuestError> {
        let request = container(id);
        self.call(
            "watch the container's memory",
            None,
            |client, context| async move { client.wait_oom(context, &request).await },
        )
        .await?;
        Ok(())
    }

    /// Answers the process's pid in the guest.
    pub(crate) async fn create_process(
        &self,
        id: &str,
        command: Command,
    ) -> Result<u32, GuestError> {
        let request = CreateProcessRequest {
            container_id: id.into(),
            exec_id: command.exec_id,
            process_json: command.process_json.unwrap_or_default(),
            terminal: command.terminal,
            stdin: command.stdin,
            stdout: command.stdout,
            stderr: command.stderr,
            ..Default::default()
        };
        let answer = self
            .call(
                "set up the process",
                Some(SETUP_TIMEOUT),
                |client, context| async move { client.create_process(context, &request).await },
            )
            .await?;
        Ok(answer.pid)
    }

    pub(crate) async fn start_process(&self, id: &str, exec_id: &str) -> Result<(), GuestError> {
        let request = process(id, exec_id);
        self.call(
            "start the process",
            Some(SETUP_TIMEOUT),
            |client, context| async move { client.start_process(context, &request).await },
        )
        .await?;
        Ok(())
    }

    pub(crate) async fn signal_process(
        &self,
        id: &str,
        exec_id: &str,
        signal: u32,
        all: bool,
    ) -> Result<(), GuestError> {
        let request = SignalProcessRequest {
            container_id: id.into(),
            exec_id: exec_id.into(),
            signal,
            all,
            ..Default::default()
        };
        self.call(
            "signal the process",
            Some(CALL_TIMEOUT),
            |client, context| async move { client.signal_process(context, &request).await },
        )
        .await?;
        Ok(())
    }

    pub(crate) async fn wait_process(
        &self,
        id: &str,
        exec_id: &str,
    ) -> Result<WaitProcessResponse, GuestError> {
        let request = process(id, exec_id);
        self.call("wait for the process", None, |client, context| async move {
            client.wait_process(context, &request).await
        })
        .await
    }

    pub(crate) async fn resize_terminal(
        &self,
        id: &str,
        exec_id: &str,
        columns: u16,
        rows: u16,
    ) -> Result<(), GuestError> {
        let request = ResizeTerminalRequest {
            container_id: id.into(),
            exec_id: exec_id.into(),
            columns: columns.into(),
            rows: rows.into(),
            ..Default::default()
        };
        self.call(
            "resize the terminal",
            Some(CALL_TIMEOUT),
            |client, context| async move { client.resize_terminal(context, &request).await },
        )
        .await?;
        Ok(())
    }

    pub(crate) async fn delete_process(&self, id: &str, exec_id: &str) -> Result<(), GuestError> {
        let request = process(id, exec_id);
        self.call(
            "forget the process",
            Some(CALL_TIMEOUT),
            |client, context| async move { client.delete_process(context, &request).await },
        )
        .await?;
        Ok(())
    }

    /// Has the guest take over these interfaces.
    pub(crate) async fn configure_network(
        &self,
        request: NetworkRequest,
    ) -> Result<(), GuestError> {
        self.call(
            "configure the network",
            Some(CALL_TIMEOUT),
            |client, context| async move { client.configure_network(context, &request).await },
        )
        .await?;
        Ok(())
    }

    /// Has the guest set a container up and take it down.
    pub(crate) async fn rehearse(&self) -> Result<(), GuestError> {
        self.call(
            "rehearse a container",
            Some(SETUP_TIMEOUT),
            |client, context| async move { client.rehearse(context, &Empty::new()).await },
        )
        .await?;
        Ok(())
    }

    /// Has file systems written back and every process stopped, for the machine to be saved.
    pub(crate) async fn quiesce(&self) -> Result<(), GuestError> {
        self.call(
            "bring its processes to a stand",
            Some(SETUP_TIMEOUT),
            |client, context| async move { client.quiesce(context, &Empty::new()).await },
        )
        .await?;
        Ok(())
    }

    /// Lets the processes go on. Only of a guest that was claimed since.
    pub(crate) async fn thaw(&self) -> Result<(), GuestError> {
        self.call(
            "let its processes go on",
            Some(SETUP_TIMEOUT),
            |client, context| async move { client.thaw(context, &Empty::new()).await },
        )
        .await?;
        Ok(())
    }

    /// Takes over a container of a guest that was restored, under a new name.
    pub(crate) async fn adopt_container(
        &self,
        id: &str,
        new_id: &str,
    ) -> Result<AdoptContainerResponse, GuestError> {
        let request = AdoptContainerRequest {
            container_id: id.into(),
            new_container_id: new_id.into(),
            ..Default::default()
        };
        self.call(
            "hand over the container that it was saved with",
            Some(CALL_TIMEOUT),
            |client, context| async move { client.adopt_container(context, &request).await },
        )
        .await
    }

    /// Asks the guest to write everything back and power itself off.
    pub(crate) async fn shutdown(&self) -> Result<(), GuestError> {
        self.call(
            "shut down",
            Some(CALL_TIMEOUT),
            |client, context| async move { client.shutdown(context, &Empty::new()).await },
        )
        .await?;
        Ok(())
    }
}

fn container(id: &str) -> ContainerRequest {
    ContainerRequest {
        container_id: id.into(),
        ..Default::default()
    }
}

fn process(id: &str, exec_id: &str) -> ProcessRequest {
    ProcessRequest {
        container_id: id.into(),
        exec_id: exec_id.into(),
        ..Default::default()
    }
}
