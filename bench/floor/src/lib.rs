//! The least that Spillway can cost: filters in both its places without code of their own.
//!
//! The module has Spillway's callbacks, so Envoy makes the same contexts and the same calls into the VM. It
//! can do two things:
//!
//! - only what every filter of this design needs: the gateway waits for the whole body, names
//!   a target and has the route chosen again;
//! - when its configuration says so, all calls that Spillway makes to the host for a small request, with
//!   what it would have worked out written in here.

mod host;

use host::{PLUGIN_CONFIGURATION, REQUEST, RESPONSE_HEADERS};
use std::alloc::{Layout, alloc};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};

const CONTINUE: u32 = 0;
const PAUSE: u32 = 1;

/// What only the configuration of the attempt's role has in it.
const ATTEMPT: &[u8] = b"\"role\": \"attempt\"";
/// What the gateway's configuration has in it when the host is to be called.
const HOST_CALLS: &[u8] = b"\"host_calls\"";

/// As many bytes as a pool of three backends has in its record, and its key.
const RECORD: [u8; 240] = [0; 240];
const RECORD_KEY: &str = "spillway.pool.gpt-4o";

/// How much of the end of a large body is read.
const GLANCE_BYTES: usize = 4096;

/// The plugin in the gateway's place; there is one.
static GATEWAY: AtomicU32 = AtomicU32::new(0);
static CALLS_HOST: AtomicBool = AtomicBool::new(false);
static COUNTER: AtomicU32 = AtomicU32::new(0);

/// Which streams are the gateway's, by the end of their numbers: it has room for far more than live at a time.
static OF_GATEWAY: [AtomicBool; 1 << 16] = [const { AtomicBool::new(false) }; 1 << 16];

fn of_gateway(stream: u32) -> &'static AtomicBool {
    &OF_GATEWAY[stream as usize % OF_GATEWAY.len()]
}

fn is_gateway(stream: u32) -> bool {
    of_gateway(stream).load(Relaxed)
}

fn calls_host() -> bool {
    CALLS_HOST.load(Relaxed)
}

/// The gateway has the whole request, with a body of `size` bytes.
fn choose(size: usize) {
    if calls_host() {
        host::buffer(REQUEST, size.saturating_sub(GLANCE_BYTES), GLANCE_BYTES, |_| ());
        host::look_at_the_clock();
        host::set_property("spillway.request", "1234");
        host::shared_data(RECORD_KEY);
    }
    host::set_property("spillway.target", "backend-0");
    host::clear_route_cache();
}

/// The attempt makes the request fit its backend.
fn rewrite() {
    host::property("spillway.request");
    host::look_at_the_clock();
    host::property("xds\0cluster_name");
    let path = "/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21";
    host::set_header(REQUEST, ":path", path);
    host::set_header(REQUEST, ":authority", "backend-0.openai.azure.com");
    host::set_header(REQUEST, "api-key", "the-key-of-a-backend");
}

fn layout(size: usize) -> Layout {
    Layout::array::<u8>(size).unwrap_or(Layout::new::<u8>())
}

fn has(configuration: &[u8], part: &[u8]) -> bool {
    configuration.windows(part.len()).any(|window| window == part)
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
    host::buffer(PLUGIN_CONFIGURATION, 0, size, |configuration| {
        if !has(configuration, ATTEMPT) {
            GATEWAY.store(plugin, Relaxed);
            CALLS_HOST.store(has(configuration, HOST_CALLS), Relaxed);
        }
    });
    host::set_shared_data(RECORD_KEY, &RECORD);
    COUNTER.store(host::define_counter("floor_attempts"), Relaxed);
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
pub extern "C" fn proxy_on_request_headers(stream: u32, _count: u32, _end: u32) -> u32 {
    match (is_gateway(stream), calls_host()) {
        (true, true) => {
            host::header_map(REQUEST);
            host::remove_header(REQUEST, "authorization");
            host::remove_header(REQUEST, "accept-encoding");
        }
        (false, true) => rewrite(),
        (_, false) => {}
    }
    if is_gateway(stream) { PAUSE } else { CONTINUE }
}

/// A part of a request's body.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_request_body(stream: u32, size: usize, end_of_stream: u32) -> u32 {
    if !is_gateway(stream) {
        return CONTINUE;
    }
    if end_of_stream == 0 {
        return PAUSE;
    }
    choose(size);
    CONTINUE
}

/// The headers of a response.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_headers(stream: u32, _count: u32, _end: u32) -> u32 {
    match (is_gateway(stream), calls_host()) {
        (true, true) => {
            host::set_header(RESPONSE_HEADERS, "x-served-by", "backend-0");
            host::set_header(RESPONSE_HEADERS, "x-spillway-attempts", "1");
        }
        (false, true) => {
            host::header_map(RESPONSE_HEADERS);
            host::look_at_the_clock();
            host::remove_header(RESPONSE_HEADERS, "x-ratelimit-remaining-requests");
            host::remove_header(RESPONSE_HEADERS, "x-ratelimit-remaining-tokens");
        }
        (_, false) => {}
    }
    CONTINUE
}

/// A part of a response's body.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_response_body(stream: u32, _size: usize, end_of_stream: u32) -> u32 {
    if calls_host() && end_of_stream != 0 && !is_gateway(stream) {
        host::look_at_the_clock();
        host::increment(COUNTER.load(Relaxed));
    }
    CONTINUE
}

/// A stream has ended.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_log(_context: u32) {}

/// A context goes.
#[unsafe(no_mangle)]
pub extern "C" fn proxy_on_delete(_context: u32) {}
