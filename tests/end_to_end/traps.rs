//! After a trap the roles are loaded again, each by itself. What others lose meanwhile depends on how soon
//! Envoy does that.

use crate::harness::{CHAT, chat_body, first_and_second};
use std::time::{Duration, Instant};

/// Measures, with a module that traps on a header (`--features trap`), what share of the other requests is
/// served while every fiftieth traps. `docs/operations.md` has its figures.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement that needs a module of its own"]
async fn what_others_lose_while_requests_trap() {
    for interval_ms in [1_000, 300, 100, 30, 10, 1] {
        let gateway = first_and_second()
            .settings(|settings| settings.reload_interval = Duration::from_millis(interval_ms))
            .start()
            .await;
        let started = Instant::now();
        let mut tasks = Vec::new();
        for worker in 0..4 {
            let client = gateway.another_client();
            tasks.push(tokio::spawn(async move {
                let (mut served, mut asked, mut shaped) = (0_u32, 0_u32, 0_u32);
                let mut number = worker * 13;
                while started.elapsed() < Duration::from_secs(8) {
                    number += 1;
                    if number % 50 == 0 {
                        client.post_with(CHAT, &[("x-trap", "1")], &chat_body()).await;
                        continue;
                    }
                    asked += 1;
                    let response = client.post(CHAT, &chat_body()).await;
                    if response.status == 200 {
                        served += 1;
                    } else if response.header("retry-after").is_some() {
                        shaped += 1;
                    }
                    tokio::time::sleep(Duration::from_millis(8)).await;
                }
                (served, asked, shaped)
            }));
        }
        let (mut served, mut asked, mut shaped) = (0, 0, 0);
        for task in tasks {
            let (s, a, h) = task.await.unwrap();
            (served, asked, shaped) = (served + s, asked + a, shaped + h);
        }
        let reloads = gateway.envoy.admin("/stats?filter=vm_reload_success").await;
        println!(
            "{interval_ms} ms: {served} of {asked} served ({:.1} %), {shaped} told when to come back; {}",
            100.0 * f64::from(served) / f64::from(asked),
            reloads.replace('\n', " ")
        );
    }
}
