//! The clients: a mixed load at a given rate, and a pair of probes that measures what the gateway adds.
//!
//! The load is open-loop: the next request leaves on time even when earlier ones are slow, because that
//! is how many independent applications behave, and because a load that waits hides a slow gateway.

use std::time::Duration;

use testbed::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::call::{CLIENT_KEY, Call, Kind, Outcome, Shape};
use crate::observe::Event;
use crate::stage::Backend;
use crate::story::Chapter;

/// More requests than this at a time mean that the gateway hangs.
const IN_FLIGHT_MAX: usize = 500;

/// Keeps the probes a small part of the load.
const BETWEEN_PROBES: Duration = Duration::from_millis(60);

/// What the story wants from the clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Orders {
    pub(crate) chapter: Chapter,
    /// 0 ends the load.
    pub(crate) requests_per_second: u32,
    /// Whether the probes run.
    pub(crate) probes: bool,
}

/// The mix: which call is the n-th. The pattern of kinds has ten places, that of shapes three, so in thirty calls
/// every kind meets every shape.
fn call(number: usize) -> Call {
    const KINDS: [Kind; 10] = [
        Kind::ChatStream,
        Kind::Document,
        Kind::Embeddings,
        Kind::ChatStream,
        Kind::ResponsesStream,
        Kind::ChatStream,
        Kind::Chat,
        Kind::Embeddings,
        Kind::ChatStream,
        Kind::Responses,
    ];
    const SHAPES: [Shape; 3] = [Shape::Azure, Shape::AzureV1, Shape::OpenAi];
    Call { kind: KINDS[number % KINDS.len()], shape: SHAPES[number % SHAPES.len()] }
}

/// Sends the load through the gateway until it is told to end, then waits for the requests in flight.
pub(crate) async fn run(
    gateway: Client,
    mut orders: watch::Receiver<Orders>,
    events: mpsc::UnboundedSender<Event>,
) {
    let mut in_flight = JoinSet::new();
    let mut next_at = Instant::now();
    let mut number = 0_usize;
    loop {
        let Orders { chapter, requests_per_second, .. } = *orders.borrow_and_update();
        if requests_per_second == 0 {
            break;
        }
        next_at += Duration::from_secs(1) / requests_per_second;
        // Requests that could not leave in time are not sent all at once later.
        next_at = next_at.max(Instant::now() - Duration::from_millis(200));
        tokio::time::sleep_until(next_at).await;
        while in_flight.try_join_next().is_some() {}
        if in_flight.len() >= IN_FLIGHT_MAX {
            let _ = events.send(Event::Outcome(hung(chapter)));
            continue;
        }
        let (gateway, events) = (gateway.clone(), events.clone());
        let call = call(number);
        number += 1;
        in_flight.spawn(async move {
            let outcome = call.send(&gateway, CLIENT_KEY, chapter).await;
            let _ = events.send(Event::Outcome(outcome));
        });
    }
    while in_flight.join_next().await.is_some() {}
}

/// Sends the same request to a backend and to the gateway in turn, so that both have the same noise.
pub(crate) async fn run_probes(
    gateway: Client,
    backend: Backend,
    mut orders: watch::Receiver<Orders>,
    events: mpsc::UnboundedSender<Event>,
) {
    while orders.borrow_and_update().probes {
        let chapter = orders.borrow().chapter;
        let direct = Call::DIRECT.send(&backend.client, &backend.key(), chapter).await;
        let through = Call::DIRECT.send(&gateway, CLIENT_KEY, chapter).await;
        if direct.problem.is_none() && through.problem.is_none() {
            let _ =
                events.send(Event::Overhead { direct: direct.latency, through: through.latency });
        }
        let _ = events.send(Event::Outcome(through));
        tokio::time::sleep(BETWEEN_PROBES).await;
    }
}

fn hung(chapter: Chapter) -> Outcome {
    Outcome {
        kind: Kind::Chat,
        chapter,
        ended_at: Instant::now(),
        problem: Some(format!("more than {IN_FLIGHT_MAX} requests wait for a response")),
        served_by: None,
        attempts: None,
        first_byte: Duration::ZERO,
        latency: Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirty_calls_bring_every_kind_in_every_dialect() {
        for kind in Kind::ALL {
            for shape in [Shape::Azure, Shape::AzureV1, Shape::OpenAi] {
                assert!((0..30).map(call).any(|found| found == Call { kind, shape }));
            }
        }
    }
}
