//! Backends that turned a request down after being selected: no budget left, no credential.
//!
//! A budget is reserved, and a credential fetched, only at the chosen backend. If that fails, the backend is noted
//! here and the selection is repeated. So only budgets that are about to be used are read. When no backend is left,
//! the denials of budgets are forgotten.
//!
//! Hardly any request is denied, so memory is allocated only for a request that is.

use crate::policy::pool::{BackendIndex, BackendSet};
use crate::policy::time::Timestamp;

static NONE: Denials = Denials::NONE;

/// Which backends denied a request, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denials {
    over_budget: BackendSet,
    /// Until when the budgets deny, once for each of these backends.
    budgets: Vec<(BackendIndex, Timestamp)>,
    without_credential: BackendSet,
}

impl Denials {
    /// No backend denied it.
    pub const NONE: Self = Self {
        over_budget: BackendSet::EMPTY,
        budgets: Vec::new(),
        without_credential: BackendSet::EMPTY,
    };

    /// The denials of a request that no backend denied.
    pub fn none() -> &'static Self {
        &NONE
    }

    /// The budget of `backend` has no room for the request before `until`.
    pub fn budget(&mut self, backend: BackendIndex, until: Timestamp) {
        self.budgets.retain(|(denied, _)| *denied != backend);
        self.budgets.push((backend, until));
        self.over_budget = self.over_budget.with(backend);
    }

    /// Forgets the denials of budgets.
    pub fn forgive_budgets(&mut self) {
        self.budgets.clear();
        self.over_budget = BackendSet::EMPTY;
    }

    /// There is no valid credential for `backend`.
    pub fn credential(&mut self, backend: BackendIndex) {
        self.without_credential = self.without_credential.with(backend);
    }

    /// Whether a budget or a credential denied `backend`.
    pub fn contains(&self, backend: BackendIndex) -> bool {
        self.over_budget.contains(backend) || self.without_credential.contains(backend)
    }

    /// Until when the budget of `backend` has no room; `None` when it has room at `now`.
    pub(super) fn budget_until(&self, backend: BackendIndex, now: Timestamp) -> Option<Timestamp> {
        if !self.over_budget.contains(backend) {
            return None;
        }
        let (_, until) = self.budgets.iter().find(|(denied, _)| *denied == backend)?;
        Some(*until).filter(|until| *until > now)
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
