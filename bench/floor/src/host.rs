//! The host calls that Spillway makes for a small request, without anything that would be done with them.

use super::layout;
use std::alloc::dealloc;
use std::ptr::null_mut;

/// A header map or a buffer, as the ABI numbers them.
pub(crate) const REQUEST: u32 = 0;
pub(crate) const RESPONSE_HEADERS: u32 = 2;
pub(crate) const PLUGIN_CONFIGURATION: u32 = 7;

const COUNTER: u32 = 0;

#[link(wasm_import_module = "env")]
unsafe extern "C" {
    safe fn proxy_increment_metric(metric: u32, by: i64) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, size: usize, id: *mut u32) -> u32;
    fn proxy_get_buffer_bytes(
        buffer: u32,
        start: usize,
        max: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_remove_header_map_value(map: u32, name: *const u8, name_size: usize) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        name: *const u8,
        name_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_get_property(
        path: *const u8,
        path_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_set_property(
        path: *const u8,
        path_size: usize,
        value: *const u8,
        value_size: usize,
    ) -> u32;
    fn proxy_get_shared_data(
        key: *const u8,
        key_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
        version: *mut u32,
    ) -> u32;
    fn proxy_set_shared_data(
        key: *const u8,
        key_size: usize,
        value: *const u8,
        value_size: usize,
        version: u32,
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

/// Hands what the host returned to `look`, and gives its memory back.
fn returned<R>(
    call: impl FnOnce(*mut *mut u8, *mut usize) -> u32,
    look: impl FnOnce(&[u8]) -> R,
) -> R {
    let (mut data, mut size) = (null_mut::<u8>(), 0);
    call(&raw mut data, &raw mut size);
    if data.is_null() {
        return look(&[]);
    }
    // SAFETY: the host filled `size` bytes that `proxy_on_memory_allocate` had allocated for it.
    let seen = look(unsafe { std::slice::from_raw_parts(data, size) });
    // SAFETY: the same bytes, which nobody else has.
    unsafe { dealloc(data, layout(size)) };
    seen
}

// SAFETY, for each of these: the pointers are to arguments and locals, which outlive the call; the host copies.

pub(crate) fn buffer<R>(buffer: u32, start: usize, max: usize, look: impl FnOnce(&[u8]) -> R) -> R {
    returned(|data, size| unsafe { proxy_get_buffer_bytes(buffer, start, max, data, size) }, look)
}

pub(crate) fn header_map(map: u32) {
    returned(|data, size| unsafe { proxy_get_header_map_pairs(map, data, size) }, |_| ());
}

pub(crate) fn property(path: &str) {
    let call = |data, size| unsafe { proxy_get_property(path.as_ptr(), path.len(), data, size) };
    returned(call, |_| ());
}

pub(crate) fn set_property(path: &str, value: &str) {
    unsafe { proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) };
}

pub(crate) fn set_header(map: u32, name: &str, value: &str) {
    unsafe {
        proxy_replace_header_map_value(map, name.as_ptr(), name.len(), value.as_ptr(), value.len())
    };
}

pub(crate) fn remove_header(map: u32, name: &str) {
    unsafe { proxy_remove_header_map_value(map, name.as_ptr(), name.len()) };
}

pub(crate) fn shared_data(key: &str) {
    let mut version = 0;
    let call = |data, size| unsafe {
        proxy_get_shared_data(key.as_ptr(), key.len(), data, size, &raw mut version)
    };
    returned(call, |_| ());
}

pub(crate) fn set_shared_data(key: &str, value: &[u8]) {
    unsafe { proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), 0) };
}

pub(crate) fn clear_route_cache() {
    let name = "clear_route_cache";
    let call = |data, size| unsafe {
        proxy_call_foreign_function(name.as_ptr(), name.len(), name.as_ptr(), 0, data, size)
    };
    returned(call, |_| ());
}

pub(crate) fn look_at_the_clock() {
    let mut time = 0;
    unsafe { proxy_get_current_time_nanoseconds(&raw mut time) };
}

pub(crate) fn define_counter(name: &str) -> u32 {
    let mut id = 0;
    unsafe { proxy_define_metric(COUNTER, name.as_ptr(), name.len(), &raw mut id) };
    id
}

pub(crate) fn increment(counter: u32) {
    proxy_increment_metric(counter, 1);
}
