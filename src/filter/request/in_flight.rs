//! The requests in flight on this worker: where an attempt finds the request that it belongs to.
//!
//! The gateway enters a request under its context id and writes the id into a property; the
//! attempt filters of the request read it there. An attempt without an entry never goes out: it
//! would carry a credential on nobody's behalf.

use super::Request;
use crate::filter::host;
use crate::filter::host::contexts::Contexts;
use crate::filter::host::exclusive::Exclusive;
use crate::filter::host::properties::{APART, REQUEST};
use std::cell::RefCell;
use std::rc::Rc;

thread_local! {
    static REQUESTS: RefCell<Contexts<Rc<RefCell<Request>>>> =
        const { RefCell::new(Contexts::new()) };
}

/// Enters the request of gateway context `id`.
pub(crate) fn enter(id: u32, request: Request) -> Rc<RefCell<Request>> {
    let request = Rc::new(RefCell::new(request));
    REQUESTS.with(|requests| {
        if let Some(mut requests) = requests.change() {
            requests.insert(id, Rc::clone(&request));
        }
    });
    // When the host refuses, the attempt finds no entry and answers 503.
    let _ = host::set_property(REQUEST, &id.to_le_bytes());
    request
}

/// The request that the current attempt belongs to.
pub(crate) fn current() -> Option<Rc<RefCell<Request>>> {
    let id = u32::from_le_bytes(host::property(REQUEST)?.try_into().ok()?);
    let found = REQUESTS.with(|requests| requests.view()?.get(id).cloned());
    if found.is_none() {
        // A gateway made the entry, and not in this VM. It learns of that when the reply passes it.
        let _ = host::set_property(APART, b"1");
    }
    found
}

/// Whether an attempt of the current request was made in another VM, which has no entry.
pub(crate) fn is_apart() -> bool {
    host::property(APART).is_some()
}

/// The request of gateway context `id` is over. Attempts that still end keep their own reference.
pub(crate) fn leave(id: u32) {
    REQUESTS.with(|requests| {
        if let Some(mut requests) = requests.change() {
            requests.remove(id);
        }
    });
}
