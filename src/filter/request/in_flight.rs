//! The requests in flight on this worker: here an attempt finds its request.
//!
//! The gateway stores a request under its context id and writes the id into a property, which the request's attempt
//! filters read. An attempt without a stored request is never sent: it would carry a credential for nobody.

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

/// Stores the request of gateway context `id`.
pub(crate) fn enter(id: u32, request: Request) -> Rc<RefCell<Request>> {
    let request = Rc::new(RefCell::new(request));
    REQUESTS.with(|requests| {
        if let Some(mut requests) = requests.change() {
            requests.insert(id, Rc::clone(&request));
        }
    });
    // If the host refuses, the attempt finds no request and responds with 503.
    let _ = host::set_property(REQUEST, &id.to_le_bytes());
    request
}

/// The request of the current attempt.
pub(crate) fn current() -> Option<Rc<RefCell<Request>>> {
    let id = u32::from_le_bytes(host::property(REQUEST)?.try_into().ok()?);
    let found = REQUESTS.with(|requests| requests.view()?.get(id).cloned());
    if found.is_none() {
        // A gateway stored the request, but in another VM. It learns this when the response passes it.
        let _ = host::set_property(APART, b"1");
    }
    found
}

/// Whether an attempt of the current request ran in another VM, where the request is unknown.
pub(crate) fn is_apart() -> bool {
    host::property(APART).is_some()
}

/// The request of gateway context `id` is over. Attempts that have not ended keep their own reference.
pub(crate) fn leave(id: u32) {
    REQUESTS.with(|requests| {
        if let Some(mut requests) = requests.change() {
            requests.remove(id);
        }
    });
}
