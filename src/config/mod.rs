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
    /// Separates the state of this document from that of others in the same Envoy. `None`: things with the
    /// same name are the same thing.
    pub namespace: Option<String>,
    /// At least one.
    pub pools: Vec<Pool>,
    /// The pool of requests that name no model, as a position in `pools`.
    pub default_pool: usize,
    /// The operations that clients may use.
    pub allowed_operations: OperationSet,
    /// The limits of requests whose bodies are held until they are complete.
    pub request_body: RequestBodySettings,
    /// What the gateway adds to responses.
    pub response: ResponseSettings,
    /// The limits of consumers; `None`: no limits.
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
    /// All mistakes at once, each with its path; for a text that is not JSON, the place of the
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
    /// The backends, in the same order as the members of `policy`.
    pub backends: Vec<Backend>,
    /// How they are chosen and treated.
    pub policy: PoolPolicy,
    /// What keeps related requests at one backend.
    pub affinity: Option<Affinity>,
    /// Whether clients may open WebSockets for responses. Default: not.
    pub responses_websocket: bool,
    /// Whether a request that finds no flex capacity is sent once more for the default tier.
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
    /// The `:authority` of its requests: a host, with an optional port.
    pub host: String,
    /// Its API shape. Default `azure`.
    pub api: Api,
    /// The beginning of its paths for `openai`. Default `/v1`.
    pub base_path: String,
    /// The deployment or model in its requests; the client's model when none is given.
    pub deployment: Option<String>,
    /// The `api-version` of its requests. When none is given: the client's own, or a default.
    pub api_version: Option<String>,
    /// How the gateway authenticates to it.
    pub credential: Credential,
    /// Whether it is provisioned throughput.
    pub provisioned: Option<Provisioned>,
    /// Its limits per minute, where the configuration states them.
    pub limits: Option<Limits>,
}

impl Backend {
    /// Its limits in the form that the policy counts.
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

/// The limits of a backend per minute; at least one of the two is given.
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
    /// what it processes in ten seconds.
    pub burst_tokens: u64,
}

/// What those who call may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Consumers {
    /// The request header that names the consumer, lower-case.
    pub header: String,
    /// For everyone who is not in `by_name`.
    pub default: ConsumerSettings,
    /// By the value of the header, exact and case-sensitive. An entry takes nothing from the default.
    pub by_name: BTreeMap<String, ConsumerSettings>,
    /// Requests of the class batch use a provisioned backend only below this utilisation, in percent.
    /// Default 50.
    pub batch_max_utilization_percent: u8,
    /// The response header with the tokens left in this minute, lower-case; `None`: off, the default.
    pub remaining_tokens_header: Option<String>,
    /// The response header with the tokens that the request cost, lower-case; `None`: off, the default.
    pub consumed_tokens_header: Option<String>,
    /// The response header with the tokens left of the quota, lower-case; `None`: off, the default.
    pub remaining_quota_header: Option<String>,
}

impl Consumers {
    /// The limits of the consumer of this name, which is the value of the header, if there is one.
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
    /// The body's `prompt_cache_key`, or without one its `user`.
    Body,
}

/// The limits of requests whose bodies are held until they are complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestBodySettings {
    /// The longest body, in bytes. Default 64 MiB.
    pub max_bytes: u64,
    /// How long a client may take to send it. Default 60 s.
    pub timeout: Millis,
}

/// What the gateway adds to a backend's response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseSettings {
    /// The name of the header that names the backend; `None`: off. Default `x-served-by`.
    pub served_by_header: Option<String>,
    /// Whether `x-spillway-trail` is sent. Default off.
    pub trail: bool,
    /// Whether a backend's own rate-limit headers pass. Default off.
    pub backend_rate_limits: bool,
}
