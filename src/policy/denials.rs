//! The backends that a request was denied by what a selection does not read.
//!
//! A budget is reserved, and a credential fetched, only at the backend that was chosen. When that
//! fails, the backend is noted here and the selection is made anew. So admission is optimistic: no
//! budget is read that is not about to be used.
//!
//! Its size is fixed, so that noting a denial does not allocate.

use super::pool::{BackendIndex, BackendSet, MAX_BACKENDS};
use super::time::Timestamp;

/// Which backends denied a request, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Denials {
    budgets: [Timestamp; MAX_BACKENDS],
    over_budget: BackendSet,
    without_credential: BackendSet,
}

impl Denials {
    /// No backend denied it.
    pub const NONE: Self = Self {
        budgets: [Timestamp::ZERO; MAX_BACKENDS],
        over_budget: BackendSet::EMPTY,
        without_credential: BackendSet::EMPTY,
    };

    /// The budget of `backend` has no room for the request before `until`.
    pub fn budget(&mut self, backend: BackendIndex, until: Timestamp) {
        self.over_budget = self.over_budget.with(backend);
        if let Some(known) = self.budgets.get_mut(backend.position()) {
            *known = until;
        }
    }

    /// There is no valid credential for `backend`.
    pub fn credential(&mut self, backend: BackendIndex) {
        self.without_credential = self.without_credential.with(backend);
    }

    /// Whether a budget or a credential denied `backend`.
    pub fn contains(&self, backend: BackendIndex) -> bool {
        self.over_budget.contains(backend) || self.without_credential.contains(backend)
    }

    /// Until when the budget of `backend` has no room; `None` when it has or when it did at `now`.
    pub(super) fn budget_until(&self, backend: BackendIndex, now: Timestamp) -> Option<Timestamp> {
        let until = self.budgets.get(backend.position()).copied()?;
        (self.over_budget.contains(backend) && until > now).then_some(until)
    }

    /// Whether `backend` has no valid credential.
    pub(super) fn lacks_credential(&self, backend: BackendIndex) -> bool {
        self.without_credential.contains(backend)
    }
}

impl Default for Denials {
    fn default() -> Self {
        Self::NONE
    }
}
