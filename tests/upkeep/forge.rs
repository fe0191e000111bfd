//! The files that only the forge reads, which nobody would notice to be broken until they are needed.

use super::root;
use serde_json::Value;
use std::fs;
use std::path::PathBuf;

#[test]
fn the_workflow_runs_what_anyone_can_run_with_as_few_rights_as_possible() {
    let workflow = yaml(&root().join(".github/workflows/ci.yml"));
    assert_eq!(workflow["permissions"], serde_json::json!({"contents": "read"}));
    let jobs = workflow["jobs"].as_object().unwrap();
    let steps: Vec<&Value> =
        jobs.values().flat_map(|job| job["steps"].as_array().unwrap()).collect();
    assert!(steps.iter().any(|step| step["run"] == ".ci/run"), "{steps:#?}");
    for job in jobs.values() {
        assert!(job["timeout-minutes"].is_u64(), "a job that hangs runs for six hours: {job:#}");
        assert!(job["permissions"].is_null(), "{job:#}");
    }
    for action in steps.iter().filter_map(|step| step["uses"].as_str()) {
        let commit = action.split('@').nth(1).unwrap_or_default();
        assert!(is_commit(commit), "{action}: a tag can be moved; name the commit");
    }
}

fn is_commit(name: &str) -> bool {
    name.len() == 40 && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[test]
fn every_form_for_issues_has_what_the_forge_demands() {
    let forms: Vec<PathBuf> = fs::read_dir(root().join(".github/ISSUE_TEMPLATE"))
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| !path.ends_with("config.yml"))
        .collect();
    assert!(forms.len() >= 2, "{forms:?}");
    for path in forms {
        let form = yaml(&path);
        let fields = form["body"].as_array().unwrap();
        assert!(form["name"].is_string() && form["description"].is_string(), "{path:?}");
        let mut names: Vec<&str> = Vec::new();
        for field in fields {
            let attributes = &field["attributes"];
            match field["type"].as_str().unwrap() {
                "markdown" => assert!(attributes["value"].is_string(), "{path:?}: {field:#}"),
                "textarea" | "input" => {
                    assert!(attributes["label"].is_string(), "{path:?}: {field:#}");
                    names.push(field["id"].as_str().unwrap());
                }
                other => panic!("{path:?}: the forge knows no field {other}"),
            }
        }
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert!(all > 0 && names.len() == all, "{path:?}: {names:?}");
    }
}

#[test]
fn continuous_integration_does_all_that_contributing_says() {
    let script = fs::read_to_string(root().join(".ci/run")).unwrap();
    let text = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap();
    let row = text.lines().find(|line| line.starts_with("| `.ci/run`")).unwrap();
    for line in script.lines().filter(|line| line.contains("make ") && !line.starts_with('#')) {
        let target = line.split("make ").nth(1).unwrap();
        assert!(row.contains(&format!("`make {target}`")), "{row} lacks make {target}");
    }
}

#[test]
fn cargo_is_nowhere_called_with_crates_that_nobody_pinned() {
    let places =
        ["Makefile", ".ci/run", "README.md", "CONTRIBUTING.md", "RELEASE.md", "envoy/Dockerfile"];
    let tools = fs::read_dir(root().join("tools")).unwrap().map(|file| file.unwrap().path());
    let files = places.iter().map(|place| root().join(place)).chain(tools);
    let mut unpinned = Vec::new();
    for file in files.filter(|path| path.is_file()) {
        let Ok(text) = fs::read_to_string(&file) else { continue };
        unpinned
            .extend(calls_without_locked(&text).map(|line| format!("{}: {line}", file.display())));
    }
    assert!(unpinned.is_empty(), "add --locked: {unpinned:#?}");
}

#[test]
fn a_call_of_cargo_without_locked_is_found() {
    for call in [
        "\tcargo build --release",
        "run `cargo test --lib gate`",
        "x=$(cargo run)",
        "\"cargo\", \"fetch\"",
    ] {
        assert_eq!(calls_without_locked(call).count(), 1, "{call}");
    }
    for other in [
        "cargo test --locked --lib",
        "cargo fmt --all",
        "\"cargo\", \"fetch\", \"--locked\"",
        "cargo builds it",
    ] {
        assert_eq!(calls_without_locked(other).count(), 0, "{other}");
    }
}

/// The lines in which cargo resolves crates and may choose newer ones.
fn calls_without_locked(text: &str) -> impl Iterator<Item = &str> {
    const COMMANDS: [&str; 8] =
        ["bench", "build", "check", "clippy", "doc", "fetch", "install", "run"];
    let resolves = |line: &str| {
        let words = line.replace("\", \"", " ");
        words.split("cargo ").skip(1).any(|rest| {
            let command = rest.split(|found: char| !found.is_ascii_alphabetic()).next();
            let is_one = command.is_some_and(|word| word == "test" || COMMANDS.contains(&word));
            is_one && !rest.contains("--locked")
        })
    };
    text.lines().filter(move |line| resolves(line))
}

/// YAML as JSON, in which the forge's files are the same.
fn yaml(path: &std::path::Path) -> Value {
    let text = fs::read_to_string(path).unwrap();
    serde_yaml_ng::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
