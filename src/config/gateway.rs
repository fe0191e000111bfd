//! The whole configuration: the pools and what applies to all of them.

use super::consumers::consumers;
use super::credential::Environment;
use super::error::ConfigErrors;
use super::header::header_or_off;
use super::json::Json;
use super::pool::pool;
use super::reader::{Node, Problems};
use super::unique::Seen;
use super::{Config, Pool, Response};
use std::collections::BTreeMap;

const POOLS_MAX: usize = 64;

const DEFAULT_SERVED_BY_HEADER: &str = "x-served-by";

/// Reads the configuration from its JSON text.
pub(super) fn parse(text: &[u8], environment: &Environment<'_>) -> Result<Config, ConfigErrors> {
    let json = Json::parse(text)?;
    let problems = Problems::default();
    let config = gateway(&Node::root(&json, &problems), environment);
    problems.unless_any(config)
}

fn gateway(node: &Node<'_>, environment: &Environment<'_>) -> Option<Config> {
    node.object(|fields| {
        // The filter reads the role before it reads the rest, so here it can only be this one.
        fields.optional("role", |n| n.choice(&[("gateway", ())]));
        let mut seen = Seen::default();
        let pools = fields.required("pools", |n| {
            n.list(1..=POOLS_MAX, "pools", |n| pool(n, &mut seen, environment))
        });
        let pools = pools.unwrap_or_default();
        let default_pool = fields.optional("default_pool", |n| position_of(n, &pools));
        let response = fields.optional("response", response).unwrap_or_else(default_response);
        let served_by = response.served_by_header.as_deref();
        let consumers = fields.optional("consumers", |n| consumers(n, served_by));
        let pool_by_model = by_model(&pools);
        let default_pool = default_pool.unwrap_or(0);
        Some(Config { pools, default_pool, response, consumers, pool_by_model })
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
    // Without a readable pool there is nothing to compare with; its own errors say enough.
    if names.is_empty() { None } else { node.choice(&names) }
}

fn default_response() -> Response {
    Response {
        served_by_header: Some(DEFAULT_SERVED_BY_HEADER.to_owned()),
        trail: false,
        backend_rate_limits: false,
    }
}

fn response(node: &Node<'_>) -> Option<Response> {
    let default = default_response();
    node.object(|fields| {
        let header =
            fields.optional("served_by_header", |n| header_or_off(n, DEFAULT_SERVED_BY_HEADER));
        let trail = fields.optional("trail_header", |n| n.switch());
        let rate_limits = fields.optional("backend_rate_limits", |n| n.switch());
        Some(Response {
            served_by_header: header.unwrap_or(default.served_by_header),
            trail: trail.unwrap_or(default.trail),
            backend_rate_limits: rate_limits.unwrap_or(default.backend_rate_limits),
        })
    })
}
