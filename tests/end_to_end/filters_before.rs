//! Envoy's own filters before Spillway, as docs/operations.md shows them.

use crate::harness::{CHAT, Gateway, Setup, chat_body};
use serde_json::{Value, json};
use std::sync::Arc;
use testbed::programs::text_of;

/// The example of docs/operations.md that begins with `first`.
fn example(first: &str) -> Value {
    let document = text_of("docs/operations.md");
    let shown = document.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let found = shown.into_iter().find(|yaml| yaml.starts_with(first)).unwrap();
    serde_yaml_ng::from_str(found).unwrap()
}

/// A gateway with this filter before Spillway, and with the replies that the document shows.
async fn behind(filter: Value) -> Gateway {
    let replies = example("local_reply_config:");
    Setup::new()
        .backend("first", json!({}))
        .whole(json!({"consumers": {
            "header": "x-consumer",
            "by_name": {"poor": {"tokens_per_minute": 1}, "spent": {"quota": {"tokens": 1, "period": "month"}}}
        }}))
        .settings(|settings| {
            settings.filters_before.push(filter);
            settings.adjust = Some(Arc::new(move |whole| {
                whole.manager()["local_reply_config"] = replies["local_reply_config"].clone();
            }));
        })
        .start()
        .await
}

async fn refused(gateway: &Gateway, status: u16, headers: &[(&str, &str)]) -> Value {
    let response = gateway.client.post_with(CHAT, headers, &chat_body()).await;
    assert_eq!(response.status, status, "{}", response.text());
    assert_eq!(response.header("content-type"), Some("application/json"));
    response.json()["error"].clone()
}

#[tokio::test]
async fn a_refusal_of_the_rate_limit_filter_has_the_shape_of_openai_and_a_time_to_come_back() {
    let gateway = behind(json!({
        "name": "envoy.filters.http.local_ratelimit",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": "limit",
            "token_bucket": {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "60s"},
            "filter_enabled": {"default_value": {"numerator": 100}},
            "filter_enforced": {"default_value": {"numerator": 100}},
            "response_headers_to_add": [{"header": {"key": "retry-after", "value": "60"}}]
        }
    }))
    .await;
    assert_eq!(gateway.chat().await.status, 200);
    let response = gateway.chat_with_status(429).await;
    assert_eq!(response.header("retry-after"), Some("60"));
    assert_eq!(response.json()["error"]["code"], "rate_limit_exceeded");
    assert_eq!(gateway.counts(), [1]);
}

#[tokio::test]
async fn refusals_of_authentication_have_the_shape_of_openai_and_the_gateways_own_stay() {
    let gateway = behind(json!({
        "name": "envoy.filters.http.rbac",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC",
            "rules": {"action": "DENY", "policies": {"barred": {
                "permissions": [{"any": true}],
                "principals": [{"header": {"name": "x-barred", "present_match": true}}]
            }}}
        }
    }))
    .await;
    let error = refused(&gateway, 403, &[("x-barred", "1")]).await;
    assert_eq!(error["type"], "permission_error", "{error}");
    // The mappers do not replace the gateway's own replies. What a consumer uses is counted after the response.
    for consumer in ["poor", "spent"] {
        let headers = [("x-consumer", consumer)];
        let response = gateway.client.post_with(CHAT, &headers, &chat_body()).await;
        assert_eq!(response.status, 200, "{}", response.text());
    }
    let error = refused(&gateway, 429, &[("x-consumer", "poor")]).await;
    assert_eq!(error["type"], "tokens", "{error}");
    assert_ne!(error["message"], "The rate limit of this consumer is used up.");
    let error = refused(&gateway, 403, &[("x-consumer", "spent")]).await;
    assert_eq!(error["type"], "insufficient_quota", "{error}");
    assert_eq!(gateway.counts(), [2]);
}

#[tokio::test]
async fn without_a_key_the_response_has_the_shape_of_openai() {
    let gateway = behind(json!({
        "name": "envoy.filters.http.api_key_auth",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.api_key_auth.v3.ApiKeyAuth",
            "credentials": [{"client": "web", "key": "the-key-of-web"}],
            "key_sources": [{"header": "api-key"}]
        }
    }))
    .await;
    assert_eq!(refused(&gateway, 401, &[]).await["code"], "invalid_api_key");
    let response =
        gateway.client.post_with(CHAT, &[("api-key", "the-key-of-web")], &chat_body()).await;
    assert_eq!(response.status, 200, "{}", response.text());
}

/// How often the rate limit filter before Spillway asked a service that does not exist.
async fn questions(has_catch_all: bool) -> u64 {
    let mut filter = example("- name: envoy.filters.http.ratelimit")[0].clone();
    filter["typed_config"]["timeout"] = json!("5s");
    let gateway = Setup::new()
        .backend("first", json!({}))
        .whole(json!({"consumers": {"header": "x-consumer"}}))
        .settings(|settings| {
            settings.has_catch_all = has_catch_all;
            settings.filters_before.push(filter);
            settings.adjust = Some(Arc::new(|whole| {
                let service = json!({
                    "name": "ratelimit",
                    "type": "STATIC",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                            "explicit_http_config": {"http2_protocol_options": {}}
                        }
                    },
                    "load_assignment": {"cluster_name": "ratelimit", "endpoints": [
                        {"lb_endpoints": [{"endpoint": {"address": {"socket_address":
                            {"address": "127.0.0.1", "port_value": 1}}}}]}
                    ]}
                });
                whole.clusters().push(service);
            }));
        })
        .start()
        .await;
    let response = gateway.client.post_with(CHAT, &[("x-consumer", "web")], &chat_body()).await;
    assert_eq!(response.status, 200, "{}", response.text());
    gateway.envoy.stat("cluster.ratelimit.upstream_rq_total").await
        + gateway.envoy.stat("cluster.ratelimit.upstream_cx_connect_fail").await
}

#[tokio::test]
async fn a_rate_limit_filter_asks_only_where_the_catch_all_cluster_exists() {
    assert_eq!(questions(false).await, 0);
    assert!(questions(true).await > 0);
}
