// SPDX-License-Identifier: Apache-2.0
//! A relay between real sockets and a host that is the other end of a pipe.

use tokio::io::{DuplexStream, duplex};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::message::tests::{answer, question};
use super::*;

/// How long something is waited for that comes at once.
const SOON: Duration = Duration::from_secs(5);

struct Bench {
    relay: Arc<Relay>,
    udp: SocketAddr,
    tcp: SocketAddr,
}

async fn bench() -> Bench {
    let relay = Arc::new(Relay::default());
    let anywhere = "127.0.0.1:0".parse().unwrap();
    relay.clone().listen(anywhere).await.unwrap();
    let (udp, tcp) = {
        let state = relay.state();
        let clients = state.clients.as_ref().unwrap();
        (clients.udp(), clients.tcp)
    };
    Bench { relay, udp, tcp }
}

impl Bench {
    /// The host's end of a connection.
    async fn host(&self) -> DuplexStream {
        let before = self.relay.state().host.number;
        let (host, guest) = duplex(1 << 16);
        let relay = self.relay.clone();
        tokio::spawn(async move { relay.serve(guest).await });
        while self.relay.state().host.number == before {
            tokio::task::yield_now().await;
        }
        host
    }

    async fn client(&self) -> UdpSocket {
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.connect(self.udp).await.unwrap();
        client
    }
}

async fn heard(client: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65536];
    let length = timeout(SOON, client.recv(&mut buffer))
        .await
        .unwrap()
        .unwrap();
    buffer.truncate(length);
    buffer
}

async fn asked(host: &mut DuplexStream) -> Vec<u8> {
    timeout(SOON, read_message(host, usize::MAX))
        .await
        .unwrap()
        .unwrap()
}

fn is_failure(message: &[u8]) -> bool {
    message[2] & 0x80 != 0 && message[3] & 0xf == 2
}

#[tokio::test]
async fn without_a_host_there_is_no_answer_and_it_is_told_at_once() {
    let bench = bench().await;
    let client = bench.client().await;
    client.send(&question(7, None)).await.unwrap();
    let answer = heard(&client).await;
    assert!(is_failure(&answer));
    assert_eq!(message::id(&answer), Some(7));
}

#[tokio::test]
async fn answers_find_their_clients_in_any_order() {
    let bench = bench().await;
    let mut host = bench.host().await;
    let (one, other) = (bench.client().await, bench.client().await);
    // The same number twice, as two programs may choose it.
    one.send(&question(7, None)).await.unwrap();
    let first = asked(&mut host).await;
    other.send(&question(7, None)).await.unwrap();
    let second = asked(&mut host).await;
    assert_ne!(message::id(&first), message::id(&second));
    for (question, addresses) in [(&second, 2), (&first, 1)] {
        write_message(&mut host, &answer(question, addresses))
            .await
            .unwrap();
    }
    assert_eq!(heard(&one).await, answer(&question(7, None), 1));
    assert_eq!(heard(&other).await, answer(&question(7, None), 2));
}

#[tokio::test]
async fn an_answer_that_is_too_long_for_udp_comes_over_tcp() {
    let bench = bench().await;
    let mut host = bench.host().await;
    let client = bench.client().await;
    let long = question(7, Some(4096));
    client.send(&long).await.unwrap();
    let sent = asked(&mut host).await;
    write_message(&mut host, &answer(&sent, 200)).await.unwrap();
    let short = heard(&client).await;
    assert!(short.len() < 100 && short[2] & 2 != 0, "{short:?}");
    let mut stream = TcpStream::connect(bench.tcp).await.unwrap();
    // Two in one go, and the client has no more to ask.
    let both = [&frame(&long)[..], &frame(&question(8, None))].concat();
    stream.write_all(&both).await.unwrap();
    stream.shutdown().await.unwrap();
    for _ in 0..2 {
        let sent = asked(&mut host).await;
        write_message(&mut host, &answer(&sent, 200)).await.unwrap();
    }
    let whole = read_message(&mut stream, usize::MAX).await.unwrap();
    assert_eq!(whole, answer(&long, 200));
    let next = read_message(&mut stream, usize::MAX).await.unwrap();
    assert_eq!(message::id(&next), Some(8));
}

fn frame(message: &[u8]) -> Vec<u8> {
    [
        &u16::try_from(message.len()).unwrap().to_be_bytes(),
        message,
    ]
    .concat()
}

#[tokio::test]
async fn a_host_that_goes_is_told_to_who_waits_and_another_takes_its_place() {
    let bench = bench().await;
    let mut first = bench.host().await;
    let client = bench.client().await;
    client.send(&question(7, None)).await.unwrap();
    asked(&mut first).await;
    let mut second = bench.host().await;
    assert!(is_failure(&heard(&client).await));
    // The one before is hung up on, and its end does not end the new one.
    assert!(read_message(&mut first, usize::MAX).await.is_err());
    drop(first);
    client.send(&question(8, None)).await.unwrap();
    let sent = asked(&mut second).await;
    write_message(&mut second, &answer(&sent, 1)).await.unwrap();
    assert_eq!(heard(&client).await, answer(&question(8, None), 1));
    client.send(&question(9, None)).await.unwrap();
    asked(&mut second).await;
    drop(second);
    assert!(is_failure(&heard(&client).await));
}

#[tokio::test]
async fn a_flood_is_told_that_there_is_no_answer() {
    let bench = bench().await;
    let mut host = bench.host().await;
    let client = bench.client().await;
    let most = u16::try_from(MOST_WAITING).unwrap();
    for id in 0..most {
        client.send(&question(id, None)).await.unwrap();
        asked(&mut host).await;
    }
    client.send(&question(most, None)).await.unwrap();
    let answer = heard(&client).await;
    assert!(is_failure(&answer));
    assert_eq!(message::id(&answer), Some(most));
}

#[tokio::test]
async fn what_is_no_question_goes_nowhere() {
    let bench = bench().await;
    let mut host = bench.host().await;
    let client = bench.client().await;
    client.send(b"short").await.unwrap();
    client.send(&answer(&question(6, None), 1)).await.unwrap();
    client.send(&vec![0; MAX_DNS_QUESTION + 1]).await.unwrap();
    let mut stream = TcpStream::connect(bench.tcp).await.unwrap();
    stream
        .write_all(&frame(&vec![0; MAX_DNS_QUESTION + 1]))
        .await
        .unwrap();
    assert!(
        read_message(&mut stream, usize::MAX).await.is_err(),
        "hung up"
    );
    client.send(&question(7, None)).await.unwrap();
    let sent = asked(&mut host).await;
    assert_eq!(sent.len(), question(7, None).len());
    // Answers to nobody.
    write_message(&mut host, b"short").await.unwrap();
    write_message(&mut host, &answer(&question(0xffff, None), 1))
        .await
        .unwrap();
    write_message(&mut host, &answer(&sent, 1)).await.unwrap();
    assert_eq!(heard(&client).await, answer(&question(7, None), 1));
}

#[tokio::test]
async fn half_a_question_holds_a_connection_for_a_while() {
    let bench = bench().await;
    let mut stream = TcpStream::connect(bench.tcp).await.unwrap();
    stream.write_all(&[0, 100, 1]).await.unwrap();
    let begin = Instant::now();
    let limit = LIFETIME + SOON;
    let ended = timeout(limit, read_message(&mut stream, usize::MAX)).await;
    assert!(ended.unwrap().is_err());
    assert!(begin.elapsed() >= LIFETIME - Duration::from_secs(1));
}

#[tokio::test]
async fn a_place_that_is_taken_is_told() {
    let taken = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let refused = Arc::new(Relay::default())
        .listen(address)
        .await
        .unwrap_err();
    assert!(matches!(refused, NetworkError::Names { address: at, .. } if at == address));
}
