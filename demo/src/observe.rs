//! Everything that is seen while the story plays: by the clients, in Envoy's stats, at the mocks.
//!
//! Clients and watchers send events through one channel to one owner, so nothing here is shared. The
//! filter's gauges are read forty times a second: a throttle gate is often closed for tens of
//! milliseconds only, and its deadline is what the provisioned backend's next request is compared with.

use std::collections::VecDeque;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::client::Answer;
use crate::http::Http;
use crate::stage::{Backend, Scenery};
use crate::story::Chapter;

const FILTER_PERIOD: Duration = Duration::from_millis(25);
const PROVISIONED_PERIOD: Duration = Duration::from_millis(250);

/// Something seen.
#[derive(Debug)]
pub(crate) enum Event {
    /// A client's request is over.
    Answer(Answer),
    /// The same request at a backend itself and through the gateway.
    Overhead { direct: Duration, through: Duration },
    /// The filter's metrics at this time.
    Filter { at_ms: u64, stats: FilterStats },
    /// The counters of the provisioned mock.
    Provisioned(BackendStats),
}

/// The filter's metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FilterStats {
    pub(crate) spills: u64,
    /// In the order of the scenery.
    pub(crate) backends: Vec<BackendMetrics>,
}

/// The filter's metrics of one backend. Times are milliseconds since the epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct BackendMetrics {
    pub(crate) throttled: u64,
    /// Faults and misconfigurations.
    pub(crate) faults: u64,
    /// In the past: the gate is open.
    pub(crate) gate_closed_until_ms: u64,
    /// 0: the breaker is closed; in the past: it is half-open.
    pub(crate) breaker_open_until_ms: u64,
}

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
#[derive(Debug)]
pub(crate) struct Observations {
    pub(crate) names: Vec<String>,
    pub(crate) chapter: Chapter,
    pub(crate) answers: Vec<Answer>,
    /// Direct and through the gateway.
    pub(crate) overheads: Vec<(Duration, Duration)>,
    pub(crate) filter: FilterStats,
    /// What the counters were when the story began.
    filter_before: Option<FilterStats>,
    /// When the provisioned backend's gate reopens, each seen under overload.
    pub(crate) gate_deadlines_ms: Vec<u64>,
    /// Of the region that fails.
    pub(crate) openings: Vec<Opening>,
    /// Of the provisioned backend, under overload.
    pub(crate) provisioned: Vec<BackendStats>,
}

impl Observations {
    pub(crate) fn new(scenery: &Scenery) -> Self {
        Self {
            names: scenery.backends.iter().map(|backend| backend.name.clone()).collect(),
            chapter: Chapter::Calm,
            answers: Vec::new(),
            overheads: Vec::new(),
            filter: FilterStats::default(),
            filter_before: None,
            gate_deadlines_ms: Vec::new(),
            openings: Vec::new(),
            provisioned: Vec::new(),
        }
    }

    pub(crate) fn take(&mut self, event: Event) {
        match event {
            Event::Answer(answer) => self.answers.push(answer),
            Event::Overhead { direct, through } => self.overheads.push((direct, through)),
            Event::Filter { at_ms, stats } => self.take_filter(at_ms, stats),
            Event::Provisioned(stats) if self.chapter.is_overloaded() => {
                self.provisioned.push(stats);
            }
            Event::Provisioned(_) => {}
        }
    }

    /// The answers that ended within this time before `now`.
    pub(crate) fn recent(&self, span: Duration, now: Instant) -> impl Iterator<Item = &Answer> {
        let recent = move |answer: &&Answer| now.duration_since(answer.ended_at) <= span;
        self.answers.iter().rev().take_while(recent)
    }

    /// A filter's counter since the story began.
    pub(crate) fn counted(&self, counter: impl Fn(&FilterStats) -> u64) -> u64 {
        let before = self.filter_before.as_ref().map_or(0, &counter);
        counter(&self.filter).saturating_sub(before)
    }

    /// How many answers of a chapter this backend gave.
    pub(crate) fn served(&self, place: usize, chapter: Chapter) -> usize {
        let name = self.names.get(place);
        let of_chapter = self.answers.iter().filter(|answer| answer.chapter == chapter);
        of_chapter.filter(|answer| answer.served_by.as_ref() == name).count()
    }

    fn take_filter(&mut self, at_ms: u64, stats: FilterStats) {
        self.filter_before.get_or_insert_with(|| stats.clone());
        let deadline = stats.backends.first().map_or(0, |ptu| ptu.gate_closed_until_ms);
        let known = self.gate_deadlines_ms.last().is_some_and(|last| deadline <= *last);
        if self.chapter.is_overloaded() && deadline > at_ms && !known {
            self.gate_deadlines_ms.push(deadline);
        }
        let until_ms = stats.backends.last().map_or(0, |region| region.breaker_open_until_ms);
        let known = self.openings.last().is_some_and(|last| last.until_ms == until_ms);
        if until_ms > at_ms && !known {
            self.openings.push(Opening { seen_at_ms: at_ms, until_ms });
        }
        self.filter = stats;
    }
}

/// Reads the filter's metrics until nobody listens any more.
pub(crate) async fn watch_filter(
    http: Http,
    scenery: Scenery,
    events: mpsc::UnboundedSender<Event>,
) {
    let url = format!("{}/stats?filter=wasmcustom.spillway", scenery.admin);
    let names: Vec<String> = scenery.backends.into_iter().map(|backend| backend.name).collect();
    let mut ticks = tokio::time::interval(FILTER_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !events.is_closed() {
        ticks.tick().await;
        if let Ok(text) = http.get(&url).await {
            let stats = FilterStats::read(&String::from_utf8_lossy(&text), &names);
            let _ = events.send(Event::Filter { at_ms: now_ms(), stats });
        }
    }
}

/// Reads the provisioned mock's counters until nobody listens any more.
pub(crate) async fn watch_provisioned(
    http: Http,
    backend: Backend,
    events: mpsc::UnboundedSender<Event>,
) {
    let mut ticks = tokio::time::interval(PROVISIONED_PERIOD);
    while !events.is_closed() {
        ticks.tick().await;
        let body = http.get(&backend.control("stats")).await.unwrap_or_default();
        if let Some(stats) = BackendStats::read(&body, Instant::now()) {
            let _ = events.send(Event::Provisioned(stats));
        }
    }
}

impl FilterStats {
    /// Reads Envoy's text format: a name, a colon and a number on each line.
    fn read(text: &str, names: &[String]) -> Self {
        let mut stats = Self { backends: vec![BackendMetrics::default(); names.len()], spills: 0 };
        for line in text.lines() {
            let Some((name, value)) = line.split_once(": ") else { continue };
            let mut labels: VecDeque<&str> = name.split('.').collect();
            let value = value.trim().parse().unwrap_or(0);
            if labels.pop_front() == Some("wasmcustom") {
                stats.add(&labels, value, names);
            }
        }
        stats
    }

    fn add(&mut self, name: &VecDeque<&str>, value: u64, names: &[String]) {
        let label = |label: &str| {
            let mut parts = name.iter().skip_while(|part| **part != label).skip(1);
            parts.next().copied()
        };
        let metric = name.front().copied().unwrap_or_default();
        if metric == "spillway_spills_total" {
            self.spills += value;
        }
        let place = names.iter().position(|name| Some(name.as_str()) == label("backend"));
        let Some(backend) = place.and_then(|place| self.backends.get_mut(place)) else { return };
        match (metric, label("outcome")) {
            ("spillway_attempts_total", Some("throttled")) => backend.throttled += value,
            ("spillway_attempts_total", Some("fault" | "misconfigured")) => backend.faults += value,
            ("spillway_gate_closed_until_ms", _) => backend.gate_closed_until_ms = value,
            ("spillway_breaker_open_until_ms", _) => backend.breaker_open_until_ms = value,
            _ => {}
        }
    }
}

impl BackendStats {
    fn read(body: &[u8], at: Instant) -> Option<Self> {
        let stats: Value = serde_json::from_slice(body).ok()?;
        let throttled = stats["throttled"].as_u64()?;
        Some(Self { at, throttled, tokens_used: stats["tokens_used"].as_u64()? })
    }
}

/// One request in a mock's records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Arrival {
    pub(crate) at_ms: u64,
}

/// When a mock's requests arrived, ascending.
pub(crate) async fn arrivals(http: &Http, backend: &Backend) -> Result<Vec<Arrival>, String> {
    let body = http.get(&backend.control("records?since=0")).await?;
    let answer: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
    let records = answer["records"].as_array().map(Vec::as_slice).unwrap_or_default();
    let times = records.iter().filter_map(|record| record["at_unix_ms"].as_u64());
    let mut arrivals: Vec<Arrival> = times.map(|at_ms| Arrival { at_ms }).collect();
    arrivals.sort_by_key(|arrival| arrival.at_ms);
    Ok(arrivals)
}

/// Milliseconds since the epoch, the clock that Envoy and the mocks have in common with the demo.
pub(crate) fn now_ms() -> u64 {
    u64::try_from(UNIX_EPOCH.elapsed().unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Vec<String> {
        ["ptu", "sweden", "france"].map(str::to_owned).to_vec()
    }

    fn seen() -> Observations {
        let backend = |name: String| Backend { name, url: String::new() };
        let backends = names().into_iter().map(backend).collect();
        Observations::new(&Scenery { gateway: String::new(), admin: String::new(), backends })
    }

    fn closed_until(at_ms: u64, deadline_ms: u64) -> Event {
        let mut backends = vec![BackendMetrics::default(); 3];
        backends[0].gate_closed_until_ms = deadline_ms;
        backends[2].breaker_open_until_ms = deadline_ms;
        Event::Filter { at_ms, stats: FilterStats { spills: 0, backends } }
    }

    #[test]
    fn the_filters_metrics_are_read_from_envoys_text() {
        let text = "\
wasmcustom.spillway_attempts_total.pool.gpt-4o.backend.ptu.outcome.throttled: 7
wasmcustom.spillway_attempts_total.pool.gpt-4o.backend.france.outcome.fault: 5
wasmcustom.spillway_attempts_total.pool.gpt-4o.backend.france.outcome.misconfigured: 1
wasmcustom.spillway_attempts_total.pool.gpt-4o.backend.other.outcome.fault: 9
wasmcustom.spillway_gate_closed_until_ms.pool.gpt-4o.backend.ptu: 1700000000123
wasmcustom.spillway_breaker_open_until_ms.pool.gpt-4o.backend.france: 1700000009999
wasmcustom.spillway_spills_total.pool.gpt-4o: 40
wasmcustom.spillway_spills_total.pool.gpt-4o-mini: 2
cluster.ptu.upstream_rq_total: 3
nonsense";
        let stats = FilterStats::read(text, &names());
        assert_eq!(stats.spills, 42);
        assert_eq!(stats.backends[0].throttled, 7);
        assert_eq!(stats.backends[0].gate_closed_until_ms, 1_700_000_000_123);
        assert_eq!(stats.backends[1], BackendMetrics::default());
        assert_eq!(stats.backends[2].faults, 6);
        assert_eq!(stats.backends[2].breaker_open_until_ms, 1_700_000_009_999);
    }

    #[test]
    fn gate_deadlines_count_once_and_only_under_overload() {
        let mut seen = seen();
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
        let mut seen = seen();
        seen.take(closed_until(100, 3100));
        seen.take(closed_until(125, 3100));
        seen.take(closed_until(3200, 3100));
        seen.take(closed_until(3300, 0));
        assert_eq!(seen.openings, [Opening { seen_at_ms: 100, until_ms: 3100 }]);
    }

    #[test]
    fn counters_start_at_zero_with_the_story() {
        let mut seen = seen();
        for spills in [40, 42] {
            let stats = FilterStats { spills, backends: Vec::new() };
            seen.take(Event::Filter { at_ms: 0, stats });
        }
        assert_eq!(seen.counted(|stats| stats.spills), 2);
    }
}
