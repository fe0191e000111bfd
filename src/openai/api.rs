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

/// What a request asks for.
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
    /// A WebSocket upgrade, or the client secrets and calls that go with it.
    Realtime,
    /// `GET /models` and `GET /models/{model}`.
    Models,
    /// Anything else; it is passed through.
    Other,
}
