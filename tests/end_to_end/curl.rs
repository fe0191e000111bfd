//! A client that none of us wrote.

use crate::harness::{Gateway, Setup, deployment_of};
use serde_json::{Value, json};
use std::process::Stdio;
use tokio::process::Command;

/// Runs `curl` with these arguments against the gateway; `None` where there is no curl.
async fn curl(gateway: &Gateway, path: &str, arguments: &[&str]) -> Option<String> {
    let url = format!("http://127.0.0.1:{}{path}", gateway.envoy.port);
    let run = Command::new("curl")
        .args(["--silent", "--show-error", "--no-buffer", "--max-time", "30"])
        .args(arguments)
        .arg(url)
        .stdin(Stdio::null())
        .output()
        .await;
    let Ok(run) = run else {
        println!("there is no curl on PATH: nothing was tested");
        return None;
    };
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    Some(String::from_utf8(run.stdout).unwrap())
}

#[tokio::test]
async fn curl_reads_a_stream() {
    let gateway = Setup::new().backend("north", json!({})).start().await;
    // Without a content type curl states that it sends a form.
    let body = r#"{"model": "gpt-4o", "stream": true, "messages": []}"#;
    let arguments = ["--data", body, "--header", "api-key: mine", "--include"];
    let Some(text) = curl(&gateway, "/v1/chat/completions", &arguments).await else { return };
    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
    assert!(text.contains("\r\nx-served-by: north\r\n"), "{text}");
    assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
    assert_eq!(gateway.records("north")[0].body, body);
}

#[tokio::test]
async fn curl_uploads_a_file() {
    let gateway = Setup::new().backend("north", json!({"api": "openai"})).start().await;
    let path = std::env::temp_dir().join(format!("spillway-upload-{}.wav", std::process::id()));
    let content: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
    std::fs::write(&path, &content).unwrap();
    let file = format!("file=@{};type=audio/wav", path.display());
    // More than a mebibyte: curl waits for a 100 before it sends the body.
    let arguments = ["--form", &file, "--form", "model=gpt-4o", "--form", "language=de"];
    let response = curl(&gateway, "/v1/audio/transcriptions", &arguments).await;
    std::fs::remove_file(&path).unwrap();
    let Some(response) = response else { return };
    let response: Value = serde_json::from_str(&response).unwrap();
    assert_eq!(response["text"], format!("north heard it as {}", deployment_of("north")));
    let record = gateway.records("north").remove(0);
    let has = |part: &[u8]| record.body.windows(part.len()).any(|window| window == part);
    assert!(has(&content), "the file arrived as it was");
    assert!(has(b"gpt-4o-north") && has(b"language"));
}
