// SPDX-License-Identifier: Apache-2.0
//! A name server that knows a few names, in whichever network namespaces a test wants it.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use domain::base::iana::{Rcode, Rtype};
use domain::base::message_builder::MessageBuilder;
use domain::base::{Message, Name};
use domain::rdata::A;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// How soon a thread notices that it is to end.
const POLL: Duration = Duration::from_millis(100);

/// How long what is told may be remembered.
const TTL_S: u32 = 300;

/// Answers until it is dropped. It knows addresses of IPv4 alone: names that it knows have no others.
pub struct NameServer {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    names: Arc<Vec<(Name<Vec<u8>>, Ipv4Addr)>>,
}

impl NameServer {
    /// Knows these names.
    #[track_caller]
    pub fn of(names: &[(&str, Ipv4Addr)]) -> Self {
        let read = |name: &str| Name::from_str(name).expect("it is a name");
        let names = names.iter().map(|(name, ip)| (read(name), *ip));
        Self {
            is_over: Arc::default(),
            threads: Vec::new(),
            names: Arc::new(names.collect()),
        }
    }

    /// Answers at this address of the test's own namespace, or of another one.
    #[track_caller]
    pub fn at(mut self, address: SocketAddr, netns: Option<&Path>) -> Self {
        let netns = netns.map(|path| File::open(path).expect("the namespace is there"));
        // On a thread that ends: one does not come back out of a namespace.
        let bind = move || {
            if let Some(netns) = netns {
                use std::os::fd::AsFd;
                let network = Some(LinkNameSpaceType::Network);
                move_into_link_name_space(netns.as_fd(), network).expect("root may enter it");
            }
            UdpSocket::bind(address)
        };
        let bound = thread::spawn(bind).join().expect("the thread ends");
        let socket = bound.unwrap_or_else(|error| panic!("cannot bind {address}: {error}"));
        let (is_over, names) = (self.is_over.clone(), self.names.clone());
        self.threads
            .push(thread::spawn(move || answer(&socket, &is_over, &names)));
        self
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().ok(); // what it panicked with was said there
        }
    }
}

fn answer(socket: &UdpSocket, is_over: &AtomicBool, names: &[(Name<Vec<u8>>, Ipv4Addr)]) {
    socket.set_read_timeout(Some(POLL)).expect("it is not zero");
    let mut buffer = [0; 1500];
    while !is_over.load(Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((length, from)) => {
                let told = buffer.get(..length).and_then(|asked| tell(asked, names));
                if let Some(told) = told {
                    socket.send_to(&told, from).ok(); // who went away asks again
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => panic!("cannot receive: {error}"),
        }
    }
}

fn tell(asked: &[u8], names: &[(Name<Vec<u8>>, Ipv4Addr)]) -> Option<Vec<u8>> {
    let asked = Message::from_slice(asked).ok()?;
    let question = asked.sole_question().ok()?;
    let known = names.iter().find(|(name, _)| question.qname() == name);
    let rcode = known.map_or(Rcode::NXDOMAIN, |_| Rcode::NOERROR);
    let builder = MessageBuilder::new_vec().start_answer(asked, rcode);
    let mut builder = builder.ok()?;
    if let (Some((name, ip)), Rtype::A) = (known, question.qtype()) {
        builder.push((name, TTL_S, A::new(*ip))).ok()?;
    }
    Some(builder.finish())
}
