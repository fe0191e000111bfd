//! Which headers of a backend's response its client is shown.
//!
//! A client talks to the gateway, whoever serves it. So nothing passes that
//!
//! - *names one member of the pool*, where a client could turn past the gateway: its host in any value, a
//!   deployment, the place of what was created. A place at the backend itself becomes a path, by which
//!   the client finds it through the gateway;
//! - *is a credential*, or belongs to the gateway's own: a key, a session, an organisation, a challenge;
//! - *speaks for a host* to whoever asked it, such as cookies and the policies of browsers: here it would
//!   speak for the gateway's;
//! - *steers Envoy*: a backend may stand behind an Envoy of its own, whose `x-envoy-ratelimited` forbids
//!   this one every retry.

use super::credentials;
use memchr::memmem;

/// What is known of the backend that answered.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Its host, as the configuration has it.
    pub host: &'a str,
    /// Whether it was sent the gateway's credential.
    pub owns_credential: bool,
    /// Whether the client sees what it says of its limits.
    pub keeps_rate_limits: bool,
}

impl Origin<'_> {
    /// Whether its host stands somewhere in the value of a header. A host without a dot is a word like
    /// others, and is not looked for.
    pub fn is_named_in(&self, value: &[u8]) -> bool {
        let name = self.host.as_bytes().split(|byte| *byte == b':').next().unwrap_or_default();
        // Most values are too short or have no dot, and then nothing has to be searched.
        value.len() >= name.len()
            && memchr::memchr(b'.', value).is_some()
            && name.contains(&b'.')
            && memmem::find(value, name).is_some()
    }

    /// Whether a header of this name must not pass, whatever its value.
    pub fn is_unwanted(&self, name: &[u8]) -> bool {
        match name {
            b"content-type" | b"content-length" | b"date" | b"retry-after" | b"" | [b':', ..] => {
                false
            }
            _ if is_rate_limit(name) => !self.keeps_rate_limits,
            b"www-authenticate" => self.owns_credential,
            _ => {
                names_member(name)
                    || speaks_for_host(name)
                    || name.starts_with(b"x-spillway-")
                    || name.starts_with(b"x-envoy-")
                    || (credentials::is_header(name) && !name.starts_with(b"access-control-"))
            }
        }
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
        let names_deployment = memmem::find(path, b"/deployments/").is_some();
        (is_path && !names_deployment).then_some(path)
    }
}

/// Whether the value of a header of this name is a place.
pub fn is_place(name: &[u8]) -> bool {
    matches!(
        name,
        b"location" | b"content-location" | b"operation-location" | b"azure-asyncoperation"
    )
}

fn is_rate_limit(name: &[u8]) -> bool {
    name.starts_with(b"x-ratelimit-")
        || name.starts_with(b"x-rate-limit-")
        || name == b"azure-openai-deployment-utilization"
}

/// Whether it tells one deployment from another. The region is none, and Azure's support asks for it.
fn names_member(name: &[u8]) -> bool {
    name.starts_with(b"x-ms-spillover-")
        || name.starts_with(b"azureml-model-")
        || matches!(name, b"x-ms-deployment-name" | b"x-served-by")
}

fn speaks_for_host(name: &[u8]) -> bool {
    matches!(
        name,
        b"alt-svc"
            | b"clear-site-data"
            | b"link"
            | b"nel"
            | b"refresh"
            | b"report-to"
            | b"reporting-endpoints"
            | b"strict-transport-security"
    )
}

/// What follows `http://`, `https://` or `//`, which servers take for one of these.
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
        host: "contoso-uks.openai.azure.com:443",
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
        ] {
            assert!(ORIGIN.is_unwanted(name.as_bytes()), "{name}");
        }
        let passed = Origin { owns_credential: false, keeps_rate_limits: true, ..ORIGIN };
        for name in ["www-authenticate", "x-ratelimit-limit-tokens", "x-ratelimit-reset-tokens"] {
            assert!(!passed.is_unwanted(name.as_bytes()), "{name}");
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
            "access-control-allow-origin",
            "access-control-allow-credentials",
            "x-content-type-options",
            "cache-control",
            "etag",
            "vary",
            "upgrade",
            "connection",
            "sec-websocket-accept",
            "sec-websocket-protocol",
        ] {
            assert!(!ORIGIN.is_unwanted(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_place_at_the_backend_becomes_a_path_and_any_other_is_nobodys() {
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
        assert!(ORIGIN.is_named_in(b"1.1 contoso-uks.openai.azure.com (x)"));
        assert!(!ORIGIN.is_named_in(b"contoso-swc.openai.azure.com"));
        for host in ["", "json", "vllm:8000"] {
            let origin = Origin { host, ..ORIGIN };
            assert!(!origin.is_named_in(b"application/json; vllm:8000"), "{host}");
        }
    }
}
