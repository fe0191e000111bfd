//! A request that has a pool: on its way, waiting for a gate to reopen, or answered by the gateway.

use super::exchange::Exchange;
use super::host::{self, Direction};
use super::timers::{self, Wake};
use super::worker;
use crate::openai::reply::{self, Reply};
use crate::policy::failover::{Ending, Next, Stop};
use crate::policy::time::Timestamp;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

/// A request that has a pool. Timers hold it weakly.
pub(crate) struct Routed {
    context: u32,
    pub(crate) exchange: Rc<RefCell<Exchange>>,
    progress: Cell<Progress>,
    itself: Weak<Self>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    /// Attempts are made, or were.
    Sent,
    /// The request is held until a backend reopens.
    Waiting { since: Timestamp },
    /// The gateway itself answered.
    Replied,
}

impl Routed {
    pub(crate) fn new(context: u32, exchange: Rc<RefCell<Exchange>>) -> Rc<Self> {
        Rc::new_cyclic(|itself| Self {
            context,
            exchange,
            progress: Cell::new(Progress::Sent),
            itself: Weak::clone(itself),
        })
    }

    /// Whether the request may go on now; else it waits, or was answered.
    pub(crate) fn advance(&self, now: Timestamp) -> bool {
        let Ok(mut exchange) = self.exchange.try_borrow_mut() else { return true };
        match exchange.go_on(now) {
            Next::Retry => {
                self.progress.set(Progress::Sent);
                let _ = host::clear_route_cache(); // the target is a new one
                true
            }
            Next::Wait { until } => {
                self.progress.set(Progress::Waiting { since: now });
                timers::set(self.context, until, now, self.itself.clone());
                false
            }
            Next::Stop(stop) => {
                let (throttled, soonest) = match stop {
                    Stop::Exhausted(unavailable) => (unavailable.throttled, unavailable.soonest),
                    Stop::Limited => (false, Some(now)),
                };
                self.reply(&exchange, &Ending::Exhausted { throttled, soonest }, now);
                false
            }
        }
    }

    /// Whether the request is held or answered, so that nothing of it may go on.
    pub(crate) fn is_held(&self) -> bool {
        self.progress.get() != Progress::Sent
    }

    /// Whether the gateway answered, so that the response is its own.
    pub(crate) fn has_replied(&self) -> bool {
        self.progress.get() == Progress::Replied
    }

    /// Answers in the place of the pool's backends.
    pub(crate) fn reply(&self, exchange: &Exchange, throttled: bool, soonest: Option<Timestamp>, now: Timestamp) {
        self.progress.set(Progress::Replied);
        exchange.count_exhausted();
        let soonest_ms = soonest.map(|at| at.since(now).as_ms());
        let delay_ms = reply::exhausted_delay_ms(soonest_ms, worker::random());
        send(&reply::exhausted(throttled, delay_ms), exchange);
    }
}

impl Wake for Routed {
    fn wake(&self, now: Timestamp) {
        let Progress::Waiting { since } = self.progress.get() else { return };
        if let Ok(mut exchange) = self.exchange.try_borrow_mut() {
            exchange.waited(now.since(since));
        }
        if self.advance(now) {
            let _ = host::resume(Direction::Request);
        }
    }
}
