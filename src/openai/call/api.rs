//! The words of the protocol: the three API shapes and the operations.

/// The shape of a URL and of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Api {
    /// `/openai/deployments/{deployment}/…?api-version=…`
    Azure,
    /// `/openai/v1/…`, the deployment in the body's `model`.
    AzureV1,
    /// `/v1/…`, the model in the body.
    OpenAi,
}

/// The operation of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each variant is the name of its operation in the API reference")]
pub enum Operation {
    ChatCompletions,
    Completions,
    Embeddings,
    /// `POST /responses`: creates one.
    Responses,
    ImagesGenerations,
    ImagesEdits,
    AudioTranscriptions,
    AudioTranslations,
    AudioSpeech,
    /// The WebSocket of a realtime session.
    Realtime,
    /// `GET /models` and `GET /models/{model}`.
    Models,
    /// Reading, cancelling and deleting one stored response or chat completion by its id.
    StoredResponses,
    /// Responses over a WebSocket: `GET /responses` with an upgrade.
    ResponsesSession,
    Assistants,
    Batches,
    Containers,
    Conversations,
    Evals,
    Files,
    FineTuning,
    Moderations,
    /// Operations around realtime sessions: client secrets, and calls over WebRTC or SIP.
    RealtimeCalls,
    Threads,
    Uploads,
    VectorStores,
    Videos,
}

impl Operation {
    /// The family of operations whose paths begin with this segment; `None` for operations that need more than
    /// one segment, and for everything unknown.
    pub(super) fn of_family(segment: &[u8]) -> Option<Self> {
        Some(match segment {
            b"assistants" => Self::Assistants,
            b"batches" => Self::Batches,
            b"containers" => Self::Containers,
            b"conversations" => Self::Conversations,
            b"evals" => Self::Evals,
            b"files" => Self::Files,
            b"fine_tuning" => Self::FineTuning,
            b"moderations" => Self::Moderations,
            b"realtime" | b"realtimeapi" => Self::RealtimeCalls,
            b"threads" => Self::Threads,
            b"uploads" => Self::Uploads,
            b"vector_stores" => Self::VectorStores,
            b"video" | b"videos" => Self::Videos,
            _ => return None,
        })
    }
}
