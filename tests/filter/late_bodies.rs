//! A client that is slow to send its body: how long it may take, and what waiting for it costs.

use crate::envoy::{Request, worker};
use crate::failover::TWO_TIERS;
use crate::host::Process;

#[test]
fn a_body_that_does_not_come_within_a_minute_is_answered_408() {
    let process = Process::new("a late body");
    worker(&process, TWO_TIERS, |envoy| {
        let id = envoy.send_head_of(Request::chat());
        envoy.pass(59_999);
        assert!(envoy.is_open(id));
        assert_eq!(envoy.response(id).status(), 0);
        envoy.pass(1_001);
        let response = envoy.take(id);
        assert_eq!(response.status(), 408, "{response:?}");
        assert!(response.text().contains("\"invalid_request_error\""), "{response:?}");
        // Clients that are in time are not affected.
        assert_eq!(envoy.ask(Request::chat()).status(), 200);
    });
    assert_eq!(process.take_clusters().len(), 1);
}
