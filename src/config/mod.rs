//! JSON in, a valid configuration out.
//!
//! A value of these types is always valid: nothing that uses them checks again. The way there: the
//! text becomes a tree (`json`), a reader walks it and collects every problem with its path
//! (`reader`, `error`), and one module per part of the configuration says what is allowed and what
//! is the default (`document`, `pool`, `backend`, …). `docs/configuration.md` is the reference.

mod backend;
mod breaker;
mod consumers;
mod credential;
mod document;
mod duration;
mod error;
mod header;
mod json;
mod operations;
mod pool;
mod reader;
mod statuses;
mod text;
mod unique;

pub use error::{ConfigError, ConfigErrors};
pub use operations::{operation_bit, operation_name};

pub mod plugin_configuration;

pub use crate::policy::tokens::consumer::{Class, ConsumerSettings, Period, Quota};

use crate::openai::call::api::Api;
use crate::policy::pool::{OperationSet, PoolPolicy};
use crate::policy::time::Millis;
use crate::policy::tokens::budget::{BudgetSettings, ProvisionedSettings};
use std::collections::BTreeMap;
use std::fmt;
use std::num::{NonZeroU32, NonZeroU64};

/// A complete, checked configuration of the gateway.
#[derive(Clone, Debug)]
pub struct Config {
    /// What keeps the state of this document apart from that of others in the same Envoy; `None`: what has
    /// the same name is the same thing.
    pub namespace: Option<String>,
    /// At least one.
    pub pools: Vec<Pool>,
    /// The pool of requests that name no model, as a position in `pools`.
    pub default_pool: usize,
    /// The operations that clients may use.
    pub allowed_operations: OperationSet,
    /// What is expected of requests whose bodies are held until they are complete.
    pub request_body: RequestBodySettings,
    /// What responses carry.
    pub response: ResponseSettings,
    /// What those who call may take; `None`: as much as there is.
    pub consumers: Option<Consumers>,
    /// Positions in `pools`, by the models that clients ask for; exact and case-sensitive.
    pub pool_by_model: BTreeMap<String, usize>,
}

impl Config {
    /// Reads the configuration from its JSON text. `environment` answers with the value of an
    /// environment variable; only the variables of credentials are asked for.
    ///
    /// # Errors
    ///
    /// Every mistake at once, each with its path; for a text that is no JSON, the place of the
    /// first syntax error.
    pub fn parse(
        json: &[u8],
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigErrors> {
        document::parse(json, &credential::Environment { variable: environment })
    }
}

/// The backends that can answer the same requests.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Unique among pools.
    pub name: String,
    /// The models that clients ask for, exact and case-sensitive; the pool's name when none is given.
    pub models: Vec<String>,
    /// The backends; position by position the members of `policy`.
    pub backends: Vec<Backend>,
    /// How they are chosen and treated.
    pub policy: PoolPolicy,
    /// What keeps related requests at one backend.
    pub affinity: Option<Affinity>,
    /// Whether clients may open WebSockets for responses. Default: not.
    pub responses_websocket: bool,
    /// Whether a request that no flex capacity is left for is sent once more for the default tier.
    /// Default: not.
    pub flex_fallback: bool,
}

/// One deployment of one model at one resource.
#[derive(Clone, Debug)]
pub struct Backend {
    /// Unique over all pools: it is also the key in Envoy's route matcher.
    pub name: String,
    /// The Envoy cluster; the backend's name when none is given.
    pub cluster: String,
    /// The `:authority` that it is sent: a host, with an optional port.
    pub host: String,
    /// Its API shape. Default `azure`.
    pub api: Api,
    /// What the path begins with for `openai`. Default `/v1`.
    pub base_path: String,
    /// The deployment or model that it is asked for; the client's model when none is given.
    pub deployment: Option<String>,
    /// The `api-version` that it is sent; the client's own, else a default, when none is given.
    pub api_version: Option<String>,
    /// How it is authenticated to.
    pub credential: Credential,
    /// Whether it is provisioned throughput.
    pub provisioned: Option<Provisioned>,
    /// What it takes per minute, as far as that is known beforehand.
    pub limits: Option<Limits>,
}

impl Backend {
    /// What it takes, as the policy counts it.
    pub fn budget(&self) -> BudgetSettings {
        let provisioned = self.provisioned.and_then(|provisioned| {
            let units = u64::from(provisioned.ptus);
            let per_unit = u64::from(provisioned.input_tokens_per_minute_per_ptu);
            Some(ProvisionedSettings {
                tokens_per_minute: NonZeroU64::new(units.saturating_mul(per_unit))?,
                burst_tokens: provisioned.burst_tokens,
                output_token_weight_permille: provisioned.output_token_weight.saturating_mul(1_000),
            })
        });
        BudgetSettings {
            tokens_per_minute: self.limits.and_then(|limits| limits.tokens_per_minute),
            requests_per_minute: self.limits.and_then(|limits| limits.requests_per_minute),
            provisioned,
        }
    }
}

/// What a backend takes per minute; at least one of the two is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens of prompts and output together.
    pub tokens_per_minute: Option<NonZeroU32>,
    /// Requests.
    pub requests_per_minute: Option<NonZeroU32>,
}

/// Provisioned throughput of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Provisioned {
    /// Purchased units, at least 1.
    pub ptus: u32,
    /// The model's input tokens per minute per unit, at least 1.
    pub input_tokens_per_minute_per_ptu: u32,
    /// How many input tokens one output token counts as, at least 1.
    pub output_token_weight: u32,
    /// How far it can be filled, in normalised tokens (input and weighted output), at least 1. Default:
    /// what it works off in ten seconds.
    pub burst_tokens: u64,
}

/// What those who call may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumers {
    /// The request header that says who calls, lower-case.
    pub header: String,
    /// For everyone who is not in `by_name`.
    pub default: ConsumerSettings,
    /// By the value of the header, exact and case-sensitive. What an entry does not state it does not
    /// take from the default.
    pub by_name: BTreeMap<String, ConsumerSettings>,
    /// Up to which utilisation of a provisioned backend, in percent, requests of the class batch may
    /// use it. Default 50.
    pub batch_max_utilization_percent: u8,
    /// The response header with the tokens left in this minute, lower-case; `None`: off, the default.
    pub remaining_tokens_header: Option<String>,
    /// The response header with the tokens that the request took, lower-case; `None`: off, the default.
    pub consumed_tokens_header: Option<String>,
    /// The response header with the tokens left of the quota, lower-case; `None`: off, the default.
    pub remaining_quota_header: Option<String>,
}

impl Consumers {
    /// What the consumer of this name may take; its name is the value of the header, if there is one.
    pub fn limits_of(&self, name: Option<&str>) -> &ConsumerSettings {
        name.and_then(|name| self.by_name.get(name)).unwrap_or(&self.default)
    }
}

/// How the gateway authenticates to a backend.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A static key, from the environment.
    ApiKey(Secret),
    /// The client's own `api-key` or `authorization`.
    Passthrough,
}

/// A value that no log, error or dump shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Keeps `value` from being shown.
    pub fn new(value: String) -> Self {
        Self(value)
    }

    /// The value itself, for the one place that sends it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// What keeps related requests at one backend of a tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// The value of this request header, lower-case.
    Header(String),
    /// The body's `prompt_cache_key`, else its `user`.
    Body,
}

/// What is expected of requests whose bodies are held until they are complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestBodySettings {
    /// The longest body, in bytes. Default 64 MiB.
    pub max_bytes: u64,
    /// How long a client may take to send it. Default 60 s.
    pub timeout: Millis,
}

/// What responses carry besides the backend's response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseSettings {
    /// The name of the header that says who served; `None`: off. Default `x-served-by`.
    pub served_by_header: Option<String>,
    /// Whether `x-spillway-trail` is sent. Default off.
    pub trail: bool,
    /// Whether a member's own rate-limit headers pass. Default off.
    pub backend_rate_limits: bool,
}
