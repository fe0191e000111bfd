//! Decisions by a request's headers alone: whether the request is accepted, and what must be known of its body before
//! a backend can be chosen.
//!
//! Everything that can be refused is refused here, before any byte of the body is kept.

use super::request_body::BodyNeed;
use crate::config::{operation_bit, operation_name};
use crate::filter::host::header_map::HeaderMap;
use crate::filter::pool::{Pool, Pools};
use crate::openai::call::api::Operation;
use crate::openai::call::models::ModelsQuestion;
use crate::openai::call::{self, Call};
use crate::openai::request::body::BodyScanner;
use crate::openai::response::reply::{self, Reply};
use std::borrow::Cow;
use std::rc::Rc;

/// An accepted request.
pub(crate) struct Arrival {
    pub(crate) call: Call,
    /// Its pool, if it does not depend on the body.
    pub(crate) pool: Option<Rc<Pool>>,
    /// Whether the model in its body is read, or must be written for a backend of its pool.
    pub(crate) needs_body: bool,
    /// The length of the body that its headers state.
    pub(crate) content_length: Option<u64>,
}

/// The headers that decide, found in one pass.
#[derive(Default)]
struct Head<'a> {
    method: &'a [u8],
    path: &'a [u8],
    upgrade: Option<&'a [u8]>,
    /// All its values as one: servers may read repeated ones differently.
    content_type: Option<Cow<'a, [u8]>>,
    /// Whether the body is compressed or encoded in another way.
    is_encoded: bool,
    content_length: Option<u64>,
}

/// What happens to the body of a request.
pub(crate) enum Intake {
    /// There is no body, or it passes unread.
    Pass,
    /// It is held to its end, and read as far as `need` requires.
    Hold { scanner: Option<Box<BodyScanner>>, need: BodyNeed },
}

impl Arrival {
    /// Decides by the headers of a request.
    ///
    /// # Errors
    /// The gateway's own reply.
    pub(crate) fn of(
        pools: &Pools,
        headers: &HeaderMap,
        end_of_stream: bool,
    ) -> Result<(Self, Intake), Reply> {
        let head = Head::of(headers);
        let call = call::recognise(head.method, head.path).ok_or_else(reply::unknown_path)?;
        let upgrades = upgrades(pools, &call, head.upgrade)?;
        if let Some(question) = call.models_question() {
            return Err(models(pools, &question));
        }
        if !pools.allowed_operations.covers(operation_bit(call.operation)) {
            return Err(reply::operation_not_allowed(operation_name(call.operation)));
        }
        let pool = match call.needs_model() {
            true => None,
            false => Some(pool_of(pools, &call, call.deployment.as_deref())?),
        };
        let needs_body =
            call.needs_model() || pool.as_ref().is_some_and(|pool| pool.writes_model(&call));
        let arrival = Self { call, pool, needs_body, content_length: head.content_length };
        let intake =
            if upgrades { Intake::Pass } else { arrival.intake(pools, &head, end_of_stream)? };
        Ok((arrival, intake))
    }

    /// What happens to the body of a request that may have one.
    fn intake(&self, pools: &Pools, head: &Head<'_>, end_of_stream: bool) -> Result<Intake, Reply> {
        let scanner = BodyScanner::new(&self.call, head.content_type.as_deref());
        let is_encoded = head.is_encoded;
        if self.needs_body {
            match &scanner {
                _ if is_encoded => return Err(reply::encoded_body()),
                _ if end_of_stream => return Err(reply::malformed_body("the body is empty", 0)),
                None => return Err(reply::unreadable_body()),
                Some(_) => {}
            }
        }
        // Bodies that are not read are held too: an unfinished body would occupy a connection to a backend.
        let is_held = !end_of_stream && (scanner.is_some() || !self.call.is_upload());
        if !is_held {
            return Ok(Intake::Pass);
        }
        if self.content_length.is_some_and(|length| length > pools.request_body.max_bytes) {
            return Err(reply::refused(413));
        }
        let need = match &scanner {
            None => BodyNeed::Nothing,
            Some(_) if is_encoded => BodyNeed::Nothing,
            Some(_) if pools.reads_bodies || !self.call.is_below_deployment() => BodyNeed::All,
            Some(_) if self.call.deployment.is_none() => BodyNeed::Model,
            Some(_) if self.call.expects_json() => BodyNeed::Tier,
            Some(_) => BodyNeed::Nothing,
        };
        Ok(Intake::Hold { scanner, need })
    }
}

impl<'a> Head<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let mut head = Self::default();
        let mut length = None;
        for (name, value) in headers.iter() {
            match name {
                b":method" if head.method.is_empty() => head.method = value,
                b":path" if head.path.is_empty() => head.path = value,
                b"upgrade" if head.upgrade.is_none() => head.upgrade = Some(value),
                b"content-length" if length.is_none() => length = Some(value),
                b"content-type" => head.note_content_type(value),
                b"content-encoding" => {
                    let value = value.trim_ascii();
                    head.is_encoded |=
                        !value.is_empty() && !value.eq_ignore_ascii_case(b"identity");
                }
                _ => {}
            }
        }
        let length = length.and_then(|length| std::str::from_utf8(length).ok());
        head.content_length = length.and_then(|length| length.parse().ok());
        head
    }

    fn note_content_type(&mut self, value: &'a [u8]) {
        match &mut self.content_type {
            None => self.content_type = Some(Cow::Borrowed(value)),
            Some(joined) => {
                let joined = joined.to_mut();
                joined.extend_from_slice(b", ");
                joined.extend_from_slice(value);
            }
        }
    }
}

/// The pool of a model. A call that need not name a model gets the default pool.
///
/// # Errors
/// The reply when no pool matches, or when the pool does not take the call.
pub(crate) fn pool_of(pools: &Pools, call: &Call, model: Option<&str>) -> Result<Rc<Pool>, Reply> {
    let found = model.and_then(|model| pools.of_model(model));
    let pool = match (found, model) {
        (Some(pool), _) => pool,
        (None, Some(model)) if call.needs_model() || call.deployment.is_some() => {
            return Err(reply::unknown_model(model));
        }
        (None, None) if call.needs_model() => return Err(reply::missing_model()),
        (None, _) => pools.default.as_ref().ok_or_else(reply::internal)?,
    };
    if call.operation == Operation::ResponsesSession && !pool.responses_websocket {
        return Err(reply::no_websocket());
    }
    if pool.serves(operation_bit(call.operation)) {
        Ok(Rc::clone(pool))
    } else {
        Err(reply::operation_not_served(operation_name(call.operation)))
    }
}

/// Whether the call becomes a WebSocket.
///
/// # Errors
/// The reply when the call must not be upgraded, or when it exists only as a WebSocket and asks for none.
fn upgrades(pools: &Pools, call: &Call, protocol: Option<&[u8]>) -> Result<bool, Reply> {
    let is_session = call.operation == Operation::ResponsesSession;
    let Some(protocol) = protocol else {
        return if is_session { Err(reply::unknown_path()) } else { Ok(false) };
    };
    if !(is_session || call.operation == Operation::Realtime)
        || !protocol.trim_ascii().eq_ignore_ascii_case(b"websocket")
    {
        return Err(reply::no_such_upgrade());
    }
    if is_session && !pools.take_websockets() {
        return Err(reply::no_websocket());
    }
    Ok(true)
}

/// Replies to a request for the list of models, or for one of them.
fn models(pools: &Pools, question: &ModelsQuestion) -> Reply {
    match question {
        ModelsQuestion::All => reply::models_list(pools.models()),
        ModelsQuestion::One(name) if pools.of_model(name).is_some() => reply::one_model(name),
        ModelsQuestion::One(name) => reply::unknown_model(name),
    }
}
