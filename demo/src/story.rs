//! The story: what happens to the gateway, chapter by chapter, and the expected result.
//!
//! Chapters end by the clock, except the region's return: a circuit breaker decides by itself when it
//! lets a probe through, so that chapter waits until the region has served again, up to a limit.

use std::time::Duration;

use hyper::Method;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::load::{self, Orders};
use crate::observe::{self, Event, Observations};
use crate::stage::{Backend, PROVISIONED, REGION, Scenery};
use crate::table::Screen;

/// The chapters in their order.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Chapter {
    #[default]
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
/// Responses of the region that show its return.
const RETURNED_RESPONSES: usize = 3;
/// How long the recovered region may take to accept a command.
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
        self == Self::Return && seen.served(REGION, self) >= RETURNED_RESPONSES
    }
}

/// A story in progress.
struct Play<'a> {
    scenery: &'a Scenery,
    screen: &'a mut Screen,
    begun_at: Instant,
    seen: Observations,
    events: mpsc::UnboundedReceiver<Event>,
    orders: watch::Sender<Orders>,
    /// Clients and watchers.
    cast: JoinSet<()>,
    /// Orders to the mocks on their way.
    cues: JoinSet<Result<(), String>>,
}

/// Plays all chapters and returns what was seen.
pub(crate) async fn play(scenery: &Scenery, screen: &mut Screen) -> Result<Observations, String> {
    let (sender, events) = mpsc::unbounded_channel();
    let orders = watch::Sender::new(Chapter::Calm.orders());
    let mut play = Play {
        scenery,
        screen,
        begun_at: Instant::now(),
        seen: Observations::default(),
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
    /// Starts clients and watchers; returns the load, which ends on command.
    fn call_cast(&mut self, events: &mpsc::UnboundedSender<Event>) -> tokio::task::AbortHandle {
        let Scenery { gateway, admin, backends } = self.scenery.clone();
        let provisioned = backends[PROVISIONED].clone();
        let orders = || self.orders.subscribe();
        self.cast.spawn(observe::watch_provisioned(provisioned.clone(), events.clone()));
        self.cast.spawn(observe::watch_filter(admin, events.clone()));
        self.cast.spawn(load::run_probes(gateway.clone(), provisioned, orders(), events.clone()));
        self.cast.spawn(load::run(gateway, orders(), events.clone()))
    }

    async fn perform(&mut self, chapter: Chapter) -> Result<(), String> {
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
                _ = redraws.tick() => self.screen.draw(&self.seen, self.begun_at.elapsed()),
            }
        }
        self.screen.draw(&self.seen, self.begun_at.elapsed());
        Ok(())
    }

    /// What happens to the region with this chapter.
    fn cue(&mut self, chapter: Chapter) {
        let region = self.scenery.backends[REGION].clone();
        match chapter {
            Chapter::Failure => self.cues.spawn(fail(region, chapter.length())),
            Chapter::Return => self.cues.spawn(recover(region)),
            Chapter::Calm | Chapter::Overload | Chapter::CalmAgain => return,
        };
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

/// Responds 503, then refuses connections for the rest of the chapter.
async fn fail(region: Backend, chapter: Duration) -> Result<(), String> {
    let broken = json!({ "fault": "status", "status": 503, "mode": "always" });
    region.control(Method::POST, "fault", Some(broken)).await?;
    tokio::time::sleep(REFUSES_AFTER).await;
    let length_ms = chapter.saturating_sub(REFUSES_AFTER).as_millis();
    let refuse = json!({ "fault": "refuse", "for_ms": u64::try_from(length_ms).unwrap_or(0) });
    region.control(Method::POST, "fault", Some(refuse)).await.map(drop)
}

/// Recovers. It accepts commands as soon as it accepts connections.
async fn recover(region: Backend) -> Result<(), String> {
    let deadline = Instant::now() + RECOVERY_PATIENCE;
    loop {
        match region.control(Method::DELETE, "fault", None).await {
            Err(_) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            result => return result.map(drop),
        }
    }
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
