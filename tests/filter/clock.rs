//! Setting the wall clock while requests and responses are held: nobody waits longer, and
//! nobody shorter.

use crate::envoy::{Request, Script, worker};
use crate::failover::two_tiers;
use crate::host::Process;

const STEPS_MS: [i64; 6] = [-3_600_000, -30_000, -400, 400, 30_000, 3_600_000];

#[test]
fn a_held_head_is_let_go_in_time_whatever_the_wall_clock_does() {
    for step in STEPS_MS {
        let process = Process::new(&format!("a held head, {step} ms"));
        let settings = two_tiers(r#""failover": {"hold": {"time": "1s"}}"#);
        process.script("a", [Script::events(&["data: {\"cho"]).every_ms(20).then_stall()]);
        worker(&process, &settings, |envoy| {
            let id = envoy.send(Request::chat());
            envoy.pass(500);
            process.step_clock(step);
            envoy.pass(499);
            assert_eq!(envoy.response(id).status(), 0, "{step}");
            envoy.pass(2);
            assert_eq!(envoy.response(id).status(), 200, "{step}");
        });
    }
}

#[test]
fn a_waiting_request_ends_in_time_whatever_the_wall_clock_does() {
    for step in STEPS_MS {
        let process = Process::new(&format!("a waiting request, {step} ms"));
        let settings = two_tiers(r#""failover": {"max_wait": "2s", "max_attempts": 4}"#);
        process.script("a", [Script::throttled(1_000)]);
        process.script("b", [Script::throttled(60_000)]);
        worker(&process, &settings, |envoy| {
            let id = envoy.send(Request::chat());
            envoy.pass(500);
            process.step_clock(step);
            envoy.pass(490);
            assert_eq!(envoy.response(id).status(), 0, "{step}: it waits for the gate");
            envoy.pass(1_520);
            assert!(!envoy.is_open(id), "{step}: it hangs");
        });
    }
}
