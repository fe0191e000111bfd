//! How the gateway authenticates to a backend, read so that no message can show a secret.
//!
//! The configuration ends up in repositories and config dumps, so keys come from the environment instead.
//! Any value under `credential` may be a key in the wrong place, so no such value is quoted.
//!
//! Without a `credential` the key comes from the variable that the backend's name gives. If the default
//! were to pass on the client's own credential, it would reach hosts by accident.

use super::json::Json;
use super::reader::{Fields, Node};
use super::{Credential, Secret};

/// The environment variables of the filter.
pub(super) struct Environment<'e> {
    pub(super) variable: &'e dyn Fn(&str) -> Option<String>,
}

const ALLOWED: &str = "allowed are {\"api_key\": {\"env\": \"NAME\"}} and \"passthrough\"";

const NO_LITERAL_KEY: &str = "a key is never written into the configuration; put it into an \
     environment variable and name that: {\"env\": \"NAME\"}";

const NO_IDENTITY: &str = "Entra identities are not in this version yet; use \
     {\"api_key\": {\"env\": \"NAME\"}} or \"passthrough\"";

/// The value of `credential`.
pub(super) fn credential(node: &Node<'_>, environment: &Environment<'_>) -> Option<Credential> {
    match node.json() {
        Json::Text(word) if word == "passthrough" => Some(Credential::Passthrough),
        Json::Object(_) => node.object(|fields| kind(fields, environment)),
        _ => {
            node.problem(format!("found something else (not shown, it may be a key), {ALLOWED}"));
            None
        }
    }
}

/// The credential of a backend that names none: the key in [`default_variable`].
pub(super) fn default_credential(
    fields: &Fields<'_>,
    backend: &str,
    environment: &Environment<'_>,
) -> Option<Credential> {
    let variable = default_variable(backend);
    match key(environment, &variable) {
        Ok(secret) => Some(Credential::ApiKey(secret)),
        Err(fault) => {
            let problem = format!("not given, and its default, the variable {variable}, {fault}");
            fields.problem_at("credential", problem);
            None
        }
    }
}

/// `PTU_UKSOUTH_KEY` for `ptu-uksouth`.
pub(super) fn default_variable(backend: &str) -> String {
    let upper = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = backend.chars().map(upper).collect();
    format!("{name}_KEY")
}

fn kind(fields: &mut Fields<'_>, environment: &Environment<'_>) -> Option<Credential> {
    for identity in ["managed_identity", "federated", "client_secret", "key_vault"] {
        fields.refused(identity, NO_IDENTITY);
    }
    let has_identity = ["managed_identity", "federated", "client_secret", "key_vault"]
        .iter()
        .any(|identity| fields.has(identity));
    let api_key = fields.optional("api_key", |n| api_key(n, environment));
    let passthrough = fields.optional("passthrough", passthrough);
    match (fields.has("api_key"), fields.has("passthrough")) {
        (true, true) => fields.problem("found api_key and passthrough, allowed is one of them"),
        (false, false) if !has_identity => fields.problem(format!("names no kind, {ALLOWED}")),
        _ => {}
    }
    api_key.or(passthrough)
}

fn passthrough(node: &Node<'_>) -> Option<Credential> {
    if matches!(node.json(), Json::Object(members) if members.is_empty()) {
        return Some(Credential::Passthrough);
    }
    node.problem("has no settings; write \"credential\": \"passthrough\"");
    None
}

fn api_key(node: &Node<'_>, environment: &Environment<'_>) -> Option<Credential> {
    if !matches!(node.json(), Json::Object(_)) {
        node.problem(NO_LITERAL_KEY);
        return None;
    }
    node.object(|fields| {
        for literal in ["value", "key", "secret", "literal"] {
            fields.refused(literal, NO_LITERAL_KEY);
        }
        let secret = fields.required("env", |n| from_variable(n, environment))?;
        Some(Credential::ApiKey(secret))
    })
}

fn from_variable(node: &Node<'_>, environment: &Environment<'_>) -> Option<Secret> {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let name = match node.json() {
        Json::Text(name) if matches!(name.len(), 1..=128) && name.bytes().all(is_inner) => name,
        _ => {
            node.problem(
                "found something else (not shown, it may be a key), allowed are names of \
                 environment variables: letters, digits and \"_\"",
            );
            return None;
        }
    };
    match key(environment, name) {
        Ok(secret) => Some(secret),
        Err(fault) => {
            node.problem(format!("the environment variable {} {fault}", harmless(name)));
            None
        }
    }
}

/// The name, unless it looks like a key in the place of the name of its variable.
fn harmless(name: &str) -> &str {
    let is_upper = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    if name.bytes().all(is_upper) { name } else { "named here" }
}

/// The key in `variable`, or what is wrong with it.
fn key(environment: &Environment<'_>, variable: &str) -> Result<Secret, &'static str> {
    match (environment.variable)(variable) {
        None => Err(NOT_SET),
        Some(value) if value.is_empty() => Err("is empty"),
        Some(value) if !value.bytes().all(|b| b.is_ascii_graphic()) => Err(NOT_A_KEY),
        Some(value) => Ok(Secret::new(value)),
    }
}

const NOT_SET: &str = "is not set; pass it to the filter through vm_config.environment_variables \
     (host_env_keys or key_values)";

const NOT_A_KEY: &str = "has spaces, line breaks, control or non-ASCII characters, which a key \
     cannot have (the value is not shown)";

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_default_variable_is_made_of_the_backends_name() {
        assert_eq!(default_variable("ptu-uksouth"), "PTU_UKSOUTH_KEY");
        assert_eq!(default_variable("a_1"), "A_1_KEY");
    }

    #[test]
    fn a_name_that_looks_like_a_key_is_not_shown() {
        assert_eq!(harmless("SWEDEN_KEY"), "SWEDEN_KEY");
        assert_eq!(harmless("0123456789abcdef0123456789abcdef"), "named here");
    }
}
