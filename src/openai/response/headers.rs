//! Which headers of a backend's response reach the client.
//!
//! For the client, the gateway is the server. So these headers do not pass:
//!
//! - those that *name one backend of the pool*, which a client could then call directly: its host in any value,
//!   a deployment, the location of a new object. A location at the backend itself becomes a path, which the
//!   client reaches through the gateway;
//! - those that *are a credential*, or belong to the gateway's own: a key, a session, an organisation, a
//!   challenge. A backend that echoes its request shows the gateway's key under any name;
//! - those that *speak for a host*, such as cookies and the policies of browsers: they would apply to the
//!   gateway's host. So would permissions for pages of other origins (`access-control-*`). The gateway answers
//!   no preflight request; Envoy's CORS filter, which does, sends these headers itself;
//! - those that *steer a proxy in front*: a backend may be behind another Envoy, whose `x-envoy-ratelimited`
//!   forbids this one every retry; `x-accel-redirect` makes nginx send another file.

use crate::openai::bytes;
use crate::openai::call::credentials;
use memchr::memmem;

/// The part of a path before a deployment.
const DEPLOYMENTS: &[u8] = b"/deployments/";

/// The shortest key that is looked for in values. Real ones have 32 bytes and more.
const KEY_BYTES_MIN: usize = 8;

/// The backend that sent the response.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Its host, as configured.
    pub host: &'a str,
    /// The deployment in its request; empty when the client used the same name.
    pub deployment: &'a str,
    /// The gateway's key in its request, without the name of a scheme; empty when there was none.
    pub key: &'a [u8],
    /// Whether its request had the gateway's credential.
    pub owns_credential: bool,
    /// Whether the client sees its rate-limit headers.
    pub keeps_rate_limits: bool,
}

/// The kinds of response headers, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nearly every response has it, and it never contains what must not pass.
    Plain,
    /// Its value is a location.
    Place,
    /// It states a backend's limits, or their use.
    RateLimit,
    /// It asks for a credential.
    Challenge,
    /// It must not pass, whatever its value.
    Unwanted,
    /// The response could not be read without it.
    Framing,
    /// Any other.
    Other,
}

impl Kind {
    /// The kind of the header of this name, which is in lower case.
    pub fn of(name: &[u8]) -> Self {
        match name {
            b"content-type" | b"content-length" | b"date" | b"retry-after" | b"" | [b':', ..] => {
                Self::Plain
            }
            b"location" | b"content-location" | b"operation-location" | b"azure-asyncoperation" => {
                Self::Place
            }
            b"www-authenticate" => Self::Challenge,
            _ if is_rate_limit(name) => Self::RateLimit,
            _ if is_unwanted(name) => Self::Unwanted,
            _ if is_framing(name) => Self::Framing,
            _ => Self::Other,
        }
    }
}

impl Origin<'_> {
    /// Whether a header must not pass, by its kind or by its value.
    pub fn must_not_pass(&self, kind: Kind, value: &[u8]) -> bool {
        match kind {
            Kind::Plain => false,
            Kind::Unwanted => true,
            Kind::RateLimit if !self.keeps_rate_limits => true,
            Kind::Challenge if self.owns_credential => true,
            Kind::Framing => self.is_told_by(value, names_place(value)),
            Kind::Place | Kind::RateLimit | Kind::Challenge | Kind::Other => {
                let names_place = names_place(value);
                self.is_told_by(value, names_place) || self.is_deployment(value, names_place)
            }
        }
    }

    /// Whether a value contains the host or a key.
    fn is_told_by(&self, value: &[u8], names_place: bool) -> bool {
        (self.owns_credential && credentials::is_value(value))
            || self.is_key_in(value)
            || (names_place && self.is_host_in(value))
    }

    /// Whether a value is the deployment, or the path of one. One may be called `realtime`, as the
    /// subprotocol is.
    fn is_deployment(&self, value: &[u8], names_place: bool) -> bool {
        let is_it = !self.deployment.is_empty()
            && value.len() >= self.deployment.len()
            && value.trim_ascii().eq_ignore_ascii_case(self.deployment.as_bytes());
        is_it || (names_place && memmem::find(value, DEPLOYMENTS).is_some())
    }

    /// Whether a value contains its host. A host without a dot is a word like others, so it is not searched.
    fn is_host_in(&self, value: &[u8]) -> bool {
        let name = self.host.as_bytes().split(|byte| *byte == b':').next().unwrap_or_default();
        value.len() >= name.len()
            && name.contains(&b'.')
            && memmem::find(&value.to_ascii_lowercase(), &name.to_ascii_lowercase()).is_some()
    }

    /// Whether a value contains the key. A short one is a word like others.
    fn is_key_in(&self, value: &[u8]) -> bool {
        let room = value.len().checked_sub(self.key.len());
        let (Some(room), Some(first)) = (room, self.key.first()) else { return false };
        let starts = value.get(..=room).unwrap_or_default();
        self.key.len() >= KEY_BYTES_MIN
            && starts.iter().enumerate().any(|(at, byte)| {
                byte == first && value.get(at..).is_some_and(|value| value.starts_with(self.key))
            })
    }

    /// What a client is told of a place that the backend names: its path, if it is at the backend and no
    /// deployment stands in it.
    pub fn place<'v>(&self, value: &'v [u8]) -> Option<&'v [u8]> {
        let value = value.trim_ascii();
        let path = match after_scheme(value) {
            Some(rest) => {
                let len = rest.iter().position(|byte| matches!(byte, b'/' | b'?' | b'#'))?;
                let (authority, path) = rest.split_at_checked(len)?;
                let host = authority.split(|byte| *byte == b':').next().unwrap_or_default();
                let is_own = self.host.split(':').next().unwrap_or_default().as_bytes();
                path.get(..).filter(|_| host.eq_ignore_ascii_case(is_own))?
            }
            None => value,
        };
        let path = path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
        let is_path = matches!(path, [b'/'] | [b'/', b'!'..=b'.' | b'0'..=b'[' | b']'..=b'~', ..]);
        let names_deployment = memmem::find(path, DEPLOYMENTS).is_some();
        (is_path && !names_deployment).then_some(path)
    }
}

/// Whether a value can name a host or have a path. Most have neither byte.
fn names_place(value: &[u8]) -> bool {
    bytes::dot_or_slash(value) < value.len()
}

/// Whether a header of this name must not pass, whatever its value.
fn is_unwanted(name: &[u8]) -> bool {
    names_member(name)
        || speaks_for_host(name)
        || name.starts_with(b"x-spillway-")
        || name.starts_with(b"x-envoy-")
        || credentials::is_header(name)
}

/// Whether the response could not be read without the header.
fn is_framing(name: &[u8]) -> bool {
    name.starts_with(b"content-")
        || name.starts_with(b"sec-websocket-")
        || matches!(name, b"connection" | b"transfer-encoding" | b"upgrade")
}

fn is_rate_limit(name: &[u8]) -> bool {
    name.starts_with(b"x-ratelimit-")
        || name.starts_with(b"x-rate-limit-")
        || name == b"azure-openai-deployment-utilization"
}

/// Whether it names a deployment. The region does not, and Azure's support asks for it.
fn names_member(name: &[u8]) -> bool {
    name.starts_with(b"x-ms-spillover-")
        || name.starts_with(b"azureml-model-")
        || matches!(name, b"x-ms-deployment-name" | b"x-served-by")
}

/// Whether it tells a browser, or a proxy on the way, something about the host.
fn speaks_for_host(name: &[u8]) -> bool {
    match name {
        [b'a', ..] => {
            name.starts_with(b"accept-ch")
                || name.starts_with(b"access-control-")
                || name.starts_with(b"attribution-reporting-")
                || matches!(name, b"alt-svc" | b"activate-storage-access")
        }
        [b'c', ..] => {
            name.starts_with(b"content-security-policy")
                || name.starts_with(b"cross-origin-")
                || matches!(name, b"clear-site-data" | b"critical-ch")
        }
        [b'd' | b'f' | b'i' | b'p' | b'r', ..] => {
            let name = name.strip_suffix(b"-report-only").unwrap_or(name);
            matches!(
                name,
                b"document-policy"
                    | b"feature-policy"
                    | b"integrity-policy"
                    | b"permissions-policy"
                    | b"refresh"
                    | b"report-to"
                    | b"reporting-endpoints"
                    | b"require-document-policy"
            )
        }
        [b'x', b'-', rest @ ..] => {
            // The only harmless one of nginx: it only marks a stream.
            (rest.starts_with(b"accel-") && rest != b"accel-buffering")
                || rest.starts_with(b"content-security-policy")
                || matches!(
                    rest,
                    b"frame-options"
                        | b"lighttpd-send-file"
                        | b"litespeed-location"
                        | b"permitted-cross-domain-policies"
                        | b"reproxy-url"
                        | b"sendfile"
                        | b"sendfile2"
                        | b"webkit-csp"
                )
        }
        _ => matches!(
            name,
            b"expect-ct"
                | b"link"
                | b"nel"
                | b"observe-browsing-topics"
                | b"origin-agent-cluster"
                | b"origin-trial"
                | b"service-worker-allowed"
                | b"speculation-rules"
                | b"strict-transport-security"
                | b"supports-loading-mode"
                | b"timing-allow-origin"
                | b"use-as-dictionary"
        ),
    }
}

/// The part after `http://`, `https://` or `//`, which servers treat like these.
fn after_scheme(value: &[u8]) -> Option<&[u8]> {
    [&b"https://"[..], b"http://", b"//"].into_iter().find_map(|scheme| {
        let (start, rest) = value.split_at_checked(scheme.len())?;
        start.eq_ignore_ascii_case(scheme).then_some(rest)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    const ORIGIN: Origin<'static> = Origin {
        host: "Contoso-uks.openai.azure.com:443",
        deployment: "gpt-4o-ptu",
        key: b"0123456789abcdef",
        owns_credential: true,
        keeps_rate_limits: false,
    };

    #[test]
    fn what_names_a_member_is_a_credential_or_speaks_for_a_host_does_not_pass() {
        for name in [
            "api-key",
            "authorization",
            "proxy-authenticate",
            "authentication-info",
            "www-authenticate",
            "x-ms-client-principal",
            "x-api-token",
            "set-cookie",
            "set-cookie2",
            "openai-organization",
            "openai-project",
            "x-ms-deployment-name",
            "x-ms-spillover-from-deployment",
            "x-ms-spillover-error",
            "azureml-model-deployment",
            "azureml-model-session",
            "x-served-by",
            "x-spillway-retry",
            "x-envoy-ratelimited",
            "x-ratelimit-remaining-tokens",
            "x-rate-limit-reset-tokens",
            "azure-openai-deployment-utilization",
            "strict-transport-security",
            "alt-svc",
            "link",
            "access-control-allow-origin",
            "access-control-allow-credentials",
            "accept-ch",
            "accept-ch-lifetime",
            "critical-ch",
            "content-security-policy",
            "content-security-policy-report-only",
            "cross-origin-opener-policy",
            "permissions-policy-report-only",
            "origin-trial",
            "service-worker-allowed",
            "speculation-rules",
            "expect-ct",
            "x-frame-options",
            "x-accel-redirect",
            "x-accel-expires",
            "x-sendfile",
        ] {
            assert!(ORIGIN.must_not_pass(Kind::of(name.as_bytes()), b"1"), "{name}");
        }
        let passed = Origin { owns_credential: false, keeps_rate_limits: true, ..ORIGIN };
        for name in ["www-authenticate", "x-ratelimit-limit-tokens", "x-ratelimit-reset-tokens"] {
            assert!(!passed.must_not_pass(Kind::of(name.as_bytes()), b"1"), "{name}");
        }
    }

    #[test]
    fn what_clients_and_support_need_passes() {
        for name in [
            ":status",
            "content-type",
            "content-length",
            "content-encoding",
            "content-disposition",
            "transfer-encoding",
            "date",
            "server",
            "retry-after",
            "retry-after-ms",
            "x-ms-retry-after-ms",
            "x-should-retry",
            "x-request-id",
            "x-ms-request-id",
            "x-ms-client-request-id",
            "apim-request-id",
            "x-ms-region",
            "x-ms-rai-invoked",
            "openai-processing-ms",
            "openai-version",
            "openai-model",
            "location",
            "content-location",
            "operation-location",
            "accept-ranges",
            "age",
            "x-accel-buffering",
            "x-content-type-options",
            "cache-control",
            "etag",
            "vary",
            "upgrade",
            "connection",
            "sec-websocket-accept",
            "sec-websocket-protocol",
        ] {
            assert!(!ORIGIN.must_not_pass(Kind::of(name.as_bytes()), b"1"), "{name}");
        }
    }

    #[test]
    fn a_location_at_the_backend_becomes_a_path_and_any_other_is_removed() {
        let place = |value: &'static str| ORIGIN.place(value.as_bytes());
        let calls = Some(&b"/openai/v1/realtime/calls/rtc_1"[..]);
        for value in [
            "/openai/v1/realtime/calls/rtc_1",
            "/openai/v1/realtime/calls/rtc_1?sig=x",
            " https://contoso-uks.openai.azure.com/openai/v1/realtime/calls/rtc_1",
            "HTTPS://CONTOSO-UKS.openai.azure.com:443/openai/v1/realtime/calls/rtc_1?api-version=v1#x",
            "http://contoso-uks.openai.azure.com:80/openai/v1/realtime/calls/rtc_1",
            "//contoso-uks.openai.azure.com/openai/v1/realtime/calls/rtc_1",
        ] {
            assert_eq!(place(value), calls, "{value}");
        }
        for value in [
            "",
            "https://elsewhere.example/openai/v1/x",
            "https://contoso-uks.openai.azure.com.example/x",
            "https://x@contoso-uks.openai.azure.com/x",
            "https://contoso-uks.openai.azure.com",
            "https://contoso-uks.openai.azure.com//elsewhere.example/x",
            "https://10.0.0.1:8443/x",
            "//elsewhere.example/x",
            "/\\elsewhere.example",
            "ftp://contoso-uks.openai.azure.com/x",
            "contoso-uks.openai.azure.com/x",
            "/openai/deployments/gpt-4o-ptu/chat/completions/1",
            "https://contoso-uks.openai.azure.com/openai/deployments/gpt-4o-ptu/x",
        ] {
            assert_eq!(place(value), None, "{value}");
        }
    }

    #[test]
    fn a_host_is_found_wherever_it_is_named_unless_it_is_a_mere_word() {
        let is_host = |value: &str| ORIGIN.must_not_pass(Kind::of(b"x-up"), value.as_bytes());
        assert!(is_host("1.1 contoso-uks.openai.azure.com (x)"));
        assert!(is_host("https://CONTOSO-uks.OpenAI.azure.com/x"));
        assert!(!is_host("contoso-swc.openai.azure.com"));
        for host in ["", "json", "vllm:8000"] {
            let origin = Origin { host, ..ORIGIN };
            assert!(
                !origin.must_not_pass(Kind::of(b"via"), b"application/json; vllm:8000"),
                "{host}"
            );
        }
    }

    #[test]
    fn the_gateways_key_and_the_deployment_pass_under_no_name() {
        let passes = |origin: &Origin<'_>, name: &str, value: &str| {
            !origin.must_not_pass(Kind::of(name.as_bytes()), value.as_bytes())
        };
        for value in ["0123456789abcdef", "Bearer 0123456789abcdef", "key=0123456789abcdef;x"] {
            assert!(!passes(&ORIGIN, "x-debug", value), "{value}");
        }
        assert!(passes(&ORIGIN, "x-debug", "0123456789abcde"));
        assert!(passes(&Origin { key: b"a", ..ORIGIN }, "x-debug", "a"));
        assert!(passes(
            &Origin { key: b"", owns_credential: false, ..ORIGIN },
            "x-debug",
            "Bearer x"
        ));
        assert!(!passes(&ORIGIN, "openai-model", "gpt-4o-ptu"));
        assert!(!passes(&ORIGIN, "x-any", " GPT-4o-PTU"));
        assert!(passes(&ORIGIN, "openai-model", "gpt-4o"));
        let own = Origin { deployment: "", ..ORIGIN };
        assert!(passes(&own, "openai-model", "gpt-4o-ptu"));
        assert!(passes(&own, "x-empty", ""));
        assert!(!passes(&own, "x-path", "/openai/deployments/any/chat"));
        assert!(!passes(&own, "x-sent", "Bearer eyJ"));
        // A response that cannot be read is useless.
        let odd = Origin { deployment: "realtime", ..ORIGIN };
        assert!(passes(&odd, "sec-websocket-protocol", "realtime"));
    }
}
