//! What the client sent, as far as an attempt needs it.

use crate::filter::host::sanitize::Subprotocols;
use crate::openai::call::Call;
use crate::openai::call::api::Operation;
use crate::openai::request::body::Body;
use crate::openai::request::facts::TOKEN_BYTES;
use crate::openai::service_tier::ServiceTier;
use crate::policy::choice::Needs;
use crate::policy::tokens::estimate::{Estimate, RequestSize};

/// What the client sent, as far as an attempt needs it.
pub(crate) struct ClientRequest {
    pub(crate) call: Call,
    /// The model that the client named; empty when it named none.
    pub(crate) model: String,
    /// The facts of the body, if it was read.
    pub(crate) body: Option<Box<Body>>,
    /// Whether the body may ask for a service tier that was not found in it.
    pub(crate) may_ask_for_tier: bool,
    /// Whether only the ends of the body were read.
    pub(crate) is_glimpsed: bool,
    pub(crate) content_length: Option<u64>,
    /// The client's own credential headers, if some backend gets them.
    pub(crate) credentials: Vec<(&'static str, Vec<u8>)>,
    /// The WebSocket subprotocols, if they contain credentials that some backend gets.
    pub(crate) subprotocols: Option<Subprotocols>,
    pub(crate) needs: Needs,
    pub(crate) size: RequestSize,
    /// The tokens that it is expected to use.
    pub(crate) estimate: Estimate,
}

impl ClientRequest {
    /// Whether it refers to an object that one resource stores.
    pub(crate) fn names_stored_object(&self) -> bool {
        let in_body = self.body.as_ref().is_some_and(|body| body.facts.previous_response);
        self.call.names_stored_object() || in_body
    }

    /// Whether it refers to things that it does not contain.
    pub(super) fn has_dependencies(&self) -> bool {
        self.body.as_ref().is_some_and(|body| body.facts.has_dependencies)
    }

    /// Whether its cost cannot be seen in it, so that a 429 may be about its size.
    pub(crate) fn hides_its_cost(&self) -> bool {
        self.has_dependencies() || self.is_glimpsed || !self.call.is_charged()
    }

    /// Whether a model does the work.
    pub(super) fn is_of_model(&self) -> bool {
        self.is_session() || self.call.is_model_operation()
    }

    /// Whether it asks for a WebSocket.
    pub(super) fn is_session(&self) -> bool {
        matches!(self.call.operation, Operation::Realtime | Operation::ResponsesSession)
    }

    /// The service tier that the client asks for.
    pub(super) fn tier(&self) -> Option<ServiceTier> {
        ServiceTier::asked_for(&self.body.as_ref()?.facts)
    }

    /// An upper bound of its tokens, as far as it states them. A body that was not read counts by its length.
    pub(super) fn tokens(&self) -> u64 {
        if self.body.is_none() {
            return self.content_length.unwrap_or(0).checked_div(TOKEN_BYTES).unwrap_or(0);
        }
        let output = self.size.max_output_tokens.unwrap_or(0);
        let choices = self.size.choices.unwrap_or(1).max(1);
        self.estimate.prompt_tokens.saturating_add(output.saturating_mul(choices))
    }
}
