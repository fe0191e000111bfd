//! What one mock backend is: its name, its key, its deployments, its limits and its speed.
//!
//! All of it can be given in code, as JSON over the control endpoint and on the command line. Durations
//! are whole milliseconds in JSON, because that is the resolution of everything Azure says about time.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The settings of one mock backend.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MockConfig {
    /// The first word of every generated text, so that a client sees who served it.
    pub name: String,
    /// The value of `x-ms-region`: a display name with spaces, such as `Sweden Central`.
    pub region: String,
    /// The key that requests must carry as `api-key` or as bearer token; `None` lets everyone in.
    pub api_key: Option<String>,
    /// The deployments that exist; empty means that every name exists.
    pub deployments: Vec<String>,
    /// How the backend is limited.
    pub kind: Kind,
    /// How slow the backend is.
    pub latency: Latency,
    /// How many tokens a text answer has when the caller's own maximum is not smaller.
    pub completion_tokens: u64,
    /// Whether requests are refused for what is wrong with them; off, what tests do not order
    /// succeeds.
    pub refusals: bool,
    /// With refusals, the operations that the deployments have (`chat`, `completions`, `embeddings`,
    /// `responses`, `images`, `audio`, `speech`, `realtime`); empty means all.
    pub operations: Vec<String>,
    /// With refusals, the largest estimate that a request may have, whatever else is going on.
    pub request_tokens_max: Option<u64>,
}

/// How a backend is limited (Azure's deployment types).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Kind {
    /// Pay as you go: a sliding minute of tokens and ten-second windows of requests.
    Standard {
        /// Tokens admitted in any 60 seconds.
        tokens_per_minute: u64,
        /// Requests per minute; a tenth of a minute admits a sixth of it, rounded up.
        requests_per_minute: u64,
    },
    /// Provisioned throughput: a leaky bucket.
    Provisioned {
        /// Tokens that drain from the bucket in a minute.
        tokens_per_minute: u64,
        /// Tokens in the bucket at 100 % utilisation.
        burst_tokens: u64,
    },
    /// No limit, and no limit headers.
    #[default]
    Unlimited,
}

/// How slow a backend is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Latency {
    /// From the end of the request to the response headers.
    #[serde(rename = "first_byte_ms", with = "millis")]
    pub first_byte: Duration,
    /// Before each event of a stream after the first.
    #[serde(rename = "per_chunk_ms", with = "millis")]
    pub per_chunk: Duration,
}

impl MockConfig {
    /// An unlimited, instant backend with this name that asks for no key.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// The same with this limit.
    pub fn with_kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// The same with this key.
    pub fn with_api_key(self, key: impl Into<String>) -> Self {
        Self { api_key: Some(key.into()), ..self }
    }

    /// The same with exactly these deployments.
    pub fn with_deployments<S: Into<String>>(self, names: impl IntoIterator<Item = S>) -> Self {
        Self { deployments: names.into_iter().map(Into::into).collect(), ..self }
    }

    /// The same, refusing what is wrong in itself, with exactly these operations (none: all) and
    /// requests of at most this many tokens.
    pub fn with_refusals<S: Into<String>>(
        self,
        operations: impl IntoIterator<Item = S>,
        request_tokens_max: u64,
    ) -> Self {
        let operations = operations.into_iter().map(Into::into).collect();
        let request_tokens_max = Some(request_tokens_max);
        Self { refusals: true, operations, request_tokens_max, ..self }
    }

    /// The same with this latency.
    pub fn with_latency(self, first_byte: Duration, per_chunk: Duration) -> Self {
        Self { latency: Latency { first_byte, per_chunk }, ..self }
    }
}

impl Default for MockConfig {
    fn default() -> Self {
        Self {
            name: "mock".to_owned(),
            region: "Mock Central".to_owned(),
            api_key: None,
            deployments: Vec::new(),
            kind: Kind::Unlimited,
            latency: Latency::default(),
            completion_tokens: 16,
            refusals: false,
            operations: Vec::new(),
            request_tokens_max: None,
        }
    }
}

/// Durations as whole milliseconds.
pub(crate) mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(crate) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}
