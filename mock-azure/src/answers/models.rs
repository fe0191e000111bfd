//! Lists: models and files.

use serde_json::{Value, json};

use super::{Answer, Question};
use crate::problems::Problem;

/// What a backend that accepts every deployment lists.
const ANY_MODEL: &str = "gpt-4o";

pub(super) fn list(question: Question<'_>) -> Answer {
    let names = &question.config.deployments;
    let any = [ANY_MODEL.to_owned()];
    let names = if names.is_empty() { &any[..] } else { &names[..] };
    let data: Value = names.iter().map(|name| model(name, question)).collect();
    Answer::json(&json!({ "object": "list", "data": data }), 0)
}

pub(super) fn one(question: Question<'_>, id: &str) -> Result<Answer, Problem> {
    let names = &question.config.deployments;
    if !names.is_empty() && !names.iter().any(|name| name == id) {
        return Err(Problem::resource_not_found());
    }
    Ok(Answer::json(&model(id, question), 0))
}

pub(super) fn files() -> Answer {
    Answer::json(&json!({ "object": "list", "data": [], "has_more": false }), 0)
}

fn model(name: &str, question: Question<'_>) -> Value {
    let owner = &question.config.name;
    json!({ "id": name, "object": "model", "created": 1_715_367_049, "owned_by": owner })
}
