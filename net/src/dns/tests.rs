// SPDX-License-Identifier: Apache-2.0
//! Questions as guests send them and worse, and answers as upstreams do.

use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::message_builder::{AnswerBuilder, MessageBuilder};
use domain::base::name::OwnedLabel;
use domain::base::{Message, Name, Ttl};
use domain::rdata::{A, Aaaa, Cname};
use proptest::prelude::*;

use super::*;

type Owned = Name<Vec<u8>>;

fn name(text: &str) -> Owned {
    Owned::from_str(text).unwrap()
}

/// A question with this payload size, if it takes options.
fn ask(text: &str, size: Option<u16>) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(7);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((name(text), Rtype::A)).unwrap();
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

fn parsed(bytes: &[u8]) -> Question {
    Question::parse(bytes).unwrap()
}

fn read(bytes: &[u8]) -> Message<&[u8]> {
    Message::from_octets(bytes).unwrap()
}

#[test]
fn a_name_is_read_in_lower_case() {
    let question = parsed(&ask("WWW.Example.ORG", None));
    assert_eq!((question.name(), question.id()), ("www.example.org", 7));
    assert_eq!(parsed(&ask(".", None)).name(), "");
}

#[test]
fn a_dot_within_a_label_parts_no_labels() {
    let mut bytes = ask("x", None)[..12].to_vec();
    bytes.extend(b"\x11evil.example\0.org\0\0\x01\0\x01");
    assert_eq!(parsed(&bytes).name(), "evil?example??org");
}

#[test]
fn a_question_is_asked_anew() {
    let mut bytes = ask("Example.org", Some(4096));
    // Whatever else stands in the header of a question.
    bytes[3] |= 0x30;
    let asked = parsed(&bytes).to_ask(0x1234);
    let asked = read(&asked);
    assert_eq!(asked.header().id(), 0x1234);
    assert!(asked.header().rd() && !asked.header().ad() && !asked.header().cd());
    let question = asked.sole_question().unwrap();
    assert_eq!(question.qname(), &name("example.org"));
    assert_eq!(asked.opt().unwrap().udp_payload_size(), 1232);
    assert!(read(&parsed(&ask("a", None)).to_ask(1)).opt().is_none());
}

#[test]
fn an_answer_of_ours_echoes_the_question() {
    let bytes = ask("example.org", Some(1232));
    let question = parsed(&bytes);
    for (answer, rcode) in [
        (question.refusal(), Rcode::REFUSED),
        (question.failure(), Rcode::SERVFAIL),
    ] {
        let answer = read(&answer);
        assert!(answer.is_answer(&read(&bytes)));
        assert_eq!(answer.header().rcode(), rcode);
        assert!(answer.header().ra() && answer.header().rd());
    }
}

#[test]
fn what_asks_nothing_is_told_so_if_it_waits() {
    #[track_caller]
    fn check(change: impl FnOnce(&mut Vec<u8>), is_told: bool) {
        let mut bytes = ask("example.org", None);
        change(&mut bytes);
        let answer = Question::parse(&bytes).unwrap_err().answer;
        assert_eq!(answer.is_some(), is_told);
        if let Some(answer) = answer {
            assert_eq!(read(&answer).header().id(), 7);
            assert_eq!(read(&answer).header().rcode(), Rcode::FORMERR);
        }
    }
    check(|bytes| bytes.truncate(11), false);
    check(|bytes| bytes.resize(MAX_QUESTION + 1, 0), false);
    check(|bytes| bytes[2] |= 0x80, false); // an answer
    check(|bytes| bytes.truncate(12), true);
    check(|bytes| bytes[5] = 0, true); // no question
    check(|bytes| bytes[5] = 2, true);
    check(|bytes| bytes[7] = 1, true); // an answer that is not there
    check(|bytes| bytes[11] = 1, true); // a record that is no option
    check(|bytes| bytes[2] |= u8::from(Opcode::UPDATE) << 3, true);
    let last = ask("example.org", None).len() - 1;
    check(|bytes| bytes[last] = 3, true); // Class::CH
    check(|bytes| bytes[last - 2] = 252, true); // Rtype::AXFR
    check(|bytes| bytes[12] = 0xc0, true); // a name that points to somewhere
}

/// An answer to `example.org`, by what is pushed.
fn answer(push: impl FnOnce(&mut AnswerBuilder<Vec<u8>>)) -> Option<Answer> {
    let asked = parsed(&ask("example.org", None)).to_ask(9);
    let builder = MessageBuilder::new_vec();
    let mut builder = builder.start_answer(&read(&asked), Rcode::NOERROR).unwrap();
    push(&mut builder);
    Answer::to(&asked, builder.finish())
}

fn named(push: impl FnOnce(&mut AnswerBuilder<Vec<u8>>)) -> Named {
    answer(push).unwrap().named()
}

fn a(last: u8) -> A {
    A::from_octets(192, 0, 2, last)
}

fn ips(texts: &[&str]) -> Vec<IpAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn addresses_are_those_of_the_name_or_what_it_leads_to() {
    let v6: std::net::Ipv6Addr = "2001:db8::1".parse().unwrap();
    let plain = named(|answer| {
        answer.push((name("Example.ORG"), 300, a(1))).unwrap();
        answer
            .push((name("example.org"), 300, Aaaa::new(v6)))
            .unwrap();
        answer.push((name("example.com"), 9999, a(2))).unwrap();
        answer
            .push((name("example.org"), Class::CH, 300, a(3)))
            .unwrap();
    });
    assert_eq!(plain.addresses, ips(&["192.0.2.1", "2001:db8::1"]));
    assert_eq!(plain.lifetime, Duration::from_secs(300));
    let chained = named(|answer| {
        answer.push((name("b.example.net"), 300, a(1))).unwrap();
        answer.push((name("example.org"), 300, a(2))).unwrap();
        let to = |text| Cname::new(name(text));
        answer
            .push((name("a.example.net"), 300, to("b.example.net")))
            .unwrap();
        answer
            .push((name("example.org"), 300, to("a.example.net")))
            .unwrap();
    });
    assert_eq!(chained.addresses, ips(&["192.0.2.1"]));
    let endless = named(|answer| {
        let to = || Cname::new(name("example.org"));
        answer.push((name("example.org"), 300, to())).unwrap();
        answer.push((name("example.org"), 300, a(1))).unwrap();
    });
    assert_eq!(endless.addresses, ips(&[]));
}

#[test]
fn a_lifetime_and_the_number_of_addresses_have_bounds() {
    let lifetime = |ttl: u32| {
        let ttl = Ttl::from_secs(ttl);
        named(|answer| answer.push((name("example.org"), ttl, a(1))).unwrap()).lifetime
    };
    assert_eq!(lifetime(0), Duration::from_secs(60));
    assert_eq!(lifetime(3600), Duration::from_secs(3600));
    assert_eq!(lifetime(u32::MAX), Duration::from_secs(24 * 3600));
    let many = named(|answer| {
        for last in 0..=255 {
            answer.push((name("example.org"), 60, a(last))).unwrap();
        }
    });
    assert_eq!(many.addresses.len(), MAX_ADDRESSES);
}

#[test]
fn an_answer_to_something_else_is_none() {
    let asked = parsed(&ask("example.org", None)).to_ask(9);
    let good = answer(|_| {}).unwrap().into_bytes(9);
    assert!(Answer::to(&asked, good.clone()).is_some());
    let refused = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        assert!(Answer::to(&asked, bytes).is_none());
    };
    refused(&|bytes| bytes[0] ^= 1);
    refused(&|bytes| bytes[2] &= 0x7f);
    refused(&|bytes| bytes[13] = b'f');
    refused(&|bytes| bytes[5] = 0);
    refused(&|bytes| bytes.truncate(11));
    let other = parsed(&ask("example.com", None)).to_ask(9);
    assert!(Answer::to(&other, good).is_none());
}

#[test]
fn an_answer_goes_on_under_the_guests_number() {
    let bytes = answer(|_| {}).unwrap().into_bytes(0x4321);
    assert_eq!(read(&bytes).header().id(), 0x4321);
}

proptest! {
    #[test]
    fn no_bytes_break_a_question(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        drop(Question::parse(&bytes));
    }

    #[test]
    fn no_change_of_a_question_breaks_it(at in 0usize..40, to: u8, size: Option<u16>) {
        let mut bytes = ask("some.example.org", size);
        let at = at % bytes.len();
        bytes[at] = to;
        if let Ok(question) = Question::parse(&bytes) {
            let asked = question.to_ask(1);
            prop_assert!(asked.len() <= MAX_QUESTION);
            let again = parsed(&asked);
            prop_assert_eq!(again.name(), question.name());
            prop_assert!(read(&question.refusal()).is_answer(&read(&bytes)));
        }
    }

    #[test]
    fn any_name_is_read_label_by_label(labels in prop::collection::vec("[a-zA-Z0-9_-]{1,20}", 1..10)) {
        let text = labels.join(".");
        let question = parsed(&ask(&text, None));
        prop_assert_eq!(question.name(), text.to_ascii_lowercase());
    }

    #[test]
    fn no_bytes_break_an_answer(tail in prop::collection::vec(any::<u8>(), 0..600), counts: [u8; 6]) {
        let asked = parsed(&ask("example.org", None)).to_ask(9);
        let mut bytes = asked.clone();
        bytes[2] |= 0x80;
        bytes[6..12].copy_from_slice(&counts);
        bytes.extend(tail);
        if let Some(answer) = Answer::to(&asked, bytes) {
            prop_assert!(answer.named().addresses.len() <= MAX_ADDRESSES);
        }
    }
}

#[test]
fn the_longest_name_fits() {
    let label = OwnedLabel::from_str(&"x".repeat(63)).unwrap().to_string();
    let text = [&label[..], &label, &label, &label[..61]].join(".");
    let asked = parsed(&ask(&text, Some(1232))).to_ask(1);
    assert!(asked.len() < MAX_QUESTION);
}
