//! Everything that is seen while the story plays: by the clients, in Envoy's stats, at the mocks.
//!
//! Clients and watchers send events through one channel to one owner, so nothing here is shared. The
//! filter's gauges are read forty times a second: a throttle gate is often closed for tens of
//! milliseconds only, and the provisioned backend's next request is compared with its deadline.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use hyper::Method;
use serde_json::Value;
use testbed::Client;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::call::Outcome;
use crate::stage::{Backend, NAMES, PROVISIONED, REGION, ask};
use crate::story::Chapter;

const FILTER_PERIOD: Duration = Duration::from_millis(25);
const PROVISIONED_PERIOD: Duration = Duration::from_millis(250);

/// Something seen.
#[derive(Debug)]
pub(crate) enum Event {
    /// A client's request is over.
    Outcome(Outcome),
    /// The same request at a backend itself and through the gateway.
    Overhead { direct: Duration, through: Duration },
    /// The filter's metrics at this time.
    Filter { at_ms: u64, metrics: Metrics },
    /// The counters of the provisioned mock.
    Provisioned(BackendStats),
}

/// The filter's metrics, by the names that Envoy gives them. Times are milliseconds since the epoch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Metrics(BTreeMap<String, u64>);

/// A mock's own counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BackendStats {
    pub(crate) at: Instant,
    pub(crate) throttled: u64,
    pub(crate) tokens_used: u64,
}

/// A circuit breaker that was seen open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opening {
    pub(crate) seen_at_ms: u64,
    pub(crate) until_ms: u64,
}

/// All that was seen.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    pub(crate) chapter: Chapter,
    pub(crate) outcomes: Vec<Outcome>,
    /// Direct and through the gateway.
    pub(crate) overheads: Vec<(Duration, Duration)>,
    pub(crate) metrics: Metrics,
    /// What the counters were when the story began.
    metrics_before: Option<Metrics>,
    /// The deadlines of the provisioned backend's gate under overload.
    pub(crate) gate_deadlines_ms: Vec<u64>,
    /// Of the region that fails.
    pub(crate) openings: Vec<Opening>,
    /// Of the provisioned backend, under overload.
    pub(crate) provisioned: Vec<BackendStats>,
}

impl Observations {
    pub(crate) fn take(&mut self, event: Event) {
        match event {
            Event::Outcome(outcome) => self.outcomes.push(outcome),
            Event::Overhead { direct, through } => self.overheads.push((direct, through)),
            Event::Filter { at_ms, metrics } => self.take_metrics(at_ms, metrics),
            Event::Provisioned(stats) if self.chapter.is_overloaded() => {
                self.provisioned.push(stats);
            }
            Event::Provisioned(_) => {}
        }
    }

    /// The outcomes of a chapter.
    pub(crate) fn of_chapter(
        &self,
        chapter: Chapter,
    ) -> impl DoubleEndedIterator<Item = &Outcome> + Clone {
        self.outcomes.iter().filter(move |outcome| outcome.chapter == chapter)
    }

    /// What ended within this time before `now`.
    pub(crate) fn recent(&self, span: Duration, now: Instant) -> impl Iterator<Item = &Outcome> {
        let recent = move |outcome: &&Outcome| now.duration_since(outcome.ended_at) <= span;
        self.outcomes.iter().rev().take_while(recent)
    }

    /// A filter's counter since the story began.
    pub(crate) fn counted(&self, counter: impl Fn(&Metrics) -> u64) -> u64 {
        let before = self.metrics_before.as_ref().map_or(0, &counter);
        counter(&self.metrics).saturating_sub(before)
    }

    /// How many requests of a chapter this backend served.
    pub(crate) fn served(&self, place: usize, chapter: Chapter) -> usize {
        self.of_chapter(chapter).filter(|outcome| outcome.is_served_by(place)).count()
    }

    fn take_metrics(&mut self, at_ms: u64, metrics: Metrics) {
        self.metrics_before.get_or_insert_with(|| metrics.clone());
        let deadline = metrics.gate_closed_until_ms(PROVISIONED);
        let known = self.gate_deadlines_ms.last().is_some_and(|last| deadline <= *last);
        if self.chapter.is_overloaded() && deadline > at_ms && !known {
            self.gate_deadlines_ms.push(deadline);
        }
        let until_ms = metrics.breaker_open_until_ms(REGION);
        let known = self.openings.last().is_some_and(|last| last.until_ms == until_ms);
        if until_ms > at_ms && !known {
            self.openings.push(Opening { seen_at_ms: at_ms, until_ms });
        }
        self.metrics = metrics;
    }
}

impl Outcome {
    /// Whether the backend at this place of [`NAMES`] served it.
    pub(crate) fn is_served_by(&self, place: usize) -> bool {
        self.served_by.as_deref() == Some(NAMES[place])
    }
}

impl Metrics {
    /// Reads Envoy's text format: a name, a colon and a number on each line.
    pub(crate) fn read(text: &str) -> Self {
        let lines = text.lines().filter_map(|line| line.split_once(": "));
        let values = lines.filter_map(|(name, value)| {
            Some((name.strip_prefix("wasmcustom.spillway_")?.to_owned(), value.parse().ok()?))
        });
        Self(values.collect())
    }

    fn of(&self, name: &str, place: usize, more: &str) -> u64 {
        let name = format!("{name}.pool.gpt-4o.backend.{}{more}", NAMES[place]);
        self.0.get(&name).copied().unwrap_or(0)
    }

    pub(crate) fn spills(&self) -> u64 {
        self.0.get("spills_total.pool.gpt-4o").copied().unwrap_or(0)
    }

    pub(crate) fn throttled(&self, place: usize) -> u64 {
        self.of("attempts_total", place, ".outcome.throttled")
    }

    /// Faults and misconfigurations.
    pub(crate) fn faults(&self, place: usize) -> u64 {
        let outcomes = [".outcome.fault", ".outcome.misconfigured"];
        outcomes.iter().map(|outcome| self.of("attempts_total", place, outcome)).sum()
    }

    /// In the past: the gate is open.
    pub(crate) fn gate_closed_until_ms(&self, place: usize) -> u64 {
        self.of("gate_closed_until_ms", place, "")
    }

    /// 0: the breaker is closed; in the past: it is half-open.
    pub(crate) fn breaker_open_until_ms(&self, place: usize) -> u64 {
        self.of("breaker_open_until_ms", place, "")
    }
}

/// Reads the filter's metrics until nobody listens any more.
pub(crate) async fn watch_filter(admin: Client, events: mpsc::UnboundedSender<Event>) {
    let mut ticks = tokio::time::interval(FILTER_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !events.is_closed() {
        ticks.tick().await;
        let path = "/stats?filter=wasmcustom.spillway";
        if let Ok(text) = ask(&admin, Method::GET, path, String::new()).await {
            let metrics = Metrics::read(&String::from_utf8_lossy(&text));
            let _ = events.send(Event::Filter { at_ms: now_ms(), metrics });
        }
    }
}

/// Reads the provisioned mock's counters until nobody listens any more.
pub(crate) async fn watch_provisioned(backend: Backend, events: mpsc::UnboundedSender<Event>) {
    let mut ticks = tokio::time::interval(PROVISIONED_PERIOD);
    while !events.is_closed() {
        ticks.tick().await;
        let body = backend.control(Method::GET, "stats", None).await.unwrap_or_default();
        let stats: Value = serde_json::from_slice(&body).unwrap_or_default();
        let counters = stats["throttled"].as_u64().zip(stats["tokens_used"].as_u64());
        if let Some((throttled, tokens_used)) = counters {
            let stats = BackendStats { at: Instant::now(), throttled, tokens_used };
            let _ = events.send(Event::Provisioned(stats));
        }
    }
}

/// When a mock's requests arrived, in milliseconds since the epoch, ascending.
pub(crate) async fn arrivals(backend: &Backend) -> Result<Vec<u64>, String> {
    let body = backend.control(Method::GET, "records?since=0", None).await?;
    let records: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    let records = records["records"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut arrivals: Vec<u64> =
        records.iter().filter_map(|record| record["at_unix_ms"].as_u64()).collect();
    arrivals.sort_unstable();
    Ok(arrivals)
}

/// Milliseconds since the epoch, the clock that Envoy and the mocks have in common with the demo.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(UNIX_EPOCH.elapsed().unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed_until(at_ms: u64, deadline_ms: u64) -> Event {
        let metrics = Metrics::read(&format!(
            "wasmcustom.spillway_gate_closed_until_ms.pool.gpt-4o.backend.ptu-uksouth: {deadline_ms}\n\
             wasmcustom.spillway_breaker_open_until_ms.pool.gpt-4o.backend.payg-france: {deadline_ms}"
        ));
        Event::Filter { at_ms, metrics }
    }

    #[test]
    fn the_filters_metrics_are_read_from_envoys_text() {
        let text = "\
wasmcustom.spillway_attempts_total.pool.gpt-4o.backend.ptu-uksouth.outcome.throttled: 7
wasmcustom.spillway_attempts_total.pool.gpt-4o.backend.payg-france.outcome.fault: 5
wasmcustom.spillway_attempts_total.pool.gpt-4o.backend.payg-france.outcome.misconfigured: 1
wasmcustom.spillway_gate_closed_until_ms.pool.gpt-4o.backend.ptu-uksouth: 1700000000123
wasmcustom.spillway_breaker_open_until_ms.pool.gpt-4o.backend.payg-france: 1700000009999
wasmcustom.spillway_spills_total.pool.gpt-4o: 40
cluster.ptu.upstream_rq_total: 3
nonsense";
        let metrics = Metrics::read(text);
        assert_eq!(metrics.spills(), 40);
        assert_eq!((metrics.throttled(PROVISIONED), metrics.faults(PROVISIONED)), (7, 0));
        assert_eq!(metrics.gate_closed_until_ms(PROVISIONED), 1_700_000_000_123);
        assert_eq!((metrics.throttled(REGION), metrics.faults(REGION)), (0, 6));
        assert_eq!(metrics.breaker_open_until_ms(REGION), 1_700_000_009_999);
    }

    #[test]
    fn gate_deadlines_count_once_and_only_under_overload() {
        let mut seen = Observations::default();
        seen.take(closed_until(100, 150));
        assert!(seen.gate_deadlines_ms.is_empty());
        seen.chapter = Chapter::Overload;
        for event in [(200, 250), (225, 250), (251, 250), (300, 333)] {
            seen.take(closed_until(event.0, event.1));
        }
        assert_eq!(seen.gate_deadlines_ms, [250, 333]);
    }

    #[test]
    fn an_opening_is_known_from_its_first_sight() {
        let mut seen = Observations::default();
        for event in [(100, 3100), (125, 3100), (3200, 3100), (3300, 0)] {
            seen.take(closed_until(event.0, event.1));
        }
        assert_eq!(seen.openings, [Opening { seen_at_ms: 100, until_ms: 3100 }]);
    }

    #[test]
    fn counters_start_at_zero_with_the_story() {
        let mut seen = Observations::default();
        for spills in [40, 42] {
            let metrics = Metrics([("spills_total.pool.gpt-4o".to_owned(), spills)].into());
            seen.take(Event::Filter { at_ms: 0, metrics });
        }
        assert_eq!(seen.counted(Metrics::spills), 2);
    }
}
