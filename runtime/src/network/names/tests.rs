// SPDX-License-Identifier: Apache-2.0
//! Names of a guest that is the other end of a socket, with name servers on loopback.

use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;

use cube_net::policy::Policy;
use tokio::net::{TcpListener, UdpSocket};

use super::*;
use crate::config::EgressConfig;

/// How long something is waited for that comes at once.
const SOON: Duration = Duration::from_secs(5);

/// A policy, and what was let through.
#[derive(Debug)]
struct Book {
    policy: Mutex<Policy>,
    admitted: Mutex<Vec<(String, Named)>>,
    is_full: bool,
}

impl Book {
    fn of(policy: &str) -> Self {
        Self {
            policy: Mutex::new(Policy::parse(policy).unwrap()),
            admitted: Mutex::default(),
            is_full: false,
        }
    }
}

impl Rules for Book {
    async fn may_resolve(&self, name: &str) -> bool {
        self.policy.lock().unwrap().may_resolve(name)
    }

    async fn admit(&self, name: &str, named: Named) -> Result<(), NetworkError> {
        if self.is_full {
            return Err(NetworkError::Abandoned);
        }
        if self.policy.lock().unwrap().admits(name) {
            self.admitted.lock().unwrap().push((name.into(), named));
        }
        Ok(())
    }
}

/// A question for the addresses of a name (RFC 1035, section 4.1).
fn question(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.split('.') {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

/// An answer to it with one address.
fn answer(question: &[u8]) -> Vec<u8> {
    let mut bytes = question.to_vec();
    bytes[2] |= 0x80;
    bytes[7] = 1;
    bytes.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 44, 0, 4, 192, 0, 2, 1]);
    bytes
}

fn rcode(answer: &[u8]) -> u8 {
    answer[3] & 0xf
}

const REFUSED: u8 = 5;
const FAILED: u8 = 2;

/// A name server that answers each question so, over UDP; `None` is silence.
async fn server(answer: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 2000];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            for one in answer(&buffer[..length]) {
                socket.send_to(&one, from).await.unwrap();
            }
        }
    });
    address
}

fn asking(servers: &[SocketAddr]) -> Servers {
    let dns = servers.iter().map(|one| one.to_string().parse().unwrap());
    let config = EgressConfig {
        dns: Some(dns.collect()),
        ..EgressConfig::default()
    };
    Servers::new(&config)
}

/// The guest's end, and what happens at the other one.
struct Guest {
    stream: UnixStream,
    ended: tokio::task::JoinHandle<io::Error>,
}

fn guest(book: &Arc<Book>, servers: &[SocketAddr]) -> Guest {
    let (stream, host) = UnixStream::pair().unwrap();
    let names = Names::new(book.clone(), asking(servers));
    let ended = tokio::spawn(names.session(host));
    Guest { stream, ended }
}

impl Guest {
    async fn ask(&mut self, question: &[u8]) {
        write_message(&mut self.stream, question).await.unwrap();
    }

    async fn heard(&mut self) -> Vec<u8> {
        let reading = async {
            let mut bytes = vec![0; usize::from(self.stream.read_u16().await.unwrap())];
            self.stream.read_exact(&mut bytes).await.unwrap();
            bytes
        };
        timeout(SOON * 2, reading).await.unwrap()
    }

    async fn told(&mut self, id: u16, name: &str) -> Vec<u8> {
        self.ask(&question(id, name)).await;
        self.heard().await
    }
}

const DENY: &str = r#"{"default":"deny","allow":["allowed.test"]}"#;

#[tokio::test]
async fn what_is_allowed_is_answered_and_let_through_before() {
    let book = Arc::new(Book::of(DENY));
    let mut guest = guest(&book, &[server(|asked| vec![answer(asked)]).await]);
    let told = guest.told(7, "allowed.test").await;
    assert_eq!(told, answer(&question(7, "allowed.test")));
    let admitted = book.admitted.lock().unwrap().clone();
    let named = Named {
        addresses: vec!["192.0.2.1".parse::<IpAddr>().unwrap()],
        lifetime: Duration::from_secs(300),
    };
    assert_eq!(admitted, [("allowed.test".to_owned(), named)]);
}

#[tokio::test]
async fn what_is_not_allowed_is_asked_of_nobody() {
    let book = Arc::new(Book::of(DENY));
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let upstream = server(move |_| {
        *count.lock().unwrap() += 1;
        vec![]
    });
    let mut guest = guest(&book, &[upstream.await]);
    let told = guest.told(7, "secret.other.test").await;
    assert_eq!(rcode(&told), REFUSED);
    assert_eq!(told[..2], [0, 7]);
    assert_eq!(*asked.lock().unwrap(), 0);
}

#[tokio::test]
async fn the_policy_is_the_one_in_force() {
    let book = Arc::new(Book::of(DENY));
    let mut guest = guest(&book, &[server(|asked| vec![answer(asked)]).await]);
    *book.policy.lock().unwrap() = Policy::parse("{}").unwrap();
    assert_eq!(rcode(&guest.told(7, "other.test").await), 0);
    assert!(book.admitted.lock().unwrap().is_empty());
    *book.policy.lock().unwrap() = Policy::parse(r#"{"default":"deny"}"#).unwrap();
    assert_eq!(rcode(&guest.told(8, "allowed.test").await), REFUSED);
}

#[tokio::test]
async fn what_cannot_be_let_through_is_not_told() {
    let book = Arc::new(Book {
        is_full: true,
        ..Book::of(DENY)
    });
    let mut guest = guest(&book, &[server(|asked| vec![answer(asked)]).await]);
    assert_eq!(rcode(&guest.told(7, "allowed.test").await), FAILED);
}

#[tokio::test]
async fn answers_that_are_none_are_waited_past() {
    let book = Arc::new(Book::of("{}"));
    let forged = |asked: &[u8]| {
        let (mut number, mut name) = (answer(asked), answer(asked));
        number[0] ^= 1;
        name[13] ^= 1;
        let last = name.len() - 1;
        for forged in [&mut number, &mut name] {
            forged[last] = 66;
        }
        vec![vec![], number, name, answer(asked)]
    };
    let mut guest = guest(&book, &[server(forged).await]);
    assert_eq!(
        guest.told(7, "a.test").await,
        answer(&question(7, "a.test"))
    );
}

#[tokio::test]
async fn the_next_server_is_asked_and_then_nobody() {
    let book = Arc::new(Book::of("{}"));
    let silent = server(|_| vec![]).await;
    let good = server(|asked| vec![answer(asked)]).await;
    let mut one = guest(&book, &[silent, good]);
    assert_eq!(rcode(&one.told(7, "a.test").await), 0);
    let failing = server(|asked| {
        let mut failed = asked.to_vec();
        (failed[2], failed[3]) = (0x81, 0x82);
        vec![failed]
    });
    let failing = failing.await;
    let mut next = guest(&book, &[failing, good]);
    assert_eq!(rcode(&next.told(7, "a.test").await), 0);
    let mut passed_on = guest(&book, &[failing]);
    assert_eq!(rcode(&passed_on.told(7, "a.test").await), FAILED);
    let mut two = guest(&book, &[silent]);
    assert_eq!(rcode(&two.told(7, "a.test").await), FAILED);
    let mut three = guest(&book, &[]);
    assert_eq!(rcode(&three.told(7, "a.test").await), FAILED);
}

#[tokio::test]
async fn a_long_answer_is_fetched_over_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let datagrams = UdpSocket::bind(address).await.unwrap();
    tokio::spawn(async move {
        let mut buffer = vec![0; 2000];
        let (length, from) = datagrams.recv_from(&mut buffer).await.unwrap();
        buffer[2] |= 0x82;
        datagrams.send_to(&buffer[..length], from).await.unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = vec![0; usize::from(stream.read_u16().await.unwrap())];
        stream.read_exact(&mut asked).await.unwrap();
        write_message(&mut stream, &answer(&asked)).await.unwrap();
    });
    let book = Arc::new(Book::of("{}"));
    let mut guest = guest(&book, &[address]);
    assert_eq!(
        guest.told(7, "a.test").await,
        answer(&question(7, "a.test"))
    );
}

#[tokio::test]
async fn many_are_answered_at_once_and_no_more_than_there_are_places() {
    let book = Arc::new(Book::of("{}"));
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let upstream = server(move |_| {
        *count.lock().unwrap() += 1;
        vec![]
    });
    let mut guest = guest(&book, &[upstream.await]);
    for id in 0..200 {
        guest.ask(&question(id, "a.test")).await;
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(*asked.lock().unwrap(), PLACES);
}

#[tokio::test]
async fn what_is_no_question_is_told_or_ends_the_connection() {
    let book = Arc::new(Book::of("{}"));
    let mut guest = guest(&book, &[]);
    let mut twice = question(7, "a.test");
    twice[5] = 2;
    guest.ask(&twice).await;
    assert_eq!(rcode(&guest.heard().await), 1);
    guest.ask(b"short").await;
    guest.ask(&question(8, "a.test")).await;
    assert_eq!(guest.heard().await[..2], [0, 8]);
    guest.ask(&vec![0; MAX_QUESTION + 1]).await;
    let ended = timeout(SOON, guest.ended).await.unwrap().unwrap();
    assert_eq!(ended.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn half_a_question_ends_the_connection_after_a_while() {
    let book = Arc::new(Book::of("{}"));
    let mut guest = guest(&book, &[]);
    guest.stream.write_all(&[0, 100, 1]).await.unwrap();
    let ended = timeout(PATIENCE + SOON, guest.ended)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn a_connection_that_breaks_is_made_anew_until_the_machine_ends() {
    let dir = tempfile::tempdir().unwrap();
    let vsock = dir.path().join("v");
    let listener = tokio::net::UnixListener::bind(&vsock).unwrap();
    let (machine, end) = End::channel();
    let book = Arc::new(Book::of("{}"));
    let names = Names::new(book, asking(&[]));
    let answering = tokio::spawn(async move { names.answer(&vsock, &end).await });
    for _ in 0..2 {
        let (mut stream, _) = timeout(SOON, listener.accept()).await.unwrap().unwrap();
        let mut line = [0; 13];
        stream.read_exact(&mut line).await.unwrap();
        assert_eq!(&line, b"CONNECT 1028\n");
        stream.write_all(b"OK 1\n").await.unwrap();
        write_message(&mut stream, &question(7, "a.test"))
            .await
            .unwrap();
        assert!(stream.read_u16().await.is_ok());
    }
    drop(machine);
    timeout(SOON, answering).await.unwrap().unwrap();
}
