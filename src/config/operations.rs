//! The operations with a name in the configuration, and their bits.
//!
//! This table is the only place that knows both, so the configuration and the filter always agree.
//! The list of models needs no backend.

use super::reader::Node;
use crate::openai::call::api::Operation;
use crate::policy::pool::OperationSet;

/// The operations with a name in the configuration; a bit is a position in this table.
pub(super) const NAMES: [(&str, Operation); 24] = [
    ("chat_completions", Operation::ChatCompletions),
    ("completions", Operation::Completions),
    ("embeddings", Operation::Embeddings),
    ("responses", Operation::Responses),
    ("images_generations", Operation::ImagesGenerations),
    ("images_edits", Operation::ImagesEdits),
    ("audio_transcriptions", Operation::AudioTranscriptions),
    ("audio_translations", Operation::AudioTranslations),
    ("audio_speech", Operation::AudioSpeech),
    ("realtime", Operation::Realtime),
    ("stored_responses", Operation::StoredResponses),
    ("assistants", Operation::Assistants),
    ("batches", Operation::Batches),
    ("containers", Operation::Containers),
    ("conversations", Operation::Conversations),
    ("evals", Operation::Evals),
    ("files", Operation::Files),
    ("fine_tuning", Operation::FineTuning),
    ("moderations", Operation::Moderations),
    ("realtime_calls", Operation::RealtimeCalls),
    ("threads", Operation::Threads),
    ("uploads", Operation::Uploads),
    ("vector_stores", Operation::VectorStores),
    ("videos", Operation::Videos),
];

/// How many operations, from the first on, every client may use. The others show or change what all
/// clients of a resource share, so the configuration must allow them.
const ALLOWED_TO_ALL: usize = 11;

/// The set that a backend's operations must include to take `operation`; empty for the list of models,
/// which the gateway itself serves.
pub fn operation_bit(operation: Operation) -> OperationSet {
    // The same work, requested in another way.
    let operation = match operation {
        Operation::ResponsesSession => Operation::Responses,
        operation => operation,
    };
    let position = NAMES.iter().position(|(_, named)| *named == operation);
    let bit = position.and_then(|position| 1_u32.checked_shl(u32::try_from(position).ok()?));
    OperationSet(bit.unwrap_or(0))
}

/// The operations that clients may use: those open to everyone, and those that `allow_operations` adds.
pub(super) fn allowed(node: Option<&Node<'_>>) -> Option<OperationSet> {
    let (to_all, by_choice) = NAMES.split_at_checked(ALLOWED_TO_ALL)?;
    let added = match node {
        Some(node) => node.list(0..=by_choice.len(), "operations", |n| n.choice(by_choice))?,
        None => Vec::new(),
    };
    let to_all = to_all.iter().map(|(_, operation)| *operation);
    Some(union(&to_all.chain(added).collect::<Vec<_>>()))
}

/// The name of `operation` in the configuration.
pub fn operation_name(operation: Operation) -> &'static str {
    let named = NAMES.iter().find(|(_, named)| *named == operation);
    named.map_or("responses_websocket", |(name, _)| name)
}

/// The set of all of `operations`.
pub(super) fn union(operations: &[Operation]) -> OperationSet {
    let bits = operations.iter().map(|operation| operation_bit(*operation).0);
    OperationSet(bits.fold(0, |set, bit| set | bit))
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn every_named_operation_has_a_bit_of_its_own() {
        let all: Vec<Operation> = NAMES.iter().map(|(_, operation)| *operation).collect();
        assert_eq!(union(&all).0.count_ones(), 24);
    }

    #[test]
    fn every_backend_takes_what_the_gateway_answers_itself_and_only_that() {
        let chat_only = operation_bit(Operation::ChatCompletions);
        assert!(chat_only.covers(operation_bit(Operation::Models)));
        for (name, operation) in NAMES.iter().skip(1) {
            assert!(!chat_only.covers(operation_bit(*operation)), "{name}");
        }
        assert!(OperationSet::ALL.covers(operation_bit(Operation::Videos)));
    }

    #[test]
    fn without_a_choice_only_what_needs_no_trust_is_allowed() {
        let allowed = allowed(None).unwrap();
        for operation in
            [Operation::ChatCompletions, Operation::Realtime, Operation::StoredResponses]
        {
            assert!(allowed.covers(operation_bit(operation)), "{operation:?}");
        }
        for operation in [Operation::Files, Operation::RealtimeCalls, Operation::Videos] {
            assert!(!allowed.covers(operation_bit(operation)), "{operation:?}");
        }
    }
}
