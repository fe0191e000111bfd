//! A mutex whose holder cannot poison it.
//!
//! A test that panics while it looks at the mock must not turn every later request into a second panic,
//! so a poisoned lock is simply taken: every critical section here leaves its value whole.

/// Shared, mutable state with short critical sections that never await.
#[derive(Debug, Default)]
pub(crate) struct Lock<T>(
    #[expect(clippy::disallowed_types, reason = "the filter has no threads; this program has")]
    std::sync::Mutex<T>,
);

impl<T> Lock<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(value.into())
    }

    /// Runs `work` with the value. The closure keeps a guard from being held over an await.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let mut guard = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        work(&mut guard)
    }
}
