//! Texts with a syntax: names, hosts, paths, header names.
//!
//! Only text that is safe in its later place is allowed: a name becomes part of stats names and of
//! Envoy's route matcher, a host becomes `:authority`, a deployment a path segment and a JSON value.

use super::json::Json;
use super::reader::Node;

/// The name of a pool, backend or quota group. A dot would split a stats name.
pub(super) fn name(node: &Node<'_>) -> Option<String> {
    let is_valid =
        |text: &str| matches!(text.len(), 1..=63) && text.bytes().all(|b| is_word(b) || b == b'-');
    let allowed =
        "names of 1 to 63 letters, digits, \"-\" and \"_\" (a dot would split stats names)";
    node.text_that(allowed, is_valid).map(str::to_owned)
}

/// The name of a model, as a client sends it.
pub(super) fn model(node: &Node<'_>) -> Option<String> {
    let is_valid = |text: &str| {
        matches!(text.len(), 1..=256) && text.trim() == text && !text.chars().any(char::is_control)
    };
    let allowed = "names of 1 to 256 bytes without line breaks and outer spaces";
    node.text_that(allowed, is_valid).map(str::to_owned)
}

/// The name of an Envoy cluster.
pub(super) fn cluster(node: &Node<'_>) -> Option<String> {
    let is_valid =
        |text: &str| matches!(text.len(), 1..=255) && text.bytes().all(|b| b.is_ascii_graphic());
    let allowed = "names of 1 to 255 printable ASCII characters without spaces";
    node.text_that(allowed, is_valid).map(str::to_owned)
}

/// The name of a deployment or model at a backend. Azure's own rule is narrower; other vendors
/// have names such as `org/model:tag`.
pub(super) fn deployment(node: &Node<'_>) -> Option<String> {
    let is_valid = |text: &str| {
        let is_allowed = |b: u8| is_word(b) || b"-.:/@+".contains(&b);
        matches!(text.len(), 1..=128) && text.bytes().all(is_allowed)
    };
    let allowed = "names of 1 to 128 letters, digits and \"_-.:/@+\"";
    node.text_that(allowed, is_valid).map(str::to_owned)
}

/// An `api-version`, such as `2024-10-21`.
pub(super) fn api_version(node: &Node<'_>) -> Option<String> {
    let is_valid = |text: &str| {
        let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
        matches!(text.len(), 1..=32) && text.bytes().all(is_allowed)
    };
    let allowed = "API versions such as \"2024-10-21\" or \"preview\"";
    node.text_that(allowed, is_valid).map(str::to_owned)
}

/// The beginning of a path, such as `/v1`.
pub(super) fn base_path(node: &Node<'_>) -> Option<String> {
    let is_valid = |text: &str| {
        let is_allowed = |b: u8| is_word(b) || b"-.~/".contains(&b);
        let is_plain = |segment: &str| !matches!(segment, "" | "." | "..");
        text.len() <= 128
            && text.bytes().all(is_allowed)
            && text.strip_prefix('/').is_some_and(|path| path.split('/').all(is_plain))
    };
    let allowed = "paths that begin with \"/\" and do not end with it, such as \"/v1\"";
    node.text_that(allowed, is_valid).map(str::to_owned)
}

/// The name of a request header, in lower case as Envoy has it.
pub(super) fn header_name(node: &Node<'_>) -> Option<String> {
    let allowed = "header names such as \"x-session\"";
    node.text_that(allowed, is_header_name).map(str::to_ascii_lowercase)
}

/// Whether `text` is a header name (a token, RFC 9110 §5.6.2).
pub(super) fn is_header_name(text: &str) -> bool {
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    matches!(text.len(), 1..=128) && text.bytes().all(is_token)
}

/// A host with an optional port. The error names any other part of a URL, so that it can be removed.
pub(super) fn host(node: &Node<'_>) -> Option<String> {
    let allowed = "host names with an optional port, such as \"contoso.openai.azure.com\"";
    let text = node.text(allowed)?;
    if text.contains('@') {
        // The part before the @ may be a password, so the value is not shown.
        node.problem("found user information before an \"@\"; remove it");
        return None;
    }
    if let Some(removable) = beside_host(text) {
        let shown = Json::Text(removable.to_owned());
        node.problem(format!("found a URL, allowed are {allowed}; remove {shown}"));
        return None;
    }
    node.text_that(allowed, is_host).map(str::to_owned)
}

/// The scheme, or else the path or query, of a text that should be only a host.
fn beside_host(text: &str) -> Option<&str> {
    if let Some(end) = text.find("://") {
        return text.get(..end.saturating_add(3));
    }
    text.get(text.find(['/', '?', '#'])?..)
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        // The last colon of an address in brackets is not before a port.
        Some((_, port)) if port.ends_with(']') => (text, None),
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let is_valid = match host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.len() <= 253 && host.split('.').all(is_label),
    };
    is_valid && port.is_none_or(is_port)
}

/// Host names have no underscores, but names in container networks do.
fn is_label(label: &str) -> bool {
    let is_inner = |b: u8| is_word(b) || b == b'-';
    matches!(label.len(), 1..=63)
        && label.bytes().all(is_inner)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn hosts_have_an_optional_port() {
        let hosts = [
            "contoso.openai.azure.com",
            "mock_a:8080",
            "10.0.0.1:443",
            "[::1]",
            "[2001:db8::1]:8443",
            "localhost",
        ];
        for text in hosts {
            assert!(is_host(text), "{text}");
        }
    }

    #[test]
    fn anything_else_is_no_host() {
        let texts = [
            "",
            ":443",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a b",
            "a..b",
            "a.",
            "-a",
            "::1",
            "[::1",
            "[x]",
            "a:1:2",
            "ä.example",
        ];
        for text in texts {
            assert!(!is_host(text), "{text}");
        }
    }

    #[test]
    fn what_a_url_has_beside_its_host_is_found() {
        assert_eq!(beside_host("https://a.b/c"), Some("https://"));
        assert_eq!(beside_host("a.b/openai/"), Some("/openai/"));
        assert_eq!(beside_host("a.b?x=1"), Some("?x=1"));
        assert_eq!(beside_host("a.b:443"), None);
    }
}
