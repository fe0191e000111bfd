//! How many times the filter calls the host: each call crosses the VM's border. The bounds are
//! today's numbers; whoever lowers a number lowers its bound.

use crate::envoy::{Envoy, Request, Script, worker};
use crate::failover::TWO_TIERS;
use crate::host::{Process, with};

/// The host calls during `act`.
fn calls(envoy: &mut Envoy, act: impl FnOnce(&mut Envoy)) -> u32 {
    with(|state| state.calls.clear());
    act(envoy);
    with(|state| {
        println!("{:?}", state.calls);
        state.calls.values().sum()
    })
}

fn stream(chunks: usize) -> Script {
    Script::events(&vec!["data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n"; chunks])
}

#[test]
fn host_calls_are_bounded() {
    let process = Process::new("costs");
    let plain_settings = TWO_TIERS.replace("\"on\"", "\"off\"");
    worker(&process, &plain_settings, |envoy| {
        envoy.ask(Request::chat());
        let plain = calls(envoy, |envoy| drop(envoy.ask(Request::chat())));
        process.script("a", [stream(10), stream(110)]);
        let short = calls(envoy, |envoy| drop(envoy.ask(Request::chat())));
        let long = calls(envoy, |envoy| drop(envoy.ask(Request::chat())));
        let chunks = long - short;
        process.script("a", [Script::throttled(300)]);
        let failover = calls(envoy, |envoy| drop(envoy.ask(Request::chat())));
        println!(
            "plain: {plain}, failover: {failover}, 100 chunks: {chunks}, stream of 10: {short}"
        );
        assert!(plain <= PLAIN_MAX, "{plain}");
        assert!(failover <= FAILOVER_MAX, "{failover}");
        assert!(chunks <= 100, "{chunks} for 100 chunks");
    });
}

/// Budgets add two reads and two writes of the backend's record (reserve and settle), the same for the
/// consumer's, and the values for access logs. Each part of a stream is read once, and only the part with
/// the usage is edited.
#[test]
fn host_calls_with_budgets_are_bounded() {
    let process = Process::new("costs of budgets");
    let limits = r#""limits": {"tokens_per_minute": 1000000}, "#;
    let settings = TWO_TIERS
        .replace("\"on\"", "\"off\"")
        .replace(r#""priority""#, &format!(r#"{limits}"priority""#));
    let consumers = settings.replacen(
        '{',
        r#"{"consumers": {"header": "x-consumer", "default": {"tokens_per_minute": 1000000}}, "#,
        1,
    );
    for (name, settings, plain_max, failover_max) in
        [("budgets", &settings, 31, 60), ("consumers, too", &consumers, 35, 59)]
    {
        worker(&process, settings, |envoy| {
            let streamed = || {
                Request::chat().body(
                    r#"{"messages":[{"role":"user","content":"hi"}],"stream":true,"max_tokens":9}"#,
                )
            };
            envoy.ask(Request::chat());
            let plain = calls(envoy, |envoy| drop(envoy.ask(Request::chat())));
            process.script("a", [stream(10), stream(110)]);
            let short = calls(envoy, |envoy| drop(envoy.ask(streamed())));
            let long = calls(envoy, |envoy| drop(envoy.ask(streamed())));
            let chunks = long - short;
            process.script("a", [Script::throttled(300)]);
            let failover = calls(envoy, |envoy| drop(envoy.ask(Request::chat())));
            println!(
                "{name}: plain {plain}, failover {failover}, 100 chunks {chunks}, stream of 10 {short}"
            );
            assert!(plain <= plain_max, "{name}: {plain}");
            assert!(failover <= failover_max, "{name}: {failover}");
            assert!(chunks <= 100, "{name}: {chunks} for 100 chunks");
            envoy.pass(1_000);
        });
    }
}

/// One of them reads what service tier the body asks for. Within a millisecond, what was read for a selection
/// also tells whether a success ends a run of faults. The backend of the failover completes its first request,
/// which takes a read and a write, once in three seconds.
const PLAIN_MAX: u32 = 19;
const FAILOVER_MAX: u32 = 44;
