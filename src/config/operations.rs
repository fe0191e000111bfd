//! The names of the operations that a backend can be limited to, and their bits.
//!
//! The table is the only place that knows both, so what the configuration allows and what the
//! filter asks for cannot drift apart. Listing models and operations without a name need nothing
//! of a backend: they go to any.

use crate::openai::api::Operation;
use crate::policy::pool::OperationSet;

/// The operations with a name in the configuration; a bit is a position in this table.
pub(super) const NAMES: [(&str, Operation); 10] = [
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
];

/// What a backend's set of operations must cover to take `operation`; empty for those that every
/// backend takes.
pub fn operation_bit(operation: Operation) -> OperationSet {
    let position = NAMES.iter().position(|(_, named)| *named == operation);
    let bit = position.and_then(|position| 1_u32.checked_shl(u32::try_from(position).ok()?));
    OperationSet(bit.unwrap_or(0))
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
        assert_eq!(union(&all).0.count_ones(), 10);
    }

    #[test]
    fn every_backend_takes_operations_without_a_name() {
        let chat_only = operation_bit(Operation::ChatCompletions);
        assert!(chat_only.covers(operation_bit(Operation::Models)));
        assert!(chat_only.covers(operation_bit(Operation::Other)));
        assert!(!chat_only.covers(operation_bit(Operation::Embeddings)));
        assert!(OperationSet::ALL.covers(operation_bit(Operation::Realtime)));
    }
}
