//! The body of a response as a list of steps, so that a fault can rewrite it before it is played.
//!
//! Every answer is built whole: chunks and pauses. "Stall after two events" or "half an event, then a
//! reset" are then edits of a list instead of special cases in the code that makes answers.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use tokio::time::Sleep;

/// One step of playing a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Send these bytes: one event of a stream, or a whole body.
    Chunk(Bytes),
    /// Wait.
    Pause(Duration),
    /// Send nothing more, and do not end.
    Stall,
    /// End the connection in mid-body: an orderly close, or a reset.
    Cut { reset: bool },
}

/// A body, ready to be played or edited.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Script(pub(crate) Vec<Step>);

/// Between the last bytes and a cut, so that the bytes leave the server first.
const BEFORE_CUT: Duration = Duration::from_millis(20);

impl Script {
    pub(crate) fn whole(body: impl Into<Bytes>) -> Self {
        Self(vec![Step::Chunk(body.into())])
    }

    /// One chunk per event, with a pause before each but the first.
    pub(crate) fn stream(events: impl IntoIterator<Item = String>, pause: Duration) -> Self {
        let mut steps = Vec::new();
        for event in events {
            if !steps.is_empty() && !pause.is_zero() {
                steps.push(Step::Pause(pause));
            }
            steps.push(Step::Chunk(event.into()));
        }
        Self(steps)
    }

    /// The number of bytes that the script sends when it is played to its end.
    pub(crate) fn length(&self) -> usize {
        let length = |step: &Step| if let Step::Chunk(chunk) = step { chunk.len() } else { 0 };
        self.0.iter().map(length).sum()
    }

    /// Keeps what comes before the chunk with this index and returns that chunk.
    pub(crate) fn cut_at_chunk(&mut self, index: usize) -> Option<Bytes> {
        let chunks = self.0.iter().enumerate().filter(|(_, step)| matches!(step, Step::Chunk(_)));
        let (place, _) = chunks.map(|(place, _)| (place, ())).nth(index)?;
        match self.0.drain(place..).next() {
            Some(Step::Chunk(chunk)) => Some(chunk),
            _ => None,
        }
    }

    pub(crate) fn push(&mut self, step: Step) {
        self.0.push(step);
    }

    pub(crate) fn push_cut(&mut self, reset: bool) {
        self.0.push(Step::Pause(BEFORE_CUT));
        self.0.push(Step::Cut { reset });
    }
}

/// Is told how the playing of a script ends.
pub(crate) trait Audience: Send + Unpin + 'static {
    /// The script came to its end and the client was there.
    fn completed(&mut self);
    /// The connection has to be reset when it is dropped.
    fn reset(&mut self);
}

/// A script being played as an HTTP body.
#[derive(Debug)]
pub(crate) struct Playing<A> {
    steps: VecDeque<Step>,
    pause: Option<Pin<Box<Sleep>>>,
    audience: A,
}

impl<A: Audience> Playing<A> {
    pub(crate) fn new(script: Script, mut audience: A) -> Self {
        // An empty body is not polled at all.
        if script.0.is_empty() {
            audience.completed();
        }
        Self { steps: script.0.into(), pause: None, audience }
    }
}

impl<A: Audience> Body for Playing<A> {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        loop {
            if let Some(pause) = &mut self.pause {
                std::task::ready!(pause.as_mut().poll(context));
                self.pause = None;
            }
            match self.steps.pop_front() {
                Some(Step::Chunk(chunk)) => {
                    // A body of known length is not polled past its last byte.
                    if self.steps.is_empty() {
                        self.audience.completed();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(chunk))));
                }
                Some(Step::Pause(length)) => {
                    self.pause = Some(Box::pin(tokio::time::sleep(length)));
                }
                Some(Step::Stall) => {
                    self.steps.push_front(Step::Stall);
                    return Poll::Pending;
                }
                Some(Step::Cut { reset }) => {
                    if reset {
                        self.audience.reset();
                    }
                    return Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionAborted.into())));
                }
                None => {
                    self.audience.completed();
                    return Poll::Ready(None);
                }
            }
        }
    }
}
