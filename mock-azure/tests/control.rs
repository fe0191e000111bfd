//! The control endpoints do over HTTP what the handle does in a test.

mod support;

use mock_azure::{Kind, Mock, MockConfig};
use support::*;

async fn mock() -> Mock {
    Mock::start(MockConfig::new("sweden").with_api_key("secret")).await.unwrap()
}

async fn statuses(mock: &Mock, count: usize) -> Vec<u16> {
    let mut seen = Vec::new();
    for _ in 0..count {
        let reply = send(mock, "GET", "/v1/models", "api-key: secret\r\n", b"").await;
        seen.push(reply.status());
    }
    seen
}

#[tokio::test]
async fn faults_are_ordered_once_several_times_and_for_good() {
    let mock = mock().await;
    post(&mock, "/_mock/fault", r#"{"fault":"throttle","retry_after_ms":300}"#).await;
    post(&mock, "/_mock/fault", r#"{"fault":"status","status":503,"times":2}"#).await;
    post(&mock, "/_mock/fault", r#"{"fault":"status","status":500,"mode":"always"}"#).await;
    assert_eq!(statuses(&mock, 5).await, [429, 503, 503, 500, 500]);
    assert_eq!(send(&mock, "DELETE", "/_mock/fault", "", b"").await.status(), 200);
    assert_eq!(statuses(&mock, 1).await, [200]);
}

#[tokio::test]
async fn every_fault_can_be_written_in_json() {
    let mock = mock().await;
    let faults = [
        r#"{"fault":"status","status":500,"headers":[["a","b"]],"body":"x"}"#,
        r#"{"fault":"throttle"}"#,
        r#"{"fault":"delay_first_byte","delay_ms":5}"#,
        r#"{"fault":"stall_mid_stream","after_events":1}"#,
        r#"{"fault":"reset_before_headers"}"#,
        r#"{"fault":"close_before_headers"}"#,
        r#"{"fault":"reset_after_headers","after_events":1}"#,
        r#"{"fault":"half_event","after_events":1,"ending":"reset"}"#,
        r#"{"fault":"garbage_html"}"#,
        r#"{"fault":"garbage_bytes"}"#,
        r#"{"fault":"error_first_event","shape":"responses_nested","code":"server_error"}"#,
        r#"{"fault":"in_band_throttle","retry_after_ms":300}"#,
        r#"{"fault":"slow_headers","bytes":10,"pause_ms":5}"#,
        r#"{"fault":"mid_stream_error","after_events":1}"#,
        r#"{"fault":"content_filter400"}"#,
        r#"{"fault":"context_length400"}"#,
        r#"{"fault":"empty_stream"}"#,
        r#"{"fault":"huge_created_event","bytes":40960,"then_error":true}"#,
        r#"{"fault":"backend_headers","headers":[["a","b"]]}"#,
        r#"{"fault":"refuse","for_ms":1}"#,
    ];
    for fault in faults {
        let reply = post(&mock, "/_mock/fault", fault).await;
        assert_eq!(reply.status(), 200, "{fault}: {}", reply.text());
    }
    let unknown = r#"{"fault":"explode"}"#;
    let reply = send(&mock, "POST", "/_mock/fault", "", unknown.as_bytes()).await;
    assert_eq!(reply.status(), 400);
}

#[tokio::test]
async fn records_are_listed_since_a_number_and_forgotten() {
    let mock = mock().await;
    statuses(&mock, 3).await;
    let listed = get(&mock, "/_mock/records?since=1").await.json();
    let numbers: Vec<_> = listed["records"].as_array().unwrap().iter().collect();
    assert_eq!(numbers.len(), 2);
    assert_eq!(numbers[0]["number"], 2);
    assert_eq!(numbers[0]["status"], 200);
    send(&mock, "DELETE", "/_mock/records", "", b"").await;
    assert_eq!(get(&mock, "/_mock/records").await.json()["records"], serde_json::json!([]));
}

#[tokio::test]
async fn settings_change_one_by_one_and_a_mistake_changes_nothing() {
    let mock = mock().await;
    let change = r#"{"latency":{"per_chunk_ms":7},
        "kind":{"kind":"provisioned","tokens_per_minute":60000,"burst_tokens":1000}}"#;
    assert_eq!(send(&mock, "PUT", "/_mock/config", "", change.as_bytes()).await.status(), 200);
    let config = mock.config();
    assert_eq!(config.latency.per_chunk.as_millis(), 7);
    assert_eq!(config.kind, Kind::Provisioned { tokens_per_minute: 60_000, burst_tokens: 1_000 });
    assert_eq!(config.api_key.as_deref(), Some("secret"));
    let mistake = br#"{"name":"x","latncy":{}}"#;
    assert_eq!(send(&mock, "PUT", "/_mock/config", "", mistake).await.status(), 400);
    assert_eq!(mock.config(), config);
}

#[tokio::test]
async fn stats_count_requests_and_statuses_but_not_their_own() {
    let mock = mock().await;
    statuses(&mock, 2).await;
    get(&mock, "/v1/models").await;
    let stats = get(&mock, "/_mock/stats").await.json();
    assert_eq!((&stats["requests"], &stats["by_status"]["401"]), (&3.into(), &1.into()));
    assert_eq!(stats["name"], "sweden");
}
