//! Waking a stream at a time: the host only ticks, per root and without a reason.
//!
//! Timers of all roles of the VM share one queue. The host ticks a root in a fixed period, so it is
//! armed for the soonest deadline and disarmed when the queue is empty; a tick that comes too early
//! or twice fires nothing. Whoever waits keeps the only strong reference to what is woken, so a
//! stream that ended is simply not there any more.

use super::host;
use crate::policy::time::{Millis, Timestamp};
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Weak;

/// Something that waits for a time.
pub(crate) trait Wake {
    /// The time has come. The stream that set the timer is the current one.
    fn wake(&self, now: Timestamp);
}

struct Timer {
    context: u32,
    sleeper: Weak<dyn Wake>,
}

thread_local! {
    static QUEUE: RefCell<BTreeMap<(Timestamp, u64), Timer>> = RefCell::default();
    static NEXT_NUMBER: Cell<u64> = const { Cell::new(0) };
    static ARMED_FOR: Cell<Option<Timestamp>> = const { Cell::new(None) };
}

/// Wakes `sleeper` at `at`, as stream `context`, which must be the current one.
pub(crate) fn set(context: u32, at: Timestamp, now: Timestamp, sleeper: Weak<dyn Wake>) {
    let number = NEXT_NUMBER.replace(NEXT_NUMBER.get().wrapping_add(1));
    QUEUE.with(|queue| {
        if let Ok(mut queue) = queue.try_borrow_mut() {
            queue.insert((at, number), Timer { context, sleeper });
        }
    });
    // Arming anew may postpone a tick that is due sooner, so it is done only when it must be.
    if ARMED_FOR.get().is_none_or(|armed| at < armed) {
        arm(Some(at), now);
    }
}

/// Fires what is due, on a tick of root `root`.
pub(crate) fn fire(root: u32) {
    let now = host::now();
    while let Some(timer) = next_due(now) {
        let Some(sleeper) = timer.sleeper.upgrade() else { continue };
        if host::enter(timer.context).is_ok() {
            sleeper.wake(now);
        }
    }
    let _ = host::enter(root); // a root that is gone does not tick
    let soonest = QUEUE.with(|queue| {
        let queue = queue.try_borrow().ok()?;
        queue.keys().next().map(|&(at, _)| at)
    });
    arm(soonest, now);
}

fn next_due(now: Timestamp) -> Option<Timer> {
    QUEUE.with(|queue| {
        let mut queue = queue.try_borrow_mut().ok()?;
        let entry = queue.first_entry()?;
        (entry.key().0 <= now).then(|| entry.remove())
    })
}

/// Makes the current root tick at `at`; `None`: not at all.
fn arm(at: Option<Timestamp>, now: Timestamp) {
    ARMED_FOR.set(at);
    let period = at.map_or(Millis::ZERO, |at| at.since(now).max(Millis::new(1)));
    let _ = host::set_tick_period_ms(u32::try_from(period.as_ms()).unwrap_or(u32::MAX));
}
