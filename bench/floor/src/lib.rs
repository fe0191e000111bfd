//! The floor under what Spillway can cost: filters in both its places that do nothing of their own.
//!
//! The module has Spillway's callbacks, so Envoy makes the same contexts and the same calls into the VM.
//! It does only what no filter of this design can do without: the gateway waits for the whole body, names
//! a target and has the route chosen anew. The attempt does nothing.

use std::alloc::{Layout, alloc, dealloc};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

const CONTINUE: u32 = 0;
const PAUSE: u32 = 1;

/// The buffer with a plugin's configuration, as the ABI numbers it.
const PLUGIN_CONFIGURATION: u32 = 7;

/// What only the configuration of the attempt's role has in it.
const ATTEMPT: &[u8] = b"\"role\": \"attempt\"";

const TARGET: (&[u8], &[u8]) = (b"spillway.target", b"backend-0");
const CLEAR_ROUTE_CACHE: &[u8] = b"clear_route_cache";

/// The plugin in the gateway's place; there is one.
static GATEWAY: AtomicU32 = AtomicU32::new(0);

/// Which streams are the gateway's, by the end of their numbers: far fewer live at a time than this holds.
static OF_GATEWAY: [AtomicBool; 1 << 16] = [const { AtomicBool::new(false) }; 1 << 16];

unsafe extern "C" {
    fn proxy_get_buffer_bytes(
        buffer: u32,
        start: usize,
        max: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_set_property(
        path: *const u8,
        path_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_call_foreign_function(
        name: *const u8,
        name_size: usize,
        argument: *const u8,
        argument_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
}

fn of_gateway(stream: u32) -> &'static AtomicBool {
    &OF_GATEWAY[stream as usize % OF_GATEWAY.len()]
}

fn choose() {
    let (path, value) = TARGET;
    let (mut data, mut size) = (null_mut(), 0);
    // SAFETY: the host copies what the pointers lead to before it returns; the function has no result.
    unsafe {
        proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len());
        proxy_call_foreign_function(
            CLEAR_ROUTE_CACHE.as_ptr(),
            CLEAR_ROUTE_CACHE.len(),
            path.as_ptr(),
            0,
            &raw mut data,
            &raw mut size,
        );
    }
}

fn request(stream: u32, end_of_stream: u32) -> u32 {
    if !of_gateway(stream).load(Relaxed) {
        return CONTINUE;
    }
    if end_of_stream == 0 {
        return PAUSE;
    }
    choose();
    CONTINUE
}

fn layout(size: usize) -> Layout {
    Layout::array::<u8>(size).unwrap_or(Layout::new::<u8>())
}

/// Whether the plugin that is being configured is in the attempt's place.
fn is_attempt(configuration_bytes: usize) -> bool {
    let (mut data, mut size) = (null_mut::<u8>(), 0);
    // SAFETY: the host fills both with memory from `proxy_on_memory_allocate`, which is given back once.
    unsafe {
        proxy_get_buffer_bytes(
            PLUGIN_CONFIGURATION,
            0,
            configuration_bytes,
            &raw mut data,
            &raw mut size,
        );
        if data.is_null() {
            return false;
        }
        let configuration = std::slice::from_raw_parts(data, size);
        let found = configuration.windows(ATTEMPT.len()).any(|part| part == ATTEMPT);
        dealloc(data, layout(size));
        found
    }
}

/// Where Envoy reads which ABI this is.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_abi_version_0_2_1() {}

/// Nothing to initialize.
#[unsafe(no_mangle)]
pub extern "C" fn _initialize() {}

/// Memory for what the host returns.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_memory_allocate(size: usize) -> *mut u8 {
    // SAFETY: the host never asks for nothing.
    unsafe { alloc(layout(size)) }
}

/// The VM starts.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_vm_start(_plugin: u32, _size: usize) -> u32 {
    1
}

/// A plugin starts: either role.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_configure(plugin: u32, size: usize) -> u32 {
    if !is_attempt(size) {
        GATEWAY.store(plugin, Relaxed);
    }
    1
}

/// A plugin's context, or a stream's.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_context_create(context: u32, parent: u32) {
    if parent != 0 {
        of_gateway(context).store(parent == GATEWAY.load(Relaxed), Relaxed);
    }
}

/// The headers of a request.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_headers(stream: u32, _count: u32, end_of_stream: u32) -> u32 {
    request(stream, end_of_stream)
}

/// A part of a request's body.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_body(stream: u32, _size: usize, end_of_stream: u32) -> u32 {
    request(stream, end_of_stream)
}

/// The trailers of a request, which end it.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_trailers(stream: u32, _count: u32) -> u32 {
    request(stream, 1)
}

/// The headers of a response.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_headers(_stream: u32, _count: u32, _end: u32) -> u32 {
    CONTINUE
}

/// A part of a response's body.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_body(_stream: u32, _size: usize, _end: u32) -> u32 {
    CONTINUE
}

/// The trailers of a response.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_trailers(_stream: u32, _count: u32) -> u32 {
    CONTINUE
}

/// A stream has ended.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_log(_context: u32) {}

/// A context may go.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_done(_context: u32) -> u32 {
    1
}

/// A context goes.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_delete(_context: u32) {}
