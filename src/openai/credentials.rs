//! By what names clients send their credentials: headers, query parameters, WebSocket subprotocols.
//!
//! A list of names is never complete: every gateway, cloud and framework has some of its own. So a
//! header or parameter is a credential by the *words* in its name, and the few harmless ones that have
//! such a word are listed instead. What choosing wrongly costs is not equal: a header too few is missed
//! by somebody, a credential too many is shown to a backend.

use super::percent;

/// The client's credentials that a backend with `passthrough` is sent. The organisation and the project
/// belong to the key: they say who of those that it may speak for is billed.
pub const PASSED: [&str; 4] = ["api-key", "authorization", "openai-organization", "openai-project"];

/// The header in which browsers offer their key to a WebSocket, as they can set no other.
pub const SUBPROTOCOLS: &str = "sec-websocket-protocol";

/// What the subprotocols begin with that are none.
const SUBPROTOCOL_CREDENTIALS: [&[u8]; 3] =
    [b"openai-insecure-api-key", b"openai-organization", b"openai-project"];

/// Escapes within escapes are resolved so often; nobody honest writes even one of them.
const DECODINGS_MAX: usize = 4;

/// Whether a request header of this name, in lower case, is a credential or says who the client is to
/// its own services.
pub fn is_header(name: &[u8]) -> bool {
    let is_harmless = matches!(
        name,
        b"" | [b':', ..] | b"sec-websocket-key" | b"idempotency-key" | b"x-idempotency-key"
    ) || name.starts_with(b"x-stainless-");
    !is_harmless
        && (matches!(name, b"openai-organization" | b"openai-project" | b"dpop" | b"x-ssl-cert")
            || name.starts_with(b"ocp-apim-")
            || name.starts_with(b"x-amz-")
            || name.starts_with(b"x-goog-")
            || has_word(name))
}

/// Whether a parameter of a query, with its value and still percent-encoded, is a credential.
///
/// Old servers take a semicolon for an ampersand, so each piece between them is looked at.
pub fn is_parameter(parameter: &[u8]) -> bool {
    parameter.split(|byte| *byte == b';').any(|piece| {
        let name = piece.split(|byte| *byte == b'=').next().unwrap_or_default();
        let mut name = name.to_ascii_lowercase();
        for _ in 0..DECODINGS_MAX {
            if !name.contains(&b'%') {
                break;
            }
            name = percent::decode_bytes(&name).to_ascii_lowercase();
        }
        matches!(&*name, b"code" | b"sig" | b"_method") || is_header(&name)
    })
}

/// The subprotocols that a client may offer to a backend, given a `sec-websocket-protocol`; `None` when
/// there is no credential among them.
pub fn without_subprotocols(offered: &[u8]) -> Option<Vec<u8>> {
    let is_credential = |one: &&[u8]| {
        let one = one.trim_ascii();
        SUBPROTOCOL_CREDENTIALS.iter().any(|credential| {
            one.get(..credential.len()).is_some_and(|start| start.eq_ignore_ascii_case(credential))
        })
    };
    let items = || offered.split(|byte| *byte == b',');
    if !items().any(|one| is_credential(&one)) {
        return None;
    }
    let kept: Vec<&[u8]> =
        items().filter(|one| !is_credential(one)).map(<[u8]>::trim_ascii).collect();
    Some(kept.join(&b", "[..]))
}

/// Whether a word that stands for a credential or for an identity is part of `name`.
fn has_word(name: &[u8]) -> bool {
    let mut rest = name;
    while let Some((first, after)) = rest.split_first() {
        let words: &[&[u8]] = match first {
            b'a' => &[b"auth", b"assertion"],
            b'b' => &[b"bearer"],
            b'c' => &[b"cookie", b"credential", b"client-cert", b"client_cert"],
            b'j' => &[b"jwt"],
            b'k' => &[b"key"],
            b'p' => &[b"passw", b"principal"],
            b's' => &[b"secret", b"signature"],
            b't' => &[b"token"],
            _ => &[],
        };
        if words.iter().any(|word| rest.starts_with(word)) {
            return true;
        }
        rest = after;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn a_header_is_a_credential_by_the_words_of_its_name() {
        for name in [
            "api-key",
            "apikey",
            "api_key",
            "authorization",
            "proxy-authorization",
            "x-authorization",
            "x-api-key",
            "x-functions-key",
            "cookie",
            "cookie2",
            "ocp-apim-subscription-key",
            "ocp-apim-trace",
            "subscription-key",
            "openai-organization",
            "openai-project",
            "x-amz-security-token",
            "x-goog-iam-authority-selector",
            "x-goog-api-key",
            "x-ms-client-principal",
            "x-ms-client-principal-id",
            "x-ms-token-aad-access-token",
            "x-forwarded-client-cert",
            "x-forwarded-access-token",
            "cf-access-jwt-assertion",
            "x-auth-request-email",
            "x-csrf-token",
            "dpop",
        ] {
            assert!(is_header(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn what_sdks_and_tracing_send_is_no_credential() {
        for name in [
            "",
            ":authority",
            ":path",
            "accept",
            "content-type",
            "content-length",
            "user-agent",
            "host",
            "openai-beta",
            "x-stainless-lang",
            "x-stainless-package-version",
            "x-stainless-retry-count",
            "x-ms-client-request-id",
            "x-ms-enable-preview",
            "x-request-id",
            "idempotency-key",
            "sec-websocket-key",
            "sec-websocket-protocol",
            "sec-websocket-version",
            "upgrade",
            "connection",
            "keep-alive",
            "traceparent",
            "tracestate",
            "baggage",
            "x-b3-traceid",
            "x-amzn-trace-id",
            "x-datadog-trace-id",
            "x-forwarded-for",
            "x-consumer",
            "x-session",
            "aoai-evals",
        ] {
            assert!(!is_header(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_parameter_is_a_credential_under_any_escape_and_separator() {
        for parameter in [
            "api-key=x",
            "API-KEY=x",
            "api_key=x",
            "apikey",
            "key=x",
            "subscription-key=x",
            "access_token=x",
            "code=x",
            "sig=x",
            "%61pi-key=x",
            "api%2Dkey=x",
            "api%252dkey=x",
            "a%70i%25252Dkey=x",
            "limit=1;api-key=x",
            "_method=DELETE",
        ] {
            assert!(is_parameter(parameter.as_bytes()), "{parameter}");
        }
        for parameter in [
            "",
            "=",
            "limit=20",
            "after=key_1",
            "order=desc",
            "purpose=batch",
            "include[]=message.output_text.logprobs",
            "starting_after=4",
            "stream=true",
            "intent=transcription",
            "codec=x",
            "x=%",
        ] {
            assert!(!is_parameter(parameter.as_bytes()), "{parameter}");
        }
    }

    #[test]
    fn only_the_credentials_among_subprotocols_go() {
        let offered = b"realtime, openai-insecure-api-key.sk-1,OpenAI-Organization.org ,\
            openai-project.p, openai-beta.realtime-v1";
        let kept = without_subprotocols(offered).unwrap();
        assert_eq!(kept, b"realtime, openai-beta.realtime-v1");
        assert_eq!(without_subprotocols(b"openai-insecure-api-key.x").unwrap(), b"");
        for harmless in ["", "realtime", "realtime, openai-beta.realtime-v1", ",", "openai"] {
            assert_eq!(without_subprotocols(harmless.as_bytes()), None, "{harmless}");
        }
    }
}
