//! The filter's side of the ABI: its exports, as safe functions.
#![expect(unsafe_code, reason = "the ABI is a set of C functions")]

use std::sync::Once;

// The filter is linked in for its exports; its items cannot be named.
extern crate spillway as _;

unsafe extern "C" {
    safe fn _initialize();
    safe fn proxy_on_context_create(context: u32, root: u32);
    safe fn proxy_on_vm_start(root: u32, size: usize) -> u32;
    safe fn proxy_on_configure(root: u32, size: usize) -> u32;
    safe fn proxy_on_tick(root: u32);
    safe fn proxy_on_request_headers(context: u32, count: usize, end_of_stream: u32) -> u32;
    safe fn proxy_on_request_body(context: u32, size: usize, end_of_stream: u32) -> u32;
    safe fn proxy_on_request_trailers(context: u32, count: usize) -> u32;
    safe fn proxy_on_response_headers(context: u32, count: usize, end_of_stream: u32) -> u32;
    safe fn proxy_on_response_body(context: u32, size: usize, end_of_stream: u32) -> u32;
    safe fn proxy_on_response_trailers(context: u32, count: usize) -> u32;
    safe fn proxy_on_log(context: u32);
    safe fn proxy_on_delete(context: u32);
}

/// The credentials of the tests' backends; each differs, so that a wrong one shows.
pub(crate) const KEYS: [(&str, &str); 5] = [
    ("A_KEY", "key-of-a"),
    ("B_KEY", "key-of-b"),
    ("C_KEY", "key-of-c"),
    ("D_KEY", "key-of-d"),
    ("E_KEY", "key-of-e"),
];

static ENVIRONMENT: Once = Once::new();

/// The module, as loaded by this thread's VM.
pub(crate) struct Module;

impl Module {
    /// Loads the module into this thread's VM.
    pub(crate) fn load() {
        ENVIRONMENT.call_once(|| {
            for (name, value) in KEYS {
                // SAFETY: all readers of the environment in this program are Rust's, which locks it.
                unsafe { std::env::set_var(name, value) };
            }
        });
        _initialize();
    }

    fn enter(context: u32) {
        super::with(|state| state.current = context);
    }

    pub(crate) fn create(context: u32, root: u32) {
        Self::enter(context);
        proxy_on_context_create(context, root);
    }

    pub(crate) fn start(root: u32) -> bool {
        Self::enter(root);
        proxy_on_vm_start(root, 0) == 1
    }

    pub(crate) fn configure(root: u32, size: usize) -> bool {
        Self::enter(root);
        proxy_on_configure(root, size) == 1
    }

    pub(crate) fn tick(root: u32) {
        Self::enter(root);
        proxy_on_tick(root);
    }

    pub(crate) fn request_headers(context: u32, count: usize, end_of_stream: bool) -> u32 {
        Self::enter(context);
        proxy_on_request_headers(context, count, u32::from(end_of_stream))
    }

    pub(crate) fn request_body(context: u32, size: usize, end_of_stream: bool) -> u32 {
        Self::enter(context);
        proxy_on_request_body(context, size, u32::from(end_of_stream))
    }

    pub(crate) fn response_headers(context: u32, count: usize, end_of_stream: bool) -> u32 {
        Self::enter(context);
        proxy_on_response_headers(context, count, u32::from(end_of_stream))
    }

    pub(crate) fn response_body(context: u32, size: usize, end_of_stream: bool) -> u32 {
        Self::enter(context);
        proxy_on_response_body(context, size, u32::from(end_of_stream))
    }

    pub(crate) fn request_trailers(context: u32, count: usize) -> u32 {
        Self::enter(context);
        proxy_on_request_trailers(context, count)
    }

    pub(crate) fn response_trailers(context: u32, count: usize) -> u32 {
        Self::enter(context);
        proxy_on_response_trailers(context, count)
    }

    pub(crate) fn log(context: u32) {
        Self::enter(context);
        proxy_on_log(context);
    }

    pub(crate) fn delete(context: u32) {
        Self::enter(context);
        proxy_on_delete(context);
    }
}
