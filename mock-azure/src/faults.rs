//! The ways in which a backend can fail, and which request gets which.
//!
//! A fault is either a response of its own (a status, a refusal inside a stream), a change of the normal
//! answer (a stall, half an event) or something below HTTP (a reset, bytes that are not HTTP). Faults wait
//! in a queue, each for the first request that it fits; behind the queue may stand one fault for everyone.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::answers::{Answer, created_event, data_event, error_event, failed_event};
use crate::config::millis;
use crate::problems::{Exceeded, Problem, retry_headers};
use crate::route::Operation;
use crate::script::{Script, Step};

/// One way to fail. In JSON: `{"fault": "stall_mid_stream", "after_events": 2}`.
///
/// `after_events` counts the chunks that are sent whole before the fault. In a chat stream the first
/// event is the content filter's and the second the role; a body that is not streamed is one chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case")]
pub enum Fault {
    /// This status; without a body Azure's own for it.
    Status {
        /// The status code.
        status: u16,
        /// Additional headers.
        #[serde(default)]
        headers: Vec<(String, String)>,
        /// The whole body, sent as JSON.
        #[serde(default)]
        body: Option<String>,
    },
    /// A 429 with Azure's `retry-after` (seconds, rounded up) and `retry-after-ms`, or without both.
    Throttle {
        /// The delay in both headers.
        #[serde(default)]
        retry_after_ms: Option<u64>,
    },
    /// A normal response that begins late.
    DelayFirstByte {
        /// In addition to the configured latency.
        #[serde(rename = "delay_ms", with = "millis")]
        delay: Duration,
    },
    /// A normal response that falls silent and never ends.
    StallMidStream {
        /// Chunks sent before the silence.
        after_events: usize,
    },
    /// A TCP reset instead of a response.
    ResetBeforeHeaders,
    /// An orderly close instead of a response.
    CloseBeforeHeaders,
    /// A normal response that is ended by a TCP reset.
    ResetAfterHeaders {
        /// Chunks sent before the reset.
        after_events: usize,
    },
    /// A normal response that ends in the middle of a chunk.
    HalfEvent {
        /// Whole chunks sent before the half one.
        after_events: usize,
        /// How it ends.
        #[serde(default)]
        ending: Ending,
    },
    /// A 200 with a page of HTML, as a proxy in between might send.
    GarbageHtml,
    /// Bytes that are not HTTP, then a close.
    GarbageBytes,
    /// Existing connections are closed and new ones refused for a time. Takes effect at once.
    Refuse {
        /// How long.
        #[serde(rename = "for_ms", with = "millis")]
        length: Duration,
    },
    /// A 200 event stream whose first event is an error. Waits for a request that asks for a stream.
    ErrorFirstEvent {
        /// The error's form.
        shape: ErrorShape,
        /// The error's code, such as `rate_limit_exceeded` or `server_error`.
        code: String,
    },
    /// Azure's refusal within a 200 stream: `retry-after` in the headers, then an error after
    /// `response.created` (in a chat stream as first event). Waits for a request that asks for a stream.
    InBandThrottle {
        /// The delay in both headers.
        retry_after_ms: u64,
    },
    /// A normal response whose headers arrive byte by byte.
    SlowHeaders {
        /// How many bytes arrive alone.
        bytes: usize,
        /// The pause before each of them.
        #[serde(rename = "pause_ms", with = "millis")]
        pause: Duration,
    },
    /// An error event in a running stream, then the end. Waits for a request that asks for a stream.
    MidStreamError {
        /// Events sent before the error.
        after_events: usize,
    },
    /// The 400 of the content filter.
    ContentFilter400,
    /// The 400 of a prompt that is too long for this deployment (provisioned long-context).
    ContextLength400,
    /// A 200 event stream without an event. Waits for a request that asks for a stream.
    EmptyStream,
    /// `response.created` of this size, then an error or the real stream. Waits for a Responses stream.
    HugeCreatedEvent {
        /// The size of the echoed request.
        bytes: usize,
        /// An error follows, otherwise the rest of the normal stream.
        then_error: bool,
    },
    /// A normal answer with these headers added (or replaced, when the mock sends them itself).
    BackendHeaders {
        /// Names and values.
        headers: Vec<(String, String)>,
    },
}

/// The forms that an error takes in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorShape {
    /// `data: {"error": {…}}`.
    Chat,
    /// `event: error` with the error as an object, as Azure sends it.
    ResponsesNested,
    /// `event: error` with code and message beside the type, as documented.
    ResponsesFlat,
    /// `event: response.failed`.
    ResponseFailed,
}

/// How half a response ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The connection is closed in mid-message.
    #[default]
    Close,
    /// The connection is reset.
    Reset,
    /// The HTTP message ends as it should; only its content is cut.
    End,
}

/// What a fault makes of a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// This answer, without asking the limits.
    Answer(Answer),
    /// The connection ends without a response.
    Hangup { reset: bool },
    /// These bytes, then the end of the connection.
    Bytes(&'static [u8]),
    /// The normal response, later.
    Later(Duration),
    /// The normal response, its first bytes one by one.
    Dribble { bytes: usize, pause: Duration },
    /// The normal response after [`Fault::edit`].
    Edit,
}

const MESSAGE: &str = "The mock was told to fail here.";

impl Fault {
    /// This status, with the body that an error has by default.
    pub fn status(status: u16) -> Self {
        Self::status_with(status, &[], None)
    }

    /// This status with these headers, and with this body instead of the default one.
    pub fn status_with(status: u16, headers: &[(&str, &str)], body: Option<&str>) -> Self {
        let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Self::Status { status, headers: headers.collect(), body: body.map(str::to_owned) }
    }

    /// A 429 that names this delay.
    pub fn throttle(retry_after_ms: u64) -> Self {
        Self::Throttle { retry_after_ms: Some(retry_after_ms) }
    }

    /// The name in JSON.
    pub(crate) fn name(&self) -> String {
        let value = serde_json::to_value(self).unwrap_or_default();
        value["fault"].as_str().unwrap_or_default().to_owned()
    }

    pub(crate) fn effect(&self, deployment: &str) -> Effect {
        match self {
            Self::ResetBeforeHeaders => Effect::Hangup { reset: true },
            Self::CloseBeforeHeaders => Effect::Hangup { reset: false },
            Self::GarbageBytes => Effect::Bytes(b"\x00\xff\x16\x03 this is not HTTP\r\n\r\n\xfe"),
            Self::DelayFirstByte { delay } => Effect::Later(*delay),
            Self::SlowHeaders { bytes, pause } => Effect::Dribble { bytes: *bytes, pause: *pause },
            _ => self.answer(deployment).map_or(Effect::Edit, Effect::Answer),
        }
    }

    /// The answer of a fault that does not need the normal one.
    fn answer(&self, deployment: &str) -> Option<Answer> {
        Some(match self {
            Self::Status { status, headers, body } => {
                let mut answer = Answer::problem(Problem::plain(*status));
                answer.headers.extend(headers.iter().cloned());
                if let Some(body) = body {
                    answer.script = Script::whole(body.clone());
                }
                answer
            }
            Self::Throttle { retry_after_ms } => {
                Answer::problem(Problem::throttled(Exceeded::Tokens, *retry_after_ms))
            }
            Self::GarbageHtml => {
                let page = "<!DOCTYPE html><html><body><h1>Welcome</h1></body></html>";
                Answer::bytes("text/html", page, 0)
            }
            Self::ErrorFirstEvent { shape, code } => events([shape.event(deployment, code, 0)]),
            Self::ContentFilter400 => Answer::problem(Problem::content_filter()),
            Self::ContextLength400 => Answer::problem(Problem::context_length()),
            Self::EmptyStream => events([]),
            Self::HugeCreatedEvent { bytes, then_error: true } => events([
                created_event(deployment, *bytes),
                error_event(true, "server_error", MESSAGE, 1),
            ]),
            _ => return None,
        })
    }

    /// Changes the normal response.
    pub(crate) fn edit(
        &self,
        answer: &mut Answer,
        deployment: &str,
        operation: Option<&Operation>,
    ) {
        let script = &mut answer.script;
        match self {
            Self::StallMidStream { after_events } => {
                script.cut_at_chunk(*after_events);
                script.push(Step::Stall);
            }
            Self::ResetAfterHeaders { after_events } => {
                script.cut_at_chunk(*after_events);
                script.push_cut(true);
            }
            Self::HalfEvent { after_events, ending } => {
                if let Some(mut chunk) = script.cut_at_chunk(*after_events) {
                    script.push(Step::Chunk(chunk.split_to(chunk.len() / 2)));
                }
                if *ending != Ending::End {
                    script.push_cut(*ending == Ending::Reset);
                }
            }
            Self::MidStreamError { after_events } => {
                script.cut_at_chunk(*after_events);
                let event = running_error(operation, *after_events as u64);
                script.push(Step::Chunk(event.into()));
            }
            Self::InBandThrottle { retry_after_ms } => {
                let events = in_band_throttle(operation, deployment);
                *answer = Answer { headers: std::mem::take(&mut answer.headers), ..events };
                answer.headers.extend(retry_headers(*retry_after_ms));
            }
            Self::HugeCreatedEvent { bytes, .. } => {
                if let Some(Step::Chunk(first)) = script.0.first_mut() {
                    *first = created_event(deployment, *bytes).into();
                }
            }
            Self::BackendHeaders { headers } => answer.headers.extend(headers.iter().cloned()),
            _ => {}
        }
    }

    fn fits(&self, operation: Option<&Operation>, stream: bool) -> bool {
        match self {
            Self::ErrorFirstEvent { .. }
            | Self::InBandThrottle { .. }
            | Self::MidStreamError { .. }
            | Self::EmptyStream => stream,
            Self::HugeCreatedEvent { .. } => stream && operation == Some(&Operation::Responses),
            _ => true,
        }
    }
}

impl ErrorShape {
    fn event(self, deployment: &str, code: &str, number: u64) -> String {
        match self {
            Self::Chat => {
                let error =
                    json!({ "message": MESSAGE, "type": code, "param": null, "code": code });
                data_event(&json!({ "error": error }))
            }
            Self::ResponsesNested => error_event(true, code, MESSAGE, number),
            Self::ResponsesFlat => error_event(false, code, MESSAGE, number),
            Self::ResponseFailed => failed_event(deployment, code, MESSAGE, number),
        }
    }
}

fn events<const N: usize>(events: [String; N]) -> Answer {
    Answer::stream(Script::stream(events, Duration::ZERO), 0)
}

fn running_error(operation: Option<&Operation>, number: u64) -> String {
    let responses = operation == Some(&Operation::Responses);
    let shape = if responses { ErrorShape::ResponsesNested } else { ErrorShape::Chat };
    shape.event("", "server_error", number)
}

/// As captured from Azure: created, error, failed.
fn in_band_throttle(operation: Option<&Operation>, deployment: &str) -> Answer {
    let code = "rate_limit_exceeded";
    if operation == Some(&Operation::Responses) {
        events([
            created_event(deployment, 0),
            error_event(true, code, MESSAGE, 1),
            failed_event(deployment, code, MESSAGE, 2),
        ])
    } else {
        events([ErrorShape::Chat.event(deployment, code, 0)])
    }
}

/// A fault waiting for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) fault: Fault,
    /// Only for paths (with query) that contain this.
    pub(crate) path_contains: Option<String>,
}

/// All faults of one mock.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    queue: VecDeque<Waiting>,
    standing: Option<Waiting>,
}

impl Faults {
    pub(crate) fn push(&mut self, waiting: Waiting) {
        self.queue.push_back(waiting);
    }

    pub(crate) fn set(&mut self, standing: Option<Waiting>) {
        self.standing = standing;
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The fault of a request: the first in the queue that fits, otherwise the standing one.
    pub(crate) fn take(
        &mut self,
        path: &str,
        operation: Option<&Operation>,
        stream: bool,
    ) -> Option<Fault> {
        let fits = |waiting: &Waiting| {
            let path_fits = waiting.path_contains.as_ref().is_none_or(|part| path.contains(part));
            path_fits && waiting.fault.fits(operation, stream)
        };
        if let Some(place) = self.queue.iter().position(fits) {
            return self.queue.remove(place).map(|waiting| waiting.fault);
        }
        self.standing.as_ref().filter(|waiting| fits(waiting)).map(|waiting| waiting.fault.clone())
    }
}
