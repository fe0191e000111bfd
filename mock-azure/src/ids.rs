//! Names for what the mock makes: request ids, completion ids, the current second.
//!
//! They only have to be unique and to look right, so a counter stirred with the process's random hash
//! keys is enough and keeps a randomness crate out of the tree.

use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A fresh 64-bit number that looks random.
pub(crate) fn number() -> u64 {
    KEYS.hash_one(NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A fresh GUID, as in `apim-request-id`.
pub(crate) fn guid() -> String {
    let (high, low) = (number(), number());
    format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        low >> 52,
        low & 0xffff_ffff_ffff
    )
}

/// Time since the Unix epoch.
pub(crate) fn since_epoch() -> Duration {
    #[expect(
        clippy::disallowed_methods,
        reason = "a native program reads its own clock, here only"
    )]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}
