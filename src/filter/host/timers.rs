//! Wakes a stream at a time. The host itself only ticks, per root and without a reason.
//!
//! Each root has its own queue, because its ticks end with it. When the configuration is replaced, a deadline of the
//! old root must not keep the new root from being armed. The streams of a root never outlive it, so nobody waits in a
//! queue that is dropped.
//!
//! The host ticks a root in a fixed period. So a root is armed for its soonest deadline, and disarmed when its queue
//! is empty; a tick that comes too early or twice fires nothing. The owner of a sleeper has the only strong reference
//! to it, so the sleeper of an ended stream is gone.
//!
//! A limit rarely ends anything. So it is only noted, without reading the clock. The next tick, at most a second
//! later, turns it into a deadline if it still exists.
//!
//! Deadlines use the monotonic clock. With the wall clock, a step back would make everyone wait for the length of the
//! step, and a step forward would wake everyone at once.

use super::exclusive::Exclusive;
use super::{self as host, Instant};
use crate::policy::time::{Millis, Timestamp};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Weak;

/// Something that waits for a time.
pub(crate) trait Wake {
    /// The time has come; `now` is the wall clock. The stream that set the timer is the current one.
    fn wake(&self, now: Timestamp);
}

/// A stream, and the root that it belongs to.
#[derive(Clone, Copy)]
pub(crate) struct StreamId {
    pub(crate) context: u32,
    pub(crate) root: u32,
}

struct Timer {
    context: u32,
    sleeper: Weak<dyn Wake>,
}

/// The longest time between setting a limit and the tick that turns it into a deadline.
const GRAIN: Millis = Millis::from_secs(1);

/// A limit that is not a deadline yet.
struct Limit {
    number: u64,
    length: Millis,
    timer: Timer,
}

/// The timers of one root.
#[derive(Default)]
struct Queue {
    timers: BTreeMap<(Instant, u64), Timer>,
    /// Sorted by number. There are nearly always few.
    limits: Vec<Limit>,
    /// Whether a tick for the limits comes within [`GRAIN`].
    is_tick_near: bool,
    next_number: u64,
    armed_for: Option<Instant>,
}

thread_local! {
    static QUEUES: RefCell<BTreeMap<u32, Queue>> = RefCell::default();
}

/// Identifies a limit, so that it can be removed.
#[derive(Clone, Copy)]
pub(crate) struct LimitId {
    root: u32,
    number: u64,
}

/// Wakes `sleeper` when the time from `now` to `at` has passed. `stream` must be the current stream.
pub(crate) fn set(stream: StreamId, at: Timestamp, now: Timestamp, sleeper: Weak<dyn Wake>) {
    let timer = Timer { context: stream.context, sleeper };
    with_queue(stream.root, |queue| queue.set(at.since(now), timer));
}

/// Wakes `sleeper` after `length` and up to a second more. A length below a second is exact. `stream` must be the
/// current stream. Returns the id to remove the limit with, if that is needed.
pub(crate) fn limit(stream: StreamId, length: Millis, sleeper: Weak<dyn Wake>) -> Option<LimitId> {
    let timer = Timer { context: stream.context, sleeper };
    with_queue(stream.root, |queue| {
        if length < GRAIN {
            queue.set(length, timer);
            return None;
        }
        let number = queue.number();
        queue.limits.push(Limit { number, length, timer });
        if !queue.is_tick_near {
            queue.is_tick_near = true;
            let now = host::instant();
            queue.arm_by(now.plus(GRAIN), now);
        }
        Some(LimitId { root: stream.root, number })
    })
    .flatten()
}

/// Removes a limit. One that became a deadline stays, and wakes nobody.
pub(crate) fn lift(limit: LimitId) {
    let _ = QUEUES.try_with(|queues| {
        if let Some(mut queues) = queues.change()
            && let Some(Queue { limits, .. }) = queues.get_mut(&limit.root)
            && let Ok(at) = limits.binary_search_by_key(&limit.number, |limit| limit.number)
        {
            limits.remove(at);
        }
    });
}

/// Wakes the sleepers that are due, on a tick of `root`.
pub(crate) fn fire(root: u32) {
    let (now, wall) = (host::instant(), host::now());
    // A sleeper may set timers, so the queue is not borrowed while it runs.
    while let Some(timer) = with_queue(root, |queue| queue.next_due(now)).flatten() {
        let Some(sleeper) = timer.sleeper.upgrade() else { continue };
        if host::enter(timer.context).is_ok() {
            sleeper.wake(wall);
        }
    }
    let _ = host::enter(root); // a root that is gone gets no tick
    with_queue(root, |queue| {
        queue.note_limits(now);
        let soonest = queue.timers.keys().next().map(|&(at, _)| at);
        queue.arm(soonest, now);
    });
}

/// Removes the queue of a root that is gone.
pub(crate) fn forget(root: u32) {
    let _ = QUEUES.try_with(|queues| {
        if let Some(mut queues) = queues.change() {
            queues.remove(&root);
        }
    });
}

fn with_queue<R>(root: u32, change: impl FnOnce(&mut Queue) -> R) -> Option<R> {
    QUEUES.with(|queues| Some(change(queues.change()?.entry(root).or_default())))
}

impl Queue {
    fn next_due(&mut self, now: Instant) -> Option<Timer> {
        let entry = self.timers.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    fn number(&mut self) -> u64 {
        let number = self.next_number;
        self.next_number = number.wrapping_add(1);
        number
    }

    fn set(&mut self, length: Millis, timer: Timer) {
        let now = host::instant();
        let at = now.plus(length);
        let number = self.number();
        self.timers.insert((at, number), timer);
        self.arm_by(at, now);
    }

    /// Turns the limits that were set since the last tick into deadlines.
    fn note_limits(&mut self, now: Instant) {
        self.is_tick_near = false;
        for Limit { number, length, timer } in self.limits.drain(..) {
            self.timers.insert((now.plus(length), number), timer);
        }
    }

    /// Makes a tick come at `at` at the latest. Arming again may postpone an earlier tick, so it is done only when
    /// needed.
    fn arm_by(&mut self, at: Instant, now: Instant) {
        if self.armed_for.is_none_or(|armed| at < armed) {
            self.arm(Some(at), now);
        }
    }

    /// Makes the root of the current context tick at `at`; never for `None`.
    fn arm(&mut self, at: Option<Instant>, now: Instant) {
        self.armed_for = at;
        let period = at.map_or(Millis::ZERO, |at| at.since(now).max(Millis::new(1)));
        let _ = host::set_tick_period_ms(u32::try_from(period.as_ms()).unwrap_or(u32::MAX));
    }
}
