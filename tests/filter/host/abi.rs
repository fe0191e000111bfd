//! The imports of the module, with the statuses of Envoy 1.40.
//!
//! One contract for all of them: pointers are valid for the sizes beside them, and out-pointers are
//! to locals of the module.
#![expect(unsafe_code, reason = "the ABI is a set of C functions over raw memory")]

use super::state::{
    BAD_ARGUMENT, CAS_MISMATCH, Deferred, HeaderList, NOT_FOUND, OK, State, scenario, with,
};
use std::io::Write;

/// Runs a host call on this thread's worker.
fn call(name: &'static str, act: impl FnOnce(&mut State) -> Result<(), u32>) -> u32 {
    with(|state| state.enter(name).and_then(|()| act(state))).err().unwrap_or(OK)
}

unsafe fn bytes<'b>(data: *const u8, size: usize) -> &'b [u8] {
    if size == 0 {
        return &[];
    }
    // SAFETY: the caller's pointer and size describe memory of the module that outlives the call.
    unsafe { std::slice::from_raw_parts(data, size) }
}

unsafe fn text<'b>(data: *const u8, size: usize) -> &'b str {
    // SAFETY: as for `bytes`.
    std::str::from_utf8(unsafe { bytes(data, size) }).expect("a name is UTF-8")
}

/// Hands bytes to the module, which frees them as a vector of exactly that size.
unsafe fn hand_over(value: Vec<u8>, data: *mut *mut u8, size: *mut usize) {
    let value = value.into_boxed_slice();
    // SAFETY: both out-pointers are to locals of the module.
    unsafe {
        *size = value.len();
        *data = if value.is_empty() { std::ptr::null_mut() } else { Box::into_raw(value).cast() };
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_log(level: u32, data: *const u8, size: usize) -> u32 {
    // SAFETY: the contract of this file.
    let message = String::from_utf8_lossy(unsafe { bytes(data, size) }).into_owned();
    const CRITICAL: u32 = 5;
    if level == CRITICAL {
        // The filter's panic hook: of a test, or of the filter, and then the process is about to
        // abort, so nothing may be captured.
        let _ = writeln!(std::io::stderr(), "\n{}: {message}", scenario());
        return OK;
    }
    call("log", |state| {
        state.process.log(level, &message);
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32 {
    call("get_current_time", |state| {
        // SAFETY: the contract of this file.
        unsafe { *time = state.process.wall_ms().saturating_mul(1_000_000) };
        Ok(())
    })
}

/// The clock of WASI with this number; the filter asks for the monotonic one only.
#[unsafe(no_mangle)]
unsafe extern "C" fn spillway_clock_time_get(clock: u32, _precision: u64, time: *mut u64) -> u32 {
    call("clock_time_get", |state| {
        if clock != 1 {
            return Err(state.violation("a clock that somebody may set"));
        }
        // SAFETY: the contract of this file.
        unsafe { *time = state.process.monotonic_ms().saturating_mul(1_000_000) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_set_tick_period_milliseconds(period: u32) -> u32 {
    call("set_tick_period", |state| {
        let now_ms = state.process.monotonic_ms();
        let root = state.current_root();
        let root = state.roots.get_mut(&root).ok_or(BAD_ARGUMENT)?;
        root.period_ms = u64::from(period);
        root.tick_at_ms = (period > 0).then(|| now_ms + u64::from(period));
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_buffer_bytes(
    buffer: u32,
    start: usize,
    max: usize,
    data: *mut *mut u8,
    size: *mut usize,
) -> u32 {
    call("get_buffer", |state| {
        let content = state.buffer(buffer)?;
        let start = start.min(content.len());
        let end = start.saturating_add(max).min(content.len());
        let slice = content[start..end].to_vec();
        // SAFETY: the contract of this file.
        unsafe { hand_over(slice, data, size) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_set_buffer_bytes(
    buffer: u32,
    start: usize,
    remove: usize,
    data: *const u8,
    size: usize,
) -> u32 {
    // SAFETY: the contract of this file.
    let fresh = unsafe { bytes(data, size) };
    call("set_buffer", |state| {
        let content = state.buffer(buffer)?;
        if start == 0 {
            let removed = remove.min(content.len());
            content.splice(..removed, fresh.iter().copied());
        } else if start >= content.len() {
            content.extend_from_slice(fresh);
        } else {
            return Err(state.violation("an edit in the middle of a buffer"));
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_header_map_pairs(
    map: u32,
    data: *mut *mut u8,
    size: *mut usize,
) -> u32 {
    call("get_header_map", |state| {
        let pairs = serialize(state.map(map)?);
        // SAFETY: the contract of this file.
        unsafe { hand_over(pairs, data, size) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_remove_header_map_value(
    map: u32,
    key: *const u8,
    key_size: usize,
) -> u32 {
    // SAFETY: the contract of this file.
    let key = unsafe { bytes(key, key_size) };
    call("remove_header", |state| {
        state.map(map)?.retain(|(name, _)| name != key);
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_replace_header_map_value(
    map: u32,
    key: *const u8,
    key_size: usize,
    value: *const u8,
    value_size: usize,
) -> u32 {
    // SAFETY: the contract of this file.
    let (key, value) = unsafe { (bytes(key, key_size), bytes(value, value_size)) };
    call("replace_header", |state| {
        let list = state.map(map)?;
        list.retain(|(name, _)| name != key);
        list.push((key.to_vec(), value.to_vec()));
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_property(
    path: *const u8,
    path_size: usize,
    data: *mut *mut u8,
    size: *mut usize,
) -> u32 {
    const KNOWN: [&str; 7] = [
        "request\0total_size",
        "xds\0cluster_name",
        "upstream\0transport_failure_reason",
        "upstream\0address",
        "upstream\0local_address",
        "response\0flags",
        "response\0code_details",
    ];
    // SAFETY: the contract of this file.
    let path = unsafe { text(path, path_size) };
    call("get_property", |state| {
        let context = state.contexts.get(&state.current).ok_or(BAD_ARGUMENT)?;
        let own = context.properties.get(path);
        let written = state.filter_state.get(&context.stream).and_then(|all| all.get(path));
        let Some(value) = own.or(written).cloned() else {
            if !KNOWN.contains(&path) && !path.starts_with("spillway.") {
                state.violation(&format!("property {path:?} is none that Envoy has"));
            }
            return Err(NOT_FOUND);
        };
        // SAFETY: the contract of this file.
        unsafe { hand_over(value, data, size) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_set_property(
    path: *const u8,
    path_size: usize,
    value: *const u8,
    value_size: usize,
) -> u32 {
    // SAFETY: the contract of this file.
    let (path, value) = unsafe { (text(path, path_size), bytes(value, value_size)) };
    call("set_property", |state| {
        let stream = state.contexts.get(&state.current).ok_or(BAD_ARGUMENT)?.stream;
        let written = state.filter_state.entry(stream).or_default();
        written.insert(path.to_owned(), value.to_vec());
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_shared_data(
    key: *const u8,
    key_size: usize,
    data: *mut *mut u8,
    size: *mut usize,
    version: *mut u32,
) -> u32 {
    // SAFETY: the contract of this file.
    let key = unsafe { text(key, key_size) };
    call("get_shared_data", |state| {
        let mut shared = state.process.shared();
        let (value, current) = shared.read(key).ok_or(NOT_FOUND)?;
        // Another worker may run between this and the write; with few cores that would be rare.
        let yields = shared.is_time_to_yield();
        drop(shared);
        if yields {
            std::thread::yield_now();
        }
        // SAFETY: the contract of this file.
        unsafe {
            *version = current;
            hand_over(value, data, size);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_set_shared_data(
    key: *const u8,
    key_size: usize,
    value: *const u8,
    value_size: usize,
    version: u32,
) -> u32 {
    // SAFETY: the contract of this file.
    let (key, value) = unsafe { (text(key, key_size), bytes(value, value_size)) };
    call("set_shared_data", |state| {
        let written = state.process.shared().write(key, value, version);
        if written { Ok(()) } else { Err(CAS_MISMATCH) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_continue_stream(direction: u32) -> u32 {
    call("continue_stream", |state| {
        let context = state.current;
        if !state.contexts.contains_key(&context) {
            return Err(state.violation("no stream to continue"));
        }
        state.deferred.push(Deferred::Resume { context, is_request: direction == 0 });
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_set_effective_context(context: u32) -> u32 {
    call("set_effective_context", |state| {
        if !state.contexts.contains_key(&context) && !state.roots.contains_key(&context) {
            return Err(BAD_ARGUMENT);
        }
        state.current = context;
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_send_local_response(
    status: u32,
    _details: *const u8,
    _details_size: usize,
    body: *const u8,
    body_size: usize,
    headers: *const u8,
    headers_size: usize,
    _grpc_status: i32,
) -> u32 {
    // SAFETY: the contract of this file.
    let (body, pairs) = unsafe { (bytes(body, body_size), bytes(headers, headers_size)) };
    call("send_local_response", |state| {
        let context = state.current;
        if !state.contexts.contains_key(&context) {
            return Err(state.violation("no stream to answer"));
        }
        let mut headers = vec![(b":status".to_vec(), status.to_string().into_bytes())];
        headers.extend(parse(pairs).expect("the headers of a reply are well-formed"));
        state.deferred.push(Deferred::Reply { context, headers, body: body.to_vec() });
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_call_foreign_function(
    name: *const u8,
    name_size: usize,
    _arguments: *const u8,
    _arguments_size: usize,
    data: *mut *mut u8,
    size: *mut usize,
) -> u32 {
    // SAFETY: the contract of this file.
    let name = unsafe { text(name, name_size) };
    call("call_foreign_function", |state| {
        let stream = state.contexts.get(&state.current).ok_or(BAD_ARGUMENT)?.stream;
        match name {
            "clear_route_cache" => state.deferred.push(Deferred::ClearRoute { stream }),
            // Its values are for other filters, which do not exist here.
            "set_envoy_filter_state" => {}
            _ => {
                state.violation(&format!("foreign function {name:?}"));
                return Err(NOT_FOUND);
            }
        }
        // SAFETY: the contract of this file.
        unsafe { hand_over(Vec::new(), data, size) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_define_metric(
    _kind: u32,
    name: *const u8,
    name_size: usize,
    id: *mut u32,
) -> u32 {
    // SAFETY: the contract of this file.
    let name = unsafe { text(name, name_size) };
    call("define_metric", |state| {
        // SAFETY: the contract of this file.
        unsafe { *id = state.process.define_metric(name) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_increment_metric(metric: u32, offset: i64) -> u32 {
    call("increment_metric", |state| {
        let change = |value: &mut u64| *value = value.saturating_add_signed(offset);
        if state.process.change_metric(metric, change) { Ok(()) } else { Err(NOT_FOUND) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_record_metric(metric: u32, value: u64) -> u32 {
    call("record_metric", |state| {
        if state.process.change_metric(metric, |current| *current = value) {
            Ok(())
        } else {
            Err(NOT_FOUND)
        }
    })
}

fn serialize(headers: &HeaderList) -> Vec<u8> {
    let size = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap().to_le_bytes();
    let mut out = u32::try_from(headers.len()).unwrap().to_le_bytes().to_vec();
    for (name, value) in headers {
        out.extend(size(name));
        out.extend(size(value));
    }
    for part in headers.iter().flat_map(|(name, value)| [name, value]) {
        out.extend_from_slice(part);
        out.push(0);
    }
    out
}

fn parse(pairs: &[u8]) -> Option<HeaderList> {
    let number = |at: usize| {
        let four = pairs.get(at..at + 4)?;
        Some(u32::from_le_bytes(four.try_into().ok()?) as usize)
    };
    let count = number(0)?;
    let mut data = 4 + 8 * count;
    let mut take = |size: usize| {
        let part = pairs.get(data..data + size)?.to_vec();
        data += size + 1;
        Some(part)
    };
    (0..count).map(|i| Some((take(number(4 + 8 * i)?)?, take(number(8 + 8 * i)?)?))).collect()
}
