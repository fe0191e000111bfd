//! Remembers what was logged, so that a repeated fault is logged once and not for every request.

use super::exclusive::Exclusive;
use crate::policy::time::{Millis, Timestamp};
use std::cell::RefCell;

/// How long the same words are not logged again.
const SILENCE: Millis = Millis::from_secs(60);

/// The last words on one subject, and when they were written.
#[derive(Default)]
pub(crate) struct Told(RefCell<Option<(String, Timestamp)>>);

impl Told {
    /// Whether to log `words` now: they are new, or were last logged a while ago.
    pub(crate) fn is_news(&self, words: &str, now: Timestamp) -> bool {
        let Some(mut last) = self.0.change() else { return false };
        // A clock that was set back must not silence it for good.
        let is_fresh = |at: Timestamp| now.since(at) < SILENCE && at.since(now) < SILENCE;
        if last.as_ref().is_some_and(|(known, at)| known == words && is_fresh(*at)) {
            return false;
        }
        *last = Some((words.to_owned(), now));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_words_are_news_once_a_minute_and_other_words_at_once() {
        let told = Told::default();
        let at = |ms: u64| Timestamp::from_ms(1_000_000 + ms);
        assert!(told.is_news("refused", at(0)));
        assert!(!told.is_news("refused", at(59_999)));
        assert!(told.is_news("refused", at(60_000)));
        assert!(told.is_news("no certificate", at(60_001)));
        assert!(told.is_news("refused", at(60_002)));
        assert!(told.is_news("refused", Timestamp::from_ms(1)), "the clock was set back");
    }
}
