//! The story: what happens to the gateway, chapter by chapter, and what should come of it.
//!
//! Chapters end by the clock, except the region's return: a circuit breaker decides by itself when it
//! lets a probe through, so that chapter waits until the region has served again, up to a limit.

use std::time::Duration;

use hyper::Method;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::http::Http;
use crate::load::{self, Orders};
use crate::observe::{self, Event, Observations};
use crate::stage::{Backend, Scenery};
use crate::table::{Screen, View};
use crate::trouble::Trouble;

/// The chapters in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Chapter {
    Calm,
    Overload,
    Failure,
    Return,
    CalmAgain,
}

/// Below what the provisioned backend drains, and far above it.
const CALM_REQUESTS_PER_SECOND: u32 = 18;
const OVERLOAD_REQUESTS_PER_SECOND: u32 = 60;
/// From the first 503 of the failing region to its refusing connections.
const REFUSES_AFTER: Duration = Duration::from_millis(2_000);
/// Answers of the region that show its return.
const RETURNED_ANSWERS: usize = 3;
/// How long the recovered region may take to take an order.
const RECOVERY_PATIENCE: Duration = Duration::from_secs(5);

impl Chapter {
    pub(crate) const ALL: [Self; 5] =
        [Self::Calm, Self::Overload, Self::Failure, Self::Return, Self::CalmAgain];

    /// The place in the story, from 1.
    pub(crate) fn number(self) -> usize {
        Self::ALL.iter().take_while(|chapter| **chapter <= self).count()
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Calm => "Calm",
            Self::Overload => "Overload",
            Self::Failure => "A region fails",
            Self::Return => "The region returns",
            Self::CalmAgain => "Calm again",
        }
    }

    /// One line for the audience.
    pub(crate) fn expectation(self) -> &'static str {
        match self {
            Self::Calm => "The provisioned backend serves everything.",
            Self::Overload => {
                "More than was bought: the rest spills to both regions in equal shares."
            }
            Self::Failure => {
                "503s, then refused connections: its breaker opens, clients notice nothing."
            }
            Self::Return => "It is well again: a probe closes the breaker, its share grows back.",
            Self::CalmAgain => "The load falls: the provisioned backend serves everything again.",
        }
    }

    /// Whether clients ask for more than the provisioned backend can serve.
    pub(crate) fn is_overloaded(self) -> bool {
        matches!(self, Self::Overload | Self::Failure | Self::Return)
    }

    fn length(self) -> Duration {
        Duration::from_secs(match self {
            Self::Calm | Self::Overload => 4,
            Self::Failure => 5,
            Self::Return => 10,
            Self::CalmAgain => 3,
        })
    }

    fn orders(self) -> Orders {
        let overloaded = self.is_overloaded();
        let requests_per_second =
            if overloaded { OVERLOAD_REQUESTS_PER_SECOND } else { CALM_REQUESTS_PER_SECOND };
        Orders { chapter: self, requests_per_second, probes: self == Self::Calm }
    }

    /// Whether it may end before its time.
    fn is_told(self, seen: &Observations) -> bool {
        let region = seen.names.len().saturating_sub(1);
        self == Self::Return && seen.served(region, self) >= RETURNED_ANSWERS
    }
}

/// A story in progress.
struct Play<'a> {
    http: &'a Http,
    scenery: &'a Scenery,
    screen: &'a mut Screen,
    begun_at: Instant,
    seen: Observations,
    events: mpsc::UnboundedReceiver<Event>,
    orders: watch::Sender<Orders>,
    /// Clients and watchers.
    cast: JoinSet<()>,
    /// Orders to the mocks on their way.
    cues: JoinSet<Result<(), Trouble>>,
}

/// Plays all chapters and returns what was seen.
pub(crate) async fn play(
    http: &Http,
    scenery: &Scenery,
    screen: &mut Screen,
) -> Result<Observations, Trouble> {
    let (sender, events) = mpsc::unbounded_channel();
    let orders = watch::Sender::new(Chapter::Calm.orders());
    let mut play = Play {
        http,
        scenery,
        screen,
        begun_at: Instant::now(),
        seen: Observations::new(scenery),
        events,
        orders,
        cast: JoinSet::new(),
        cues: JoinSet::new(),
    };
    let load = play.call_cast(&sender);
    drop(sender);
    for chapter in Chapter::ALL {
        play.perform(chapter).await?;
    }
    play.finish(load).await;
    Ok(play.seen)
}

impl Play<'_> {
    /// Starts clients and watchers; returns the load, which ends when it is ordered to.
    fn call_cast(&mut self, events: &mpsc::UnboundedSender<Event>) -> tokio::task::AbortHandle {
        let gateway = &self.scenery.gateway;
        let orders = || self.orders.subscribe();
        if let Some(provisioned) = self.scenery.backends.first() {
            let watcher =
                observe::watch_provisioned(self.http.clone(), provisioned.clone(), events.clone());
            self.cast.spawn(watcher);
            let direct = (provisioned.url.clone(), provisioned.key());
            let probes = load::run_probes(
                self.http.clone(),
                gateway.clone(),
                direct,
                orders(),
                events.clone(),
            );
            self.cast.spawn(probes);
        }
        let watcher =
            observe::watch_filter(self.http.clone(), self.scenery.clone(), events.clone());
        self.cast.spawn(watcher);
        // The clients have connections of their own, as other programs would.
        let load = load::run(Http::new(), gateway.clone(), orders(), events.clone());
        self.cast.spawn(load)
    }

    async fn perform(&mut self, chapter: Chapter) -> Result<(), Trouble> {
        self.seen.chapter = chapter;
        self.orders.send_replace(chapter.orders());
        self.cue(chapter);
        self.screen.announce(chapter);
        let ends_at = Instant::now() + chapter.length();
        let period = self.screen.period();
        let mut redraws = tokio::time::interval_at(Instant::now() + period, period);
        redraws.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !chapter.is_told(&self.seen) {
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(ends_at) => break,
                Some(event) = self.events.recv() => self.seen.take(event),
                Some(done) = self.cues.join_next() => done.unwrap_or(Ok(()))?,
                _ = redraws.tick() => self.draw(chapter),
            }
        }
        self.draw(chapter);
        Ok(())
    }

    /// What happens to the region with this chapter.
    fn cue(&mut self, chapter: Chapter) {
        let Some(region) = self.scenery.backends.last().cloned() else { return };
        let http = self.http.clone();
        match chapter {
            Chapter::Failure => self.cues.spawn(fail(http, region, chapter.length())),
            Chapter::Return => self.cues.spawn(recover(http, region)),
            Chapter::Calm | Chapter::Overload | Chapter::CalmAgain => return,
        };
    }

    fn draw(&mut self, chapter: Chapter) {
        let view = View::of(&self.seen, chapter, self.begun_at.elapsed(), Instant::now());
        self.screen.draw(&view);
    }

    /// Lets the requests on their way end, so that they count.
    async fn finish(&mut self, load: tokio::task::AbortHandle) {
        self.orders.send_modify(|orders| orders.requests_per_second = 0);
        while !load.is_finished() {
            tokio::select! {
                Some(event) = self.events.recv() => self.seen.take(event),
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        }
        while let Ok(event) = self.events.try_recv() {
            self.seen.take(event);
        }
    }
}

/// Answers 503, then refuses connections for the rest of the chapter.
async fn fail(http: Http, region: Backend, chapter: Duration) -> Result<(), Trouble> {
    let broken = json!({ "fault": "status", "status": 503, "mode": "always" });
    order(&http, &region, Method::POST, Some(broken)).await?;
    tokio::time::sleep(REFUSES_AFTER).await;
    let length_ms = chapter.saturating_sub(REFUSES_AFTER).as_millis();
    let refuse = json!({ "fault": "refuse", "for_ms": u64::try_from(length_ms).unwrap_or(0) });
    order(&http, &region, Method::POST, Some(refuse)).await
}

/// Is well again. It takes orders as soon as it accepts connections.
async fn recover(http: Http, region: Backend) -> Result<(), Trouble> {
    let deadline = Instant::now() + RECOVERY_PATIENCE;
    loop {
        match order(&http, &region, Method::DELETE, None).await {
            Err(_) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            result => return result,
        }
    }
}

async fn order(
    http: &Http,
    backend: &Backend,
    method: Method,
    fault: Option<serde_json::Value>,
) -> Result<(), Trouble> {
    let answer = http.ask(method, &backend.control("fault"), fault.as_ref()).await;
    let what = format!("the control endpoint of {}", backend.name);
    answer.map(drop).map_err(|because| Trouble::Silent { what, because })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chapters_count_from_one_in_their_order() {
        let numbers: Vec<usize> = Chapter::ALL.into_iter().map(Chapter::number).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5]);
    }

    #[test]
    fn the_region_refuses_connections_within_its_chapter() {
        assert!(REFUSES_AFTER < Chapter::Failure.length());
    }
}
