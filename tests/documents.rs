//! What the documents name exists: a path that was moved would otherwise mislead for years. What comments name is
//! looked at in `tests/tidy/references.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    reason = "tests fail by panicking"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// The folders whose files documents may name in backticks.
const NAMED: [&str; 13] = [
    ".ci/",
    ".github/",
    "bench/",
    "demo/",
    "docs/",
    "envoy/",
    "mock-azure/",
    "simulator/",
    "src/",
    "testbed/",
    "tests/",
    "tools/",
    "Makefile",
];

#[test]
fn every_path_in_backticks_exists() {
    let missing = complaints(|text| {
        let spans = text.split('`').skip(1).step_by(2);
        spans
            .filter(|span| NAMED.iter().any(|folder| span.starts_with(folder)))
            .filter(|span| !span.contains(['<', '*', '{', ' ', '\n']))
            .filter(|span| !root().join(span).exists())
            .map(str::to_owned)
            .collect()
    });
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_link_to_a_file_leads_to_one() {
    let mut missing = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap_or_default();
            if target.contains("://") || file.is_empty() {
                continue;
            }
            if !document.parent().unwrap().join(file).exists() {
                missing.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_make_target_that_a_document_names_exists() {
    let makefile = fs::read_to_string(root().join("Makefile")).unwrap();
    let missing = complaints(|text| {
        let named = text.split("`make ").skip(1).filter_map(|rest| rest.split(['`', ' ']).next());
        named
            .filter(|target| !makefile.contains(&format!("\n{target}:")))
            .map(str::to_owned)
            .collect()
    });
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_metric_that_a_document_names_exists() {
    let source = fs::read_to_string(root().join("src/filter/pool/metrics.rs")).unwrap();
    let named: Vec<&str> = source.split('"').skip(1).step_by(2).collect();
    let missing = complaints(|text| {
        let spans = text.split('`').skip(1).step_by(2);
        spans
            .filter_map(|span| span.strip_prefix("spillway_"))
            .filter(|name| name.ends_with("_total") || name.ends_with("_ms"))
            .filter(|name| !named.iter().any(|known| known.contains(name)))
            .map(str::to_owned)
            .collect()
    });
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_table_is_one() {
    let broken = complaints(broken_tables);
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_table_that_is_broken_is_found() {
    let whole = "| a | b |\n|---|---|\n| `x\\|y` | 2 |\n";
    assert!(broken_tables(whole).is_empty());
    assert!(broken_tables(&format!("```\n| no table |\n```\n{whole}")).is_empty());
    for broken in [
        "| a | b |\n|---|---|\n| 1 | 2 |\n\n| 3 | 4 |\n",
        "| a | b |\n|---|---|\n| 1 | 2 | 3 |\n",
        "| a | b |\n|---|\n| 1 | 2 |\n",
    ] {
        assert!(!broken_tables(broken).is_empty(), "{broken}");
    }
}

/// The rows that no reader of Markdown shows as rows: of tables without a head, which a blank line within a table
/// makes of the rest, and those with more or fewer cells than the head.
fn broken_tables(text: &str) -> Vec<String> {
    let mut broken = Vec::new();
    let mut is_code = false;
    let mut table: Vec<&str> = Vec::new();
    for line in text.lines().chain([""]) {
        is_code ^= line.trim_start().starts_with("```");
        if !is_code && line.starts_with('|') {
            table.push(line);
            continue;
        }
        let is_rule = |line: &&str| line.chars().all(|found| "|-: ".contains(found));
        if !table.is_empty() && !table.get(1).is_some_and(is_rule) {
            broken.push(table.join("\n"));
        }
        let columns = table.first().map(|head| cells(head));
        broken.extend(table.drain(..).filter(|row| Some(cells(row)) != columns).map(str::to_owned));
    }
    broken
}

fn cells(row: &str) -> usize {
    row.replace("\\|", "").matches('|').count()
}

#[test]
fn the_readme_shows_the_configuration_that_is_shipped() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap();
    let (readme, azure) = (read("README.md"), read("envoy/azure.yaml"));
    let shown = readme.split("```json\n").nth(1).and_then(|rest| rest.split("```").next());
    let shipped = azure.split("value: |\n").nth(1).and_then(|rest| rest.split("- name:").next());
    let words = |text: Option<&str>| -> Vec<String> {
        text.unwrap().split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(words(shown), words(shipped));
    for key in ["UKSOUTH_KEY", "SWEDEN_KEY", "FRANCE_KEY"] {
        assert!(readme.contains(&format!("{key}=...")), "{key} is not set");
    }
}

#[test]
fn the_first_configuration_of_the_reference_has_the_backends_that_are_shipped() {
    let backends = |path: &str| -> Vec<[String; 3]> {
        let text = fs::read_to_string(root().join(path)).unwrap();
        let shown = text.split("```json\n").nth(1).and_then(|rest| rest.split("```").next());
        let shown: serde_json::Value = serde_json::from_str(shown.unwrap()).unwrap();
        let backends = shown["pools"][0]["backends"].as_array().unwrap();
        let of = |backend: &serde_json::Value| {
            let key = &backend["credential"]["api_key"]["env"];
            [&backend["name"], &backend["host"], key].map(|it| it.as_str().unwrap().to_owned())
        };
        backends.iter().map(of).collect()
    };
    assert_eq!(backends("docs/configuration.md"), backends("README.md"));
}

fn complaints(look: impl Fn(&str) -> Vec<String>) -> Vec<String> {
    let mut found = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        found.extend(look(&text).into_iter().map(|name| format!("{}: {name}", document.display())));
    }
    found
}

/// The documents of the repository itself.
fn documents() -> Vec<PathBuf> {
    let folders = [root().to_owned(), root().join("docs"), root().join("docs/decisions")];
    let files = folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap());
    let documents: Vec<PathBuf> = files
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    assert!(documents.len() >= 10, "only {} documents", documents.len());
    documents
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
