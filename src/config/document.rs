//! The whole document: the pools and what applies to all of them.

use super::consumers::consumers;
use super::credential::Environment;
use super::duration::{HOUR, duration};
use super::error::ConfigErrors;
use super::header::header_or_off;
use super::json::Json;
use super::operations;
use super::pool::pool;
use super::reader::{Node, Problems};
use super::text::name;
use super::unique::TakenNames;
use super::{Config, Pool, RequestBodySettings, ResponseSettings};
use crate::policy::time::Millis;
use std::collections::BTreeMap;

const POOLS_MAX: usize = 64;

const DEFAULT_SERVED_BY_HEADER: &str = "x-served-by";

/// As much as the shipped routes buffer for a retry. More than the APIs accept in images and sound.
const DEFAULT_BODY_BYTES: u64 = 64 * 1024 * 1024;

/// Envoy keeps bodies in memory, and counts them in 32 bits.
const BODY_BYTES_MAX: u64 = 4_294_967_295;

/// The longest body needs nine megabits a second to arrive in this time.
const DEFAULT_BODY_TIMEOUT: Millis = Millis::from_secs(60);

/// Reads the configuration from its JSON text.
pub(super) fn parse(text: &[u8], environment: &Environment<'_>) -> Result<Config, ConfigErrors> {
    let json = Json::parse(text)?;
    let problems = Problems::default();
    let config = document(&Node::root(&json, &problems), environment);
    problems.unless_any(config)
}

fn document(node: &Node<'_>, environment: &Environment<'_>) -> Option<Config> {
    node.object(|fields| {
        // The filter reads the role before the rest, so it can only be this one here.
        fields.optional("role", |n| n.choice(&[("gateway", ())]));
        let namespace = fields.optional("namespace", name);
        let mut seen = TakenNames::default();
        let pools = fields.required("pools", |n| {
            n.list(1..=POOLS_MAX, "pools", |n| pool(n, &mut seen, environment))
        });
        let pools = pools.unwrap_or_default();
        let default_pool = fields.optional("default_pool", |n| position_of(n, &pools));
        let allowed = fields.optional("allow_operations", |n| operations::allowed(Some(n)));
        let request_body = fields.optional("request_body", request_body);
        let response = fields.optional("response", response).unwrap_or_else(default_response);
        let served_by = response.served_by_header.as_deref();
        let consumers = fields.optional("consumers", |n| consumers(n, served_by));
        let pool_by_model = by_model(&pools);
        let default_pool = default_pool.unwrap_or(0);
        Some(Config {
            namespace,
            pools,
            default_pool,
            allowed_operations: allowed.or_else(|| operations::allowed(None))?,
            request_body: request_body.unwrap_or(DEFAULT_REQUEST_BODY),
            response,
            consumers,
            pool_by_model,
        })
    })
}

fn by_model(pools: &[Pool]) -> BTreeMap<String, usize> {
    let mut positions = BTreeMap::new();
    for (position, pool) in pools.iter().enumerate() {
        for model in &pool.models {
            positions.insert(model.clone(), position);
        }
    }
    positions
}

fn position_of(node: &Node<'_>, pools: &[Pool]) -> Option<usize> {
    let names: Vec<(&str, usize)> =
        pools.iter().enumerate().map(|(position, pool)| (pool.name.as_str(), position)).collect();
    // Without a readable pool there is nothing to compare with, and that pool has errors already.
    if names.is_empty() { None } else { node.choice(&names) }
}

const DEFAULT_REQUEST_BODY: RequestBodySettings =
    RequestBodySettings { max_bytes: DEFAULT_BODY_BYTES, timeout: DEFAULT_BODY_TIMEOUT };

fn request_body(node: &Node<'_>) -> Option<RequestBodySettings> {
    node.object(|fields| {
        let max_bytes = fields.optional("max_bytes", |n| n.whole(1_024_u64..=BODY_BYTES_MAX));
        let timeout = fields.optional("timeout", |n| duration(n, Millis::new(10)..=HOUR));
        Some(RequestBodySettings {
            max_bytes: max_bytes.unwrap_or(DEFAULT_BODY_BYTES),
            timeout: timeout.unwrap_or(DEFAULT_BODY_TIMEOUT),
        })
    })
}

fn default_response() -> ResponseSettings {
    ResponseSettings {
        served_by_header: Some(DEFAULT_SERVED_BY_HEADER.to_owned()),
        trail: false,
        backend_rate_limits: false,
    }
}

fn response(node: &Node<'_>) -> Option<ResponseSettings> {
    let default = default_response();
    node.object(|fields| {
        let header =
            fields.optional("served_by_header", |n| header_or_off(n, DEFAULT_SERVED_BY_HEADER));
        let trail = fields.optional("trail_header", |n| n.switch());
        let rate_limits = fields.optional("backend_rate_limits", |n| n.switch());
        Some(ResponseSettings {
            served_by_header: header.unwrap_or(default.served_by_header),
            trail: trail.unwrap_or(default.trail),
            backend_rate_limits: rate_limits.unwrap_or(default.backend_rate_limits),
        })
    })
}
