//! Percent-encoding of path segments and query values (RFC 3986, section 2).
//!
//! A path arrives as bytes that need not be UTF-8, and leaves as a string that every server reads in the
//! same way. So encoding is strict (all except the unreserved characters) and decoding is lenient (a `%`
//! that begins no escape is itself).

use std::borrow::Cow;

/// Whether `byte` never needs an escape: letters, digits, `-`, `.`, `_` and `~`.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `text` as one path segment or query value. `.` and `..` are escaped too, because they are relative paths.
pub fn encode(text: &str) -> Cow<'_, str> {
    let is_dots = matches!(text, "." | "..");
    if !is_dots && text.bytes().all(is_unreserved) {
        return Cow::Borrowed(text);
    }
    let mut encoded = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if is_unreserved(byte) && !is_dots {
            encoded.push(char::from(byte));
        } else {
            push_escape(&mut encoded, byte);
        }
    }
    Cow::Owned(encoded)
}

/// Appends `raw` with its escapes kept, and everything escaped that a path or query cannot contain.
pub fn push_sanitised(text: &mut String, raw: &[u8]) {
    if raw.iter().all(|&byte| is_sane(byte))
        && let Ok(raw) = std::str::from_utf8(raw)
    {
        text.push_str(raw);
        return;
    }
    for &byte in raw {
        if is_sane(byte) {
            text.push(char::from(byte));
        } else {
            push_escape(text, byte);
        }
    }
}

/// Whether a path or query can contain `byte`.
fn is_sane(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'#')
}

/// `raw` with its escapes resolved; bytes that are not UTF-8 become U+FFFD.
pub fn decode(raw: &[u8]) -> String {
    let decoded = decode_bytes(raw).into_owned();
    String::from_utf8(decoded)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// `raw` with its escapes resolved.
pub fn decode_bytes(raw: &[u8]) -> Cow<'_, [u8]> {
    if !raw.contains(&b'%') {
        return Cow::Borrowed(raw);
    }
    let mut decoded = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((&byte, tail)) = rest.split_first() {
        match (byte, tail) {
            (b'%', [high, low, after @ ..]) if let Some(value) = pair(*high, *low) => {
                decoded.push(value);
                rest = after;
            }
            _ => {
                decoded.push(byte);
                rest = tail;
            }
        }
    }
    Cow::Owned(decoded)
}

fn pair(high: u8, low: u8) -> Option<u8> {
    let high = char::from(high).to_digit(16)?;
    let low = char::from(low).to_digit(16)?;
    u8::try_from(high << 4 | low).ok()
}

fn push_escape(text: &mut String, byte: u8) {
    let digit = |nibble: u8| char::from_digit(u32::from(nibble), 16).unwrap_or('0');
    text.push('%');
    text.push(digit(byte >> 4).to_ascii_uppercase());
    text.push(digit(byte & 15).to_ascii_uppercase());
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn what_is_encoded_decodes_to_itself() {
        for text in ["gpt-4o", "a b", "ä/ö?#&=+%", "100%", "..", ".", "日本", ""] {
            assert_eq!(decode(encode(text).as_bytes()), text);
        }
        assert_eq!(encode("a/b c"), "a%2Fb%20c");
        assert_eq!(encode(".."), "%2E%2E");
    }

    #[test]
    fn decoding_survives_anything() {
        assert_eq!(decode(b"%"), "%");
        assert_eq!(decode(b"%4"), "%4");
        assert_eq!(decode(b"%zz%41"), "%zzA");
        assert_eq!(decode(b"%ff\xfe"), "\u{fffd}\u{fffd}");
    }

    #[test]
    fn sanitising_keeps_escapes_and_escapes_what_is_not_a_path() {
        let mut text = String::from("/");
        push_sanitised(&mut text, b"a%2Fb");
        push_sanitised(&mut text, b"a b\xff\n");
        assert_eq!(text, "/a%2Fba%20b%FF%0A");
    }
}
