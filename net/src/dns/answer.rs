// SPDX-License-Identifier: Apache-2.0
//! What an upstream answered. It is read, but not believed: its names may be anybody's.

use std::net::IpAddr;
use std::time::Duration;

use domain::base::Message;
use domain::base::iana::{Class, Rcode, Rtype};
use domain::rdata::{A, Aaaa};

/// Most addresses that one answer lets through; those behind them stay out of reach.
pub const MAX_ADDRESSES: usize = 64;

/// How long addresses are let through: as long as they may be remembered, but long enough to connect, and not
/// for ever.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The answer to a question that was asked.
#[derive(Clone, Debug)]
pub struct Answer {
    message: Message<Vec<u8>>,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// How long it does.
    pub lifetime: Duration,
}

impl Answer {
    /// Of what was asked; `None` if these bytes answer something else.
    pub fn to(asked: &[u8], bytes: Vec<u8>) -> Option<Self> {
        let asked = Message::from_octets(asked).ok()?;
        let message = Message::from_octets(bytes).ok()?;
        let is_one = message.header_counts().qdcount() == 1;
        (is_one && message.is_answer(&asked)).then_some(Self { message })
    }

    /// There is more of it over TCP.
    pub fn is_truncated(&self) -> bool {
        self.message.header().tc()
    }

    /// The server could not find out, or would not: another one may.
    pub fn is_failure(&self) -> bool {
        matches!(
            self.message.header().rcode(),
            Rcode::SERVFAIL | Rcode::NOTIMP | Rcode::REFUSED
        )
    }

    /// The addresses of the name that was asked for, or of the name that it is another one for (RFC 1034, section
    /// 3.6.2). Records about other names say nothing.
    pub fn named(&self) -> Named {
        let mut named = Named {
            addresses: Vec::new(),
            lifetime: SHORTEST,
        };
        let (Some(name), Ok(answers)) = (self.message.canonical_name(), self.message.answer())
        else {
            return named;
        };
        for record in answers.flatten() {
            if record.owner() != name || record.class() != Class::IN {
                continue;
            }
            let ip: Option<IpAddr> = match record.rtype() {
                Rtype::A => record
                    .to_record::<A>()
                    .ok()
                    .flatten()
                    .map(|record| record.data().addr().into()),
                Rtype::AAAA => record
                    .to_record::<Aaaa>()
                    .ok()
                    .flatten()
                    .map(|record| record.data().addr().into()),
                _ => None,
            };
            if let Some(ip) = ip
                && named.addresses.len() < MAX_ADDRESSES
            {
                let ttl = record.ttl().into_duration().min(LONGEST);
                named.lifetime = named.lifetime.max(ttl);
                named.addresses.push(ip);
            }
        }
        named
    }

    /// Its bytes, as an answer under another number.
    pub fn into_bytes(mut self, id: u16) -> Vec<u8> {
        self.message.header_mut().set_id(id);
        self.message.into_octets()
    }
}
