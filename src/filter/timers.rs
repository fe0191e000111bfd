//! Waking a stream at a time: the host only ticks, per root and without a reason.
//!
//! A tick belongs to a root and goes with it, so each root has a queue of its own: it outlives its
//! streams, and a new configuration has another. A root is armed for its soonest deadline and
//! disarmed when its queue is empty; a tick that comes too early or twice fires nothing. Whoever
//! waits keeps the only strong reference to what is woken, so a stream that ended is simply not
//! there any more.

use super::host;
use crate::policy::time::{Millis, Timestamp};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Weak;

/// Something that waits for a time.
pub(crate) trait Wake {
    /// The time has come. The stream that set the timer is the current one.
    fn wake(&self, now: Timestamp);
}

/// A stream, and the root whose ticks wake it.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) root: u32,
    pub(crate) context: u32,
}

struct Timer {
    context: u32,
    sleeper: Weak<dyn Wake>,
}

#[derive(Default)]
struct Queue {
    timers: BTreeMap<(Timestamp, u64), Timer>,
    last_number: u64,
    armed_for: Option<Timestamp>,
}

thread_local! {
    static QUEUES: RefCell<BTreeMap<u32, Queue>> = RefCell::default();
}

/// Wakes `sleeper` at `at`, as the stream of `place`, which must be the current one.
pub(crate) fn set(place: Place, at: Timestamp, now: Timestamp, sleeper: Weak<dyn Wake>) {
    with(place.root, |queue| {
        queue.last_number = queue.last_number.wrapping_add(1);
        let timer = Timer { context: place.context, sleeper };
        queue.timers.insert((at, queue.last_number), timer);
        // Arming anew may postpone a tick that is due sooner, so it is done only when it must be.
        if queue.armed_for.is_none_or(|armed| at < armed) {
            queue.arm(now);
        }
    });
}

/// Fires what is due, on a tick of root `root`.
pub(crate) fn fire(root: u32) {
    let now = host::now();
    while let Some(timer) = with(root, |queue| queue.next_due(now)).flatten() {
        let Some(sleeper) = timer.sleeper.upgrade() else { continue };
        if host::enter(timer.context).is_ok() {
            sleeper.wake(now);
        }
    }
    let _ = host::enter(root); // a root that is gone does not tick
    with(root, |queue| queue.arm(now));
}

/// Root `root` is gone, and all its streams.
pub(crate) fn forget(root: u32) {
    // A thread that ends drops its roots after its queues.
    let _ = QUEUES.try_with(|queues| {
        if let Ok(mut queues) = queues.try_borrow_mut() {
            queues.remove(&root);
        }
    });
}

/// Nothing that `visit` does may come back here: it runs no sleeper.
fn with<R>(root: u32, visit: impl FnOnce(&mut Queue) -> R) -> Option<R> {
    QUEUES.with(|queues| Some(visit(queues.try_borrow_mut().ok()?.entry(root).or_default())))
}

impl Queue {
    fn next_due(&mut self, now: Timestamp) -> Option<Timer> {
        let entry = self.timers.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    }

    /// Makes the current root tick at the soonest deadline; without one, not at all.
    fn arm(&mut self, now: Timestamp) {
        self.armed_for = self.timers.keys().next().map(|&(at, _)| at);
        let period = self.armed_for.map_or(Millis::ZERO, |at| at.since(now).max(Millis::new(1)));
        let _ = host::set_tick_period_ms(u32::try_from(period.as_ms()).unwrap_or(u32::MAX));
    }
}
