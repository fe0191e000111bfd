//! A configuration made ready to run: all that can be prepared once is prepared here.
//!
//! A plan is replaced as a whole. A request keeps the plan that it started with; what workers share
//! is found by the names of pools and backends, so it stays when a new plan comes.

pub(super) mod budget;
pub(super) mod consumers;
pub(super) mod health;
pub(super) mod metrics;
mod reports;

use self::budget::BudgetPlan;
use self::consumers::ConsumersPlan;
use self::metrics::{BackendMetrics, PoolMetrics};
use crate::config::{Affinity, Backend, Config, Credential, Pool};
use crate::filter::host;
use crate::filter::host::random;
use crate::filter::host::shared;
use crate::filter::told::Told;
use crate::openai::call::Call;
use crate::openai::call::api::Api;
use crate::policy;
use crate::policy::backend::records::{
    BackendRecord, PoolRecord, Records, Reseated, Snapshot, WindowsRecord,
};
use crate::policy::backend::rules::Successes;
use crate::policy::choice::Rotation;
use crate::policy::failover::retry_budget::{self, Deposits};
use crate::policy::keys::Keys;
use crate::policy::pool::{BackendIndex, Member};
use crate::policy::time::Timestamp;
use crate::policy::tokens::estimate::Estimator;
use std::cell::{Cell, RefCell};

/// The configuration with what each pool needs to run.
pub(crate) struct Plan {
    pub(crate) config: Config,
    pub(crate) pools: Vec<PoolPlan>,
    /// Whether some backend is sent the client's own credential.
    pub(crate) keeps_client_credential: bool,
    /// Who may take how much, if that is limited.
    pub(crate) consumers: Option<ConsumersPlan>,
    /// Whether some pool needs more of a body than its model, even where that stands in the path.
    pub(crate) reads_bodies: bool,
}

/// What one worker needs to run one pool.
pub(crate) struct PoolPlan {
    pub(crate) record_key: String,
    /// The pool's record, and when it was read.
    recent: RefCell<Option<(Timestamp, Snapshot)>>,
    pub(crate) retry_budget_key: String,
    pub(crate) rotation: RefCell<Rotation>,
    pub(crate) deposits: RefCell<Deposits>,
    pub(crate) estimator: RefCell<Estimator>,
    pub(crate) has_budgets: bool,
    /// Whether some backend reads its model from the body whatever the operation.
    pub(crate) names_models_in_bodies: bool,
    pub(crate) metrics: PoolMetrics,
    pub(crate) backends: Vec<BackendPlan>,
}

/// What one worker needs to run one backend.
pub(crate) struct BackendPlan {
    /// The request header with the backend's key; `None`: it is sent the client's own credential.
    pub(crate) key_header: Option<(&'static str, Vec<u8>)>,
    pub(crate) windows_key: String,
    /// Why the last connection was not made, as the log has it.
    pub(crate) connection_words: Told,
    pub(crate) budget: Option<BudgetPlan>,
    /// Successes that are not in the shared counts of the breaker's rules yet.
    pub(crate) successes: Cell<Successes>,
    /// Whether this worker saw it serve since it last refused the credential.
    pub(crate) has_served: Cell<bool>,
    /// When this worker last saw it complete a request; zero: never.
    pub(crate) completed_at: Cell<Timestamp>,
    /// What the log has of its credential being refused.
    pub(crate) refusal_words: Told,
    pub(crate) metrics: BackendMetrics,
}

impl BackendPlan {
    fn new(pool: &Pool, backend: &Backend, keys: &Keys) -> Self {
        let settings = backend.budget();
        let windows_key = keys.windows(&pool.name, &backend.name);
        let budget_key =
            || shared::own_key(keys.budget(&backend.name), policy::tokens::budget::VERSION);
        Self {
            key_header: key_header(backend),
            windows_key: shared::own_key(windows_key, WindowsRecord::VERSION),
            connection_words: Told::default(),
            budget: settings.is_limited().then(|| BudgetPlan { key: budget_key(), settings }),
            successes: Cell::default(),
            has_served: Cell::default(),
            completed_at: Cell::default(),
            refusal_words: Told::default(),
            metrics: BackendMetrics::define(&pool.name, &backend.name),
        }
    }
}

fn key_header(backend: &Backend) -> Option<(&'static str, Vec<u8>)> {
    let Credential::ApiKey(key) = &backend.credential else { return None };
    Some(match backend.api {
        Api::Azure | Api::AzureV1 => ("api-key", key.expose().as_bytes().to_vec()),
        Api::OpenAi => ("authorization", format!("Bearer {}", key.expose()).into_bytes()),
    })
}

impl Plan {
    /// Prepares `config` and seeds its shared records.
    pub(crate) fn new(config: Config) -> Self {
        let keys = Keys::new(config.namespace.as_deref());
        let pools: Vec<PoolPlan> =
            config.pools.iter().map(|pool| PoolPlan::new(pool, &keys)).collect();
        for (pool, plan) in config.pools.iter().zip(&pools) {
            plan.seed(pool);
        }
        let keeps_client_credential = config
            .pools
            .iter()
            .flat_map(|pool| &pool.backends)
            .any(|backend| matches!(backend.credential, Credential::Passthrough));
        let consumers =
            config.consumers.as_ref().map(|consumers| ConsumersPlan::new(consumers, &keys));
        let reads_bodies = consumers.is_some()
            || pools.iter().any(|plan| plan.has_budgets)
            || config.pools.iter().any(needs_more_than_model);
        Self { config, pools, keeps_client_credential, consumers, reads_bodies }
    }

    /// Whether the tokens of the answers of `pool` are counted: whether anything depends on them.
    pub(crate) fn is_metered(&self, pool: &PoolPlan) -> bool {
        pool.has_budgets || self.consumers.is_some()
    }

    /// The pool at `position`.
    pub(crate) fn pool(&self, position: usize) -> Option<(&Pool, &PoolPlan)> {
        Some((self.config.pools.get(position)?, self.pools.get(position)?))
    }
}

/// Whether a pool chooses by what a body says, or has backends that are told their model in it.
fn needs_more_than_model(pool: &Pool) -> bool {
    pool.flex_fallback
        || matches!(pool.affinity, Some(Affinity::Body))
        || pool.policy.members.iter().any(|member| member.max_prompt_tokens.is_some())
        || pool.backends.iter().any(|backend| backend.api != Api::Azure)
}

impl PoolPlan {
    fn new(pool: &Pool, keys: &Keys) -> Self {
        let backends = pool.backends.iter();
        let backends: Vec<BackendPlan> =
            backends.map(|backend| BackendPlan::new(pool, backend, keys)).collect();
        let retry_budget_key = keys.retry_budget(&pool.name);
        Self {
            record_key: shared::own_key(keys.pool(&pool.name), PoolRecord::VERSION),
            recent: RefCell::default(),
            retry_budget_key: shared::own_key(retry_budget_key, retry_budget::VERSION),
            rotation: RefCell::new(Rotation::starting_anywhere(&pool.policy, random::number())),
            deposits: RefCell::default(),
            estimator: RefCell::default(),
            metrics: PoolMetrics::define(&pool.name),
            names_models_in_bodies: pool.backends.iter().any(|backend| backend.api != Api::Azure),
            has_budgets: backends.iter().any(|backend| backend.budget.is_some()),
            backends,
        }
    }

    /// Whether some backend is told its model in the body of `call`.
    pub(crate) fn writes_model(&self, call: &Call) -> bool {
        call.is_model_operation() && (self.names_models_in_bodies || !call.is_below_deployment())
    }

    /// Creates the shared records, or fits the pool's to the members as they are now.
    fn seed(&self, pool: &Pool) {
        let now = host::now();
        let seeded = shared::update(&self.record_key, PoolRecord::VERSION, |old| {
            let Reseated { bytes, dropped } = PoolRecord::reseat(old, &pool.policy, now);
            (Some(bytes), dropped)
        });
        let lost = seeded.map_or(1, |dropped| i64::try_from(dropped).unwrap_or(i64::MAX));
        if lost > 0 {
            host::increment(self.metrics.lost_updates, lost);
        }
        let windows = self.backends.iter().map(|backend| &backend.windows_key);
        let budgets = self.backends.iter().filter_map(|backend| backend.budget.as_ref());
        let budgets = budgets.map(|budget| &budget.key);
        for key in windows.chain(budgets).chain([&self.retry_budget_key]) {
            shared::seed(key);
        }
    }

    /// The shared records of the pool's members.
    pub(crate) fn records(&self) -> Snapshot {
        Snapshot::new(shared::read(&self.record_key).unwrap_or_default())
    }

    /// Keeps records that this worker read at `now`, for whoever need not know them better.
    pub(crate) fn keep_records(&self, records: Snapshot, now: Timestamp) {
        self.recent.replace(Some((now, records)));
    }

    /// The records may have changed since they were read.
    pub(crate) fn forget_records(&self) {
        self.recent.replace(None);
    }

    /// The shared record of one member, as this worker last read it in this millisecond.
    pub(crate) fn recent_record(
        &self,
        backend: BackendIndex,
        member: &Member,
        now: Timestamp,
    ) -> BackendRecord {
        let recent = self.recent.take().filter(|(read_at, _)| *read_at == now);
        let records = recent.map_or_else(|| self.records(), |(_, records)| records);
        let record = records.of(backend, member);
        self.keep_records(records, now);
        record
    }
}
