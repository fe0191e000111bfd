//! The names of shared records.
//!
//! All listeners of a process with the same VM id share its records, so equal names mean the same thing. A namespace
//! separates the records of one configuration from those of another. Names in the configuration contain neither `/`
//! nor `@`, so two different things never get the same key. A consumer's name may contain both, but it comes last.

use std::hash::Hasher;

/// Makes the names of shared records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    prefix: String,
}

impl Keys {
    /// The names within `namespace`; `None`: those of all configurations without one.
    pub fn new(namespace: Option<&str>) -> Self {
        let prefix = match namespace {
            None => "spillway".to_owned(),
            Some(namespace) => format!("spillway@{namespace}"),
        };
        Self { prefix }
    }

    /// The record of a pool.
    pub fn pool(&self, pool: &str) -> String {
        format!("{}/pool/{pool}", self.prefix)
    }

    /// The counts of a pool's circuit breaker rules for a backend. They belong to an epoch of the breaker, which is
    /// in the pool's record.
    pub fn windows(&self, pool: &str, backend: &str) -> String {
        format!("{}/windows/{pool}/{backend}", self.prefix)
    }

    /// The retry budget of a pool.
    pub fn retry_budget(&self, pool: &str) -> String {
        format!("{}/retries/{pool}", self.prefix)
    }

    /// The budget of a backend.
    pub fn budget(&self, backend: &str) -> String {
        format!("{}/budget/{backend}", self.prefix)
    }

    /// The budget of a listed consumer.
    pub fn consumer(&self, consumer: &str) -> String {
        format!("{}/consumer/{consumer}", self.prefix)
    }

    /// The budget that the unlisted consumers of a slot share.
    pub fn consumer_slot(&self, slot: u64) -> String {
        format!("{}/consumers/{slot}", self.prefix)
    }

    /// The secret that spreads unlisted consumers over the slots.
    pub fn slot_secret(&self) -> String {
        format!("{}/slot-secret", self.prefix)
    }
}

/// The key of a backend in shared records: FNV-1a (64 bit) of its name, so it is the same in all workers and in every
/// configuration with the name.
pub fn key_of(name: &str) -> u64 {
    let mut hash = Fnv::default();
    hash.write(name.as_bytes());
    hash.finish()
}

/// FNV-1a (64 bit): the same everywhere, unlike the standard library's hashes.
pub(super) struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn keys_are_stable() {
        assert_eq!(key_of(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(key_of("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(key_of("foobar"), 0x8594_4171_f739_67e8);
        let keys = Keys::new(None);
        assert_eq!(keys.pool("gpt-4o"), "spillway/pool/gpt-4o");
        assert_eq!(keys.windows("gpt-4o", "france"), "spillway/windows/gpt-4o/france");
        assert_eq!(keys.retry_budget("gpt-4o"), "spillway/retries/gpt-4o");
        assert_eq!(keys.budget("france"), "spillway/budget/france");
        assert_eq!(keys.consumer("7"), "spillway/consumer/7");
        assert_eq!(keys.consumer_slot(7), "spillway/consumers/7");
        assert_eq!(Keys::new(Some("blue")).pool("gpt-4o"), "spillway@blue/pool/gpt-4o");
    }

    #[test]
    fn no_namespace_has_a_key_of_another() {
        let namespaces = [None, Some("pool"), Some("windows"), Some("consumer")];
        let mut all = std::collections::HashSet::new();
        for namespace in namespaces {
            let keys = Keys::new(namespace);
            for key in [
                keys.pool("pool"),
                keys.windows("pool", "pool"),
                keys.retry_budget("pool"),
                keys.budget("pool"),
                keys.consumer("pool"),
                keys.consumer("pool/pool"),
                keys.consumer_slot(1),
                keys.slot_secret(),
            ] {
                assert!(all.insert(key.clone()), "{key}");
            }
        }
    }
}
