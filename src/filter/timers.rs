//! Waking a stream at a time: the host only ticks, per root and without a reason.
//!
//! Each root has a queue of its own, because its ticks end with it: when the configuration is
//! replaced, a deadline that was armed for the old root must not keep the new one from being armed.
//! The streams of a root never outlive it, so nobody is left waiting in a queue that is dropped.
//!
//! The host ticks a root in a fixed period, so it is armed for the soonest deadline and disarmed
//! when the queue is empty; a tick that comes too early or twice fires nothing. Whoever waits keeps
//! the only strong reference to what is woken, so a stream that ended is simply not there any more.
//!
//! Deadlines are on the monotonic clock. On the wall clock a step back would leave everyone waiting
//! for the length of the step, and a step forward would wake everyone at once.

use super::host::{self, Instant};
use crate::policy::time::{Millis, Timestamp};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Weak;

/// Something that waits for a time.
pub(crate) trait Wake {
    /// The time has come; `now` is the wall clock's. The stream that set the timer is the current one.
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

/// What one root wakes.
#[derive(Default)]
struct Queue {
    timers: BTreeMap<(Instant, u64), Timer>,
    next_number: u64,
    armed_for: Option<Instant>,
}

thread_local! {
    static QUEUES: RefCell<BTreeMap<u32, Queue>> = RefCell::default();
}

/// A timer that was set, and can be taken back.
#[derive(Clone, Copy)]
pub(crate) struct TimerId {
    root: u32,
    at: Instant,
    number: u64,
}

/// Wakes `sleeper` after the time from `now` to `at`, as `stream`, which must be the current one.
pub(crate) fn set(stream: StreamId, at: Timestamp, now: Timestamp, sleeper: Weak<dyn Wake>) {
    set_after(stream, at.since(now), sleeper);
}

/// Wakes `sleeper` after `length`, as `stream`, which must be the current one.
pub(crate) fn set_after(
    stream: StreamId,
    length: Millis,
    sleeper: Weak<dyn Wake>,
) -> Option<TimerId> {
    let now = host::instant();
    let at = now.plus(length);
    with_queue(stream.root, |queue| {
        let number = queue.next_number;
        queue.next_number = number.wrapping_add(1);
        queue.timers.insert((at, number), Timer { context: stream.context, sleeper });
        // Arming anew may postpone a tick that is due sooner, so it is done only when it must be.
        if queue.armed_for.is_none_or(|armed| at < armed) {
            queue.arm(Some(at), now);
        }
        TimerId { root: stream.root, at, number }
    })
}

/// Takes a timer back. The tick that it was for may still come, and fires nothing: timers that hardly
/// ever fire must not cost two calls of the host each.
pub(crate) fn cancel(timer: TimerId) {
    let _ = QUEUES.try_with(|queues| {
        if let Ok(mut queues) = queues.try_borrow_mut()
            && let Some(queue) = queues.get_mut(&timer.root)
        {
            queue.timers.remove(&(timer.at, timer.number));
        }
    });
}

/// Fires what is due, on a tick of `root`.
pub(crate) fn fire(root: u32) {
    let (now, wall) = (host::instant(), host::now());
    // A sleeper may set timers, so the queue is not held while it is awake.
    while let Some(timer) = with_queue(root, |queue| queue.next_due(now)).flatten() {
        let Some(sleeper) = timer.sleeper.upgrade() else { continue };
        if host::enter(timer.context).is_ok() {
            sleeper.wake(wall);
        }
    }
    let _ = host::enter(root); // a root that is gone does not tick
    with_queue(root, |queue| {
        let soonest = queue.timers.keys().next().map(|&(at, _)| at);
        queue.arm(soonest, now);
    });
}

/// Forgets a root that is gone.
pub(crate) fn forget(root: u32) {
    let _ = QUEUES.try_with(|queues| {
        if let Ok(mut queues) = queues.try_borrow_mut() {
            queues.remove(&root);
        }
    });
}

fn with_queue<R>(root: u32, change: impl FnOnce(&mut Queue) -> R) -> Option<R> {
    QUEUES.with(|queues| Some(change(queues.try_borrow_mut().ok()?.entry(root).or_default())))
}

impl Queue {
    fn next_due(&mut self, now: Instant) -> Option<Timer> {
        let entry = self.timers.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    /// Makes the root of the current context tick at `at`; `None`: not at all.
    fn arm(&mut self, at: Option<Instant>, now: Instant) {
        self.armed_for = at;
        let period = at.map_or(Millis::ZERO, |at| at.since(now).max(Millis::new(1)));
        let _ = host::set_tick_period_ms(u32::try_from(period.as_ms()).unwrap_or(u32::MAX));
    }
}
