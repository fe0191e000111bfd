//! The faults of a deployment, by schedule.

use super::Azure;
use crate::load::Request;
use crate::random::mix;

/// A fault of a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Every response has this status.
    Status(u16),
    /// It takes no connections.
    Refused,
    /// It accepts requests and responds to none.
    Silent,
    /// It responds to some requests with a 500.
    Errors {
        /// How many per hundred.
        percent: u64,
    },
    /// Its limits are lowered to a part.
    Lowered {
        /// That part.
        percent: u64,
    },
    /// Everything takes longer.
    Slow {
        /// By this factor.
        factor: u64,
    },
}

/// A fault and its time.
#[derive(Clone, Copy, Debug)]
pub struct Period {
    /// The beginning, in milliseconds since the start.
    pub from_ms: u64,
    /// The end.
    pub until_ms: u64,
    /// The fault.
    pub fault: Fault,
}

impl Period {
    /// Whether it applies at `now_ms`.
    pub fn holds(&self, now_ms: u64) -> bool {
        (self.from_ms..self.until_ms).contains(&now_ms)
    }
}

impl Azure {
    /// The fault that a request meets at a deployment now.
    pub(super) fn fault(&self, backend: usize, request: &Request, now_ms: u64) -> Option<Fault> {
        Some(self.period(backend, request, now_ms)?.fault)
    }

    /// Until when a deployment does not serve a request because of a fault.
    pub(super) fn broken_until(
        &self,
        backend: usize,
        request: &Request,
        now_ms: u64,
    ) -> Option<u64> {
        let period = self.period(backend, request, now_ms)?;
        let serves = matches!(period.fault, Fault::Lowered { .. } | Fault::Slow { .. });
        (!serves).then_some(period.until_ms)
    }

    /// Whether a deployment fails all requests now.
    pub fn is_dead(&self, backend: usize, now_ms: u64) -> bool {
        self.deployments()[backend].faults.iter().any(|period| {
            let is_of_all =
                matches!(period.fault, Fault::Status(_) | Fault::Refused | Fault::Silent);
            is_of_all && period.holds(now_ms)
        })
    }

    /// How many percent of a deployment's limits apply now.
    pub(super) fn percent(&self, backend: usize, now_ms: u64) -> u64 {
        let mut faults = self.deployments()[backend].faults.iter();
        let lowered = faults.find_map(|period| match period.fault {
            Fault::Lowered { percent } if period.holds(now_ms) => Some(percent),
            _ => None,
        });
        lowered.unwrap_or(100)
    }

    fn period(&self, backend: usize, request: &Request, now_ms: u64) -> Option<&Period> {
        // Whether a request is hit depends on the request, not on the moment.
        let lot = mix(request.roll ^ backend as u64) % 100;
        self.deployments()[backend].faults.iter().find(|period| {
            let hits = match period.fault {
                Fault::Errors { percent } => lot < percent,
                _ => true,
            };
            hits && period.holds(now_ms)
        })
    }
}
