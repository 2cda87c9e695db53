// SPDX-License-Identifier: Apache-2.0
//! Who waits for which answer, by the relay's own numbers.

use std::collections::HashMap;
use std::time::Instant;

use super::{LIFETIME, MOST_WAITING};

/// A client and its question.
pub(super) type Asked<C> = (C, Vec<u8>);

/// At most [`MOST_WAITING`] of them, for at most [`LIFETIME`].
#[derive(Debug)]
pub(super) struct Waiting<C> {
    next: u16,
    by_id: HashMap<u16, (Asked<C>, Instant)>,
}

impl<C> Default for Waiting<C> {
    fn default() -> Self {
        Self {
            next: 0,
            by_id: HashMap::new(),
        }
    }
}

impl<C> Waiting<C> {
    /// A number that none has; the question comes back if there are too many.
    pub(super) fn insert(&mut self, asked: Asked<C>, now: Instant) -> Result<u16, Asked<C>> {
        if self.by_id.len() >= MOST_WAITING {
            let is_fresh = |at: Instant| now.saturating_duration_since(at) < LIFETIME;
            self.by_id.retain(|_, (_, at)| is_fresh(*at));
        }
        if self.by_id.len() >= MOST_WAITING {
            return Err(asked);
        }
        // There are more numbers than questions.
        while self.by_id.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let id = self.next;
        self.next = self.next.wrapping_add(1);
        self.by_id.insert(id, (asked, now));
        Ok(id)
    }

    /// Whose this number is. It is nobody's then.
    pub(super) fn take(&mut self, id: u16) -> Option<Asked<C>> {
        self.by_id.remove(&id).map(|(asked, _)| asked)
    }

    /// All of them.
    pub(super) fn drain(&mut self) -> Vec<Asked<C>> {
        self.by_id.drain().map(|(_, (asked, _))| asked).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn room_comes_back_with_answers_and_with_time() {
        let mut waiting = Waiting::default();
        let begin = Instant::now();
        let ids: Vec<u16> = (0..MOST_WAITING)
            .map(|number| waiting.insert((number, vec![]), begin).unwrap())
            .collect();
        assert!(waiting.insert((0, vec![]), begin).is_err());
        assert_eq!(waiting.take(ids[5]), Some((5, vec![])));
        assert_eq!(waiting.take(ids[5]), None);
        assert!(waiting.insert((0, vec![]), begin).is_ok());
        assert!(waiting.insert((0, vec![]), begin).is_err());
        assert!(waiting.insert((0, vec![]), begin + LIFETIME).is_ok());
        assert_eq!(waiting.drain().len(), 1);
    }

    proptest! {
        #[test]
        fn numbers_are_unlike(taken in prop::collection::vec(any::<bool>(), 0..2000)) {
            let mut waiting = Waiting::default();
            let now = Instant::now();
            let mut held = HashMap::new();
            for (number, is_taken) in taken.into_iter().enumerate() {
                let Ok(id) = waiting.insert((number, vec![]), now) else { continue };
                if is_taken {
                    prop_assert_eq!(waiting.take(id), Some((number, vec![])));
                } else {
                    prop_assert!(held.insert(id, number).is_none());
                }
            }
            for (id, number) in held {
                prop_assert_eq!(waiting.take(id), Some((number, vec![])));
            }
        }
    }
}
