// SPDX-License-Identifier: Apache-2.0
//! One question of a guest, and the answers to it that need nobody else.

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::message_builder::MessageBuilder;
use domain::base::name::ToLabelIter;
use domain::base::{Message, Name, ToName};
use thiserror::Error;

/// Longest question that is read: one of the longest name, and room for options.
pub const MAX_QUESTION: usize = 1232;

/// Longest message: its length is a u16 over TCP.
pub const MAX_MESSAGE: usize = u16::MAX as usize;

/// Longest answer that is taken over UDP: what passes everywhere in one packet (DNS flag day 2020).
const UDP_PAYLOAD: u16 = 1232;

/// A question of one name.
#[derive(Clone, Debug)]
pub struct Question {
    message: Message<Vec<u8>>,
    qname: Name<Vec<u8>>,
    qtype: Rtype,
    name: String,
    /// It takes answers with extensions (RFC 6891).
    has_options: bool,
}

/// Bytes that ask nothing.
#[derive(Debug, Error)]
#[error("not a question of one name")]
pub struct NotAQuestion {
    /// What its sender is told, if it is known what it waits for.
    pub answer: Option<Vec<u8>>,
}

impl Question {
    /// Reads one. Everything that a stub resolver does not send is none: other operations, transfers of zones,
    /// other classes than that of the internet, more than one question.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotAQuestion> {
        let silent = || NotAQuestion { answer: None };
        if bytes.len() > MAX_QUESTION {
            return Err(silent());
        }
        let message = Message::from_octets(bytes.to_vec()).map_err(|_| silent())?;
        // Who answers an answer may talk to himself for ever.
        if message.header().qr() {
            return Err(silent());
        }
        Self::read(&message).ok_or_else(|| NotAQuestion {
            answer: Some(bare(message.header().id(), Rcode::FORMERR)),
        })
    }

    fn read(message: &Message<Vec<u8>>) -> Option<Self> {
        let counts = message.header_counts();
        let is_one = counts.qdcount() == 1 && counts.ancount() == 0 && counts.nscount() == 0;
        let has_options = message.opt().is_some();
        let question = message.sole_question().ok()?;
        let is_usual = message.header().opcode() == Opcode::QUERY
            && question.qclass() == Class::IN
            && !matches!(question.qtype(), Rtype::AXFR | Rtype::IXFR)
            && counts.arcount() == u16::from(has_options);
        (is_one && is_usual).then(|| Self {
            qname: question.qname().to_vec(),
            qtype: question.qtype(),
            name: text(question.qname()),
            has_options,
            message: message.clone(),
        })
    }

    /// The name in lower case, for [`crate::policy::Policy`]. What no name of a host has is a question mark: a
    /// dot within a label is not to be taken for one between two.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number that an answer has to have.
    pub fn id(&self) -> u16 {
        self.message.header().id()
    }

    /// The answer that it may not be asked.
    pub fn refusal(&self) -> Vec<u8> {
        self.answer(Rcode::REFUSED)
    }

    /// The answer that there is none now.
    pub fn failure(&self) -> Vec<u8> {
        self.answer(Rcode::SERVFAIL)
    }

    /// The same question for an upstream, which is to find out all of it, under another number.
    pub fn to_ask(&self, id: u16) -> Vec<u8> {
        const FITS: &str = "one name and no option fit into any message";
        let mut builder = MessageBuilder::new_vec();
        builder.header_mut().set_id(id);
        builder.header_mut().set_rd(true);
        let mut builder = builder.question();
        builder.push((&self.qname, self.qtype)).expect(FITS);
        let mut builder = builder.additional();
        if self.has_options {
            let size = |opt: &mut domain::base::message_builder::OptBuilder<'_, Vec<u8>>| {
                opt.set_udp_payload_size(UDP_PAYLOAD);
                Ok(())
            };
            builder.opt(size).expect(FITS);
        }
        builder.finish()
    }

    fn answer(&self, rcode: Rcode) -> Vec<u8> {
        let mut builder = MessageBuilder::new_vec();
        builder.header_mut().set_ra(true);
        match builder.start_answer(&self.message, rcode) {
            Ok(answer) => answer.finish(),
            Err(_) => bare(self.id(), rcode),
        }
    }
}

/// A header alone.
fn bare(id: u16, rcode: Rcode) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(id);
    builder.header_mut().set_qr(true);
    builder.header_mut().set_rcode(rcode);
    builder.finish()
}

fn text(name: &impl ToLabelIter) -> String {
    let plain = |byte: &u8| match byte {
        byte if byte.is_ascii_alphanumeric() || b"-_".contains(byte) => {
            char::from(byte.to_ascii_lowercase())
        }
        _ => '?',
    };
    let labels = name.iter_labels().filter(|label| !label.is_root());
    let labels: Vec<String> = labels
        .map(|label| label.as_slice().iter().map(plain).collect())
        .collect();
    labels.join(".")
}
