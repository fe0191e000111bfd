//! Settings of Envoy without which the two roles do not work together: the answer and the log say which.

use crate::harness::first_and_second;
use serde_json::{Value, json};
use std::sync::Arc;

#[tokio::test]
async fn roles_in_different_vms_are_told_in_answer_and_log() {
    let gateway = first_and_second()
        .settings(|settings| {
            settings.adjust = Some(Arc::new(|bootstrap: &mut Value| {
                for cluster in bootstrap["static_resources"]["clusters"].as_array_mut().unwrap() {
                    let filters = &mut cluster["typed_extension_protocol_options"]
                        ["envoy.extensions.upstreams.http.v3.HttpProtocolOptions"]["http_filters"];
                    filters[0]["typed_config"]["config"]["vm_config"]["configuration"] = json!({
                        "@type": "type.googleapis.com/google.protobuf.StringValue",
                        "value": "another"
                    });
                }
            }));
        })
        .start()
        .await;
    for _ in 0..3 {
        let answer = gateway.chat().await;
        assert_eq!(answer.status, 503, "{}", answer.text());
        let message = answer.json()["error"]["message"].to_string();
        assert!(message.contains("vm_config"), "{message}");
        assert!(answer.header("retry-after").is_some());
    }
    let log = gateway.envoy.log();
    assert_eq!(log.matches("give them the same vm_config").count(), 1, "{log}");
    assert_eq!(gateway.counts(), [0, 0]);
}
