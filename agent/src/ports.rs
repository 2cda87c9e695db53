// SPDX-License-Identifier: Apache-2.0
//! TCP ports of the machine, for the host: it connects, says which port, and the bytes go through, both ways and each
//! way to its own end. With or without a network: loopback is asked first, then the machine's addresses.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::cause::Cause;
use crate::process::Connection;

/// Most connections at once: each costs three descriptors and two buffers.
const MOST: usize = 1024;

/// Bytes on their way in each direction.
const BUFFER: usize = 16 * 1024;

/// How long a connection may take to say which port, and a port to be reached. Loopback answers at once; an
/// address of the machine's own, too.
const LIMIT: Duration = Duration::from_secs(10);

/// Answer to a host whose port was reached; any other is an error number.
const CONNECTED: u8 = 0;

/// The connections that are there.
#[derive(Debug)]
pub struct Ports {
    free: Arc<Semaphore>,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            free: Arc::new(Semaphore::new(MOST)),
        }
    }
}

impl Ports {
    /// Joins a connection with the port that it names, until both ways have ended. `addresses` are the
    /// machine's own.
    pub async fn join(&self, mut host: impl Connection, addresses: &[IpAddr]) -> Result<(), Cause> {
        let asked = timeout(LIMIT, host.read_u16()).await;
        let port = asked.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let Ok(_place) = self.free.try_acquire() else {
            return Ok(host.write_u8(code(&Errno::MFILE.into())).await?);
        };
        match connect(port, addresses).await {
            Ok(mut guest) => {
                host.write_u8(CONNECTED).await?;
                copy_bidirectional_with_sizes(&mut host, &mut guest, BUFFER, BUFFER).await?;
                Ok(())
            }
            Err(error) => Ok(host.write_u8(code(&error)).await?),
        }
    }
}

/// The first address that somebody listens on; else what loopback said.
async fn connect(port: u16, addresses: &[IpAddr]) -> io::Result<TcpStream> {
    let loopback = [
        IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::LOCALHOST),
    ];
    let mut first = None;
    for ip in loopback.iter().chain(addresses) {
        let tried = timeout(LIMIT, TcpStream::connect((*ip, port))).await;
        match tried.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => drop(first.get_or_insert(error)),
        }
    }
    Err(first.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

/// An error as one byte: Linux's numbers of what a socket says are below 133.
fn code(error: &io::Error) -> u8 {
    let other = match error.kind() {
        io::ErrorKind::TimedOut => Errno::TIMEDOUT,
        _ => Errno::IO,
    };
    let number = error.raw_os_error().unwrap_or(other.raw_os_error());
    u8::try_from(number).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;
    use tokio::net::TcpListener;

    const SIZE: usize = 300_000;

    #[tokio::test]
    async fn each_way_goes_to_its_own_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            // Until the client's end, and only then an answer.
            stream.read_to_end(&mut asked).await.unwrap();
            stream.write_all(&asked).await.unwrap();
        });
        let (mut host, guest) = duplex(1000);
        let joined = tokio::spawn(async move { Ports::default().join(guest, &[]).await });
        host.write_u16(port).await.unwrap();
        assert_eq!(host.read_u8().await.unwrap(), CONNECTED);
        let bytes: Vec<u8> = (0..SIZE)
            .map(|index| u8::try_from(index % 251).unwrap())
            .collect();
        host.write_all(&bytes).await.unwrap();
        host.shutdown().await.unwrap();
        let mut answer = Vec::new();
        host.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, bytes);
        joined.await.unwrap().unwrap();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_on_is_its_error_number() {
        let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = unused.local_addr().unwrap().port();
        drop(unused);
        let (mut host, guest) = duplex(100);
        host.write_u16(port).await.unwrap();
        Ports::default().join(guest, &[]).await.unwrap();
        assert_eq!(
            i32::from(host.read_u8().await.unwrap()),
            Errno::CONNREFUSED.raw_os_error()
        );
        assert_eq!(host.read(&mut [0]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn an_address_of_the_machine_is_asked_last() {
        let listener = TcpListener::bind("127.8.8.8:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mut host, guest) = duplex(100);
        host.write_u16(port).await.unwrap();
        let own = ["127.8.8.8".parse().unwrap()];
        let joined = tokio::spawn(async move { Ports::default().join(guest, &own).await });
        assert_eq!(host.read_u8().await.unwrap(), CONNECTED);
        drop(host);
        drop(listener.accept().await.unwrap());
        // Which of both ends goes first is not ours.
        drop(joined.await.unwrap());
    }

    #[tokio::test]
    async fn more_than_there_is_room_for_are_told() {
        let ports = Ports::default();
        let all = ports
            .free
            .clone()
            .acquire_many_owned(u32::try_from(MOST).unwrap());
        let _taken = all.await.unwrap();
        let (mut host, guest) = duplex(100);
        host.write_u16(80).await.unwrap();
        ports.join(guest, &[]).await.unwrap();
        assert_eq!(
            i32::from(host.read_u8().await.unwrap()),
            Errno::MFILE.raw_os_error()
        );
    }
}
