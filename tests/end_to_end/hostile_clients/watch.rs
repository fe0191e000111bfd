//! Findings: what happened that must not, by kind, with a few examples that can be run again.

use super::gateways::Gateways;
use super::request::{Hostile, SECRET};
use crate::harness::{deployment_of, key_of};
use mock_azure::Record;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Examples that are kept of one kind.
const EXAMPLES: usize = 4;

/// Everything that went wrong.
#[derive(Default)]
pub(super) struct Findings {
    kinds: BTreeMap<String, (usize, Vec<String>)>,
}

impl Findings {
    pub(super) fn add(&mut self, kind: &str, example: impl FnOnce() -> String) {
        let (count, examples) = self.kinds.entry(kind.to_owned()).or_default();
        *count += 1;
        if examples.len() < EXAMPLES {
            examples.push(example());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.kinds.is_empty()
    }

    pub(super) fn merge(&mut self, other: Self) {
        for (kind, (count, examples)) in other.kinds {
            let (own, kept) = self.kinds.entry(kind).or_default();
            *own += count;
            kept.extend(examples);
            kept.truncate(EXAMPLES);
        }
    }

    /// Fails with everything that was found, if anything was.
    pub(super) fn assert_none(&self, after: usize) {
        if self.kinds.is_empty() {
            return;
        }
        let mut text = format!("after {after} hostile requests:\n");
        for (kind, (count, _)) in &self.kinds {
            let _ = writeln!(text, "  {count:6} × {kind}");
        }
        for (kind, (_, examples)) in &self.kinds {
            for example in examples {
                let _ = writeln!(text, "--- {kind}\n{example}");
            }
        }
        panic!("{text}");
    }
}

/// The families of operations that a configuration can allow.
pub(super) const FAMILIES: [&str; 12] = [
    "files",
    "uploads",
    "batches",
    "vector_stores",
    "assistants",
    "threads",
    "fine_tuning",
    "containers",
    "conversations",
    "evals",
    "videos",
    "moderations",
];

/// The first path segments that every client may use.
const ALLOWED: [&str; 7] =
    ["chat", "completions", "embeddings", "responses", "images", "audio", "realtime"];

/// What is wrong with what a backend received.
pub(super) fn wrongs(
    backend: &str,
    record: &Record,
    all: &[&str],
    allows_more: bool,
) -> Vec<String> {
    let mut wrongs = Vec::new();
    let headers: Vec<(&str, String)> = record
        .headers
        .iter()
        .map(|(name, value)| (&**name, String::from_utf8_lossy(value).into_owned()))
        .collect();
    if record.path.contains(SECRET) {
        wrongs.push("a client's secret reached a backend in the path".to_owned());
    }
    let names_deployment = ["?model=", "&model=", "?deployment=", "&deployment="];
    let is_realtime = record.path.contains("/realtime");
    if !is_realtime && names_deployment.iter().any(|name| record.path.contains(name)) {
        wrongs.push("a client named a deployment in the query".to_owned());
    }
    for (name, value) in &headers {
        if value.contains(SECRET) {
            wrongs.push(format!("a client's secret reached a backend in {name}"));
        }
        if all.iter().any(|other| other != &backend && value.contains(&key_of(other))) {
            wrongs.push(format!("a backend received the key of another in {name}"));
        }
        if name.starts_with("openai-organization")
            || name.starts_with("openai-project")
            || name.starts_with("x-ms-spillover")
            || name.contains("method-override")
            || name.ends_with("-url")
        {
            wrongs.push(format!("{name} of a client reached a backend"));
        }
    }
    let keys = headers.iter().filter(|(name, _)| matches!(*name, "api-key" | "authorization"));
    if keys.map(|(_, value)| value.trim_start_matches("Bearer ")).ne([key_of(backend)]) {
        wrongs.push("a backend did not receive exactly its own key".to_owned());
    }
    wrongs.extend(wrong_path(backend, &record.path, allows_more));
    wrongs
}

fn wrong_path(backend: &str, path: &str, allows_more: bool) -> Option<String> {
    let path = path.split('?').next().unwrap_or_default();
    let deployment = format!("/openai/deployments/{}/", deployment_of(backend));
    let bases = [deployment.as_str(), "/openai/v1/", "/openai/", "/v1/"];
    let Some(rest) = bases.iter().find_map(|base| path.strip_prefix(base)) else {
        return Some("a path of no API reached a backend".to_owned());
    };
    let lower = rest.to_lowercase();
    let tricks = ["..", "/./", "//", "\\", ";", "%2f", "%5c", "%3b", "%2e", "%25", "%00", "%0d"];
    if tricks.iter().any(|trick| lower.contains(trick)) {
        return Some("a path with a trick reached a backend".to_owned());
    }
    let first = lower.split('/').next().unwrap_or_default();
    // Azure calls videos by another name.
    let is_family = FAMILIES.contains(&first) || first == "video";
    let known = ALLOWED.contains(&first) || (allows_more && is_family);
    (!known).then(|| format!("an operation that nobody allowed reached a backend: {first}"))
}

/// Checks everything that the backends received since the last time.
pub(super) fn check_backends(gateways: &Gateways, cause: &Hostile, findings: &mut Findings) {
    let names: Vec<&str> = gateways.backends.iter().map(String::as_str).collect();
    for backend in &names {
        let mock = gateways.gateway.mock(backend);
        for record in mock.records() {
            for wrong in wrongs(backend, &record, &names, gateways.allows_more) {
                findings.add(&wrong, || {
                    format!(
                        "{backend} received {} {}\n{}",
                        record.method,
                        record.path,
                        cause.shown()
                    )
                });
            }
        }
        mock.clear_records();
    }
}

/// Checks that no breaker is or was open, that no gate was ever closed, and that the module never failed.
pub(super) async fn check_state(gateways: &Gateways, findings: &mut Findings) {
    let envoy = &gateways.gateway.envoy;
    let name = gateways.name;
    let stats = envoy.admin("/stats?filter=spillway_(gate_closed|breaker_open)_until_ms").await;
    let values = || stats.lines().filter_map(|line| line.split_once(": "));
    if values().count() == 0 {
        findings.add("the gauges of gates and breakers are missing", || stats.clone());
    }
    for (stat, value) in values().filter(|(_, value)| value.trim() != "0") {
        let kind =
            if stat.contains("gate") { "a throttle gate was closed" } else { "a breaker is open" };
        findings.add(kind, || format!("{name}: {stat} {value}"));
    }
    for line in envoy.log().lines() {
        if line.contains("breaker") && line.contains("open") {
            findings.add("a breaker opened", || format!("{name}: {line}"));
        }
        if line.contains("panicked") {
            findings.add("the module failed", || format!("{name}: {line}"));
        }
    }
    let reloads = envoy.admin("/stats?filter=vm_reload").await;
    if !reloads.lines().all(|line| line.trim().is_empty() || line.ends_with(": 0")) {
        findings.add("the module was loaded again", || format!("{name}: {reloads}"));
    }
}
