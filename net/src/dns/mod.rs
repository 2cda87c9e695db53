// SPDX-License-Identifier: Apache-2.0
//! Names of a sandbox, as DNS messages (RFC 1035): what a guest asks, what is asked for it, what was answered.
//!
//! ```text
//! a guest's bytes -> Question -> Policy::may_resolve -> refusal
//!                                      └─ to_ask -> an upstream -> Answer -> named: addresses for the table
//! ```
//!
//! Bytes in, bytes out: sockets, time and the choice of an upstream are `cube-runtime`'s. What a guest sent is
//! never passed on: a question is written anew, so that nothing but a name and a type leaves through it.

mod answer;
mod question;

pub use answer::{Answer, MAX_ADDRESSES, Named};
pub use question::{MAX_MESSAGE, MAX_QUESTION, NotAQuestion, Question};

#[cfg(test)]
mod tests;
