//! The response to an attempt, and what follows from it.
//!
//! The router retries on one header only, [`RETRY`], which only this role sets. It can retry until response headers
//! went to the client. So headers are held where the status does not tell everything:
//! - the head of an event stream, until its first real event,
//! - the body of a 4xx that another backend might not return,
//! - a refusal, while the request waits for a gate.
//!
//! Where response headers state the usage of a request, a JSON response of moderate length is held until it is
//! complete. Then the usage is known, and a response that breaks off before can be retried. Envoy holds it, so VM
//! memory does not grow. For longer responses and event streams the headers state the estimate.
//!
//! `ended` handles attempts that end before their response does.

mod ended;

use super::flow::{Flow, stream_error};
use super::held::{ErrorBody, HeldResponse, Question, WHOLE_BYTES_MAX};
use super::usage::Reader;
use crate::filter::host::exclusive::Exclusive;
use crate::filter::host::header_map::HeaderMap;
use crate::filter::host::sanitize;
use crate::filter::host::timers::{self, StreamId, Wake};
use crate::filter::host::told::Told;
use crate::filter::host::{self, Action, Buffer, Direction, Instant, Map};
use crate::filter::pool::health::{CapacityHints, Evidence, RunningAttempt};
use crate::filter::request::Request;
use crate::filter::request::headers::{RETRY, SWITCHING_PROTOCOLS};
use crate::openai::media_type::is_json;
use crate::openai::response::headers::Origin;
use crate::openai::response::stream::Features;
use crate::policy::failover::{self, Next};
use crate::policy::response::classify::{self, AttemptTraits, Fault, Head, Misroute, Outcome};
use crate::policy::response::headers::Headers;
use crate::policy::time::{Millis, Timestamp};
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

/// Bytes that come within this time after a head was released were there before.
const AT_ONCE: Millis = Millis::new(2);

/// Logged when Envoy shows no part of a body while its head is held.
const HIDDEN_RESPONSES: &str = "responses are hidden from the attempt's filter while it holds their head: set \
    allow_on_headers_stop_iteration: true in its configuration in every cluster, as at the gateway's";

thread_local! {
    /// Whether Envoy ever showed a part of a body while its head was held.
    static SHOWS_BODIES: Cell<bool> = const { Cell::new(false) };
    static HIDDEN: Told = Told::default();
}

/// The response to one attempt.
pub(crate) struct Response {
    stream: StreamId,
    request: Rc<RefCell<Request>>,
    attempt: RunningAttempt,
    traits: AttemptTraits,
    /// Whether the gateway itself asked for the usage of a stream, so that the client must not see it.
    strips_usage: bool,
    state: RefCell<State>,
    /// Set when the response comes from no backend, so that nothing in it may be trusted.
    misroute: Option<Misroute>,
    /// For timers, which hold it weakly.
    itself: Weak<Self>,
}

/// How far the response is.
enum State {
    /// No headers came yet.
    Awaited,
    /// Headers and the beginning of the body are held until they show the outcome.
    Held(HeldResponse),
    /// A refusal is held until a backend reopens.
    Waiting { since: Instant, until: Instant, status: u16, outcome: Outcome },
    /// It is on its way to the client.
    Flowing(Flow),
    /// The rest does not matter: the response is complete, or will not reach the client.
    Over,
}

impl Response {
    pub(crate) fn new(
        stream: StreamId,
        request: Rc<RefCell<Request>>,
        attempt: RunningAttempt,
        traits: AttemptTraits,
        strips_usage: bool,
    ) -> Rc<Self> {
        Self::awaited(stream, request, attempt, traits, strips_usage, None)
    }

    /// The response to an attempt that cannot reach its backend. The attempt fails as if it could not connect.
    pub(crate) fn misrouted(
        stream: StreamId,
        request: Rc<RefCell<Request>>,
        attempt: RunningAttempt,
        traits: AttemptTraits,
        misroute: Misroute,
    ) -> Rc<Self> {
        Self::awaited(stream, request, attempt, traits, false, Some(misroute))
    }

    fn awaited(
        stream: StreamId,
        request: Rc<RefCell<Request>>,
        attempt: RunningAttempt,
        traits: AttemptTraits,
        strips_usage: bool,
        misroute: Option<Misroute>,
    ) -> Rc<Self> {
        Rc::new_cyclic(|itself| Self {
            stream,
            request,
            attempt,
            traits,
            strips_usage,
            state: RefCell::new(State::Awaited),
            misroute,
            itself: Weak::clone(itself),
        })
    }

    /// Response headers came.
    pub(crate) fn head(&self, end_of_stream: bool) -> Action {
        let Ok(headers) = host::header_map(Map::ResponseHeaders) else { return Action::Continue };
        let now = host::now();
        let status = status(&headers);
        self.with_origin(|origin| sanitize::response(&headers, origin));
        if let Some(misroute) = self.misroute {
            let flow = Flow::new(status, Outcome::Misrouted(misroute));
            return self.settle(flow, CapacityHints::default(), end_of_stream, now);
        }
        let hints = CapacityHints::read(&headers);
        let head = classify::head(status, &headers, self.traits, now);
        let reader = self.reader(&headers, matches!(head, Head::FirstEvent));
        let question = match head {
            Head::Decided(Outcome::Success) if !end_of_stream && self.is_held_whole(&headers) => {
                Question::Whole
            }
            Head::Decided(outcome) => {
                let outcome = match end_of_stream {
                    true => classify::without_body(outcome, self.traits),
                    false => outcome,
                };
                let flow = Flow { reader, ..Flow::new(status, outcome) };
                return self.settle(flow, hints, end_of_stream, now);
            }
            Head::FirstEvent => {
                if self.strips_usage && headers.get("content-length").is_some() {
                    // The edited body is shorter than the backend stated.
                    let _ = host::remove_header(Map::ResponseHeaders, "content-length");
                }
                Question::FirstEvent
            }
            Head::ErrorBody { otherwise } => {
                let (deployment, body) = (self.deployment(), Vec::new());
                Question::ErrorBody(Box::new(ErrorBody { status, otherwise, deployment, body }))
            }
        };
        let waits_for_all = matches!(question, Question::Whole);
        let held = HeldResponse {
            status,
            since: now,
            question,
            hints,
            reader,
            broke_off: false,
            edited: None,
            seen: 0,
            is_overdue: false,
        };
        if end_of_stream {
            return self.look_at(held, 0, true);
        }
        self.state.replace(State::Held(held));
        if waits_for_all && let Some(mut request) = self.request.change() {
            request.keep_whole(self.itself.clone());
        }
        self.wake_at(now.plus(self.hold_limits().time), now);
        Action::Pause
    }

    /// Whether headers will state the usage of a response with these headers, and it can be held until it is known.
    fn is_held_whole(&self, headers: &HeaderMap) -> bool {
        let is_told = self.request.view().is_some_and(|request| request.awaits_tokens());
        let length = headers
            .get("content-length")
            .and_then(|length| std::str::from_utf8(length).ok()?.parse::<usize>().ok());
        is_told
            && headers.get("content-type").is_some_and(is_json)
            && length.is_none_or(|length| length <= WHOLE_BYTES_MAX)
    }

    /// A part of the body came. While it is held, `size` counts from the beginning of the body.
    pub(crate) fn chunk(&self, size: usize, end_of_stream: bool) -> Action {
        // A stream has many parts, so this path moves no state.
        if !end_of_stream
            && let Some(mut state) = self.state.change()
            && let State::Flowing(flow) = &mut *state
        {
            self.tell_hidden(flow);
            flow.pass(size, end_of_stream);
            return Action::Continue;
        }
        match self.state.replace(State::Over) {
            State::Held(held) => self.look_at(held, size, end_of_stream),
            waiting @ State::Waiting { .. } => {
                self.state.replace(waiting);
                Action::Pause
            }
            State::Flowing(mut flow) => {
                self.tell_hidden(&mut flow);
                flow.pass(size, end_of_stream);
                self.flow_on(flow, end_of_stream);
                Action::Continue
            }
            State::Awaited | State::Over => Action::Continue,
        }
    }

    /// The response ended with trailers, so no part of its body was marked as the last.
    pub(crate) fn trailers(&self) -> Action {
        self.with_origin(sanitize::response_trailers);
        match self.state.replace(State::Over) {
            State::Held(held) => {
                let size = held.seen;
                self.look_at(held, size, true)
            }
            waiting @ State::Waiting { .. } => {
                self.state.replace(waiting);
                Action::Pause
            }
            // The stripper can only hold an unfinished event now, and no part of the body is left to send it in.
            State::Flowing(flow) => {
                self.flow_on(flow, true);
                Action::Continue
            }
            State::Awaited | State::Over => Action::Continue,
        }
    }

    /// Logs that Envoy shows the filter no part of a body while its head is held. This happens when the attempt's
    /// filter lacks a setting. It shows when bytes follow at once after a head was released: they had been there
    /// before.
    fn tell_hidden(&self, flow: &mut Flow) {
        let Some(let_go) = flow.let_go.take() else { return };
        let is_at_once = host::instant().since(let_go) <= AT_ONCE;
        if is_at_once && !SHOWS_BODIES.get() && HIDDEN.with(|told| told.is_news("", host::now())) {
            log::error!("{HIDDEN_RESPONSES}");
        }
    }

    /// Reads the new bytes of a held body, and keeps holding it if they do not show enough yet.
    fn look_at(&self, mut held: HeldResponse, size: usize, end_of_stream: bool) -> Action {
        let now = host::now();
        let fresh = size.saturating_sub(held.seen);
        let bytes = host::buffer(Buffer::ResponseBody, held.seen, fresh).unwrap_or_default();
        held.read(&bytes);
        if held.seen > 0 {
            SHOWS_BODIES.set(true);
        }
        let limits = self.hold_limits();
        let enough = match held.question {
            Question::Whole => held.seen > WHOLE_BYTES_MAX,
            Question::FirstEvent | Question::ErrorBody(_) => {
                held.seen >= limits.bytes || held.is_overdue
            }
        };
        if let Some(outcome) = held.outcome(&bytes, end_of_stream, enough, self.traits) {
            return self.decide(held, outcome, end_of_stream, now);
        }
        self.state.replace(State::Held(held));
        Action::Pause
    }

    /// A held response showed its outcome.
    fn decide(
        &self,
        held: HeldResponse,
        outcome: Outcome,
        end_of_stream: bool,
        now: Timestamp,
    ) -> Action {
        let outcome = held.as_of(outcome, now);
        let let_go = (held.is_overdue && held.seen == 0).then(host::instant);
        let (reader, broke_off) = (held.reader, held.broke_off);
        let mut flow = Flow { reader, broke_off, let_go, ..Flow::new(held.status, outcome) };
        if matches!(held.question, Question::Whole) {
            flow.elapsed = Some(held.since.since(self.attempt.at));
        }
        if !failover::is_worth_another(&outcome) {
            flow.let_head_go(held.seen, held.edited.as_deref(), end_of_stream);
        }
        self.settle(flow, held.hints, end_of_stream, now)
    }

    /// The outcome is known: releases the response, has it retried, or holds it until a backend reopens.
    fn settle(
        &self,
        flow: Flow,
        hints: CapacityHints,
        end_of_stream: bool,
        now: Timestamp,
    ) -> Action {
        let Flow { status, outcome, .. } = flow;
        let outcome = match hints.spilled {
            Some(error) if outcome == Outcome::Success => Outcome::Spilled { error },
            _ => outcome,
        };
        let Some(mut request) = self.request.change() else { return Action::Continue };
        let elapsed = flow.elapsed.unwrap_or_else(|| now.since(self.attempt.at));
        if failover::is_worth_another(&outcome) {
            let evidence = Evidence { outcome, status, elapsed, hints };
            let outcome = request.fail(&self.attempt, &evidence, now);
            return self.follow(&mut request, status, outcome, now);
        }
        let evidence = Evidence { outcome, status, elapsed, hints };
        request.serve(self.itself.clone(), &self.attempt, &evidence, now);
        drop(request);
        // A session lasts as long as both sides like, so its end has no outcome.
        let is_over = end_of_stream || status == SWITCHING_PROTOCOLS;
        self.flow_on(Flow { outcome, elapsed: Some(elapsed), ..flow }, is_over);
        Action::Continue
    }

    /// The response continues, or ended.
    fn flow_on(&self, flow: Flow, end_of_stream: bool) {
        if end_of_stream {
            self.state.replace(State::Over);
            self.conclude(&flow);
        } else {
            self.state.replace(State::Flowing(flow));
        }
    }

    /// Records the outcome of a response that went to the client.
    fn conclude(&self, flow: &Flow) {
        let Flow { status, outcome, elapsed, .. } = *flow;
        let is_own = !matches!(outcome, Outcome::Spilled { .. });
        let outcome = if flow.broke_off && is_own { stream_error() } else { outcome };
        let elapsed = elapsed.unwrap_or_default();
        let evidence = Evidence { outcome, status, elapsed, hints: CapacityHints::default() };
        if let Some(mut request) = self.request.change() {
            let tokens = flow.tokens(request.asked.estimate);
            let tier = flow.reader.tier();
            request.conclude(&self.attempt, &evidence, tokens, tier, host::now());
        }
    }

    /// The deployment or model that the backend is asked for.
    fn deployment(&self) -> String {
        let Some(request) = self.request.view() else { return String::new() };
        request.deployment(&self.attempt.backend).to_owned()
    }

    /// Tells `act` which backend the response comes from.
    fn with_origin(&self, act: impl FnOnce(&Origin<'_>)) {
        let request = self.request.view();
        let request = request.as_deref();
        let backend = &*self.attempt.backend;
        let deployment = request.map_or("", |request| request.deployment(backend));
        let is_clients = request.is_some_and(|request| request.asked.model == deployment);
        let key = backend.key_header.as_ref().map_or(&b""[..], |(_, value)| value);
        act(&Origin {
            host: &backend.config.host,
            deployment: if is_clients { "" } else { deployment },
            key: key.strip_prefix(b"Bearer ").unwrap_or(key),
            owns_credential: self.traits.owns_credential,
            keeps_rate_limits: request.is_some_and(Request::keeps_rate_limits),
        });
    }

    /// The reader of a response with these headers. Tokens are counted if anything depends on them.
    fn reader(&self, headers: &HeaderMap, is_first_event: bool) -> Reader {
        let request = self.request.view();
        let usage = request.as_ref().is_some_and(|request| request.is_metered());
        let tier = usage && request.is_some_and(|request| request.tier().is_some());
        if is_first_event {
            let strips_usage = self.strips_usage;
            Reader::stream(Features { errors: true, usage, strips_usage, tier })
        } else if usage {
            Reader::of_usage(headers.get("content-type"), tier)
        } else {
            Reader::None
        }
    }

    /// What follows a failed attempt whose response is still here.
    fn follow(
        &self,
        request: &mut Request,
        status: u16,
        outcome: Outcome,
        now: Timestamp,
    ) -> Action {
        match request.go_on(now) {
            Next::Retry => {
                self.state.replace(State::Over);
                request.expect_retry(self.attempt.backend.index, outcome, status);
                ask_for_retry(status);
            }
            Next::Wait { until } => {
                let since = host::instant();
                self.wake_at(until, now);
                let until = since.plus(until.since(now));
                self.state.replace(State::Waiting { since, until, status, outcome });
                return Action::Pause;
            }
            Next::Stop(stop) => {
                let ending =
                    failover::ending(&outcome, status, &stop, request.pool().backends.len(), now);
                self.state.replace(State::Over);
                request.give_up(Some(self.attempt.backend.index), ending, now);
            }
        }
        Action::Continue
    }

    fn wake_at(&self, at: Timestamp, now: Timestamp) {
        timers::set(self.stream, at, now, self.itself.clone());
    }

    fn hold_limits(&self) -> HoldLimits {
        let request = self.request.view();
        let settings = request.map(|request| request.pool().policy.failover);
        HoldLimits {
            bytes: settings.map_or(0, |s| usize::try_from(s.hold_bytes).unwrap_or(usize::MAX)),
            time: settings.map_or(Millis::ZERO, |s| s.hold_time),
        }
    }
}

/// How many bytes of a response are held, and how long after its headers.
struct HoldLimits {
    bytes: usize,
    time: Millis,
}

impl Wake for Response {
    fn wake(&self, now: Timestamp) {
        match self.state.replace(State::Over) {
            // A held body cannot be edited here, so the next bytes release it.
            State::Held(mut held) if held.edited.is_some() => {
                held.is_overdue = true;
                self.state.replace(State::Held(held));
            }
            // Its body began to arrive.
            State::Held(held) if matches!(held.question, Question::Whole) && held.seen > 0 => {
                self.state.replace(State::Held(held));
            }
            State::Held(mut held) => {
                held.is_overdue = true;
                let outcome = held.outcome(&[], false, true, self.traits);
                let outcome = outcome.unwrap_or(Outcome::Success);
                if self.decide(held, outcome, false, now) == Action::Continue {
                    let _ = host::resume(Direction::Response);
                }
            }
            // It is the time at which what was held before had to be let go.
            waiting @ State::Waiting { until, .. } if host::instant() < until => {
                self.state.replace(waiting);
            }
            State::Waiting { since, status, outcome, .. } => {
                let Some(mut request) = self.request.change() else { return };
                request.waited(host::instant().since(since));
                if self.follow(&mut request, status, outcome, now) == Action::Continue {
                    let _ = host::resume(Direction::Response);
                }
            }
            other => drop(self.state.replace(other)),
        }
    }
}

/// Makes the router retry. A failed attempt must not look like a success.
fn ask_for_retry(status: u16) {
    if status < 400 {
        let _ = host::set_header(Map::ResponseHeaders, ":status", "503");
    }
    // If the host refuses, the client would get this response: then the gateway replaces it by an error.
    let _ = host::set_header(Map::ResponseHeaders, RETRY, "1");
}

fn status(headers: &HeaderMap) -> u16 {
    headers
        .get(":status")
        .and_then(|value| std::str::from_utf8(value).ok())
        .and_then(|value| value.parse().ok())
        .unwrap_or(0)
}

fn fault(fault: Fault) -> Outcome {
    Outcome::Fault { fault, retry_after: None }
}
