//! What is decided of a request by its head alone: whether it may come in, and what of its body must be
//! known before a backend can be chosen.
//!
//! Whatever can be refused is refused here, before a byte of its body is kept.

use super::request_body::BodyNeed;
use crate::config::{operation_bit, operation_name};
use crate::filter::host::header_map::HeaderMap;
use crate::filter::pool::{Pool, Pools};
use crate::openai::call::api::Operation;
use crate::openai::call::models::ModelsQuestion;
use crate::openai::call::{self, Call};
use crate::openai::request::body::BodyScanner;
use crate::openai::response::reply::{self, Reply};
use crate::policy::response::headers::Headers;
use std::borrow::Cow;
use std::rc::Rc;

/// A request that may come in.
pub(crate) struct Arrival {
    pub(crate) call: Call,
    /// Its pool, when that does not depend on its body.
    pub(crate) pool: Option<Rc<Pool>>,
    /// Whether the model in its body is read, or some backend of its pool is told another one there.
    pub(crate) needs_body: bool,
}

/// What is done with the body of a request.
pub(crate) enum Intake {
    /// There is none, or it passes unread.
    Pass,
    /// It is held to its end and read as far as `wanted`.
    Hold { scanner: Option<Box<BodyScanner>>, need: BodyNeed },
}

impl Arrival {
    /// Looks at the head of a request.
    ///
    /// # Errors
    /// What the gateway answers itself.
    pub(crate) fn of(
        pools: &Pools,
        headers: &HeaderMap,
        end_of_stream: bool,
    ) -> Result<(Self, Intake), Reply> {
        let method = headers.get(":method").unwrap_or_default();
        let path = headers.get(":path").unwrap_or_default();
        let call = call::recognise(method, path).ok_or_else(reply::unknown_path)?;
        let upgrades = upgrades(pools, &call, headers)?;
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
        let arrival = Self { call, pool, needs_body };
        let intake =
            if upgrades { Intake::Pass } else { arrival.intake(pools, headers, end_of_stream)? };
        Ok((arrival, intake))
    }

    /// What is done with the body of a request that may have one.
    fn intake(
        &self,
        pools: &Pools,
        headers: &HeaderMap,
        end_of_stream: bool,
    ) -> Result<Intake, Reply> {
        let scanner = BodyScanner::new(&self.call, content_type(headers).as_deref());
        let is_encoded = is_encoded(headers);
        if self.needs_body {
            match &scanner {
                _ if is_encoded => return Err(reply::encoded_body()),
                _ if end_of_stream => return Err(reply::malformed_body("the body is empty", 0)),
                None => return Err(reply::unreadable_body()),
                Some(_) => {}
            }
        }
        // Whatever is not read is held as well: an unfinished body would keep a connection to a backend.
        let is_held = !end_of_stream && (scanner.is_some() || !self.call.is_upload());
        if !is_held {
            return Ok(Intake::Pass);
        }
        let length = headers.get("content-length").and_then(|it| std::str::from_utf8(it).ok());
        let length = length.and_then(|length| length.parse::<u64>().ok());
        if length.is_some_and(|length| length > pools.request_body.max_bytes) {
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

/// The pool of a model; of a call that need not name one, the default pool.
///
/// # Errors
/// The response when there is none, or none that takes the call.
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
/// The response when it cannot, or when it is nothing else.
fn upgrades(pools: &Pools, call: &Call, headers: &HeaderMap) -> Result<bool, Reply> {
    let is_session = call.operation == Operation::ResponsesSession;
    let Some(protocol) = headers.get("upgrade") else {
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

/// Which models there are.
fn models(pools: &Pools, question: &ModelsQuestion) -> Reply {
    match question {
        ModelsQuestion::All => reply::models_list(pools.models()),
        ModelsQuestion::One(name) if pools.of_model(name).is_some() => reply::one_model(name),
        ModelsQuestion::One(name) => reply::unknown_model(name),
    }
}

/// Every value of `content-type`, as one: whoever gives it twice may be read in two ways.
fn content_type(headers: &HeaderMap) -> Option<Cow<'_, [u8]>> {
    let mut all = headers.all("content-type");
    let mut joined = Cow::Borrowed(all.next()?);
    for value in all {
        let first = joined.to_mut();
        first.extend_from_slice(b", ");
        first.extend_from_slice(value);
    }
    Some(joined)
}

/// Whether the body is compressed, or else not what it will be.
fn is_encoded(headers: &HeaderMap) -> bool {
    headers.all("content-encoding").any(|value| {
        let value = value.trim_ascii();
        !value.is_empty() && !value.eq_ignore_ascii_case(b"identity")
    })
}
