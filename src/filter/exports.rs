//! The functions that Envoy calls, and the stream that each call concerns.
//!
//! Envoy skips functions that are not exported, so each missing function saves every request a call into the VM.
//! `proxy_on_done` is missing because `proxy_on_delete` follows it at once.

use super::attempt::Attempt;
use super::gateway::Gateway;
use super::host::contexts::Contexts;
use super::host::timers::StreamId;
use super::host::{self, Action};
use super::root::Root;
use crate::filter::host::exclusive::Exclusive;
use std::cell::RefCell;

/// What belongs to the context id of a stream.
enum Stream {
    Gateway(Gateway),
    Attempt(Attempt),
}

impl Stream {
    /// The request is over and will be logged.
    fn log(&self) {
        if let Self::Gateway(gateway) = self {
            gateway.log();
        }
    }
}

thread_local! {
    static ROOTS: RefCell<Contexts<Root>> = const { RefCell::new(Contexts::new()) };
    static STREAMS: RefCell<Contexts<Stream>> = const { RefCell::new(Contexts::new()) };
}

/// Calls `act` with the stream of this id; `None` when there is none. Nothing else can use the stream meanwhile:
/// Envoy enters the VM again only to allocate memory.
fn on_stream<R>(context: u32, act: impl FnOnce(&mut Stream) -> R) -> Option<R> {
    STREAMS.with(|streams| streams.change()?.get_mut(context).map(act))
}

fn on_root<R>(context: u32, act: impl FnOnce(&mut Root) -> R) -> Option<R> {
    ROOTS.with(|roots| roots.change()?.get_mut(context).map(act))
}

fn create(context: u32, root: u32) {
    if root == 0 {
        let new = Root::new(context);
        ROOTS.with(|roots| roots.change()?.insert(context, new));
        return;
    }
    let id = StreamId { context, root };
    let pools = on_root(root, |root| root.pools()).flatten();
    let stream = match pools {
        Some(pools) => Stream::Gateway(Gateway::new(id, pools)),
        None => Stream::Attempt(Attempt::new(id)),
    };
    STREAMS.with(|streams| streams.change()?.insert(context, stream));
}

fn delete(context: u32) {
    // The stream is removed first, because its end may still call the host.
    let stream = STREAMS.with(|streams| streams.change()?.remove(context));
    match stream {
        Some(Stream::Gateway(gateway)) => gateway.end(),
        Some(Stream::Attempt(attempt)) => attempt.end(),
        None => drop(ROOTS.with(|roots| roots.change()?.remove(context))),
    }
}

fn request_headers(context: u32, end_of_stream: bool) -> Option<Action> {
    on_stream(context, |stream| match stream {
        Stream::Gateway(gateway) => gateway.request_headers(end_of_stream),
        Stream::Attempt(attempt) => attempt.request_headers(),
    })
}

fn request_body(context: u32, size: usize, end_of_stream: bool) -> Option<Action> {
    on_stream(context, |stream| match stream {
        Stream::Gateway(gateway) => gateway.request_body(size, end_of_stream),
        Stream::Attempt(attempt) => attempt.request_body(size),
    })
}

fn request_trailers(context: u32) -> Option<Action> {
    on_stream(context, |stream| match stream {
        Stream::Gateway(gateway) => gateway.request_trailers(),
        Stream::Attempt(_) => Action::Continue,
    })
}

fn response_trailers(context: u32) -> Option<Action> {
    on_stream(context, |stream| match stream {
        Stream::Gateway(_) => Action::Continue,
        Stream::Attempt(attempt) => attempt.response_trailers(),
    })
}

fn response_headers(context: u32, end_of_stream: bool) -> Option<Action> {
    on_stream(context, |stream| match stream {
        Stream::Gateway(gateway) => gateway.response_headers(),
        Stream::Attempt(attempt) => attempt.response_headers(end_of_stream),
    })
}

fn response_body(context: u32, size: usize, end_of_stream: bool) -> Option<Action> {
    on_stream(context, |stream| match stream {
        Stream::Gateway(_) => Action::Continue,
        Stream::Attempt(attempt) => attempt.response_body(size, end_of_stream),
    })
}

/// What Envoy does next with a stream; `None` for a stream that Envoy never announced.
fn status(action: Option<Action>) -> u32 {
    action.unwrap_or(Action::Continue) as u32
}

#[expect(unsafe_code, reason = "the names and types of the ABI's C functions; memory for the host")]
mod abi {
    use super::host;
    use std::alloc::{Layout, alloc};
    use std::ptr::null_mut;

    #[cfg(target_arch = "wasm32")]
    unsafe extern "C" {
        safe fn __wasm_call_ctors();
    }

    /// Called once, before anything else.
    #[unsafe(no_mangle)]
    extern "C" fn _initialize() {
        #[cfg(target_arch = "wasm32")]
        __wasm_call_ctors();
        host::logger::begin();
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_abi_version_0_2_1() {}

    /// Memory for bytes that the host passes; null when there is none.
    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
        match Layout::array::<u8>(size) {
            // SAFETY: the layout's size is not zero.
            Ok(layout) if size > 0 => unsafe { alloc(layout) },
            _ => null_mut(),
        }
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_vm_start(_root: u32, _size: usize) -> u32 {
        1
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_context_create(context: u32, root: u32) {
        super::create(context, root);
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_configure(root: u32, size: usize) -> u32 {
        u32::from(super::on_root(root, |root| root.configure(size)).unwrap_or(false))
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_tick(root: u32) {
        host::timers::fire(root);
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_request_headers(context: u32, _count: u32, end_of_stream: u32) -> u32 {
        super::status(super::request_headers(context, end_of_stream != 0))
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_request_body(context: u32, size: usize, end_of_stream: u32) -> u32 {
        super::status(super::request_body(context, size, end_of_stream != 0))
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_request_trailers(context: u32, _count: u32) -> u32 {
        super::status(super::request_trailers(context))
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_response_headers(context: u32, _count: u32, end_of_stream: u32) -> u32 {
        super::status(super::response_headers(context, end_of_stream != 0))
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_response_body(context: u32, size: usize, end_of_stream: u32) -> u32 {
        super::status(super::response_body(context, size, end_of_stream != 0))
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_response_trailers(context: u32, _count: u32) -> u32 {
        super::status(super::response_trailers(context))
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_log(context: u32) {
        super::on_stream(context, |stream| stream.log());
    }

    #[unsafe(no_mangle)]
    extern "C" fn proxy_on_delete(context: u32) {
        super::delete(context);
    }
}
