//! Random numbers. Each worker has its own sources.

use std::cell::Cell;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

thread_local! {
    static RANDOM: Cell<u64> = Cell::new(RandomState::new().build_hasher().finish());
}

/// A random number that cannot be guessed from observations, unlike those of [`number`].
pub(crate) fn secret() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A random number to spread picks, probes and retry times. It is not for secrets (SplitMix64, seeded by the host's
/// random source once per VM).
pub(crate) fn number() -> u64 {
    RANDOM.with(|state| {
        let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}
