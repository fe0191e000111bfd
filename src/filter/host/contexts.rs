//! Values of a worker's contexts, found by their ids.
//!
//! Envoy numbers contexts consecutively, so an id would be a good hash except for its high bits. The table uses these
//! to distinguish the entries of its slots, so a multiplication fills them.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Values under the ids of contexts.
pub(crate) struct Contexts<V>(HashMap<u32, V, BuildHasherDefault<IdHasher>>);

impl<V> Contexts<V> {
    pub(crate) const fn new() -> Self {
        Self(HashMap::with_hasher(BuildHasherDefault::new()))
    }

    /// Stores `value` under `context`, and returns the previous value.
    pub(crate) fn insert(&mut self, context: u32, value: V) -> Option<V> {
        self.0.insert(context, value)
    }

    pub(crate) fn get(&self, context: u32) -> Option<&V> {
        self.0.get(&context)
    }

    pub(crate) fn get_mut(&mut self, context: u32) -> Option<&mut V> {
        self.0.get_mut(&context)
    }

    /// Removes and returns the value of `context`.
    pub(crate) fn remove(&mut self, context: u32) -> Option<V> {
        self.0.remove(&context)
    }
}

/// Hashes one `u32` (Fibonacci hashing).
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write_u32(&mut self, id: u32) {
        self.0 = u64::from(id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
