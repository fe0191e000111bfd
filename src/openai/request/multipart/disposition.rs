//! Reads the headers of a part: which field it is, and whether all parsers agree on that.
//!
//! Backends use many different parsers for forms. They agree on what SDKs and browsers write, and on little
//! else: escapes in quotes, `name*`, folded lines, transfer encodings. A field is not sure if one parser could
//! find a model in it and another could not.

use crate::openai::call::percent;
use memchr::memchr;

/// The fields that matter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Name {
    Model,
    Stream,
    Prompt,
    User,
    N,
    Image,
    #[default]
    Other,
}

/// The meaning of one header line of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Which field the part is, if it states one, and whether every parser would agree.
    Disposition { name: Name, is_sure: bool },
    /// Something that changes nothing.
    Harmless,
    /// Something that only some parsers understand.
    Unsure,
}

impl Line {
    /// Reads a line without its end. It is not empty.
    pub(super) fn read(line: &[u8]) -> Self {
        let is_odd = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
        let Some(colon) = memchr(b':', line) else { return Self::Unsure };
        let Some((header, value)) = line.split_at_checked(colon) else { return Self::Unsure };
        let value = value.get(1..).unwrap_or_default();
        let is = |name: &[u8]| header.trim_ascii().eq_ignore_ascii_case(name);
        // A line that begins with a space continues the one before, for parsers that know such lines.
        let is_plain = !line.iter().any(is_odd) && !header.iter().any(u8::is_ascii_whitespace);
        if is(b"content-disposition") {
            let (name, is_sure) = disposition(value);
            return Self::Disposition { name, is_sure: is_sure && is_plain };
        }
        let value = value.trim_ascii();
        let is_other = |name: &[u8]| !value.eq_ignore_ascii_case(name);
        let is_recoded = is(b"content-transfer-encoding")
            && [&b"7bit"[..], b"8bit", b"binary"].into_iter().all(is_other);
        // Some parsers read the parts of a part.
        let is_nested = is(b"content-type")
            && value.get(..9).is_some_and(|start| start.eq_ignore_ascii_case(b"multipart"));
        if is_plain && !is_recoded && !is_nested { Self::Harmless } else { Self::Unsure }
    }
}

/// The field that the value of a `content-disposition` names, and whether it is sure.
fn disposition(value: &[u8]) -> (Name, bool) {
    // A backslash in quotes is an escape for some parsers and a backslash for the others.
    let [escaped, verbatim] = [true, false].map(|has_escapes| names(value, has_escapes));
    let Some(first) = escaped.first().or_else(|| verbatim.first()) else {
        return (Name::Other, true);
    };
    let is_one = escaped == verbatim && escaped.len() == 1;
    let is_plain = first.0 == b"name" && (first.1 == b"model" || !resembles_model(&first.1));
    let name = match first.1.as_slice() {
        b"model" => Name::Model,
        b"stream" => Name::Stream,
        b"prompt" => Name::Prompt,
        b"user" => Name::User,
        b"n" => Name::N,
        b"image" | b"image[]" => Name::Image,
        _ => Name::Other,
    };
    (name, is_one && is_plain)
}

/// Every parameter that is a name, or a part or variant of one, with its value.
fn names(value: &[u8], has_escapes: bool) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut parameters = Parameters { rest: value, has_escapes };
    let _disposition = parameters.value_alone();
    let is_name = |key: &[u8]| {
        key.strip_prefix(b"name").is_some_and(|rest| matches!(rest, [] | [b'*' | b'[', ..]))
    };
    parameters.filter(|(key, _)| is_name(key)).collect()
}

/// Whether some server could take `name` for the field `model`.
fn resembles_model(name: &[u8]) -> bool {
    let decoded = percent::decode_bytes(name).to_ascii_lowercase();
    let bare = decoded.trim_ascii();
    let bare = bare.strip_prefix(b"'").unwrap_or(bare);
    bare.strip_prefix(b"model")
        .is_some_and(|rest| matches!(rest, [] | [b'[' | b'\'' | b'\0' | b' ' | b';', ..]))
        || bare.starts_with(b"=?")
}

/// The parameters of a header value: `; name=value; name="quoted \"value\""`.
struct Parameters<'a> {
    rest: &'a [u8],
    /// Whether a backslash in quotes escapes the next character.
    has_escapes: bool,
}

impl<'a> Parameters<'a> {
    /// The part before the first parameter.
    fn value_alone(&mut self) -> &'a [u8] {
        let len = memchr(b';', self.rest).unwrap_or(self.rest.len());
        let (value, rest) = self.rest.split_at_checked(len).unwrap_or((self.rest, &[]));
        self.rest = rest;
        value.trim_ascii()
    }

    /// The value that begins at the current place, quoted or not.
    fn value(&mut self) -> Vec<u8> {
        self.rest = self.rest.trim_ascii_start();
        let Some(quoted) = self.rest.strip_prefix(b"\"") else {
            return self.value_alone().to_vec();
        };
        let mut value = Vec::new();
        let mut bytes = quoted.iter();
        while let Some(&byte) = bytes.next() {
            match byte {
                b'"' => break,
                b'\\' if self.has_escapes => value.extend(bytes.next()),
                _ => value.push(byte),
            }
        }
        self.rest = bytes.as_slice();
        value
    }
}

impl Iterator for Parameters<'_> {
    /// A name in lower case and its value.
    type Item = (Vec<u8>, Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        let semicolon = memchr(b';', self.rest)?;
        self.rest = self.rest.get(semicolon.saturating_add(1)..)?;
        let len = self.rest.iter().position(|byte| matches!(byte, b'=' | b';'));
        let (name, rest) = self.rest.split_at_checked(len.unwrap_or(self.rest.len()))?;
        let name = name.trim_ascii().to_ascii_lowercase();
        self.rest = rest;
        let Some(after) = rest.strip_prefix(b"=") else { return Some((name, Vec::new())) };
        self.rest = after;
        Some((name, self.value()))
    }
}

/// The value of the parameter `boundary` of a `content-type`, if it occurs once.
pub(super) fn boundary(content_type: &[u8]) -> Option<Vec<u8>> {
    let mut parameters = Parameters { rest: content_type, has_escapes: false };
    if !parameters.value_alone().eq_ignore_ascii_case(b"multipart/form-data") {
        return None;
    }
    // Parsers differ on a boundary within another parameter, or in a variant of it.
    let windows = content_type.windows(b"boundary".len());
    if windows.filter(|window| window.eq_ignore_ascii_case(b"boundary")).count() != 1 {
        return None;
    }
    parameters.find(|(name, _)| name == b"boundary").map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn read(line: &str) -> Line {
        Line::read(line.as_bytes())
    }

    #[test]
    fn what_sdks_and_browsers_write_is_sure() {
        for (line, name) in [
            ("Content-Disposition: form-data; name=\"model\"", Name::Model),
            ("content-disposition: form-data; name=model", Name::Model),
            ("Content-Disposition:form-data;name=\"model\"", Name::Model),
            (
                "Content-Disposition: form-data; name=\"file\"; filename=\"a;name=model.wav\"",
                Name::Other,
            ),
            ("Content-Disposition: form-data; name=\"file\"; filename=\"C:\\a.wav\"", Name::Other),
            ("Content-Disposition: form-data; name=\"file\"; filename*=utf-8''a.wav", Name::Other),
            ("Content-Disposition: form-data; name=\"file\"; filename=\"\u{fc}.wav\"", Name::Other),
            ("Content-Disposition: form-data; name=\"timestamp_granularities[]\"", Name::Other),
        ] {
            assert_eq!(read(line), Line::Disposition { name, is_sure: true }, "{line}");
        }
        for line in ["Content-Type: audio/wav", "Content-Transfer-Encoding: binary", "x: \t y"] {
            assert_eq!(read(line), Line::Harmless, "{line}");
        }
    }

    #[test]
    fn what_parsers_disagree_on_is_not_sure() {
        for line in [
            "Content-Disposition: form-data; name=\"a\"; name=\"model\"",
            "Content-Disposition: form-data; name=\"model\"; name=\"model\"",
            "Content-Disposition: form-data; name=\"file\"; name*=utf-8''model",
            "Content-Disposition: form-data; name*0=mo; name*1=del",
            "Content-Disposition: form-data; name=\"mo\\del\"",
            "Content-Disposition: form-data; name=\"x\"; filename=\"a\\\"; name=\"model\"",
            "Content-Disposition: form-data; filename=\"a\\\"; name=\"model",
            "Content-Disposition: form-data; name=\"Model\"",
            "Content-Disposition: form-data; name=\"model[]\"",
            "Content-Disposition: form-data; name=\" model\"",
            "Content-Disposition: form-data; name='model'",
            "Content-Disposition: form-data; name=\"mod%65l\"",
            "Content-Disposition: form-data; name=\"=?utf-8?q?model?=\"",
            "Content-Disposition : form-data; name=\"model\"",
            " Content-Disposition: form-data; name=\"model\"",
            "Content-Disposition: form-data; x=\ry; name=\"model\"",
        ] {
            let is_sure =
                !matches!(read(line), Line::Unsure | Line::Disposition { is_sure: false, .. });
            assert!(!is_sure, "{line}: {:?}", read(line));
        }
        for line in [
            "x",
            " continued: line",
            "x: a\rContent-Disposition: form-data; name=model",
            "Content-Transfer-Encoding: base64",
            "Content-Transfer-Encoding: quoted-printable",
            "Content-Type: multipart/mixed; boundary=inner",
        ] {
            assert_eq!(read(line), Line::Unsure, "{line}");
        }
    }
}
