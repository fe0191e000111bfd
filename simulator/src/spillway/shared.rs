//! What the workers of one replica share, and what each worker has alone.

use super::setup::Setup;
use crate::random::Random;
use spillway::policy::backend::records::{PoolRecord, Snapshot};
use spillway::policy::backend::rules::Successes;
use spillway::policy::choice::Rotation;
use spillway::policy::failover::retry_budget::Deposits;
use spillway::policy::time::Timestamp;
use spillway::policy::tokens::estimate::Estimator;
use std::collections::BTreeMap;

/// Envoy's shared data: records as bytes.
pub(super) struct Shared {
    pub(super) pool: Vec<u8>,
    /// By backend.
    pub(super) windows: Vec<Vec<u8>>,
    /// By backend.
    pub(super) budgets: Vec<Vec<u8>>,
    pub(super) retries: Vec<u8>,
    /// By consumer.
    pub(super) consumers: BTreeMap<usize, Vec<u8>>,
}

/// What one worker knows about the pool and its backends.
pub(super) struct Worker {
    pub(super) rotation: Rotation,
    pub(super) deposits: Deposits,
    pub(super) estimator: Estimator,
    /// The records when it last read them, and the time.
    pub(super) recent: Option<(Timestamp, Snapshot)>,
    pub(super) backends: Vec<OwnBackend>,
}

#[derive(Clone, Default)]
pub(super) struct OwnBackend {
    pub(super) successes: Successes,
    pub(super) has_served: bool,
    pub(super) completed_at: Timestamp,
}

impl Shared {
    /// As `Pool::seed`.
    pub(super) fn new(setup: &Setup, now: Timestamp) -> Self {
        let empty = vec![Vec::new(); setup.backends.len()];
        Self {
            pool: PoolRecord::reseat(None, &setup.policy, now).bytes,
            windows: empty.clone(),
            budgets: empty,
            retries: Vec::new(),
            consumers: BTreeMap::new(),
        }
    }
}

impl Worker {
    /// As `Pool::new`.
    pub(super) fn new(setup: &Setup, random: &mut Random) -> Self {
        Self {
            rotation: Rotation::starting_anywhere(&setup.policy, random.number()),
            deposits: Deposits::default(),
            estimator: Estimator::default(),
            recent: None,
            backends: vec![OwnBackend::default(); setup.backends.len()],
        }
    }
}
