//! The main paths, in virtual time: from a 429 to the backend that serves, and back.

use crate::envoy::{Request, Script, worker};
use crate::host::Process;

/// Two tiers: `a`, then `b`.
pub(crate) const TWO_TIERS: &str = r#"{"pools": [{"name": "gpt", "backends": [
    {"name": "a", "host": "a.example", "priority": 1},
    {"name": "b", "host": "b.example", "priority": 2}]}],
    "response": {"trail_header": "on"}}"#;

#[test]
fn a_429_goes_to_the_next_tier_and_the_client_sees_nothing_of_it() {
    let process = Process::new("429");
    process.script("a", [Script::throttled(300)]);
    worker(&process, TWO_TIERS, |envoy| {
        let answer = envoy.ask(Request::chat());
        assert_eq!((answer.status(), answer.served_by()), (200, "b".to_owned()), "{answer:?}");
        assert_eq!(answer.header("x-spillway-attempts").as_deref(), Some("2"));
        assert_eq!(answer.header("x-spillway-retry"), None);
    });
    assert_eq!(process.take_clusters(), ["a", "b"]);
}
