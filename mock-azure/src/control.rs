//! The control endpoints: what the methods of `Mock` do, over HTTP on the same port.
//!
//! The demo and the docker compose files drive mocks in other processes through these. They ask for no key and
//! leave no records.
//!
//! - `POST /_mock/fault` `{"fault": "throttle", "retry_after_ms": 300}`: for the next request that fits;
//!   with `"times": 3` for three, with `"mode": "always"` for all until changed, with `"path_contains"`
//!   only for such paths. `DELETE /_mock/fault` forgets all faults.
//! - `GET /_mock/records?since=N` lists the records after number N, `DELETE /_mock/records` forgets them.
//! - `GET /_mock/stats` shows counters and the provisioned utilisation.
//! - `PUT /_mock/config` changes the settings that it names: `{"latency": {"per_chunk_ms": 20}}`.

use std::time::Duration;

use hyper::Method;
use hyper::http::request::Parts;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::answers::Answer;
use crate::config::MockConfig;
use crate::faults::{Fault, Waiting};
use crate::problems::Problem;
use crate::record::RecordView;
use crate::state::State;

/// Leaves time for the response to a request that shuts the port.
const BEFORE_SHUT: Duration = Duration::from_millis(20);
/// Faults queued by one order at most.
const TIMES_MAX: u32 = 100_000;

/// The body of `POST /_mock/fault`.
#[derive(Debug, Deserialize)]
struct Order {
    #[serde(flatten)]
    fault: Fault,
    #[serde(default)]
    mode: Mode,
    #[serde(default = "once")]
    times: u32,
    #[serde(default)]
    path_contains: Option<String>,
}

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Mode {
    #[default]
    Next,
    Always,
}

const fn once() -> u32 {
    1
}

/// Answers a request to a path that begins with `/_mock/`.
pub(crate) fn answer(state: &std::sync::Arc<State>, head: &Parts, body: &[u8]) -> Answer {
    let path = head.uri.path().trim_start_matches("/_mock/");
    match (&head.method, path) {
        (&Method::POST, "fault") => match serde_json::from_slice(body) {
            Ok(order) => {
                obey(state, order);
                done()
            }
            Err(error) => rejected(&error),
        },
        (&Method::DELETE, "fault") => {
            state.faults.with(crate::faults::Faults::clear);
            done()
        }
        (&Method::GET, "records") => {
            let since = head.uri.query().and_then(|query| query.strip_prefix("since="));
            let since = since.and_then(|number| number.parse().ok()).unwrap_or_default();
            let records = state.records.since(since).into_iter().map(RecordView::from);
            let records: Vec<RecordView> = records.collect();
            Answer::json(&json!({ "records": records }), 0)
        }
        (&Method::DELETE, "records") => {
            state.records.clear();
            done()
        }
        (&Method::GET, "stats") => Answer::json(&state.stats(), 0),
        (&Method::PUT, "config") => match changed(&state.config(), body) {
            Ok(config) => {
                state.set_config(config);
                done()
            }
            Err(error) => rejected(&error),
        },
        _ => Answer::problem(Problem::resource_not_found()),
    }
}

fn done() -> Answer {
    Answer::json(&json!({ "done": true }), 0)
}

fn rejected(error: &serde_json::Error) -> Answer {
    Answer::problem(Problem::model(None, None, &error.to_string()))
}

fn obey(state: &std::sync::Arc<State>, order: Order) {
    let Order { fault, mode, times, path_contains } = order;
    let waiting = Waiting { fault, path_contains };
    if let Fault::Refuse { .. } = waiting.fault {
        let state = std::sync::Arc::clone(state);
        tokio::spawn(async move {
            tokio::time::sleep(BEFORE_SHUT).await;
            state.push_fault(waiting);
        });
    } else if mode == Mode::Always {
        state.set_fault(Some(waiting));
    } else {
        for _ in 0..times.min(TIMES_MAX) {
            state.push_fault(waiting.clone());
        }
    }
}

/// The configuration with the named settings replaced; of the latency also single ones.
fn changed(config: &MockConfig, body: &[u8]) -> Result<MockConfig, serde_json::Error> {
    let mut settings = serde_json::to_value(config)?;
    let mut changes: serde_json::Map<String, Value> = serde_json::from_slice(body)?;
    if let Some(Value::Object(latency)) = changes.remove("latency") {
        for (name, value) in latency {
            settings["latency"][name] = value;
        }
    }
    for (name, value) in changes {
        settings[name] = value;
    }
    serde_json::from_value(settings)
}
