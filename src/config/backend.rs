//! One backend: what it is, its limits, and its place in the pool.

use super::credential::{Environment, credential, default_credential, default_variable};
use super::operations::{NAMES, union};
use super::reader::{Fields, Node};
use super::text;
use super::unique::TakenNames;
use super::{Backend, Credential, Limits, Provisioned};
use crate::openai::call::api::Api;
use crate::policy::keys::key_of;
use crate::policy::pool::{Member, OperationSet};
use crate::policy::tokens::budget::ProvisionedSettings;
use std::num::{NonZeroU32, NonZeroU64};

/// More than the context of any model.
const PROMPT_TOKENS_MAX: u64 = 100_000_000;

/// More than the quota of any deployment or consumer.
pub(super) const TOKENS_PER_MINUTE_MAX: u32 = 1_000_000_000;

/// More than the largest deployment processes in a minute.
const BURST_TOKENS_MAX: u64 = 1_000_000_000_000;

const DEFAULT_BASE_PATH: &str = "/v1";

const APIS: [(&str, Api); 3] =
    [("azure", Api::Azure), ("azure_v1", Api::AzureV1), ("openai", Api::OpenAi)];

const NO_LITERAL_KEY: &str = "a key is never written into the configuration; name the environment \
     variable that has it: \"credential\": {\"api_key\": {\"env\": \"NAME\"}}";

/// A backend, together with its member of the pool's policy.
pub(super) fn backend(
    node: &Node<'_>,
    seen: &mut TakenNames,
    environment: &Environment<'_>,
) -> Option<(Backend, Member)> {
    node.object(|fields| {
        fields.refused("api_key", NO_LITERAL_KEY);
        let name = fields.required("name", |n| seen.backends.claim(n, text::name(n)?));
        let address = address(fields);
        let credential = credential_of(fields, name.as_deref(), node, seen, environment);
        let provisioned = fields.optional("provisioned", provisioned);
        let limits = fields.optional("limits", limits);
        let placement = placement(fields, seen);
        let name = name?;
        let member = Member { key: key_of(&name), ..placement };
        let backend = Backend {
            cluster: address.cluster.unwrap_or_else(|| name.clone()),
            name,
            host: address.host?,
            api: address.api,
            base_path: address.base_path.unwrap_or_else(|| DEFAULT_BASE_PATH.to_owned()),
            deployment: address.deployment,
            api_version: address.api_version,
            credential: credential?,
            provisioned,
            limits,
        };
        Some((backend, member))
    })
}

/// Where a backend is and which API it has.
struct Address {
    cluster: Option<String>,
    host: Option<String>,
    api: Api,
    base_path: Option<String>,
    deployment: Option<String>,
    api_version: Option<String>,
}

fn address(fields: &mut Fields<'_>) -> Address {
    let address = Address {
        cluster: fields.optional("cluster", text::cluster),
        host: fields.required("host", text::host),
        api: fields.optional("api", |n| n.choice(&APIS)).unwrap_or(Api::Azure),
        base_path: fields.optional("base_path", text::base_path),
        deployment: fields.optional("deployment", text::deployment),
        api_version: fields.optional("api_version", text::api_version),
    };
    if address.base_path.is_some() && address.api != Api::OpenAi {
        fields
            .problem_at("base_path", "only goes with \"api\": \"openai\"; Azure's paths are fixed");
    }
    if address.api_version.is_some() && address.api == Api::OpenAi {
        fields.problem_at("api_version", "only goes with \"api\": \"azure\" or \"azure_v1\"");
    }
    address
}

fn credential_of(
    fields: &mut Fields<'_>,
    name: Option<&str>,
    node: &Node<'_>,
    seen: &mut TakenNames,
    environment: &Environment<'_>,
) -> Option<Credential> {
    let given = fields.optional("credential", |n| credential(n, environment));
    if fields.has("credential") {
        return given;
    }
    let name = name?;
    let variable = default_variable(name);
    if let Some(place) = seen.default_variables.earlier_claim(node, &variable) {
        let problem =
            format!("not given, and {place} has the default {variable} already; name a variable");
        fields.problem_at("credential", problem);
        return None;
    }
    default_credential(fields, name, environment)
}

fn provisioned(node: &Node<'_>) -> Option<Provisioned> {
    node.object(|fields| {
        let ptus = fields.required("ptus", |n| n.whole(1_u32..=100_000));
        let rate =
            fields.required("input_tokens_per_minute_per_ptu", |n| n.whole(1_u32..=10_000_000));
        let weight = fields.optional("output_token_weight", |n| n.whole(1_u32..=1_000));
        let burst = fields.optional("burst_tokens", |n| n.whole(1_u64..=BURST_TOKENS_MAX));
        let (ptus, rate) = (ptus?, rate?);
        Some(Provisioned {
            ptus,
            input_tokens_per_minute_per_ptu: rate,
            output_token_weight: weight.unwrap_or(1),
            burst_tokens: burst.unwrap_or_else(|| default_burst_tokens(ptus, rate)),
        })
    })
}

fn default_burst_tokens(ptus: u32, input_tokens_per_minute_per_ptu: u32) -> u64 {
    let per_minute = u64::from(ptus).saturating_mul(u64::from(input_tokens_per_minute_per_ptu));
    NonZeroU64::new(per_minute).map_or(1, ProvisionedSettings::default_burst_tokens)
}

fn limits(node: &Node<'_>) -> Option<Limits> {
    node.object(|fields| {
        let tokens =
            fields.optional("tokens_per_minute", |n| n.whole(1_u32..=TOKENS_PER_MINUTE_MAX));
        let requests = fields.optional("requests_per_minute", |n| n.whole(1_u32..=10_000_000));
        if !fields.has("tokens_per_minute") && !fields.has("requests_per_minute") {
            fields.problem("limits nothing; give tokens_per_minute, requests_per_minute or both");
        }
        Some(Limits {
            tokens_per_minute: tokens.and_then(NonZeroU32::new),
            requests_per_minute: requests.and_then(NonZeroU32::new),
        })
    })
}

/// The member of the policy, without its key, which needs the name.
fn placement(fields: &mut Fields<'_>, seen: &mut TakenNames) -> Member {
    Member {
        key: 0,
        priority: fields.optional("priority", |n| n.whole(0_u8..=100)).unwrap_or(1),
        weight: fields.optional("weight", |n| n.whole(0_u8..=100)).unwrap_or(1),
        quota_group: fields.optional("quota_group", |n| {
            text::name(n).and_then(|name| seen.quota_groups.number(name))
        }),
        operations: fields.optional("operations", operations).unwrap_or(OperationSet::ALL),
        max_prompt_tokens: fields
            .optional("max_prompt_tokens", |n| n.whole(1_u64..=PROMPT_TOKENS_MAX)),
    }
}

fn operations(node: &Node<'_>) -> Option<OperationSet> {
    let named = node.list(1..=NAMES.len(), "operations", |n| n.choice(&NAMES))?;
    Some(union(&named))
}
