//! One Envoy process: what its workers have in common, and the backends that it can reach.

use super::shared::SharedData;
use super::state::HeaderList;
use crate::envoy::Script;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

/// When the tests' wall clock begins, in milliseconds since the epoch.
const START_MS: u64 = 1_800_000_000_000;

/// A request as a backend received it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) cluster: String,
    pub(crate) headers: HeaderList,
    pub(crate) body: Vec<u8>,
    pub(crate) at_ms: u64,
}

impl Seen {
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        super::header(&self.headers, name).map(|value| String::from_utf8_lossy(value).into_owned())
    }
}

type Responder = Box<dyn Fn(&Seen) -> Script + Send + Sync>;

/// One Envoy process.
pub(crate) struct Process {
    /// What a panic prints: the test and the seed.
    pub(crate) scenario: String,
    monotonic_ms: AtomicU64,
    /// How far operators have set the wall clock.
    step_ms: AtomicI64,
    shared: Mutex<SharedData>,
    metrics: Mutex<BTreeMap<String, u64>>,
    metric_names: Mutex<Vec<String>>,
    log: Mutex<Vec<(u32, String)>>,
    scripts: Mutex<BTreeMap<String, VecDeque<Script>>>,
    responder: Mutex<Option<std::sync::Arc<Responder>>>,
    seen: Mutex<Vec<Seen>>,
}

impl Process {
    pub(crate) fn new(scenario: &str) -> std::sync::Arc<Self> {
        std::sync::Arc::new(Self {
            scenario: scenario.to_owned(),
            monotonic_ms: AtomicU64::new(1_000),
            step_ms: AtomicI64::new(0),
            shared: Mutex::default(),
            metrics: Mutex::default(),
            metric_names: Mutex::default(),
            log: Mutex::default(),
            scripts: Mutex::default(),
            responder: Mutex::default(),
            seen: Mutex::default(),
        })
    }

    pub(crate) fn monotonic_ms(&self) -> u64 {
        self.monotonic_ms.load(Ordering::SeqCst)
    }

    /// Time passes until `at_ms`, if it did not yet.
    pub(crate) fn advance_to(&self, at_ms: u64) {
        self.monotonic_ms.fetch_max(at_ms, Ordering::SeqCst);
    }

    pub(crate) fn advance(&self, by_ms: u64) {
        self.monotonic_ms.fetch_add(by_ms, Ordering::SeqCst);
    }

    pub(crate) fn wall_ms(&self) -> u64 {
        (START_MS + self.monotonic_ms()).saturating_add_signed(self.step_ms.load(Ordering::SeqCst))
    }

    /// Somebody sets the wall clock.
    pub(crate) fn step_clock(&self, by_ms: i64) {
        self.step_ms.fetch_add(by_ms, Ordering::SeqCst);
    }

    pub(crate) fn shared(&self) -> MutexGuard<'_, SharedData> {
        self.shared.lock().unwrap()
    }

    /// Overwrites a shared record, which the filter itself never does.
    pub(crate) fn corrupt(&self, key: &str, value: &[u8]) {
        assert!(self.shared().write(key, value, 0));
    }

    pub(crate) fn define_metric(&self, name: &str) -> u32 {
        let mut names = self.metric_names.lock().unwrap();
        let position = names.iter().position(|known| known == name).unwrap_or_else(|| {
            names.push(name.to_owned());
            names.len() - 1
        });
        u32::try_from(position).unwrap()
    }

    /// Whether there is such a metric.
    pub(crate) fn change_metric(&self, id: u32, change: impl FnOnce(&mut u64)) -> bool {
        let Some(name) = self.metric_names.lock().unwrap().get(id as usize).cloned() else {
            return false;
        };
        change(self.metrics.lock().unwrap().entry(name).or_default());
        true
    }

    /// The sum of all metrics whose names contain `part`.
    pub(crate) fn metric(&self, part: &str) -> u64 {
        let metrics = self.metrics.lock().unwrap();
        metrics.iter().filter(|(name, _)| name.contains(part)).map(|(_, value)| value).sum()
    }

    pub(crate) fn log(&self, level: u32, text: &str) {
        self.log.lock().unwrap().push((level, text.to_owned()));
    }

    /// Everything that was logged, a line each.
    pub(crate) fn logged(&self) -> String {
        let log = self.log.lock().unwrap();
        log.iter().map(|(level, text)| format!("{level} {text}\n")).collect()
    }

    /// What the backend behind `cluster` does with the next attempts; then it serves.
    pub(crate) fn script(&self, cluster: &str, scripts: impl IntoIterator<Item = Script>) {
        let mut all = self.scripts.lock().unwrap();
        all.entry(cluster.to_owned()).or_default().extend(scripts);
    }

    /// What backends without a script do; by default they serve.
    pub(crate) fn respond(&self, responder: impl Fn(&Seen) -> Script + Send + Sync + 'static) {
        *self.responder.lock().unwrap() = Some(std::sync::Arc::new(Box::new(responder)));
    }

    pub(crate) fn receive(&self, seen: Seen) -> Script {
        let next =
            self.scripts.lock().unwrap().get_mut(&seen.cluster).and_then(VecDeque::pop_front);
        let responder = self.responder.lock().unwrap().clone();
        let script = next.unwrap_or_else(|| responder.map_or_else(Script::ok, |it| it(&seen)));
        self.seen.lock().unwrap().push(seen);
        script
    }

    /// What the backends received so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// Which clusters received something, in order; forgets it.
    pub(crate) fn take_clusters(&self) -> Vec<String> {
        self.seen.lock().unwrap().drain(..).map(|seen| seen.cluster).collect()
    }

    /// Forgets scripts, log and what backends received.
    pub(crate) fn forget(&self) {
        self.scripts.lock().unwrap().clear();
        self.log.lock().unwrap().clear();
        self.seen.lock().unwrap().clear();
    }
}
