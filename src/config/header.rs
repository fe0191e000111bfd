//! The names of response headers that the gateway sets. Each can be off.
//!
//! A header with a meaning for the connection or the client cannot be named: overwriting it would break
//! responses.

use super::json::Json;
use super::reader::Node;
use super::text;

const TAKEN_HEADERS: [&str; 8] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "retry-after",
    "set-cookie",
    "transfer-encoding",
    "upgrade",
];

/// A header's name, `off`, or `on` for the `usual` name; native YAML turns the bare words into
/// booleans.
pub(super) fn header_or_off(node: &Node<'_>, usual: &str) -> Option<Option<String>> {
    match node.json() {
        Json::Bool(false) => return Some(None),
        Json::Text(text) if text == "off" => return Some(None),
        Json::Bool(true) => return Some(Some(usual.to_owned())),
        Json::Text(text) if text == "on" => return Some(Some(usual.to_owned())),
        _ => {}
    }
    let allowed = format!("\"off\" and header names such as {usual:?}");
    let name = node.text_that(&allowed, text::is_header_name)?.to_ascii_lowercase();
    if TAKEN_HEADERS.contains(&name.as_str()) || name.starts_with("x-spillway-") {
        node.problem(format!("found {name:?}, which has another meaning; choose another name"));
        return None;
    }
    Some(Some(name))
}
