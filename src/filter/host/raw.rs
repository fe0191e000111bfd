//! The functions of the proxy-wasm ABI 0.2.1 that are called, each with a wrapper that states its contract.
//!
//! They are declared here for two reasons: the usual SDK cannot be linked beside [`crate::filter::exports`], and its
//! calls panic on statuses that these return. See `docs/decisions/0020-the-sdk-is-not-linked-log-is.md`.
#![expect(
    unsafe_code,
    reason = "the ABI is a set of C functions; each wrapper states its contract"
)]

use super::Refused;
use std::ptr::null_mut;

// All imports have the same form: pointers to bytes that the host copies before it returns, and out-pointers that it
// fills with memory from `proxy_on_memory_allocate`.
#[cfg_attr(target_arch = "wasm32", link(wasm_import_module = "env"))]
unsafe extern "C" {
    pub(super) safe fn proxy_set_tick_period_milliseconds(period: u32) -> u32;
    pub(super) safe fn proxy_continue_stream(direction: u32) -> u32;
    pub(super) safe fn proxy_set_effective_context(context: u32) -> u32;
    pub(super) safe fn proxy_increment_metric(metric: u32, offset: i64) -> u32;
    pub(super) safe fn proxy_record_metric(metric: u32, value: u64) -> u32;
    fn proxy_log(level: u32, data: *const u8, size: usize) -> u32;
    fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
    fn proxy_get_buffer_bytes(
        buffer: u32,
        start: usize,
        max: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_set_buffer_bytes(
        buffer: u32,
        start: usize,
        remove: usize,
        data: *const u8,
        size: usize,
    ) -> u32;
    fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
    fn proxy_remove_header_map_value(map: u32, key: *const u8, key_size: usize) -> u32;
    fn proxy_replace_header_map_value(
        map: u32,
        key: *const u8,
        key_size: usize,
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
    fn proxy_send_local_response(
        status: u32,
        details: *const u8,
        details_size: usize,
        body: *const u8,
        body_size: usize,
        headers: *const u8,
        headers_size: usize,
        grpc_status: i32,
    ) -> u32;
    fn proxy_call_foreign_function(
        name: *const u8,
        name_size: usize,
        arguments: *const u8,
        arguments_size: usize,
        data: *mut *mut u8,
        size: *mut usize,
    ) -> u32;
    fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
}

// The one function of WASI instead of proxy-wasm; Envoy has it too. In native tests the fake host provides it.
#[cfg_attr(target_arch = "wasm32", link(wasm_import_module = "wasi_snapshot_preview1"))]
unsafe extern "C" {
    #[cfg_attr(not(target_arch = "wasm32"), link_name = "spillway_clock_time_get")]
    fn clock_time_get(clock: u32, precision: u64, time: *mut u64) -> u32;
}

pub(super) fn check(status: u32) -> Result<(), Refused> {
    if status == 0 { Ok(()) } else { Err(Refused(status)) }
}

/// Takes ownership of the memory that the host allocated for us.
fn owned(status: u32, data: *mut u8, size: usize) -> Result<Vec<u8>, Refused> {
    check(status)?;
    if data.is_null() {
        return Ok(Vec::new());
    }
    // SAFETY: our `proxy_on_memory_allocate` allocated exactly `size` bytes, the host filled them, and it passes
    // their ownership.
    Ok(unsafe { Vec::from_raw_parts(data, size, size) })
}

pub(super) fn log(level: u32, text: &str) {
    // SAFETY: pointer and size are those of `text`, which outlives the call. If the host refuses a log line, nothing
    // can be done.
    let _ = unsafe { proxy_log(level, text.as_ptr(), text.len()) };
}

pub(super) fn time_ns() -> Result<u64, Refused> {
    let mut time = 0;
    // SAFETY: the out-pointer is to a live local.
    check(unsafe { proxy_get_current_time_nanoseconds(&raw mut time) })?;
    Ok(time)
}

pub(super) fn monotonic_ns() -> Result<u64, Refused> {
    const MONOTONIC: u32 = 1;
    let mut time = 0;
    // SAFETY: the out-pointer is to a live local.
    check(unsafe { clock_time_get(MONOTONIC, 1, &raw mut time) })?;
    Ok(time)
}

pub(super) fn buffer(buffer: u32, start: usize, max: usize) -> Result<Vec<u8>, Refused> {
    let (mut data, mut size) = (null_mut(), 0);
    // SAFETY: both out-pointers are to live locals.
    let status =
        unsafe { proxy_get_buffer_bytes(buffer, start, max, &raw mut data, &raw mut size) };
    owned(status, data, size)
}

pub(super) fn set_buffer(
    buffer: u32,
    start: usize,
    remove: usize,
    bytes: &[u8],
) -> Result<(), Refused> {
    // SAFETY: pointer and size are those of `bytes`, which outlives the call.
    check(unsafe { proxy_set_buffer_bytes(buffer, start, remove, bytes.as_ptr(), bytes.len()) })
}

pub(super) fn header_map(map: u32) -> Result<Vec<u8>, Refused> {
    let (mut data, mut size) = (null_mut(), 0);
    // SAFETY: both out-pointers are to live locals.
    let status = unsafe { proxy_get_header_map_pairs(map, &raw mut data, &raw mut size) };
    owned(status, data, size)
}

pub(super) fn remove_header(map: u32, name: &[u8]) -> Result<(), Refused> {
    // SAFETY: pointer and size are those of `name`, which outlives the call.
    check(unsafe { proxy_remove_header_map_value(map, name.as_ptr(), name.len()) })
}

pub(super) fn set_header(map: u32, name: &str, value: &[u8]) -> Result<(), Refused> {
    // SAFETY: pointers and sizes are those of `name` and `value`, which outlive the call.
    check(unsafe {
        proxy_replace_header_map_value(map, name.as_ptr(), name.len(), value.as_ptr(), value.len())
    })
}

pub(super) fn property(path: &str) -> Result<Vec<u8>, Refused> {
    let (mut data, mut size) = (null_mut(), 0);
    // SAFETY: `path` outlives the call; both out-pointers are to live locals.
    let status =
        unsafe { proxy_get_property(path.as_ptr(), path.len(), &raw mut data, &raw mut size) };
    owned(status, data, size)
}

pub(super) fn set_property(path: &str, value: &[u8]) -> Result<(), Refused> {
    // SAFETY: pointers and sizes are those of `path` and `value`, which outlive the call.
    check(unsafe { proxy_set_property(path.as_ptr(), path.len(), value.as_ptr(), value.len()) })
}

pub(super) fn shared_data(key: &str) -> Result<(Vec<u8>, u32), Refused> {
    let (mut data, mut size, mut version) = (null_mut(), 0, 0);
    // SAFETY: `key` outlives the call; the three out-pointers are to live locals.
    let status = unsafe {
        proxy_get_shared_data(
            key.as_ptr(),
            key.len(),
            &raw mut data,
            &raw mut size,
            &raw mut version,
        )
    };
    Ok((owned(status, data, size)?, version))
}

pub(super) fn set_shared_data(key: &str, value: &[u8], version: u32) -> Result<(), Refused> {
    // SAFETY: pointers and sizes are those of `key` and `value`, which outlive the call.
    check(unsafe {
        proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), version)
    })
}

pub(super) fn local_response(
    status: u32,
    details: &str,
    body: &[u8],
    headers: &[u8],
) -> Result<(), Refused> {
    // SAFETY: pointers and sizes are those of the three slices, which outlive the call.
    check(unsafe {
        proxy_send_local_response(
            status,
            details.as_ptr(),
            details.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            -1,
        )
    })
}

pub(super) fn foreign_function(name: &str, arguments: &[u8]) -> Result<Vec<u8>, Refused> {
    let (mut data, mut size) = (null_mut(), 0);
    // SAFETY: `name` and `arguments` outlive the call; both out-pointers are to live locals.
    let status = unsafe {
        proxy_call_foreign_function(
            name.as_ptr(),
            name.len(),
            arguments.as_ptr(),
            arguments.len(),
            &raw mut data,
            &raw mut size,
        )
    };
    owned(status, data, size)
}

pub(super) fn define_metric(kind: u32, name: &str) -> Result<u32, Refused> {
    let mut id = 0;
    // SAFETY: `name` outlives the call; the out-pointer is to a live local.
    check(unsafe { proxy_define_metric(kind, name.as_ptr(), name.len(), &raw mut id) })?;
    Ok(id)
}
