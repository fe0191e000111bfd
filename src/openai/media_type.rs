//! The format of a body according to its `content-type`.

/// The media type without its parameters.
pub fn media_type(content_type: &[u8]) -> &[u8] {
    let content_type = content_type.trim_ascii_start();
    let end = content_type.iter().position(|byte| matches!(byte, b';' | b' ' | b'\t'));
    content_type.get(..end.unwrap_or(content_type.len())).unwrap_or_default()
}

/// Whether the body is one JSON value, under any of its names: `application/json`, `text/json`,
/// `application/problem+json` (RFC 6839, 3.1). Lines of JSON are none.
pub fn is_json(content_type: &[u8]) -> bool {
    let media_type = media_type(content_type);
    let subtype = media_type.split(|byte| matches!(byte, b'/' | b'+')).next_back();
    subtype.is_some_and(|subtype| {
        subtype.len() < media_type.len()
            && [&b"json"[..], b"x-json"].iter().any(|name| subtype.eq_ignore_ascii_case(name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn json_has_many_names() {
        for name in [
            "application/json",
            "Application/JSON; charset=utf-8",
            " application/json ;charset=utf-8",
            "application/json charset=utf-8",
            "text/json",
            "application/x-json",
            "application/problem+json",
            "application/vnd.api+json; version=1",
        ] {
            assert!(is_json(name.as_bytes()), "{name}");
        }
        for name in [
            "",
            "json",
            "application/x-ndjson",
            "application/jsonl",
            "application/json-seq",
            "application/json, text/plain",
            "text/plain; x=application/json",
            "text/event-stream",
            "application/jsonp",
        ] {
            assert!(!is_json(name.as_bytes()), "{name}");
        }
    }
}
