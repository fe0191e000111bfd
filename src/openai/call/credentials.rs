//! Recognises clients' credentials: in headers, query parameters, WebSocket subprotocols.
//!
//! A list of names is never complete: every gateway, cloud and framework has its own. So a header or
//! parameter is a credential by the *words* in its name, and only the few harmless ones with such a word
//! are listed. The two kinds of mistakes are not equally bad: one loses a harmless header, the other shows
//! a credential to a backend.
//!
//! Names may still mislead, so a *value* in the form of a credential is one under any name.

use super::percent;

/// The client's credentials that a backend with `passthrough` gets. The organisation and the project belong to
/// the key: they choose who is billed.
pub const PASSED: [&str; 4] = ["api-key", "authorization", "openai-organization", "openai-project"];

/// Browsers offer their key to a WebSocket in this header, because they can set no other.
pub const SUBPROTOCOLS: &str = "sec-websocket-protocol";

/// The beginnings of subprotocols that are real protocols. Any other may be a key, which clients can offer
/// without a name.
const SUBPROTOCOLS_KNOWN: [&[u8]; 2] = [b"openai-beta.", b"openai-agents-sdk."];

/// How often escapes within escapes are resolved; no honest client writes even one.
const DECODINGS_MAX: usize = 4;

/// Whether a request header of this name, in lower case, is a credential or identifies the client to its
/// own services.
pub fn is_header(name: &[u8]) -> bool {
    !is_usual(name)
        && !is_harmless(name)
        && (matches!(name, b"openai-organization" | b"openai-project" | b"dpop" | b"from")
            || name.starts_with(b"ocp-apim-")
            || name.starts_with(b"x-amz-")
            || name.starts_with(b"x-goog-")
            || has_part(name)
            || name.split(|byte| !byte.is_ascii_alphanumeric()).any(is_word))
}

/// Whether it is a header that every request has and that is never a credential.
fn is_usual(name: &[u8]) -> bool {
    matches!(
        name,
        [b':', ..]
            | b"accept"
            | b"content-length"
            | b"content-type"
            | b"user-agent"
            | b"x-forwarded-for"
            | b"x-forwarded-proto"
            | b"x-request-id"
    )
}

/// Whether the name has a word of a credential, but is harmless.
fn is_harmless(name: &[u8]) -> bool {
    matches!(name, b"sec-websocket-key" | b"idempotency-key" | b"x-idempotency-key")
        || name.starts_with(b"sec-fetch-")
}

/// Whether the value of a header has the form of a credential: a signed or encrypted token (JWS and JWE,
/// RFC 7515 and 7516, whose first part is a JSON object), or a token after the name of its scheme.
///
/// The schemes are those of `authorization` that occur in no other value, and the user name token of `x-wsse`.
#[inline]
pub fn is_value(value: &[u8]) -> bool {
    // Most values begin neither like one of the forms nor with white space.
    let first = value.first().map_or(b'x', u8::to_ascii_lowercase);
    matches!(first, 0..=b' ' | b'a' | b'b' | b'd' | b'e' | b'n' | b's' | b'u') && has_form(value)
}

fn has_form(value: &[u8]) -> bool {
    let value = value.trim_ascii_start();
    let schemes: &[&[u8]] = match value {
        // A quote follows the brace in any JSON that is written without white space.
        [b'e', b'y', b'J', ..] => return memchr::memchr_iter(b'.', value).nth(1).is_some(),
        [b'a' | b'A', b'w' | b'W', ..] => &[b"aws4-hmac-sha256 "],
        [b'b' | b'B', ..] => &[b"basic ", b"bearer "],
        [b'd' | b'D', b'p' | b'P', ..] => &[b"dpop "],
        [b'n' | b'N', ..] => &[b"negotiate ", b"ntlm "],
        [b's' | b'S', b'h' | b'H', ..] => &[b"sharedaccesssignature "],
        [b'u' | b'U', b's' | b'S', ..] => &[b"usernametoken "],
        _ => return false,
    };
    schemes.iter().any(|scheme| {
        value.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    })
}

/// Whether a parameter of a query, with its value and still percent-encoded, is a credential.
///
/// Old servers read a semicolon as an ampersand, so each piece between them is checked.
pub fn is_parameter(parameter: &[u8]) -> bool {
    names(parameter).any(|name| matches!(&*name, b"code" | b"_method") || is_header(&name))
        || values(parameter).any(|value| is_value(&value))
}

/// Every value that a server could read from a parameter, without escapes.
fn values(parameter: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    parameter.split(|byte| *byte == b';').filter_map(|piece| {
        let at = memchr::memchr(b'=', piece)?;
        Some(without_escapes(piece.get(at.saturating_add(1)..)?.to_vec()))
    })
}

/// Every name that a server could read from a parameter, in lower case and without escapes.
pub(super) fn names(parameter: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    parameter.split(|byte| *byte == b';').map(|piece| {
        let name = piece.split(|byte| *byte == b'=').next().unwrap_or_default();
        without_escapes(name.to_vec()).to_ascii_lowercase()
    })
}

fn without_escapes(mut text: Vec<u8>) -> Vec<u8> {
    for _ in 0..DECODINGS_MAX {
        if !text.contains(&b'%') {
            break;
        }
        text = percent::decode_bytes(&text).into_owned();
    }
    text
}

/// The subprotocols of a `sec-websocket-protocol` that may reach a backend; `None` when none of them may be a
/// credential.
pub fn without_subprotocols(offered: &[u8]) -> Option<Vec<u8>> {
    let is_credential = |one: &&[u8]| {
        let one = one.trim_ascii().to_ascii_lowercase();
        let is_known = matches!(&*one, b"" | b"realtime")
            || SUBPROTOCOLS_KNOWN.iter().any(|known| one.starts_with(known));
        !is_known || is_header(&one)
    };
    let items = || offered.split(|byte| *byte == b',');
    if !items().any(|one| is_credential(&one)) {
        return None;
    }
    let kept: Vec<&[u8]> =
        items().filter(|one| !is_credential(one)).map(<[u8]>::trim_ascii).collect();
    Some(kept.join(&b", "[..]))
}

/// Whether `name` contains a part that means a credential or an identity, anywhere in its words. Each part is
/// long enough not to occur in other words of header names.
fn has_part(name: &[u8]) -> bool {
    let mut rest = name;
    loop {
        // Two letters exclude nearly everything, and this runs for every byte.
        let parts: &[&[u8]] = match rest {
            [] => return false,
            [b'a', b'u', ..] => &[b"auth"],
            [b'a', b'p', ..] => &[b"appcheck"],
            [b'a', b's', ..] => &[b"assertion"],
            [b'a', b't', ..] => &[b"attest"],
            [b'b', b'e', ..] => &[b"bearer"],
            [b'c', b'e', ..] => &[b"cert"],
            [b'c', b'l', ..] => &[b"client-id", b"client_id", b"clientid"],
            [b'c', b'o', ..] => &[b"cookie"],
            [b'c', b'r', ..] => &[b"credential"],
            [b'c', b's', ..] => &[b"csrf"],
            [b'e', b'm', ..] => &[b"email"],
            [b'h', b'm', ..] => &[b"hmac"],
            [b'i', b'd', ..] => &[b"identity"],
            [b'i', b'm', ..] => &[b"impersonat"],
            [b'j', b'w', ..] => &[b"jwt"],
            [b'k', b'e', ..] => &[b"key"],
            [b'l', b'o', ..] => &[b"login", b"logon"],
            [b'm', b'a', ..] => &[b"macaroon"],
            [b'o', b'i', ..] => &[b"oidc"],
            [b'p', b'a', ..] => &[b"passc", b"passp", b"passw"],
            [b'p', b'r', ..] => &[b"principal"],
            [b'p', b'w', ..] => &[b"pwd"],
            [b's', b'a', ..] => &[b"saml"],
            [b's', b'e', ..] => &[b"secret", b"sessid", b"session"],
            [b's', b'i', ..] => &[b"signature"],
            [b's', b's', ..] => &[b"ssl-client", b"ssl_client"],
            [b't', b'l', ..] => &[b"tls-client", b"tls_client"],
            [b't', b'o', ..] => &[b"token"],
            [b'u', b's', ..] => &[b"user"],
            [b'w', b's', ..] => &[b"wsse"],
            [b'x', b's', ..] => &[b"xsrf"],
            _ => &[],
        };
        if parts.iter().any(|part| rest.starts_with(part)) && !is_software(rest) {
            return true;
        }
        rest = rest.get(1..).unwrap_or_default();
    }
}

/// Whether the name of a program begins here, and not that of a user.
fn is_software(rest: &[u8]) -> bool {
    let agent = rest.strip_prefix(b"user").map(|rest| match rest {
        [b'-' | b'_', rest @ ..] => rest,
        rest => rest,
    });
    agent.is_some_and(|agent| agent.starts_with(b"agent"))
}

/// Whether one word of a name means a credential or an identity. Only the whole word does; as part of another
/// word it proves nothing.
fn is_word(word: &[u8]) -> bool {
    matches!(
        word,
        b"account"
            | b"acct"
            | b"claim"
            | b"claims"
            | b"cn"
            | b"cred"
            | b"creds"
            | b"dn"
            | b"eppn"
            | b"group"
            | b"groups"
            | b"idp"
            | b"kerberos"
            | b"krb"
            | b"krb5"
            | b"mail"
            | b"mfa"
            | b"mtls"
            | b"ntlm"
            | b"otp"
            | b"pass"
            | b"pat"
            | b"pin"
            | b"psk"
            | b"pw"
            | b"role"
            | b"roles"
            | b"sas"
            | b"sess"
            | b"sid"
            | b"sig"
            | b"spnego"
            | b"ssid"
            | b"sso"
            | b"subject"
            | b"ticket"
            | b"totp"
            | b"uid"
            | b"upn"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const CREDENTIALS: [&str; 83] = [
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
        "from",
        "x-ssl-cert",
        "x-arr-clientcert",
        "x-client-certificate",
        "x-ssl-client-s-dn",
        "x-sas",
        "x-sas-url",
        "x-session",
        "x-session-id",
        "session_id",
        "x-jsessionid",
        "x-phpsessid",
        "x-csrf",
        "x-xsrf",
        "x-user-pass",
        "x-pass",
        "x-pwd",
        "x-userpwd",
        "x-passphrase",
        "x-passcode",
        "x-otp",
        "x-pin",
        "x-sig",
        "x-hmac-sha256",
        "x-client-id",
        "client_id",
        "x-ms-identity",
        "x-ms-identity-assertion",
        "x-forwarded-user",
        "x-forwarded-email",
        "x-forwarded-groups",
        "x-forwarded-preferred-username",
        "remote-user",
        "x-remote-user",
        "x-user-id",
        "x-userid",
        "x-user-email",
        "x-uid",
        "x-roles",
        "x-login",
        "chatgpt-account-id",
        "tailscale-user-login",
        "x-saml-nameid",
        "x-stainless-api-key",
        "x-amzn-oidc-data",
        "x-amzn-oidc-accesstoken",
        "x-amzn-oidc-identity",
        "x-amzn-mtls-serial-number",
        "x-wsse",
        "x-ssl-client-verify",
        "x-ssl-client-s-dn-cn",
        "ssl_client_serial",
        "x-tls-client-serial",
        "x-firebase-appcheck",
        "impersonate-for",
        "x-krb5-name",
    ];

    #[test]
    fn a_header_is_a_credential_by_the_words_of_its_name() {
        for name in CREDENTIALS {
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
            "x-amzn-tls-version",
            "x-attempt",
            "x-datadog-trace-id",
            "x-forwarded-for",
            "x-consumer",
            "aoai-evals",
            "x-ms-useragent",
            "x-ms-user-agent",
            "x-openai-client-user-agent",
            "x-stainless-helper-method",
            "x-client-request-id",
            "x-correlation-id",
            "x-passthrough",
            "sec-fetch-user",
            "sec-ch-ua",
            "accept-language",
            "origin",
            "priority",
            "x-disaster-recovery",
            "x-forwarded-proto",
            "x-forwarded-host",
            "x-cloud-trace-context",
            "x-ms-oai-image-generation-deployment",
            "openai-processing-ms",
        ] {
            assert!(!is_header(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_value_in_the_form_of_a_credential_is_one_under_any_name() {
        for value in [
            "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0=.c2ln",
            " eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..aXY.dGV4dA.dGFn",
            "Bearer abc",
            "bearer abc",
            "Basic dTpw",
            "NTLM abc",
            "Negotiate abc",
            "AWS4-HMAC-SHA256 Credential=x",
            "SharedAccessSignature sr=x",
            "UsernameToken Username=\"a\", PasswordDigest=\"b\"",
        ] {
            assert!(is_value(value.as_bytes()), "{value}");
        }
        for value in [
            "",
            "eyJhIjoxfQ",
            "eyJhIjoxfQ.x",
            "bearer",
            "basics",
            "application/json",
            "Basically, yes",
            "python-httpx/0.28.1",
            "node-fetch 1.2.3",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(!is_value(value.as_bytes()), "{value}");
        }
        assert!(is_parameter(b"x=eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhIn0.c2ln"));
        assert!(is_parameter(b"x=DPoP%20abc"));
        assert!(is_parameter(b"limit=1;x=Bearer%2520abc"));
        assert!(!is_parameter(b"after=eyJhIjoxfQ"));
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
            "pwd=x",
            "session=x",
            "sessionId=x",
            "sid=x",
            "se%73sion=x",
            "limit=1;sid=x",
            "user=x",
            "client_id=x",
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
            openai-project.p, openai-ephemeral-token.ek_1, base64url.bearer.authorization.k8s.io.x,\
            ek_abc, openai-beta.key.x, openai-beta.realtime-v1";
        let kept = without_subprotocols(offered).unwrap();
        assert_eq!(kept, b"realtime, openai-beta.realtime-v1");
        assert_eq!(without_subprotocols(b"openai-insecure-api-key.x").unwrap(), b"");
        for harmless in
            ["", "realtime", "Realtime, openai-beta.realtime-v1, openai-agents-sdk.0.1.3", ","]
        {
            assert_eq!(without_subprotocols(harmless.as_bytes()), None, "{harmless}");
        }
    }
}
