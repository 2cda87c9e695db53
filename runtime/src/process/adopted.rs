// SPDX-License-Identifier: Apache-2.0
//! The first process of a container that a restored machine was saved with: its streams are those that it was
//! made with, which whoever starts it now need not want, and may not find.

use cube_protocol::v1::agent::AdoptContainerResponse as First;
use tokio::io::{copy, sink};
use tokio::net::UnixStream;

use super::{Command, SpawnError, Streams};

/// Which streams to connect: all that are open, or the process would wait for a reader that never comes.
pub(super) fn check(first: &First, command: &Command) -> Result<Command, SpawnError> {
    if first.terminal != command.terminal {
        return Err(SpawnError::Terminal {
            saved: first.terminal,
        });
    }
    Ok(Command {
        stdin: first.stdin,
        stdout: first.stdout,
        stderr: first.stderr,
        ..command.clone()
    })
}

/// What is wanted of them: a stream that is not wanted is read to nowhere, one that is not there is at its end.
pub(super) fn fit(streams: Streams, command: &Command) -> Result<Streams, SpawnError> {
    Ok(Streams {
        // An input that nobody feeds stays open: its end would be news to the process.
        stdin: match (streams.stdin, command.stdin) {
            (Some(stream), true) => Some(stream),
            (Some(stream), false) => {
                tokio::spawn(hold(stream));
                None
            }
            (None, wanted) => wanted.then(nowhere).transpose()?,
        },
        stdout: output(streams.stdout, command.stdout)?,
        stderr: output(streams.stderr, command.stderr)?,
    })
}

fn output(stream: Option<UnixStream>, wanted: bool) -> Result<Option<UnixStream>, SpawnError> {
    match (stream, wanted) {
        (Some(stream), true) => Ok(Some(stream)),
        (Some(stream), false) => {
            tokio::spawn(hold(stream));
            Ok(None)
        }
        (None, wanted) => wanted.then(nowhere).transpose(),
    }
}

/// Until the guest closes it.
async fn hold(mut stream: UnixStream) {
    if let Err(error) = copy(&mut stream, &mut sink()).await {
        tracing::debug!(%error, "a stream that nobody wanted broke");
    }
}

/// One whose other end is closed.
fn nowhere() -> Result<UnixStream, SpawnError> {
    let (stream, _closed) = UnixStream::pair().map_err(SpawnError::Nowhere)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_is_not_wanted_is_read_and_what_is_not_there_is_at_its_end() {
        let (ours, mut guests) = UnixStream::pair().unwrap();
        let streams = Streams {
            stdin: None,
            stdout: Some(ours),
            stderr: None,
        };
        let command = Command {
            stderr: true,
            ..Command::default()
        };
        let fitted = fit(streams, &command).unwrap();
        assert!(fitted.stdin.is_none() && fitted.stdout.is_none());
        let mut nothing = Vec::new();
        let end = fitted.stderr.unwrap().read_to_end(&mut nothing).await;
        assert_eq!(end.unwrap(), 0);
        // More than any buffer holds.
        guests.write_all(&vec![0; 4 << 20]).await.unwrap();
    }

    #[test]
    fn a_terminal_is_not_made_of_pipes() {
        let first = First {
            terminal: true,
            ..First::default()
        };
        let error = check(&first, &Command::default()).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("saved on a terminal"), "{text}");
    }
}
