//! What the configuration says about the simulated pool.

use spillway::config::{Config, Consumers, Pool};
use spillway::policy::pool::PoolPolicy;
use spillway::policy::tokens::budget::BudgetSettings;

/// The largest body that is always read to its end, in bytes. As `LARGE_BYTES_MIN` of the filter.
pub(super) const LARGE_BYTES_MIN: u64 = 16 * 1_024;

/// A pool made ready to run, and the consumers. As `Pool::new` and `Pools::new`.
#[derive(Debug)]
pub struct Setup {
    /// The name of the pool.
    pub pool: String,
    /// The names of the other pools, which are not simulated.
    pub other_pools: Vec<String>,
    /// The policy of its backends.
    pub policy: PoolPolicy,
    pub(super) backends: Vec<BackendSetup>,
    pub(super) consumers: Option<Consumers>,
    /// Whether tokens are counted.
    pub(super) is_metered: bool,
    /// Whether bodies are read to their ends.
    pub(super) reads_bodies: bool,
}

#[derive(Debug)]
pub(super) struct BackendSetup {
    pub(super) name: String,
    pub(super) budget: Option<BudgetSettings>,
    pub(super) is_provisioned: bool,
}

impl Setup {
    /// The default pool of a configuration, as if all credentials were available.
    ///
    /// # Errors
    /// The error in the configuration.
    pub fn new(document: &str) -> Result<Self, String> {
        let config = Config::parse(document.as_bytes(), &|_| Some("key".to_owned()))
            .map_err(|errors| errors.to_string())?;
        let Config { mut pools, default_pool, consumers, .. } = config;
        if default_pool >= pools.len() {
            return Err("no pool".to_owned());
        }
        let Pool { name: pool, policy, backends, .. } = pools.remove(default_pool);
        let other_pools = pools.into_iter().map(|pool| pool.name).collect();
        let backends: Vec<BackendSetup> = backends
            .into_iter()
            .map(|backend| {
                let budget = backend.budget();
                BackendSetup {
                    is_provisioned: backend.provisioned.is_some(),
                    budget: budget.is_limited().then_some(budget),
                    name: backend.name,
                }
            })
            .collect();
        let is_metered =
            consumers.is_some() || backends.iter().any(|backend| backend.budget.is_some());
        let limits_prompts = policy.members.iter().any(|it| it.max_prompt_tokens.is_some());
        Ok(Self {
            pool,
            other_pools,
            policy,
            backends,
            consumers,
            is_metered,
            reads_bodies: is_metered || limits_prompts,
        })
    }

    /// The names of the backends by position.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.backends.iter().map(|backend| &*backend.name)
    }

    /// The limits of the backends by position, as configured.
    pub fn budgets(&self) -> impl Iterator<Item = BudgetSettings> {
        self.backends.iter().map(|backend| backend.budget.unwrap_or_default())
    }

    /// The name of the consumer at a position of the load's consumers.
    pub fn consumer(position: usize) -> String {
        format!("tenant-{position}")
    }
}
