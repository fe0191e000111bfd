//! How long a throttle gate stays closed.

use super::bench::START;
use crate::policy::backend::gate::Gate;
use crate::policy::fixtures::{at, ms, throttle};
use crate::policy::response::retry_after;
use crate::policy::time::Timestamp;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn the_gate_follows_the_headers_in_their_order() {
    /// Sun, 06 Nov 1994 08:49:37 GMT.
    const NOW: Timestamp = Timestamp::from_ms(784_111_777_000);
    for (name, value, closed_ms) in [
        ("retry-after", "45", 45_000),
        ("retry-after", "1", 1_000),
        ("retry-after-ms", "312", 312),
        ("retry-after", "Sun, 06 Nov 1994 08:49:57 GMT", 20_000),
        ("retry-after", "Sun, 06 Nov 1994 08:49:17 GMT", 0),
        ("retry-after", "0", 0),
        ("retry-after", "-5", 10_000),
        ("retry-after", "garbage", 10_000),
        ("retry-after", "86400", 60_000),
        ("x-ratelimit-reset-tokens", "7", 7_000),
        ("x-unrelated", "7", 10_000),
    ] {
        let mut gate = Gate::default();
        gate.close(NOW, retry_after::delay(&[(name, value)][..], NOW), 0, &throttle());
        assert_eq!(gate.until, NOW.plus(ms(closed_ms)), "{name}: {value}");
    }
    let both = [("retry-after", "1"), ("retry-after-ms", "312")];
    assert_eq!(retry_after::delay(&both[..], NOW), Some(ms(312)), "milliseconds beat seconds");
}

#[test]
fn a_second_429_extends_and_a_stale_one_never_shortens() {
    let mut gate = Gate::default();
    gate.close(at(START), Some(ms(5_000)), 0, &throttle());
    gate.close(at(START + 1_000), Some(ms(9_000)), 0, &throttle());
    assert_eq!(gate.until, at(START + 10_000));
    gate.close(at(START + 2_000), Some(ms(500)), 0, &throttle());
    assert_eq!(gate.until, at(START + 10_000));
}
