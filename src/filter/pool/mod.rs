//! A configuration made ready to run: everything that can be prepared once is prepared here.
//!
//! The pools are replaced as a whole. A request keeps the pools that it started with. What workers share is found by
//! the names of pools and backends, so it survives a new configuration.

pub(super) mod budget;
pub(super) mod consumers;
pub(super) mod health;
mod metrics;
mod reports;

use self::budget::Budget;
use self::consumers::Consumers;
use self::metrics::{BackendMetrics, PoolMetrics};
use crate::config::{self, Affinity, Config, Credential};
use crate::filter::host;
use crate::filter::host::random;
use crate::filter::host::shared;
use crate::filter::host::told::Told;
use crate::openai::call::Call;
use crate::openai::call::api::Api;
use crate::policy::backend::records::{
    BackendRecord, PoolRecord, Records, Reseated, Snapshot, WindowsRecord,
};
use crate::policy::backend::rules::Successes;
use crate::policy::choice::Rotation;
use crate::policy::failover::retry_budget::{self, Deposits};
use crate::policy::keys::Keys;
use crate::policy::pool::{BackendIndex, OperationSet, PoolPolicy};
use crate::policy::time::Timestamp;
use crate::policy::tokens::budget::VERSION as BUDGET_VERSION;
use crate::policy::tokens::estimate::Estimator;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

/// All pools of a configuration, and the settings of all of them.
pub(crate) struct Pools {
    all: Vec<Rc<Pool>>,
    /// Positions in `all`.
    by_model: BTreeMap<String, usize>,
    /// The pool of requests that name no model. Every configuration has one.
    pub(crate) default: Option<Rc<Pool>>,
    /// The operations that clients may use.
    pub(crate) allowed_operations: OperationSet,
    pub(crate) request_body: config::RequestBodySettings,
    pub(crate) response: config::ResponseSettings,
    /// The consumers, if any have limits.
    pub(crate) consumers: Option<Consumers>,
    /// Whether some backend gets the client's own credential.
    pub(crate) keeps_client_credential: bool,
    /// Whether some pool needs more of a body than its model, even if the path names the model.
    pub(crate) reads_bodies: bool,
}

/// What one worker needs to run one pool.
pub(crate) struct Pool {
    pub(crate) name: String,
    /// How backends are chosen and treated.
    pub(crate) policy: PoolPolicy,
    pub(crate) affinity: Option<Affinity>,
    /// Whether clients may open WebSockets for responses.
    pub(crate) responses_websocket: bool,
    /// Whether a request that flex capacity refused is sent again with the default tier.
    pub(crate) flex_fallback: bool,
    record_key: String,
    /// The pool's record, and when it was read.
    recent: RefCell<Option<(Timestamp, Snapshot)>>,
    pub(crate) retry_budget_key: String,
    pub(crate) rotation: RefCell<Rotation>,
    pub(crate) deposits: RefCell<Deposits>,
    pub(crate) estimator: RefCell<Estimator>,
    /// Whether the tokens of its responses are counted, because something depends on them.
    pub(crate) is_metered: bool,
    /// Whether some backend reads its model from the body for every operation.
    names_models_in_bodies: bool,
    pub(crate) metrics: PoolMetrics,
    /// In the order of the members of `policy`.
    pub(crate) backends: Vec<Rc<Backend>>,
}

/// What one worker needs to run one backend.
pub(crate) struct Backend {
    pub(crate) index: BackendIndex,
    /// Its key in records.
    key: u64,
    pub(crate) config: config::Backend,
    /// The request header with the backend's key; `None`: it gets the client's own credential.
    pub(crate) key_header: Option<(&'static str, Vec<u8>)>,
    windows_key: String,
    pub(crate) budget: Option<Budget>,
    /// Successes that are not yet in the shared counts of the breaker's rules.
    successes: Cell<Successes>,
    /// Whether this worker saw it serve since it last refused the credential.
    has_served: Cell<bool>,
    /// When this worker last saw it complete a request; zero: never.
    completed_at: Cell<Timestamp>,
    /// The last logged reason for a failed connection.
    connection_words: Told,
    /// The last logged refusal of its credential or deployment.
    refusal_words: Told,
    metrics: BackendMetrics,
}

impl Pools {
    /// Prepares `config` and seeds its shared records.
    pub(crate) fn new(config: Config) -> Self {
        let keys = Keys::new(config.namespace.as_deref());
        let has_consumers = config.consumers.is_some();
        let pools = config.pools.into_iter();
        let all: Vec<_> =
            pools.map(|pool| Rc::new(Pool::new(pool, &keys, has_consumers))).collect();
        all.iter().for_each(|pool| pool.seed());
        let mut backends = all.iter().flat_map(|pool| &pool.backends);
        Self {
            by_model: config.pool_by_model,
            default: all.get(config.default_pool).cloned(),
            allowed_operations: config.allowed_operations,
            request_body: config.request_body,
            response: config.response,
            consumers: config.consumers.map(|consumers| Consumers::new(&consumers, &keys)),
            keeps_client_credential: backends
                .any(|backend| matches!(backend.config.credential, Credential::Passthrough)),
            reads_bodies: all.iter().any(|pool| pool.is_metered || pool.needs_more_than_model()),
            all,
        }
    }

    /// The pool that serves `model`; exact and case-sensitive.
    pub(crate) fn of_model(&self, model: &str) -> Option<&Rc<Pool>> {
        self.all.get(*self.by_model.get(model)?)
    }

    /// Every model of every pool, sorted.
    pub(crate) fn models(&self) -> impl Iterator<Item = &str> {
        self.by_model.keys().map(String::as_str)
    }

    /// Whether clients may open WebSockets for responses in some pool.
    pub(crate) fn take_websockets(&self) -> bool {
        self.all.iter().any(|pool| pool.responses_websocket)
    }
}

impl Pool {
    fn new(pool: config::Pool, keys: &Keys, has_consumers: bool) -> Self {
        let config::Pool { name, policy, affinity, responses_websocket, flex_fallback, .. } = pool;
        let metrics = PoolMetrics::define(&name);
        let backends = policy.members.iter().zip(pool.backends).enumerate();
        let backends = backends.filter_map(|(position, (member, config))| {
            let index = BackendIndex::new(position)?;
            Some(Rc::new(Backend::new(index, member.key, config, &name, &metrics, keys)))
        });
        let backends: Vec<_> = backends.collect();
        let retry_budget_key = keys.retry_budget(&name);
        Self {
            record_key: shared::own_key(keys.pool(&name), PoolRecord::VERSION),
            recent: RefCell::default(),
            retry_budget_key: shared::own_key(retry_budget_key, retry_budget::VERSION),
            rotation: RefCell::new(Rotation::starting_anywhere(&policy, random::number())),
            deposits: RefCell::default(),
            estimator: RefCell::default(),
            is_metered: has_consumers || backends.iter().any(|backend| backend.budget.is_some()),
            names_models_in_bodies: backends.iter().any(|backend| backend.config.api != Api::Azure),
            metrics,
            backends,
            name,
            policy,
            affinity,
            responses_websocket,
            flex_fallback,
        }
    }

    /// Whether it chooses by facts of the body, or has backends that read their model from it.
    fn needs_more_than_model(&self) -> bool {
        self.flex_fallback
            || self.names_models_in_bodies
            || matches!(self.affinity, Some(Affinity::Body))
            || self.policy.members.iter().any(|member| member.max_prompt_tokens.is_some())
    }

    /// Whether some backend reads its model from the body of `call`.
    pub(crate) fn writes_model(&self, call: &Call) -> bool {
        call.is_model_operation() && (self.names_models_in_bodies || !call.is_below_deployment())
    }

    /// Whether some backend takes the operation.
    pub(crate) fn serves(&self, operation: OperationSet) -> bool {
        self.policy.members.iter().any(|member| member.operations.covers(operation))
    }

    /// The backend at a position of the policy; `None` for the index of another pool.
    pub(crate) fn backend(&self, index: BackendIndex) -> Option<&Rc<Backend>> {
        self.backends.get(index.position())
    }

    /// Creates the shared records, or adapts the pool's to its present members.
    fn seed(&self) {
        let now = host::now();
        let seeded = shared::update(&self.record_key, PoolRecord::VERSION, |old| {
            let Reseated { bytes, dropped } = PoolRecord::reseat(old, &self.policy, now);
            (Some(bytes), dropped)
        });
        let lost = seeded.map_or(1, |dropped| i64::try_from(dropped).unwrap_or(i64::MAX));
        if lost > 0 {
            host::increment(self.metrics.lost_updates, lost);
        }
        let windows = self.backends.iter().map(|backend| &backend.windows_key);
        let budgets = self.backends.iter().filter_map(|backend| backend.budget.as_ref());
        let budgets = budgets.map(Budget::key);
        for key in windows.chain(budgets).chain([&self.retry_budget_key]) {
            shared::seed(key);
        }
    }

    /// The shared records of the pool's members.
    pub(crate) fn records(&self) -> Snapshot {
        Snapshot::new(shared::read(&self.record_key).unwrap_or_default())
    }

    /// Keeps records that this worker read at `now`, for uses in the same millisecond.
    pub(crate) fn keep_records(&self, records: Snapshot, now: Timestamp) {
        self.recent.replace(Some((now, records)));
    }

    /// Forgets the kept records: they may have changed.
    fn forget_records(&self) {
        self.recent.replace(None);
    }

    /// The shared record of one backend; this worker reads it at most once per millisecond.
    fn recent_record(&self, backend: &Backend, now: Timestamp) -> BackendRecord {
        let recent = self.recent.take().filter(|(read_at, _)| *read_at == now);
        let records = recent.map_or_else(|| self.records(), |(_, records)| records);
        let member = self.policy.member(backend.index);
        let record = member.map(|member| records.of(backend.index, member)).unwrap_or_default();
        self.keep_records(records, now);
        record
    }
}

impl Backend {
    fn new(
        index: BackendIndex,
        key: u64,
        config: config::Backend,
        pool: &str,
        pool_metrics: &PoolMetrics,
        keys: &Keys,
    ) -> Self {
        let windows_key = shared::own_key(keys.windows(pool, &config.name), WindowsRecord::VERSION);
        let settings = config.budget();
        let budget = settings.is_limited().then(|| {
            let key = shared::own_key(keys.budget(&config.name), BUDGET_VERSION);
            Budget::new(key, settings, pool_metrics)
        });
        Self {
            index,
            key,
            key_header: key_header(&config),
            windows_key,
            budget,
            successes: Cell::default(),
            has_served: Cell::default(),
            completed_at: Cell::default(),
            connection_words: Told::default(),
            refusal_words: Told::default(),
            metrics: BackendMetrics::define(pool, &config.name),
            config,
        }
    }
}

fn key_header(backend: &config::Backend) -> Option<(&'static str, Vec<u8>)> {
    let Credential::ApiKey(key) = &backend.credential else { return None };
    Some(match backend.api {
        Api::Azure | Api::AzureV1 => ("api-key", key.expose().as_bytes().to_vec()),
        Api::OpenAi => ("authorization", format!("Bearer {}", key.expose()).into_bytes()),
    })
}
