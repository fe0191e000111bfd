//! What a deployment suffers, by schedule.

use super::Azure;
use crate::load::Request;
use crate::random::mix;

/// What a deployment suffers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It answers everything with this status.
    Status(u16),
    /// It takes no connections.
    Refused,
    /// It takes requests and answers none.
    Silent,
    /// It answers some requests with a 500.
    Errors {
        /// How many of a hundred.
        percent: u64,
    },
    /// Its limits are lowered to a part of what they are.
    Lowered {
        /// To this part.
        percent: u64,
    },
    /// Everything takes longer.
    Slow {
        /// How many times as long.
        factor: u64,
    },
}

/// When a deployment suffers what.
#[derive(Clone, Copy, Debug)]
pub struct Period {
    /// From when, in milliseconds since the beginning.
    pub from_ms: u64,
    /// Until when.
    pub until_ms: u64,
    /// What.
    pub fault: Fault,
}

impl Period {
    /// Whether it is that time.
    pub fn holds(&self, now_ms: u64) -> bool {
        (self.from_ms..self.until_ms).contains(&now_ms)
    }
}

impl Azure {
    /// What a request suffers at a deployment now.
    pub(super) fn fault(&self, backend: usize, request: &Request, now_ms: u64) -> Option<Fault> {
        Some(self.period(backend, request, now_ms)?.fault)
    }

    /// Until when a deployment does not serve a request because it is broken.
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

    /// Whether a deployment turns all requests away now.
    pub fn is_dead(&self, backend: usize, now_ms: u64) -> bool {
        self.deployments()[backend].faults.iter().any(|period| {
            let is_of_all =
                matches!(period.fault, Fault::Status(_) | Fault::Refused | Fault::Silent);
            is_of_all && period.holds(now_ms)
        })
    }

    /// How many percent of a deployment's limits hold now.
    pub(super) fn percent(&self, backend: usize, now_ms: u64) -> u64 {
        let mut faults = self.deployments()[backend].faults.iter();
        let lowered = faults.find_map(|period| match period.fault {
            Fault::Lowered { percent } if period.holds(now_ms) => Some(percent),
            _ => None,
        });
        lowered.unwrap_or(100)
    }

    fn period(&self, backend: usize, request: &Request, now_ms: u64) -> Option<&Period> {
        // Whether it is hit is the request's fate, not that of the moment.
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
