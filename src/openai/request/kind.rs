//! How a request body is read, which depends on its call and its `content-type`.

use super::multipart;
use crate::openai::call::{Call, Method};
use crate::openai::media_type::is_json;

/// How the facts of a body are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// There is no body that matters.
    None,
    /// A JSON object.
    Json,
    /// `multipart/form-data`.
    Multipart {
        /// What separates its parts.
        boundary: Vec<u8>,
    },
    /// Something that is passed through unread.
    Opaque,
}

impl BodyKind {
    /// How the body of `call` is read, given the request's `content-type`.
    ///
    /// Operations that take JSON are read as JSON under any content type but multipart, for curl
    /// labels its data as a form unless told otherwise. What could be read in two ways is not read:
    /// a charset that is not UTF-8, a multipart without one clear boundary, two types at once.
    pub fn of(call: &Call, content_type: Option<&[u8]>) -> Self {
        if matches!(call.method, Method::Get | Method::Delete) {
            return Self::None;
        }
        let content_type = content_type.unwrap_or_default();
        if content_type == b"application/json" {
            return Self::Json; // as nearly every request has it
        }
        if !is_utf_8(content_type) {
            return Self::Opaque;
        }
        if mentions_multipart(content_type) {
            return match multipart::boundary(content_type) {
                Some(boundary) if call.is_model_operation() => Self::Multipart { boundary },
                _ => Self::Opaque,
            };
        }
        if is_json(content_type) || call.expects_json() { Self::Json } else { Self::Opaque }
    }
}

fn mentions_multipart(content_type: &[u8]) -> bool {
    content_type.windows(9).any(|window| window.eq_ignore_ascii_case(b"multipart"))
}

/// Whether no other charset than UTF-8, or a part of it, is named.
fn is_utf_8(content_type: &[u8]) -> bool {
    const NAME: &[u8] = b"charset";
    let starts = content_type.windows(NAME.len()).enumerate();
    starts.filter(|(_, window)| window.eq_ignore_ascii_case(NAME)).all(|(at, _)| {
        let rest = content_type.get(at.saturating_add(NAME.len())..).unwrap_or_default();
        let value =
            rest.trim_ascii_start().strip_prefix(b"=").unwrap_or_default().trim_ascii_start();
        let value = value.strip_prefix(b"\"").unwrap_or(value);
        let len = value.iter().position(|byte| matches!(byte, b';' | b',' | b'"' | b' ' | b'\t'));
        let value = value.get(..len.unwrap_or(value.len())).unwrap_or_default();
        [&b"utf-8"[..], b"utf8", b"us-ascii", b"ascii"]
            .into_iter()
            .any(|known| value.eq_ignore_ascii_case(known))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::call::recognise;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn post(path: &str) -> Call {
        recognise(b"POST", path.as_bytes()).unwrap()
    }

    fn get(path: &str) -> Call {
        recognise(b"GET", path.as_bytes()).unwrap()
    }

    #[test]
    fn the_content_type_decides_how_a_body_is_read() {
        let chat = post("/v1/chat/completions");
        for json in [
            None,
            Some("application/json; charset=utf-8"),
            Some("text/plain"),
            Some("application/x-www-form-urlencoded"),
        ] {
            assert_eq!(BodyKind::of(&chat, json.map(str::as_bytes)), BodyKind::Json);
        }
        let audio = post("/v1/audio/transcriptions");
        assert_eq!(
            BodyKind::of(&audio, Some(b"Multipart/Form-Data; boundary=xyz")),
            BodyKind::Multipart { boundary: b"xyz".to_vec() }
        );
        assert_eq!(BodyKind::of(&audio, Some(b"multipart/form-data")), BodyKind::Opaque);
        assert_eq!(BodyKind::of(&audio, None), BodyKind::Opaque);
        assert_eq!(BodyKind::of(&audio, Some(b"APPLICATION/JSON")), BodyKind::Json);
        for unclear in [
            "multipart/form-data; boundary=a; boundary=b",
            "application/json, multipart/form-data; boundary=a",
            "multipart/mixed; boundary=a",
            "application/json; charset=utf-16",
            "application/json; charset=\"UTF-7\"",
            "multipart/form-data; charset=utf-16; boundary=a",
            "application/json; charset=utf-8; charset=utf-16",
            "application/json; charset",
        ] {
            assert_eq!(
                BodyKind::of(&chat, Some(unclear.as_bytes())),
                BodyKind::Opaque,
                "{unclear}"
            );
        }
        for clear in ["application/json;charset=UTF-8", "application/json; charset=\"utf-8\"; x=y"]
        {
            assert_eq!(BodyKind::of(&chat, Some(clear.as_bytes())), BodyKind::Json, "{clear}");
        }
        let files = post("/v1/files");
        assert_eq!(
            BodyKind::of(&files, Some(b"multipart/form-data; boundary=x")),
            BodyKind::Opaque
        );
        assert_eq!(BodyKind::of(&files, Some(b"\xff\xfe")), BodyKind::Opaque);
        assert_eq!(BodyKind::of(&get("/v1/models"), Some(b"application/json")), BodyKind::None);
    }
}
