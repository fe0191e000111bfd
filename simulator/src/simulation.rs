//! One simulation: a configuration, deployments, requests, and a gateway between them.

use crate::azure::{Azure, Capacity, Deployment, Speed};
use crate::load::Request;
use crate::peers::{
    ApiManagement, AzureAlone, Clairvoyant, FirstThenNext, LiteLlm, Member, OneBackend, Peer,
    Policy, RoundRobin,
};
use crate::record::Record;
use crate::spillway::{Setup, Spillway};
use crate::world::{Gateway, run};

/// A gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The optimum, which sees into the backends.
    Clairvoyant,
    /// Spillway.
    Spillway,
    /// Azure API Management's pool.
    ApiManagement,
    /// LiteLLM's router.
    LiteLlm,
    /// Azure's own spillover.
    AzureAlone,
    /// The first backend, then the next, without a memory.
    FirstThenNext,
    /// All in turn.
    RoundRobin,
    /// A client that retries at the first backend.
    OneBackend,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Clairvoyant,
        Self::Spillway,
        Self::LiteLlm,
        Self::ApiManagement,
        Self::AzureAlone,
        Self::FirstThenNext,
        Self::RoundRobin,
        Self::OneBackend,
    ];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clairvoyant => "the optimum",
            Self::Spillway => "Spillway",
            Self::ApiManagement => "API Management",
            Self::LiteLlm => "LiteLLM",
            Self::AzureAlone => "Azure's spillover",
            Self::FirstThenNext => "first, then next",
            Self::RoundRobin => "round robin",
            Self::OneBackend => "retries only",
        }
    }
}

/// A simulation.
#[derive(Clone, Debug)]
pub struct Simulation {
    /// Spillway's configuration. Other gateways take names, priorities and weights from it.
    pub document: String,
    /// The deployments, in the order of the document's backends.
    pub deployments: Vec<Deployment>,
    /// What clients send.
    pub requests: Vec<Request>,
    /// How long the optimum lets a request wait, as long as the configuration lets Spillway.
    pub patience_ms: u64,
    /// How many instances of the gateway there are.
    pub replicas: usize,
    /// How many workers each has.
    pub workers: usize,
    /// The seed of the gateways' own random numbers.
    pub seed: u64,
}

impl Simulation {
    /// Lets a gateway serve the requests.
    ///
    /// # Errors
    /// The error in the configuration.
    pub fn run(&self, kind: Kind) -> Result<Record, String> {
        let setup = Setup::new(&self.document)?;
        let names: Vec<&str> = setup.names().collect();
        if !names.iter().eq(self.deployments.iter().map(|deployment| &deployment.name)) {
            return Err(format!("the deployments are not those of the document: {names:?}"));
        }
        let members: Vec<Member> = setup
            .policy
            .members
            .iter()
            .map(|member| Member { priority: member.priority, weight: member.weight })
            .collect();
        let mut gateway = self.gateway(kind, setup, members);
        let azure = Azure::new(self.deployments.clone());
        Ok(run(azure, self.requests.clone(), &mut *gateway))
    }

    fn gateway(&self, kind: Kind, setup: Setup, members: Vec<Member>) -> Box<dyn Gateway> {
        let Self { replicas, workers, seed, patience_ms, .. } = *self;
        let first = (0..members.len()).min_by_key(|backend| members[*backend].priority);
        let first = first.unwrap_or(0);
        let second = (0..members.len()).find(|backend| *backend != first).unwrap_or(first);
        match kind {
            Kind::Clairvoyant => Box::new(Clairvoyant::new(members, patience_ms)),
            Kind::Spillway => Box::new(Spillway::new(setup, replicas, workers, seed)),
            Kind::ApiManagement => self.peer(&ApiManagement::new(members)),
            Kind::LiteLlm => self.peer(&LiteLlm::new(members)),
            Kind::AzureAlone => self.peer(&AzureAlone::new(first, second)),
            Kind::FirstThenNext => self.peer(&FirstThenNext::new(&members)),
            Kind::RoundRobin => self.peer(&RoundRobin::new(members.len())),
            Kind::OneBackend => self.peer(&OneBackend(first)),
        }
    }

    fn peer<P: Policy + Clone + 'static>(&self, policy: &P) -> Box<dyn Gateway> {
        Box::new(Peer::new(vec![policy.clone(); self.replicas.max(1)], self.seed))
    }
}

/// The deployments that a configuration describes by its `provisioned` and `limits`. A deployment without either has
/// no limit.
///
/// # Errors
/// The error in the configuration.
pub fn deployments(document: &str) -> Result<Vec<Deployment>, String> {
    let setup = Setup::new(document)?;
    let capacities = setup.budgets().map(|budget| {
        if let Some(provisioned) = budget.provisioned {
            return Capacity::Provisioned {
                tokens_per_minute: provisioned.tokens_per_minute.get(),
                burst_tokens: provisioned.burst_tokens,
                output_weight: u64::from(provisioned.output_token_weight_permille / 1_000),
                corrects: true,
            };
        }
        let limit = |limit: Option<std::num::NonZeroU32>| {
            limit.map_or(u64::from(u32::MAX), |limit| u64::from(limit.get()))
        };
        Capacity::Standard {
            tokens_per_minute: limit(budget.tokens_per_minute),
            requests_per_minute: limit(budget.requests_per_minute),
        }
    });
    let members = setup.policy.members.iter();
    let deployments = setup.names().zip(capacities).zip(members);
    Ok(deployments
        .map(|((name, capacity), member)| Deployment {
            name: name.to_owned(),
            capacity,
            speed: Speed::default(),
            counts_permille: 1_000,
            faults: Vec::new(),
            quota: member.quota_group.map(usize::from),
        })
        .collect())
}
