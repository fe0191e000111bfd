//! Requests for the list of models. The gateway itself answers them: a resource lists the models that could
//! be deployed there, not those that its deployments serve.

use super::api::Operation;
use super::percent;
use super::{Call, Method};

/// A request about models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelsQuestion {
    /// The list of all.
    All,
    /// This one.
    One(String),
}

impl Call {
    /// The request about models that this call is; `None` when it is another operation.
    pub fn models_question(&self) -> Option<ModelsQuestion> {
        if self.operation != Operation::Models || self.method != Method::Get {
            return None;
        }
        match self.suffix.split_once('/') {
            None => Some(ModelsQuestion::All),
            Some((_, name)) => Some(ModelsQuestion::One(percent::decode(name.as_bytes()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openai::call::recognise;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn question(method: &str, path: &str) -> Option<ModelsQuestion> {
        recognise(method.as_bytes(), path.as_bytes()).unwrap().models_question()
    }

    #[test]
    fn all_models_are_asked_for_in_any_shape() {
        for path in ["/v1/models", "/openai/v1/models", "/openai/models?api-version=2024-10-21"] {
            assert_eq!(question("GET", path), Some(ModelsQuestion::All), "{path}");
        }
    }

    #[test]
    fn one_model_may_have_any_name() {
        for (path, name) in [
            ("/v1/models/gpt-4o", "gpt-4o"),
            ("/v1/models/a%2Fb", "a/b"),
            ("/v1/models/a/b", "a/b"),
        ] {
            assert_eq!(question("GET", path), Some(ModelsQuestion::One(name.to_owned())), "{path}");
        }
    }

    #[test]
    fn nothing_else_is_a_question_about_models() {
        assert_eq!(question("POST", "/v1/chat/completions"), None);
        assert_eq!(question("GET", "/v1/files"), None);
    }
}
