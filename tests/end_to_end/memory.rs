//! The memory of a VM never shrinks, so it must not grow with the size of requests.

use crate::harness::{CHAT, Gateway, Setup};
use hyper::Method;
use serde_json::json;
use std::fs;

const PROMPT_BYTES: usize = 20 * 1024 * 1024;
const MIB: usize = 1024 * 1024;

/// The linear memory of each of Envoy's VMs, in bytes, and what Envoy holds in all.
///
/// V8 reserves the address space of a whole 32-bit memory; the part that the module uses is the
/// writable mapping in front of the rest of the reservation.
fn memory_bytes(gateway: &Gateway) -> (Vec<usize>, usize) {
    let process = format!("/proc/{}", gateway.envoy.process_id());
    let maps = fs::read_to_string(format!("{process}/maps")).unwrap();
    let maps: Vec<(usize, &str)> = maps
        .lines()
        .map(|line| {
            let (range, rest) = line.split_once(' ').unwrap();
            let (start, end) = range.split_once('-').unwrap();
            let address = |hex| usize::from_str_radix(hex, 16).unwrap();
            (address(end) - address(start), &rest[..4])
        })
        .collect();
    let is_reservation = |(size, access): (usize, &str)| access == "---p" && size > 4096 * MIB;
    let machines: Vec<usize> = maps
        .windows(2)
        .filter(|pair| pair[0].1 == "rw-p" && is_reservation(pair[1]))
        .map(|pair| pair[0].0)
        .collect();
    assert!(machines.len() >= 2, "one VM for the main thread, one for each worker: {machines:?}");
    let status = fs::read_to_string(format!("{process}/status")).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    let resident_kib: usize = resident.trim().strip_suffix(" kB").unwrap().parse().unwrap();
    (machines, resident_kib * 1024)
}

#[tokio::test]
async fn twenty_prompts_of_twenty_mebibytes_leave_no_memory_behind() {
    let gateway = Setup::new()
        .backend("north", json!({"api": "azure_v1"}))
        .settings(|settings| settings.body_limit_bytes = 64 * 1024 * 1024)
        .start()
        .await;
    // The model comes last, so that the edit of the body is at its far end.
    let body = format!(
        r#"{{"messages":[{{"role":"user","content":"{}"}}],"model":"gpt-4o"}}"#,
        "x".repeat(PROMPT_BYTES)
    );
    let send = async || {
        let headers = [("content-type", "application/json")];
        let body = body.clone().into();
        let response = gateway.client.send(Method::POST, CHAT, &headers, body).await.unwrap();
        assert_eq!(response.status, 200, "{}", response.text());
        gateway.mock("north").clear_records();
    };
    assert_eq!(gateway.chat().await.status, 200);
    let (fresh, _) = memory_bytes(&gateway);
    send().await;
    let (warm, warm_resident) = memory_bytes(&gateway);
    for _ in 0..20 {
        send().await;
    }
    let (after, resident) = memory_bytes(&gateway);
    println!("VMs: {fresh:?} at first, {warm:?} after one prompt, {after:?} after 21");
    println!("all of Envoy: {warm_resident} after one prompt, {resident} after 21");
    // Slices are 64 KiB: a few of them at a time is all that a prompt of any length takes.
    for (fresh, after) in fresh.iter().zip(&after) {
        assert!(*after < fresh + MIB, "{fresh} bytes became {after}");
    }
    // Envoy itself holds one prompt at a time, some parts twice; 21 of them are far more.
    assert!(resident < warm_resident + 10 * PROMPT_BYTES, "{warm_resident} became {resident}");
    gateway.assert_alive("large prompts").await;
}

#[tokio::test]
async fn images_of_twenty_mebibytes_leave_no_memory_behind_and_count_as_images() {
    // As text they would be five million tokens.
    let gateway = Setup::new()
        .backend("north", json!({"limits": {"tokens_per_minute": 100_000}}))
        .settings(|settings| settings.body_limit_bytes = 64 * 1024 * 1024)
        .start()
        .await;
    let image = format!("data:image/png;base64,{}", "iVBORw0K".repeat(PROMPT_BYTES / 4 / 8));
    let part = json!({"type": "image_url", "image_url": {"url": image, "detail": "high"}});
    let text = json!({"type": "text", "text": "What is in these images?"});
    let body = json!({
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": [text, part, part, part, part]}],
        "stream": true
    });
    assert_eq!(gateway.chat().await.status, 200);
    let (fresh, _) = memory_bytes(&gateway);
    // Each reserves about three thousand tokens, four images among them, and uses far fewer.
    for _ in 0..20 {
        let response = gateway.client.post(CHAT, &body).await;
        let trail = response.header("x-spillway-trail").unwrap_or_default().to_owned();
        assert_eq!(response.status, 200, "{trail}: {}", response.text());
        assert!(response.text().ends_with("data: [DONE]\n\n"), "{}", response.text());
        gateway.mock("north").clear_records();
    }
    let (after, _) = memory_bytes(&gateway);
    println!("VMs: {fresh:?} at first, {after:?} after 20 prompts with images");
    for (fresh, after) in fresh.iter().zip(&after) {
        assert!(*after < fresh + MIB, "{fresh} bytes became {after}");
    }
    gateway.assert_alive("large images").await;
}
