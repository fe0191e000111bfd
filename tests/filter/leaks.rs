//! Nothing remains of a request that ended: neither its entry in the table of requests in flight, nor
//! its timers. Neither is visible from outside, so the test counts the memory that a worker holds.
#![expect(unsafe_code, reason = "an allocator that counts")]

use crate::envoy::{Envoy, Request, Script, worker};
use crate::failover::two_tiers;
use crate::host::Process;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static LIVE_BYTES: Cell<i64> = const { Cell::new(0) };
}

/// The memory that this thread holds.
pub(crate) fn live_bytes() -> i64 {
    LIVE_BYTES.get()
}

struct Counting;

fn count(size: usize, sign: i64) {
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    let _ = LIVE_BYTES.try_with(|live| live.set(live.get().wrapping_add(size.wrapping_mul(sign))));
}

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller's contract is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: the caller's contract is the system's.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Requests that end in every way, each as often.
fn round(process: &Process, envoy: &mut Envoy) {
    let scripts = [
        Script::ok(),
        Script::throttled(100),
        Script::status(500),
        Script::connect_failure(),
        Script::events(&["data: {\"i"]).then_stall(),
        Script::events(&["data: {\"id\":1}\n\n"]).then_reset(),
        Script::silence(),
    ];
    for script in scripts {
        for _ in 0..10 {
            process.script("a", [script.clone()]);
            process.script("b", [Script::throttled(100)]);
            let id = envoy.send(Request::chat_v1());
            let waiting = envoy.send(Request::chat());
            envoy.pass(10);
            envoy.cancel(waiting);
            envoy.pass(2_000);
            envoy.cancel(id);
            envoy.take(id);
            envoy.take(waiting);
            envoy.ask(Request::chat());
            envoy.pass(100_000);
        }
    }
    process.forget();
}

#[test]
fn nothing_stays_of_requests_that_ended() {
    let process = Process::new("leaks");
    let settings = two_tiers(
        r#""circuit_breaker": {"rules": []},
           "failover": {"max_wait": "1s", "max_attempts": 4, "first_byte_timeout": "1s"}"#,
    );
    worker(&process, &settings, |envoy| {
        // Collections grow to their size, and keep it.
        round(&process, envoy);
        round(&process, envoy);
        let before = LIVE_BYTES.get();
        for _ in 0..4 {
            round(&process, envoy);
        }
        let grown = LIVE_BYTES.get() - before;
        println!("grown by {grown} bytes over 840 requests");
        assert!(grown < 1024, "{grown} bytes stay of 840 requests");
    });
}
