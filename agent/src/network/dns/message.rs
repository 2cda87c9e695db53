// SPDX-License-Identifier: Apache-2.0
//! The few places of a DNS message (RFC 1035, section 4.1) that a relay has to know.

use domain::base::Message;
use domain::base::iana::Rcode;
use domain::base::message_builder::MessageBuilder;

/// Longest answer over UDP to who takes no options (RFC 1035, section 4.2.1), and to who says how much he takes: no
/// more than passes in one packet everywhere, although here it would on loopback.
const PLAIN: usize = 512;
const WITH_OPTIONS: u16 = 1232;

/// The number that a question and its answer have in common; `None` for what has no header.
pub(super) fn id(message: &[u8]) -> Option<u16> {
    Message::from_slice(message)
        .ok()
        .map(|message| message.header().id())
}

/// Whether somebody may wait for an answer. Who answers an answer may talk to himself for ever.
pub(super) fn is_question(message: &[u8]) -> bool {
    Message::from_slice(message).is_ok_and(|message| !message.header().qr())
}

/// Replaces it, in what has a header.
pub(super) fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.first_chunk_mut() {
        *place = id.to_be_bytes();
    }
}

/// How long an answer over UDP may be.
pub(super) fn limit(question: &[u8]) -> usize {
    let options = Message::from_slice(question).ok().and_then(Message::opt);
    options.map_or(PLAIN, |options| {
        usize::from(options.udp_payload_size().min(WITH_OPTIONS)).max(PLAIN)
    })
}

/// What stands for an answer that is too long: whoever gets it asks again over TCP.
pub(super) fn truncated(answer: &[u8]) -> Option<Vec<u8>> {
    let answer = Message::from_slice(answer).ok()?;
    let builder = MessageBuilder::new_vec().start_answer(answer, answer.header().rcode());
    let mut short = builder.ok()?;
    let header = short.header_mut();
    header.set_tc(true);
    header.set_ra(answer.header().ra());
    Some(short.finish())
}

/// The answer that there is none (SERVFAIL).
pub(super) fn failure(question: &[u8]) -> Option<Vec<u8>> {
    let question = Message::from_slice(question).ok()?;
    let builder = MessageBuilder::new_vec().start_answer(question, Rcode::SERVFAIL);
    Some(builder.ok()?.finish())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use domain::base::{Name, Rtype};
    use domain::rdata::A;
    use proptest::prelude::*;

    /// A question with this payload size, if it takes options.
    pub(crate) fn question(id: u16, size: Option<u16>) -> Vec<u8> {
        let mut builder = MessageBuilder::new_vec();
        builder.header_mut().set_id(id);
        let mut builder = builder.question();
        let name = Name::vec_from_str("example.org").unwrap();
        builder.push((name, Rtype::A)).unwrap();
        let mut builder = builder.additional();
        if let Some(size) = size {
            let set = |opt: &mut domain::base::message_builder::OptBuilder<'_, Vec<u8>>| {
                opt.set_udp_payload_size(size);
                Ok(())
            };
            builder.opt(set).unwrap();
        }
        builder.finish()
    }

    /// An answer to it with so many addresses.
    pub(crate) fn answer(question: &[u8], addresses: u8) -> Vec<u8> {
        let question = Message::from_slice(question).unwrap();
        let builder = MessageBuilder::new_vec().start_answer(question, Rcode::NOERROR);
        let mut builder = builder.unwrap();
        for last in 0..addresses {
            let name = Name::vec_from_str("example.org").unwrap();
            builder
                .push((name, 60, A::from_octets(192, 0, 2, last)))
                .unwrap();
        }
        builder.finish()
    }

    #[test]
    fn a_limit_is_what_the_client_says_within_bounds() {
        assert_eq!(limit(&question(1, None)), 512);
        assert_eq!(limit(&question(1, Some(100))), 512);
        assert_eq!(limit(&question(1, Some(1000))), 1000);
        assert_eq!(limit(&question(1, Some(4096))), 1232);
        assert_eq!(limit(b"x"), 512);
    }

    #[test]
    fn a_long_answer_is_its_header_and_question() {
        let asked = question(7, None);
        let short = truncated(&answer(&asked, 100)).unwrap();
        let short = Message::from_slice(&short).unwrap();
        assert!(short.header().tc() && short.is_answer(Message::from_slice(&asked).unwrap()));
        assert_eq!(short.header_counts().ancount(), 0);
    }

    #[test]
    fn a_failure_echoes_its_question() {
        let asked = question(7, Some(1232));
        let failed = failure(&asked).unwrap();
        let failed = Message::from_slice(&failed).unwrap();
        assert!(failed.is_answer(Message::from_slice(&asked).unwrap()));
        assert_eq!(failed.header().rcode(), Rcode::SERVFAIL);
        assert_eq!(failure(b"short"), None);
        assert!(is_question(&asked) && !is_question(failed.as_slice()));
        assert!(!is_question(b"short"));
    }

    proptest! {
        #[test]
        fn no_bytes_break_it(mut bytes in prop::collection::vec(any::<u8>(), 0..600), new: u16) {
            prop_assert!((512..=1232).contains(&limit(&bytes)));
            for made in [truncated(&bytes), failure(&bytes)].into_iter().flatten() {
                prop_assert_eq!(id(&made), id(&bytes));
            }
            set_id(&mut bytes, new);
            prop_assert!(id(&bytes).is_none_or(|id| id == new));
        }
    }
}
